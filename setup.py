"""The package hyperjax: its code, its gin files, and what they need."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'hyperjax/__init__.py').read_text())[1]
README = HERE / 'README.md'

# Upper bounds where a minor release is known to move the API; lower bounds are versions that ran.
CORE = [
  'absl-py>=2.1',
  'array-record>=0.8.3',
  'etils>=1.9',
  'flax>=0.12.8,<0.13',
  'fsspec>=2024.6',
  'gin-config>=0.5',
  'grain>=0.2.18',
  'jax>=0.10.2,<0.11',
  'jaxtyping>=0.3.11',
  'matplotlib>=3.9',
  'numpy>=2.0',
  'optax>=0.2.8,<0.3',
  'orbax-checkpoint>=0.12.8,<0.13',
  'packaging>=24',
  'protobuf>=5.26',  # sentencepiece's description of its files imports it and does not say so
  'rouge-score>=0.1.2',
  'safetensors>=0.5',
  'sentencepiece>=0.2',
  'tensorboardX>=2.6',
  'tensorstore>=0.1.76',
  'tqdm>=4.60',
]
WITH_TENSORFLOW = '; python_version < "3.14"'  # TensorFlow Text has no wheel for Python 3.14
EXTRAS = {
  'seqio': [
    'importlib-resources>=6' + WITH_TENSORFLOW,  # TFDS imports it and does not say so
    'seqio>=0.0.20' + WITH_TENSORFLOW,
    'tensorboard>=2.19',
    'tensorflow>=2.21' + WITH_TENSORFLOW,
    'tensorflow-datasets>=4.9.9' + WITH_TENSORFLOW,
  ],
  'huggingface': ['huggingface-hub>=1.31', 'tokenizers>=0.22', 'transformers>=5'],
  'parquet': ['pyarrow>=26'],
  'gcs': ['gcsfs>=2025.3'],  # model_dir=gs://…
  'tpu': ['jax[tpu]'],
  'cuda': ['jax[cuda13]'],
  'test': [
    'beartype>=0.22',
    'gcsfs>=2025.3',
    'ipykernel>=7',
    'mypy>=1.18',
    'nbclient>=0.11',
    'nbformat>=5.10',
    'pyarrow>=26',
    'pytest>=8',
    'pytest-timeout>=2.3',
    'pytest-xdist>=3.6',
    'ruff>=0.14',
    'scikit-learn>=1.6',
    'setuptools>=77',
    'torch>=2.8',
    'transformers>=5',
    'wheel>=0.45',
  ],
}

setup(
  name='hyperjax',
  version=VERSION,
  description='Hypertuning in JAX: hypermodels write prefixes and LoRA weights from a context.',
  long_description=README.read_text(encoding='utf-8') if README.exists() else '',
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=find_packages(include=['hyperjax*', 'tasks*']) + ['hyperjax.gin'],
  package_dir={'hyperjax.gin': 'gin'},  # never site-packages/gin, which is gin-config's own
  package_data={'hyperjax.gin': ['**/*.gin'], 'hyperjax.sources': ['tables/*.json*']},
  install_requires=CORE,
  extras_require=EXTRAS,
)

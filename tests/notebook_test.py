"""colab/hyperjax.ipynb, executed by a clean kernel in an environment that has no hyperjax yet.

The environment sees the packages of the one that runs the tests, so that the notebook's own
installation finds all but hyperjax there, and needs no package index.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import jax
import nbclient
import nbformat
import pytest
from flax import linen as nn

from hyperjax.convert import huggingface
from hyperjax.models import t5
from hyperjax.vocabulary import Vocabulary

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / 'colab/hyperjax.ipynb'
SHIPPED = ROOT / 'scripts/demo/checkpoint/joint'
STEPS = 8


def read() -> nbformat.NotebookNode:
  return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope='module')
def checkout(tmp_path_factory) -> pathlib.Path:
  """A copy of this checkout, since an installation leaves files beside the code."""
  place = tmp_path_factory.mktemp('checkout')
  for name in ('hyperjax', 'tasks', 'gin', 'scripts'):
    shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('setup.py', 'pyproject.toml', 'README.md'):
    shutil.copy(ROOT / name, place)
  return place


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> pathlib.Path:
  """An environment without hyperjax, and the kernel `fresh` that runs in it."""
  python = tmp_path / 'venv/bin/python'
  subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv'], check=True)
  ask = 'import sysconfig; print(sysconfig.get_path("purelib"))'
  own = subprocess.run([python, '-c', ask], check=True, capture_output=True, text=True)
  lines = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}
  (pathlib.Path(own.stdout.strip()) / 'tests.pth').write_text('\n'.join(lines))
  kernel = tmp_path / 'jupyter/kernels/fresh/kernel.json'
  kernel.parent.mkdir(parents=True)
  launcher = [str(python), '-m', 'ipykernel_launcher', '-f', '{connection_file}']
  kernel.write_text(json.dumps({'argv': launcher, 'display_name': 'fresh', 'language': 'python'}))
  monkeypatch.setenv('JUPYTER_PATH', str(tmp_path / 'jupyter'))
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  monkeypatch.setenv('PIP_NO_INDEX', '1')
  monkeypatch.setenv('PIP_NO_BUILD_ISOLATION', '0')  # setuptools is there: pip reads it inverted
  monkeypatch.delenv('PYTHONPATH', raising=False)
  assert not installed(python)
  return tmp_path


def installed(python: pathlib.Path) -> str:
  """Where an environment has hyperjax, or ''."""
  ask = 'import hyperjax; print(hyperjax.__file__)'
  return subprocess.run([python, '-c', ask], capture_output=True, text=True, cwd='/').stdout.strip()


def executed(fresh: pathlib.Path, **settings: str | int) -> str:
  """Runs all cells with other settings, in a folder of their own; returns what they print."""
  notebook = read()
  (cell,) = [cell for cell in notebook.cells if cell.id == 'settings']
  for name, value in settings.items():
    cell.source, count = re.subn(rf'(?m)^{name} = .*$', f'{name} = {value!r}', cell.source)
    assert count == 1
  place = fresh / 'place'
  place.mkdir()
  nbclient.NotebookClient(
    notebook, timeout=500, kernel_name='fresh', resources={'metadata': {'path': str(place)}}
  ).execute()
  outputs = [output for cell in notebook.cells for output in cell.get('outputs', ())]
  kinds = {kind for output in outputs for kind in output.get('data', ())}
  assert 'image/png' in kinds
  return ''.join(output.get('text', '') for output in outputs)


def public_t5(folder: pathlib.Path) -> None:
  """A tiny T5 with the demo's vocabulary, in Hugging Face's form."""
  vocabulary = Vocabulary(str(SHIPPED / 'vocabulary.model'))
  sizes = {'emb_dim': 16, 'num_heads': 2, 'head_dim': 6, 'mlp_dim': 20, 'vocab_size': 4128}
  model = t5.T5(t5.T5Config(num_encoder_layers=1, num_decoder_layers=1, **sizes))
  params = nn.unbox(model.init_params(jax.random.key(0)))
  huggingface.save(folder, model, params, vocabulary)


def losses(place: pathlib.Path) -> list[float]:
  lines = (place / 'train/metrics.jsonl').read_text().splitlines()
  return [row['loss'] for row in map(json.loads, lines) if 'loss' in row]


def test_the_notebook_is_valid_and_committed_without_outputs():
  notebook = read()
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert code and not any(cell.outputs or cell.execution_count for cell in code)


def test_the_demo_s_checkpoint_adapts_predicts_and_trains(fresh, checkout):
  said = executed(fresh, CHECKOUT=str(checkout), STEPS=STEPS)
  assert installed(fresh / 'venv/bin/python').startswith(str(fresh / 'venv'))
  assert "'this old house': 'this old folder'; without the adapter 'this old value'" in said
  assert re.search(r'downstream.*hypermodel|hypermodel.*downstream', said)
  assert len(losses(fresh / 'place/runs/mine')) == STEPS
  assert (fresh / 'place/please/adapter.safetensors').exists()


def test_a_public_t5_gets_a_hypermodel_of_its_own(fresh, checkout):
  t5 = fresh / 't5'
  public_t5(t5)
  url = fresh / 'repository'
  shutil.copytree(checkout, url)
  git = ['git', '-C', str(url), '-c', 'user.name=a', '-c', 'user.email=a@b']
  for arguments in (['init', '-q'], ['add', '-A'], ['commit', '-q', '-m', 'all']):
    subprocess.run([*git, *arguments], check=True)
  said = executed(fresh, CHECKOUT=f'file://{url}', PUBLIC_T5=str(t5), STEPS=STEPS)
  assert (fresh / 'place/checkout/setup.py').exists() and 'hypermodel' in said
  for run in ('public', 'mine'):
    assert len(losses(fresh / 'place/runs' / run)) == STEPS

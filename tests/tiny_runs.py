"""Tiny runs on real files, made once a session, for the tests of what trains and what is saved."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib

import jax
import numpy as np
import tiny_data
from flax import linen as nn
from jax.experimental.compilation_cache import compilation_cache

from hyperjax import data, optim, partitioning, peft, trainer
from hyperjax.hypermodels import hypert5
from hyperjax.models import t5
from hyperjax.vocabulary import Vocabulary

LENGTHS = {'hyper_inputs': 22, 'inputs': 9, 'targets': 5}
EMB_DIM, STEPS = 12, 6
OPTIMIZER = optim.AdamW(optim.LinearDecay(3e-3))


@contextlib.contextmanager
def quick(root: pathlib.Path):
  """Compiles fast and once, and on as many of the devices as a mesh names (-1: one).

  The programs are those of a real run but for LLVM's optimisations.
  """
  make_mesh = partitioning.make_mesh
  sized = lambda shape: make_mesh(
    shape, jax.devices()[: abs(shape.data * shape.fsdp * shape.model)]
  )
  options = {
    'jax_disable_most_optimizations': True,
    'jax_compilation_cache_dir': str(root / 'compiled'),
    'jax_persistent_cache_min_compile_time_secs': 0.3,
  }
  before = {name: jax.config.values[name] for name in options}
  partitioning.make_mesh = sized
  try:
    _configure(options)
    yield
  finally:
    partitioning.make_mesh = make_mesh
    _configure(before)


def _configure(options: dict) -> None:
  for name, value in options.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@functools.cache
def world(root: pathlib.Path) -> tuple[pathlib.Path, Vocabulary]:
  """A data folder with tasks and text, and a vocabulary."""
  folder = root / 'world'
  tiny_data.repository(folder / 'sni')
  tiny_data.text(folder / 'text')
  return folder, tiny_data.vocabulary(folder)


def live(root: pathlib.Path, **changes) -> data.Live:
  """Eight rows a batch: four contexts of two targets."""
  folder, vocabulary = world(root)
  arguments = {
    'mixture': 'sni_def_2pos',
    'lengths': LENGTHS,
    'batch_size': 8,
    'targets_per_context': 2,
    'vocabulary': vocabulary,
    'data_dir': str(folder),
    'arguments': {'instances': 6},
  }
  return data.Live(**(arguments | changes))


def config(root: pathlib.Path, **changes) -> t5.T5Config:
  """Sizes that a mesh of 4 x 2 divides, all different."""
  rows = -(-world(root)[1].size // 8) * 8
  sizes = {'num_encoder_layers': 1, 'num_decoder_layers': 3, 'head_dim': 5, 'mlp_dim': 14}
  return t5.T5Config(**({'vocab_size': rows, 'emb_dim': EMB_DIM, 'num_heads': 2} | sizes | changes))


def hypermodel(root: pathlib.Path, **changes) -> hypert5.HyperT5:
  """HyperT5-Prefix with dropout, so that a step's random numbers matter."""
  arguments = {
    'trunk': config(root, dropout_rate=0.2),
    'downstream': config(root),
    'method': peft.PrefixTuning(3),
  }
  return hypert5.HyperT5(**(arguments | changes))


@dataclasses.dataclass(frozen=True)
class Bigram:
  """A language model that compiles in no time: the next token from the last one."""

  vocab_size: int = 80

  def init_params(self, key: jax.Array):
    """A table of logits, and how frequent each token is."""
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ('vocab', 'embed'))
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('vocab',))
    size = self.vocab_size
    return {'table': init(key, (size, size)), 'bias': zeros(key, (size,))}

  def logits(self, params, batch, phi=None, rngs=None) -> jax.Array:
    """protocols.Downstream."""
    own = params['downstream']
    return own['table'][batch['decoder_input_tokens']] + own['bias'][None, None]


def train(root: pathlib.Path, model_dir: pathlib.Path, **changes) -> dict[str, float]:
  """A run of six steps, MTF of the hypermodel on the frozen backbone unless told otherwise."""
  arguments = {
    'data': live(root),
    'downstream': t5.T5(config(root)),
    'hypermodel': hypermodel(root),
    'total_steps': STEPS,
    'optimizer': OPTIMIZER,
  }
  if 'downstream_checkpoint' not in changes:
    arguments['downstream_checkpoint'] = str(backbone(root))
  return trainer.train(str(model_dir), **(arguments | changes))


def pretrain(root: pathlib.Path, model_dir: pathlib.Path, **changes) -> dict[str, float]:
  """A run that trains the downstream model and has no hypermodel."""
  arguments = {'hypermodel': None, 'trainable': ('downstream',), 'downstream_checkpoint': None}
  return train(root, model_dir, **(arguments | changes))


def bigram(root: pathlib.Path, model_dir: pathlib.Path, **changes) -> dict[str, float]:
  """The quickest run there is, for what does not depend on the model."""
  return pretrain(root, model_dir, **({'downstream': Bigram()} | changes))


@functools.cache
def bigrams(root: pathlib.Path) -> pathlib.Path:
  """The run of bigrams that nobody interrupts."""
  bigram(root, root / 'bigrams')
  return root / 'bigrams'


@functools.cache
def backbone(root: pathlib.Path) -> pathlib.Path:
  """The run that others freeze."""
  pretrain(root, root / 'backbone')
  return root / 'backbone'


@functools.cache
def hyper(root: pathlib.Path) -> pathlib.Path:
  """The run that nobody interrupts."""
  train(root, root / 'hyper')
  return root / 'hyper'


def flags(root: pathlib.Path, **macros) -> list[str]:
  """Of `python -m hyperjax.train`: a pretraining run from shipped gin files, at a tiny size."""
  folder, vocabulary = world(root)
  sizes = {'vocab_size': 80, 'emb_dim': 12, 'num_heads': 2, 'head_dim': 5, 'mlp_dim': 14}
  macros = {
    'DATA_DIR': str(folder),
    'VOCABULARY': vocabulary.path,
    'vocabulary.Vocabulary.extra_ids': vocabulary.extra_ids,
    'TRAIN_STEPS': STEPS,
    'KEEP': 2,
    'WARMUP_STEPS': 5,
    'BATCH_SIZE': 6,
    'MIXTURE_ARGUMENTS': {'window': 13, 'min_segment': 4},
    'TASK_FEATURE_LENGTHS': {'inputs': 9, 'targets': 5},
    **{f't5.preset.{name}': value for name, value in sizes.items()},
    **macros,
  }
  files = ('gin/models/t5_1_1_tiny.gin', 'gin/runs/pretrain.gin')
  named = [f'--gin.{name}={value!r}' for name, value in macros.items()]
  return [*(f'--gin_file={path}' for path in files), *named]


def environment(root: pathlib.Path, devices: int = 1) -> dict[str, str]:
  """Of a process that runs a verb on so many CPU devices, and compiles fast and once."""
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(root / 'compiled_by_verbs'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'PYTHONPATH': str(pathlib.Path(__file__).parent.parent),
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
  }


class Data:
  """The batches of another Data, the one of step `number` (counted from 1) changed by `then`."""

  def __init__(self, data, number: int, then):
    self.data, self.number, self.then = data, number, then

  def __getattr__(self, name):
    return getattr(self.data, name)

  def starting_at(self, step, *part):
    for number, batch in enumerate(self.data.starting_at(step, *part), start=step + 1):
      yield self.then(batch) if number == self.number else batch


def interrupt(batch):
  """Ctrl-C."""
  raise KeyboardInterrupt


def lines(model_dir: pathlib.Path) -> list[dict]:
  """metrics.jsonl."""
  text = (model_dir / 'train' / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def losses(model_dir: pathlib.Path) -> list[float]:
  """The loss of every step."""
  return [line['loss'] for line in lines(model_dir) if 'loss' in line]


def equal(first, second) -> bool:
  """Whether two trees hold bitwise the same."""
  same = lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes()
  return jax.tree.all(jax.tree.map(same, first, second))


def files(folder: pathlib.Path) -> dict[str, bytes]:
  """Everything under a folder."""
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}

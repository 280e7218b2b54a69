"""Runs on disk with random weights, for the tests of what is done with a run once it is trained.

The weights are large: answers vary with the input and with phi.
"""

import functools
import pathlib

import jax
import numpy as np
import tiny_data
from flax import linen as nn

from hyperjax import checkpoints, fingerprints, peft, runs, step
from hyperjax.hypermodels import hypert5, learned
from hyperjax.models import t5
from hyperjax.vocabulary import Vocabulary

LENGTHS = {'hyper_inputs': 21, 'inputs': 9, 'targets': 5}
STEP = 7


@functools.cache
def vocabulary(root: pathlib.Path) -> Vocabulary:
  return tiny_data.vocabulary(root / 'vocabulary')


def config(root: pathlib.Path) -> t5.T5Config:
  return t5.T5Config(vocabulary(root).size + 2, 10, 2, 2, 1, 6, 14)


def trunk(root: pathlib.Path) -> t5.T5Config:
  return t5.T5Config(vocabulary(root).size + 2, 12, 3, 1, 2, 5, 18)


@functools.cache
def backbone(root: pathlib.Path, seed: int = 0) -> str:
  """A run that trained the downstream model and has no hypermodel."""
  model = step.Model(t5.T5(config(root)))
  params = {'downstream': weights(model.downstream, seed)}
  return save(root / f'backbone-{seed}', root, model, params, ('downstream',))


@functools.cache
def hyper(root: pathlib.Path, method: str = 'prefix', seed: int = 0) -> str:
  """A run that trained a hypermodel ('prefix', 'lora' or 'shared') on the frozen backbone."""
  sites = ('decoder/cross_attention/query', 'decoder/mlp/wo')
  methods = {'prefix': peft.PrefixTuning(3), 'lora': peft.LoRA(2, sites=sites)}
  hypermodel = (
    learned.LearnedPhi(config(root), peft.PrefixTuning(4))
    if method == 'shared'
    else hypert5.HyperT5(trunk(root), config(root), methods[method])
  )
  source = backbone(root, seed)
  frozen = runs.load(source).params
  params = frozen | {'hypermodel': weights(hypermodel, seed + 1)}
  model = step.Model(t5.T5(config(root)), hypermodel)
  return save(root / f'{method}-{seed}', root, model, params, ('hypermodel',), source)


def weights(model, seed: int) -> dict:
  """Numpy's, so nothing is compiled; EOS is likely."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda key: nn.unbox(model.init_params(key)), jax.random.key(0))

  def one(path, leaf):
    name = peft.path_name(path)
    values = rng.standard_normal(leaf.shape)
    if name.endswith('scale'):
      values = 1 + 0.3 * values
    elif name.endswith('kernel'):
      values *= 2 / leaf.shape[-2] ** 0.5
    if 'logits' in name:
      values[:, 1] *= 1.5
    return np.asarray(values, np.float32)

  return jax.tree_util.tree_map_with_path(one, shapes)


def save(
  model_dir: pathlib.Path,
  root: pathlib.Path,
  model: step.Model,
  params: dict,
  trainable: tuple[str, ...],
  source: str | None = None,
) -> str:
  """Writes what the trainer writes."""
  trained, frozen = step.split(params, trainable)
  record = runs.record_of(model, vocabulary(root), LENGTHS, 'sni_def_2pos', trainable)
  runs.write(str(model_dir), record, vocabulary(root), 'no report\n', None)
  keeper = checkpoints.Checkpoints(model_dir)
  places = {part: runs.source(str(model_dir), source, STEP) for part in frozen}
  metadata = {
    'step': STEP,
    'frozen': places,
    'fingerprint': fingerprints.fingerprint(frozen),
    'trainable': list(trainable),
    'seed': 0,
  }
  keeper.save(step.TrainState(np.int32(STEP), trained, (), None), metadata, force=True)
  keeper.close()
  return str(model_dir)

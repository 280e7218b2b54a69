"""Tiny models for tests: all sizes different, weights from numpy, functions compiled once.

c contexts x m targets make b rows; the sizes can be split over a mesh of 2 x 2 x 2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec

from hyperjax import partitioning, peft
from hyperjax.models import t5

DOWNSTREAM = t5.T5Config(
  vocab_size=38,
  emb_dim=10,
  num_heads=4,
  num_encoder_layers=2,
  num_decoder_layers=3,
  head_dim=6,
  mlp_dim=14,
)
TRUNK = t5.T5Config(
  vocab_size=38,
  emb_dim=16,
  num_heads=2,
  num_encoder_layers=1,
  num_decoder_layers=2,
  head_dim=5,
  mlp_dim=18,
)
ALL_SITES = tuple(
  f'{stack}/{part}'
  for stack, blocks in (('encoder', ('attention',)), ('decoder', ('attention', 'cross_attention')))
  for part in (
    *(f'{block}/{linear}' for block in blocks for linear in ('query', 'key', 'value', 'out')),
    *(f'mlp/{linear}' for linear in ('wi_0', 'wi_1', 'wo')),
  )
)


def batch(c=3, m=2, s=7, t=5, h=9, vocab=38, seed=0):
  """c contexts [c, h] x m targets; inputs, targets and contexts of different lengths."""
  rng = np.random.default_rng(seed)

  def tokens(rows, length, shortest):
    ids = rng.integers(3, vocab, (rows, length))
    lengths = rng.integers(shortest, length + 1, (rows, 1))
    return np.where(np.arange(length) < lengths, ids, 0).astype(np.int32)

  targets = tokens(c * m, t, 2)
  result = {
    'hyper_input_tokens': tokens(c, h, 4),
    'task_id': np.arange(c, dtype=np.int32),
    'encoder_input_tokens': tokens(c * m, s, 3),
    'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
    'decoder_target_tokens': targets,
    'decoder_loss_weights': (targets > 0).astype(np.float32),
  }
  return {name: jnp.asarray(value) for name, value in result.items()}


def rows(batch, start, stop):
  """Some rows of what the downstream model reads."""
  keys = ('encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens')
  return {key: batch[key][start:stop] for key in keys}


@functools.cache
def params_of(model, seed=0):
  """Weights from numpy, which need no compiling: kernels normal / sqrt(in), norms near 1."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda key: nn.unbox(model.init_params(key)), jax.random.key(0))

  def one(path, leaf):
    name = peft.path_name(path)
    values = rng.standard_normal(leaf.shape)
    if name.endswith('scale'):
      values = 1 + 0.1 * values
    elif name.endswith(('kernel', '/a', '/b')):
      values /= leaf.shape[-2] ** 0.5
    if 'query' in name and name.endswith('kernel'):
      values /= 2  # attention logits have no 1/sqrt(h)
    return jnp.asarray(values, jnp.float32)

  return jax.tree_util.tree_map_with_path(one, shapes)


@functools.cache
def started(model, seed=0):
  """Weights as the model starts them."""
  return jax.jit(lambda key: nn.unbox(model.init_params(key)))(jax.random.key(seed))


@functools.partial(jax.jit, static_argnames=('model', 'method', 'keep'))
def apply(model, params, *args, method=None, rngs=None, **kwargs):
  """model.apply, compiled once for all tests that give the same shapes."""
  return model.apply({'params': params}, *args, method=method, rngs=rngs, **kwargs)


def normal(*shape, seed=0, scale=1.0):
  return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def filled(spec, seed=0, scale=0.3):
  """A phi with random leaves (numpy's) in the shapes of a spec."""
  rng = np.random.default_rng(seed)

  def one(leaf):
    return (scale * rng.standard_normal(leaf.shape)).astype(np.float32)

  return jax.tree.map(one, spec)


def shardings(mesh, model):
  """Where a model's parameters lie: as their logical axes say."""
  boxed = jax.eval_shape(model.init_params, jax.random.key(0))
  specs = nn.get_partition_spec(boxed)
  axes = jax.tree.map(tuple, specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
  shapes = jax.eval_shape(lambda key: nn.unbox(model.init_params(key)), jax.random.key(0))
  return partitioning.parameter_shardings(mesh, axes, shapes)


def mesh(data=2, fsdp=2, model=2):
  return partitioning.make_mesh(partitioning.MeshShape(data, fsdp, model))


def named(tree):
  """Leaves by their slash-joined names."""
  return dict(zip(peft.leaf_names(tree), jax.tree.leaves(tree), strict=True))


def close(x, y, atol=2e-5):
  """Trees of the same structure with values that differ by rounding only."""
  assert jax.tree.structure(x) == jax.tree.structure(y)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol), x, y)

"""Layers that know their logical axes: Dense, RMSNorm, Embed, Mlp, RelativeBias.

b batch, t query length, s key length, d in, f out, n heads.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from hyperjax import peft

Initializer = jax.nn.initializers.Initializer


def dropout(module: nn.Module, x: jax.Array, rate: float, broadcast: Sequence[int] = ()):
  """Dropout where the caller gave a 'dropout' rng, that is in trained modules only."""
  if rate == 0.0 or not module.has_rng('dropout'):
    return x
  axes = [axis % x.ndim for axis in broadcast]
  shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
  kept = jax.random.bernoulli(module.make_rng('dropout'), 1 - rate, shape)
  return jnp.where(kept, x / (1 - rate), 0)


def fan_in(variance: float = 1.0) -> Initializer:
  """T5X's start of a kernel: truncated normal of this variance / in."""
  return nn.initializers.variance_scaling(variance, 'fan_in', 'truncated_normal')


# Functions whose insides the backward pass computes anew from their inputs: that costs less than to
# keep them, since a scanned stack writes and reads a copy per layer.
computed_anew = functools.partial(jax.checkpoint, prevent_cse=False)


@computed_anew
def matmul(x: Float[Array, '*b d'], kernel: Float[Array, 'd f']) -> Float[Array, '*b f']:
  """x @ kernel, with all rows of x in one matrix.

  With batch and length apart, XLA on CPUs transposes a copy of the output's gradient for the
  kernel's, and multiplies slower.
  """
  rows = x.reshape(-1, x.shape[-1]) @ kernel
  return rows.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
  """x @ kernel, plus a low-rank update where phi has one."""

  features: int
  axes: tuple[str, str]
  dtype: Dtype = jnp.float32
  init: Initializer = fan_in()

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b t d'], phi: peft.LowRank | None = None
  ) -> Float[Array, 'b t f']:
    init = nn.with_logical_partitioning(self.init, self.axes)
    kernel = self.param('kernel', init, (x.shape[-1], self.features), jnp.float32)
    y = matmul(x, kernel.astype(self.dtype))
    return y if phi is None else y + peft.low_rank(x, phi)


class RMSNorm(nn.Module):
  """x / rms(x) * scale, without mean or bias; computed in float32."""

  epsilon: float = 1e-6
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
    init = nn.with_logical_partitioning(nn.initializers.ones, ('embed',))
    scale = self.param('scale', init, (x.shape[-1],), jnp.float32)
    return _rms_norm(x, scale, self.epsilon).astype(self.dtype)


@functools.partial(computed_anew, static_argnums=2)
def _rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
  x = x.astype(jnp.float32)
  y = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)
  return y * jnp.expand_dims(scale.astype(jnp.float32), range(x.ndim - 1))


class Embed(nn.Module):
  """Token embeddings, and logits from the same table."""

  vocab_size: int
  emb_dim: int
  dtype: Dtype = jnp.float32

  def setup(self):
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ('vocab', 'embed'))
    self.embedding = self.param('embedding', init, (self.vocab_size, self.emb_dim), jnp.float32)

  def __call__(self, tokens: Int[Array, 'b t']) -> Float[Array, 'b t d']:
    return jnp.take(self.embedding.astype(self.dtype), tokens, axis=0)

  def attend(self, x: Float[Array, 'b t d']) -> Float[Array, 'b t v']:
    return matmul(x, self.embedding.astype(self.dtype).T)


ACTIVATIONS = {'relu': jax.nn.relu, 'gelu': nn.gelu, 'silu': jax.nn.silu, 'linear': lambda x: x}


class Mlp(nn.Module):
  """act(x wi) wo, or act(x wi_0) * act(x wi_1) wo where there are two activations (gated)."""

  mlp_dim: int
  activations: tuple[str, ...]
  dropout_rate: float = 0.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b t d'], phi: peft.MlpPhi | None = None
  ) -> Float[Array, 'b t d']:
    features = x.shape[-1]
    names = ['wi'] if len(self.activations) == 1 else ['wi_0', 'wi_1']
    parts = []
    for i, name in enumerate(names):
      wi = Dense(self.mlp_dim, ('embed', 'mlp'), self.dtype, name=name)
      parts.append(wi(x, peft.attribute(phi, f'wi_{i}')))
    hidden = _activate(self.activations, *parts)
    hidden = dropout(self, hidden, self.dropout_rate, broadcast=(-2,))
    hidden = nn.with_logical_constraint(hidden, ('batch', 'length', 'mlp'))
    wo = Dense(features, ('mlp', 'embed'), self.dtype, name='wo')
    return wo(hidden, peft.attribute(phi, 'wo'))


@functools.partial(computed_anew, static_argnums=0)
def _activate(activations: tuple[str, ...], *parts: jax.Array) -> jax.Array:
  """The product of act(part)."""
  return math.prod(ACTIVATIONS[name](x) for name, x in zip(activations, parts, strict=True))


def relative_bucket(
  relative: np.ndarray | jax.Array, bidirectional: bool, buckets: int, max_distance: int
) -> jax.Array:
  """T5's bucket of (key position - query position).

  Unidirectional: every key to the right of its query falls in bucket 0.
  """
  first = jnp.zeros_like(relative)
  distance = -relative
  if bidirectional:
    buckets //= 2
    first = jnp.where(relative > 0, buckets, 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(distance, 0)
  exact = buckets // 2
  log_ratio = jnp.log(jnp.maximum(distance, 1) / exact) / np.log(max_distance / exact)
  far = jnp.minimum(exact + (log_ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
  return first + jnp.where(distance < exact, distance, far)


class RelativeBias(nn.Module):
  """T5's learned bias on attention logits by bucketed distance, shared by all layers of a stack."""

  num_heads: int
  bidirectional: bool
  buckets: int = 32
  max_distance: int = 128

  @nn.compact
  def __call__(
    self, query_positions: Int[Array, ' t'], key_positions: Int[Array, ' s']
  ) -> Float[Array, 'n t s']:
    init = nn.with_logical_partitioning(
      nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'), ('heads', 'relpos_buckets')
    )
    table = self.param('rel_embedding', init, (self.num_heads, self.buckets), jnp.float32)
    relative = key_positions[None, :] - query_positions[:, None]
    bucket = relative_bucket(relative, self.bidirectional, self.buckets, self.max_distance)
    return jnp.take(table.astype(jnp.float32), bucket, axis=1)

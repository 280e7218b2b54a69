"""Attention, Block, Stack: pre-norm transformer layers that accept phi and keep a cache.

b batch, c contexts, m rows of a context, t query length, s key length, p prefix length, d model,
n heads = k key/value heads x g queries each, h head dim, l layers.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from hyperjax import peft
from hyperjax.models import layers


@dataclasses.dataclass(frozen=True)
class RelativePositions:
  """T5's bucketed relative positions; one table for all layers of a stack."""

  bidirectional: bool
  buckets: int = 32
  max_distance: int = 128


@dataclasses.dataclass(frozen=True)
class StackConfig:
  """Sizes and choices of one stack of layers."""

  num_layers: int
  emb_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  mlp_activations: tuple[str, ...]
  cross_attention: bool
  positions: RelativePositions | None = None
  dropout_rate: float = 0.0
  dtype: Dtype = jnp.float32
  remat: str | None = None  # a name in REMAT_POLICIES; None keeps all activations


# What the backward pass finds again; the rest it computes anew.
REMAT_POLICIES = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_saveable,
  'minimal': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@peft.pytree
class KeyValue:
  """Keys and values of one attention: [b s k h], or [l b s k h] for a whole stack."""

  key: Any
  value: Any


@peft.pytree
class Cache:
  """What decoding keeps of a stack between calls.

  `self_attention` holds room for all columns, of which the first `length` are written.
  `cross_attention` holds the keys and values of the memory, computed by the first call.
  """

  self_attention: KeyValue  # l b s k h
  cross_attention: KeyValue | None  # l c s k h
  length: Any  # int32 scalar


@peft.pytree
class LayerCache:
  """One layer's part of what goes into or comes out of a block."""

  self_attention: KeyValue | None = None
  cross_attention: KeyValue | None = None


def attend(
  query: Float[Array, 'b t n h'],
  own: KeyValue,
  mask: Bool[Array, '#b #t s'] | None,
  bias: Float[Array, 'n t s'] | None,
  prefix: peft.Prefix | None = None,
  attention_dropout=lambda x: x,
) -> Float[Array, 'b t n h']:
  """Softmax attention to own keys and values and to a prefix in front of them; T5: no 1/sqrt(h).

  Rows of one context read the same keys and values, which are not copied per row: `own` has c rows
  that divide b, as memory shared by beams has, and so has the prefix. Prefix columns get a
  position bias of exactly zero.
  """
  logits = _logits(query, own.key)
  if bias is not None:
    logits += bias[None]
  if mask is not None:
    logits = jnp.where(mask[:, None], logits, MASKED)
  if prefix is None:
    return _weighted(attention_dropout(_softmax(logits)), own.value, query.dtype)
  front, seen = _logits(query, prefix.key), jnp.ones((1, 1, 1, 1), bool)
  if prefix.mask is not None:
    seen = jnp.repeat(prefix.mask, query.shape[0] // prefix.mask.shape[0], axis=0)
    seen = seen[:, None, None, :]
    front = jnp.where(seen, front, 2 * MASKED)  # unseen also by rows whose own are all masked
  if prefix.gate is not None:
    gate = jnp.tanh(prefix.gate.astype(jnp.float32))
    gate = jnp.repeat(gate, query.shape[0] // gate.shape[0], axis=0)[:, None, :, None]
    after = _weighted(attention_dropout(_softmax(logits)), own.value, query.dtype)
    weights = jnp.where(seen, _softmax(front), 0)  # all masked: no prefix
    before = _weighted(attention_dropout(weights), prefix.value, query.dtype)
    return after + gate.astype(query.dtype) * before
  # One softmax over both; the keys are never joined, so a decoding cache is not copied.
  p = prefix.key.shape[1]
  weights = attention_dropout(_softmax(jnp.concatenate([front, logits], axis=-1)))
  before = _weighted(weights[..., :p], prefix.value, query.dtype)
  return before + _weighted(weights[..., p:], own.value, query.dtype)


MASKED = -1e10  # finite, so that a row that sees nothing gives numbers and not NaN


def _logits(query: jax.Array, key: jax.Array) -> jax.Array:
  """b t n h, c s k h -> b n t s in float32."""
  b, t, n, h = query.shape
  c, s, k, _ = key.shape
  query = query.reshape(c, b // c, t, k, n // k, h)
  logits = jnp.einsum(
    'cmtkgh,cskh->cmkgts', query, key.astype(query.dtype), preferred_element_type=jnp.float32
  )
  return logits.reshape(b, n, t, s)


@jax.custom_jvp
def _softmax(logits: jax.Array) -> jax.Array:
  """Softmax of the last axis, of which the backward pass keeps nothing but the result."""
  return jax.nn.softmax(logits)


@_softmax.defjvp
def _softmax_jvp(primals, tangents):
  y, tangent = _softmax(*primals), tangents[0]
  return y, y * (tangent - jnp.sum(y * tangent, axis=-1, keepdims=True))


@functools.partial(layers.computed_anew, static_argnums=2)
def _weighted(weights: jax.Array, value: jax.Array, dtype: Dtype) -> jax.Array:
  """b n t s, c s k h -> b t n h."""
  b, n, t, s = weights.shape
  c, _, k, h = value.shape
  weights = weights.astype(dtype).reshape(c, b // c, k, n // k, t, s)
  out = jnp.einsum('cmkgts,cskh->cmtkgh', weights, value.astype(dtype))
  return out.reshape(b, t, n, h)


class Attention(nn.Module):
  """Multi-head attention with 2-D kernels, as T5X names them."""

  config: StackConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b t d'],
    source: Float[Array, 'c s d'] | KeyValue,
    mask: Bool[Array, '#b #t _'] | None = None,
    bias: Float[Array, 'n t _'] | None = None,
    phi: peft.AttentionPhi | None = None,
    cache: KeyValue | None = None,
    index=None,
  ) -> tuple[Float[Array, 'b t d'], KeyValue, KeyValue]:
    """Attends from x to a source (x itself, a memory, or keys and values computed before).

    Args:
      cache: earlier columns, [b S k h]; the source's are written at `index` and all S are read.

    Returns:
      the output, the source's own (un-rotated) keys and values, and those that were read.
    """
    cfg = self.config
    out_dim, kv_dim = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim

    # Logits have no 1/sqrt(h): as in T5X, the query's first weights do.
    starts = {'query': layers.fan_in(1 / cfg.head_dim)}

    def project(name, features, inputs, heads):
      init = starts.get(name, layers.fan_in())
      kernel = layers.Dense(features, ('embed', 'joined_kv'), cfg.dtype, init, name=name)
      y = kernel(inputs, peft.attribute(phi, name))
      y = y.reshape(*y.shape[:-1], heads, cfg.head_dim)
      return nn.with_logical_constraint(y, ('batch', 'length', 'heads', 'kv'))

    query = project('query', out_dim, x, cfg.num_heads)
    if isinstance(source, KeyValue):
      own = source
    else:
      own = KeyValue(
        project('key', kv_dim, source, cfg.num_kv_heads),
        project('value', kv_dim, source, cfg.num_kv_heads),
      )
    read = own if cache is None else _write(cache, own, index)
    drop = lambda w: layers.dropout(self, w, cfg.dropout_rate, broadcast=(-2,))
    y = attend(query, read, mask, bias, peft.attribute(phi, 'prefix'), drop)
    out = layers.Dense(cfg.emb_dim, ('joined_kv', 'embed'), cfg.dtype, name='out')
    y = out(y.reshape(*y.shape[:2], out_dim), peft.attribute(phi, 'out'))
    return nn.with_logical_constraint(y, ('batch', 'length', 'embed')), own, read


def _write(cache: KeyValue, own: KeyValue, index) -> KeyValue:
  write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(
    old, new.astype(old.dtype), index, axis=1
  )
  return KeyValue(write(cache.key, own.key), write(cache.value, own.value))


class Block(nn.Module):
  """One layer: self-attention, attention to a memory where the stack has it, MLP."""

  config: StackConfig

  @nn.compact
  def __call__(self, x, phi, cache, shared):
    """Called by nn.scan: phi and cache are this layer's slices, `shared` is the same for all.

    Returns:
      x, and the layer's LayerCache pair (own columns, columns to keep for the next call).
    """
    cfg = self.config
    mask, bias, memory, memory_mask, index, keep = shared

    def residual(x, y):
      y = layers.dropout(self, y, cfg.dropout_rate, broadcast=(-2,))
      return nn.with_logical_constraint(x + y, ('batch', 'length', 'embed'))

    norm = lambda name: layers.RMSNorm(dtype=cfg.dtype, name=f'pre_{name}layer_norm')
    name = 'self_attention' if cfg.cross_attention else 'attention'
    y = norm(f'{name}_')(x)
    y, own, read = Attention(cfg, name=name)(
      y,
      y,
      mask,
      bias,
      peft.attribute(phi, 'attention'),
      peft.attribute(cache, 'self_attention'),
      index,
    )
    x = residual(x, y)
    cross = None
    if cfg.cross_attention:
      source = peft.attribute(cache, 'cross_attention')
      y, _, cross = Attention(cfg, name='encoder_decoder_attention')(
        norm('cross_attention_')(x),
        memory if source is None else source,
        memory_mask,
        None,
        peft.attribute(phi, 'cross_attention'),
      )
      x = residual(x, y)
    mlp = layers.Mlp(cfg.mlp_dim, cfg.mlp_activations, cfg.dropout_rate, cfg.dtype, name='mlp')
    x = residual(x, mlp(norm('mlp_')(x), peft.attribute(phi, 'mlp')))
    own = None if keep is None else jax.tree.map(lambda kv: kv[:, keep[0] : keep[1]], own)
    kept = None if cache is None else LayerCache(read, cross)
    return x, (own, kept)


class Stack(nn.Module):
  """Layers scanned with stacked parameters (axis 0, 'layers'), position bias and final norm.

  `kind` names the stack ('encoder', 'decoder') and its final norm, as T5X does. `vocab_size` is
  the width of the output projection; None where logits come from the embedding table.
  """

  config: StackConfig
  kind: str
  vocab_size: int | None = None

  def setup(self):
    cfg = self.config
    block = Block
    if cfg.remat is not None:
      block = nn.remat(block, prevent_cse=False, policy=REMAT_POLICIES[cfg.remat])
    self.layers = nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, 0, nn.broadcast),
      length=cfg.num_layers,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(cfg)
    if cfg.positions is not None:
      p = cfg.positions
      self.relpos_bias = layers.RelativeBias(
        cfg.num_heads, p.bidirectional, p.buckets, p.max_distance
      )
    setattr(self, f'{self.kind}_norm', layers.RMSNorm(dtype=cfg.dtype))
    if self.vocab_size is not None:
      self.logits_dense = layers.Dense(self.vocab_size, ('embed', 'vocab'), cfg.dtype)

  def __call__(
    self,
    x: Float[Array, 'b t d'],
    mask: Bool[Array, '#b #t s'] | None = None,
    memory: peft.Memory | None = None,
    phi: peft.LayerPhi | None = None,
    cache: Cache | None = None,
    keep: tuple[int, int] | None = None,
  ) -> tuple[Float[Array, 'b t d'], Cache | None, KeyValue | None]:
    """Runs the layers and the final norm.

    Args:
      mask: which columns a row sees; with a cache, s counts the cache's columns.
      keep: (start, stop) of the columns whose own keys and values are handed back, cut inside the
        scan so that the whole stack's are never kept.

    Returns:
      hidden states, the cache for the next call, and the kept keys and values [l b s k h].
    """
    cfg = self.config
    layer_cache, index, columns = None, 0, x.shape[1]
    if cache is not None:
      layer_cache, index = LayerCache(cache.self_attention, cache.cross_attention), cache.length
      columns = cache.self_attention.key.shape[2]
    bias = None
    if cfg.positions is not None:
      bias = self.relpos_bias(index + jnp.arange(x.shape[1]), jnp.arange(columns))
    states, memory_mask = None, None
    if memory is not None:
      states, memory_mask = memory.states, _memory_mask(memory, mask, x.shape[0])
    phi = peft.layered(phi, cfg.num_layers)
    x = layers.dropout(self, x, cfg.dropout_rate, broadcast=(-2,))
    shared = (mask, bias, states, memory_mask, index, keep)
    x, (own, kept) = self.layers(x, phi, layer_cache, shared)
    if kept is not None:
      kept = Cache(kept.self_attention, kept.cross_attention, index + x.shape[1])
    x = getattr(self, f'{self.kind}_norm')(x)
    return layers.dropout(self, x, cfg.dropout_rate, broadcast=(-2,)), kept, own

  def logits(self, x: Float[Array, 'b t d']) -> Float[Array, 'b t v']:
    """The output projection of a stack that has a vocab_size."""
    return self.logits_dense(x)


def _memory_mask(memory: peft.Memory, mask, rows: int) -> Bool[Array, 'b #t s']:
  """What rows see of the memory; a position that sees nothing of its own sees none, as in T5X."""
  seen = jnp.repeat(memory.mask, rows // memory.mask.shape[0], axis=0)[:, None, :]
  return seen if mask is None else seen & mask.any(axis=-1, keepdims=True)


def empty_cache(config: StackConfig, batch: int, columns: int) -> Cache:
  """Room for `columns` columns of a batch; nothing written."""
  shape = (config.num_layers, batch, columns, config.num_kv_heads, config.head_dim)
  zeros = lambda: jnp.zeros(shape, config.dtype)
  return Cache(KeyValue(zeros(), zeros()), None, jnp.zeros((), jnp.int32))

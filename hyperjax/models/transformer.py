"""Attention, Block, Stack: pre-norm transformer layers that accept phi and keep a cache.

b batch, c contexts, m rows of a context, t query length, s key length, p prefix length, d model,
n heads = k key/value heads x g queries each, h head dim, l layers.
"""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Int

from hyperjax import peft
from hyperjax.models import attention, layers
from hyperjax.models.attention import KeyValue


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
  attention: str | None = None  # a name in attention.KERNELS; None: what fits


# What the backward pass finds again; the rest it computes anew.
REMAT_POLICIES = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_saveable,
  'minimal': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@peft.pytree
class LayerCache:
  """Keys and values that a layer keeps between calls, heads in front: [c k s h]. See `Cache`."""

  self_attention: KeyValue
  cross_attention: KeyValue | None = None


@peft.pytree
class Cache:
  """What decoding keeps of a stack between calls.

  A layer's `self_attention` has room for all positions, of which the first `length` are written.
  It may have fewer rows than the batch, b = c m, as where m beams share one: row i then writes
  into and reads from row i // m, where each position has m columns, side by side, and the mask
  says which of them a row sees. So nothing moves when a beam goes on from another one.
  `cross_attention` has the keys and values of the memory, computed by the first call.
  """

  layers: tuple[LayerCache, ...]
  length: Any  # int32 scalar


@peft.pytree
class Layer:
  """One layer's share of a stack's parameters and phi."""

  params: Any
  phi: peft.LayerPhi | None


def take_apart(params, phi: peft.LayerPhi | None, num_layers: int) -> tuple[Layer, ...]:
  """The layers of a stack, each by itself: what a loop over tokens reads.

  In such a loop a scan would copy each layer out of the stack again for every token.
  """
  stacked = Layer(params, peft.layered(phi, num_layers))
  return tuple(jax.tree.map(operator.itemgetter(i), stacked) for i in range(num_layers))


class Attention(nn.Module):
  """Multi-head attention with 2-D kernels, as T5X names them."""

  config: StackConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b t d'],
    source: Float[Array, 'c s d'] | KeyValue,
    kernel: attention.Kernel = attention.Xla(),
    phi: peft.AttentionPhi | None = None,
    cache: KeyValue | None = None,
    index=None,
  ) -> tuple[Float[Array, 'b t d'], KeyValue, KeyValue | None]:
    """Attends from x to a source (x itself, a memory, or keys and values computed before).

    Args:
      kernel: which columns each position sees, their bias, and what computes the softmax.
      cache: columns of earlier positions, [c k (S m) h]; the source's are written at position
        `index`, and all are read.

    Returns:
      the output, the source's own (un-rotated) keys and values, and the cache with them.
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
    cache = None if cache is None else _write(cache, own, index)
    read = own if cache is None else _turned(cache)
    drop = lambda w: layers.dropout(self, w, cfg.dropout_rate, broadcast=(-2,))
    y = kernel.attend(query, read, peft.attribute(phi, 'prefix'), drop)
    out = layers.Dense(cfg.emb_dim, ('joined_kv', 'embed'), cfg.dtype, name='out')
    y = out(y.reshape(*y.shape[:2], out_dim), peft.attribute(phi, 'out'))
    return nn.with_logical_constraint(y, ('batch', 'length', 'embed')), own, cache


def _turned(columns: KeyValue) -> KeyValue:
  """b s k h <-> b k s h. Caches are kept as the products of attention read them."""
  return jax.tree.map(lambda x: jnp.swapaxes(x, 1, 2), columns)


def _write(cache: KeyValue, own: KeyValue, index) -> KeyValue:
  """c k (S m) h, with b t k h at position `index`."""

  def write(old, new):
    c, (b, t, k, h) = old.shape[0], new.shape
    new = jnp.einsum('cmtkh->cktmh', new.reshape(c, b // c, t, k, h)).reshape(c, k, -1, h)
    start = index * (b // c)
    return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=2)

  return jax.tree.map(write, cache, own)


class Block(nn.Module):
  """One layer: self-attention, attention to a memory where the stack has it, MLP."""

  config: StackConfig

  @nn.compact
  def __call__(self, x, phi, cache, shared):
    """phi and cache are this layer's, `shared` is the same for all.

    Returns:
      x, and two results: own columns cut by `keep`, and the cache for the next call.
    """
    cfg = self.config
    kernel, memory, memory_kernel, index, keep = shared

    def residual(x, y):
      y = layers.dropout(self, y, cfg.dropout_rate, broadcast=(-2,))
      return nn.with_logical_constraint(x + y, ('batch', 'length', 'embed'))

    norm = lambda name: layers.RMSNorm(dtype=cfg.dtype, name=f'pre_{name}layer_norm')
    name = 'self_attention' if cfg.cross_attention else 'attention'
    y = norm(f'{name}_')(x)
    y, own, kept = Attention(cfg, name=name)(
      y,
      y,
      kernel,
      peft.attribute(phi, 'attention'),
      peft.attribute(cache, 'self_attention'),
      index,
    )
    x = residual(x, y)
    columns = None
    if cfg.cross_attention:
      before = peft.attribute(cache, 'cross_attention')
      y, columns, _ = Attention(cfg, name='encoder_decoder_attention')(
        norm('cross_attention_')(x),
        memory if before is None else _turned(before),
        memory_kernel,
        peft.attribute(phi, 'cross_attention'),
      )
      x = residual(x, y)
    mlp = layers.Mlp(cfg.mlp_dim, cfg.mlp_activations, cfg.dropout_rate, cfg.dtype, name='mlp')
    x = residual(x, mlp(norm('mlp_')(x), peft.attribute(phi, 'mlp')))
    own = None if keep is None else jax.tree.map(lambda kv: kv[:, keep[0] : keep[1]], own)
    return x, (own, None if cache is None else LayerCache(kept, _turned(columns)))


class Stack(nn.Module):
  """Layers with stacked parameters (axis 0, 'layers'), position bias and final norm.

  They are scanned, but read one by one with a cache: see `take_apart`.
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
    apart: tuple[Layer, ...] | None = None,
  ) -> tuple[Float[Array, 'b t d'], Cache | None, KeyValue | None]:
    """Runs the layers and the final norm.

    Args:
      mask: which columns a row sees; with a cache, s counts the cache's columns.
      apart: with a cache, the layers with this phi taken apart before.
      keep: (start, stop) of the columns whose own keys and values are handed back, cut inside the
        scan so that the whole stack's are never kept.

    Returns:
      hidden states, the cache for the next call, and the kept keys and values [l b s k h].
    """
    cfg = self.config
    index = 0 if cache is None else cache.length
    positions = jnp.arange(x.shape[1]) if cache is None else _positions(cache, x.shape[0])
    bias = None
    if cfg.positions is not None:
      bias = self.relpos_bias(index + jnp.arange(x.shape[1]), positions)
    of = lambda site: peft.attribute(phi, site, 'prefix')
    columns = positions.shape[0], mask, bias, of('attention')
    kernel = self.kernel('self-attention', x, cache, *columns)
    states, memory_kernel = None, None
    if memory is not None:
      states, seen = memory.states, _memory_mask(memory, mask, x.shape[0])
      columns = seen.shape[-1], seen, None, of('cross_attention')
      memory_kernel = self.kernel('cross-attention', x, cache, *columns)
    x = layers.dropout(self, x, cfg.dropout_rate, broadcast=(-2,))
    shared = (kernel, states, memory_kernel, index, keep)
    if cache is None:
      x, (own, _) = self.layers(x, peft.layered(phi, cfg.num_layers), None, shared)
    else:
      apart = apart or take_apart(self.layers.variables['params'], phi, cfg.num_layers)
      x, own, cache = self._one_by_one(x, apart, cache, shared)
    x = getattr(self, f'{self.kind}_norm')(x)
    return layers.dropout(self, x, cfg.dropout_rate, broadcast=(-2,)), cache, own

  def kernel(self, name: str, x, cache, own: int, mask, bias, prefix) -> attention.Kernel:
    """What computes the self-attention or the cross-attention of all layers."""
    cfg = self.config
    joined = prefix is not None and prefix.gate is None
    site = attention.Site(
      name=name,
      dtype=cfg.dtype,
      rows=x.shape[0],
      queries=x.shape[1],
      own=own,
      prefix=prefix.key.shape[2] if joined else 0,
      head_dim=cfg.head_dim,
      cached=cache is not None,
      dropout=cfg.dropout_rate > 0 and self.has_rng('dropout'),
    )
    return self.choose(site).kernel.of(site, mask, bias, prefix)

  def choose(self, site: attention.Site) -> attention.Choice:
    """A method, so that `attention.overheard` hears of it. Parameters are made with any kernel."""
    return attention.choose(site, None if self.is_initializing() else self.config.attention)

  def _one_by_one(self, x, apart: tuple[Layer, ...], cache: Cache, shared):
    block, results = Block(self.config, parent=None), []
    for layer, before in zip(apart, cache.layers, strict=True):
      x, result = block.apply({'params': layer.params}, x, layer.phi, before, shared)
      results.append(result)
    own, kept = zip(*results)
    own = jax.tree.map(lambda *each: jnp.stack(each), *own)
    return x, own, Cache(kept, cache.length + x.shape[1])

  def logits(self, x: Float[Array, 'b t d']) -> Float[Array, 'b t v']:
    """The output projection of a stack that has a vocab_size."""
    return self.logits_dense(x)


def _memory_mask(memory: peft.Memory, mask, rows: int) -> Bool[Array, 'b #t s']:
  """What rows see of the memory; a position that sees nothing of its own sees none, as in T5X."""
  seen = jnp.repeat(memory.mask, rows // memory.mask.shape[0], axis=0)[:, None, :]
  return seen if mask is None else seen & mask.any(axis=-1, keepdims=True)


def _positions(cache: Cache, rows: int) -> Int[Array, ' s']:
  """The position of each of the cache's columns, for a batch of `rows`."""
  c, _, columns, _ = cache.layers[0].self_attention.key.shape
  return jnp.arange(columns) // (rows // c)


def empty_cache(config: StackConfig, rows: int, columns: int) -> Cache:
  """`rows` rows with room for `columns` columns; nothing written."""
  shape = (rows, config.num_kv_heads, columns, config.head_dim)
  zeros = lambda: jnp.zeros(shape, config.dtype)
  empty = tuple(LayerCache(KeyValue(zeros(), zeros())) for _ in range(config.num_layers))
  return Cache(empty, jnp.zeros((), jnp.int32))

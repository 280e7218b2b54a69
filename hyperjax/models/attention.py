"""Attention: a softmax over one's own keys and values and a prefix's, by the kernel that fits.

b batch, c contexts, m rows of a context, t query length, s key length, p prefix length, n heads = k
key/value heads x g queries each, h head dim. T5's logits have no 1/sqrt(h).
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Float

from hyperjax import peft
from hyperjax.errors import InputError
from hyperjax.models import layers


@peft.pytree
class KeyValue:
  """Keys and values of one attention: [b s k h], or [l b s k h] for all layers of a stack."""

  key: Any
  value: Any


# -- Kernels: what is added to the logits, in the form that a kernel reads -------------------------


@peft.pytree
class Xla:
  """Products and softmax as XLA compiles them: everything fits."""

  mask: Any = None  # #b #t s, bool
  bias: Any = None  # n t s, float32

  @classmethod
  def of(cls, site: 'Site', mask, bias, prefix: peft.Prefix | None) -> 'Xla':
    return cls(mask, bias)

  def attend(
    self,
    query: Float[Array, 'b t n h'],
    own: KeyValue,
    prefix: peft.Prefix | None = None,
    dropout: Callable[[jax.Array], jax.Array] = lambda weights: weights,
  ) -> Float[Array, 'b t n h']:
    """Attention to own keys and values and to a prefix in front of them.

    Rows of one context read the same keys and values, which are not copied per row: `own` has c
    rows that divide b, as memory shared by beams has, and so has the prefix. Prefix columns get a
    position bias of exactly zero.
    """
    logits = _logits(query, own.key)
    if self.bias is not None:
      logits += self.bias[None]
    if self.mask is not None:
      logits = jnp.where(self.mask[:, None], logits, MASKED)
    if prefix is None:
      return _weighted(dropout(_softmax(logits)), own.value, query.dtype)
    if prefix.gate is not None:
      after = _weighted(dropout(_softmax(logits)), own.value, query.dtype)
      return after + _gated(query, prefix, dropout)
    front, _ = _front(query, prefix)
    # One softmax over both; the keys are never joined, so a decoding cache is not copied.
    p = prefix.key.shape[1]
    weights = dropout(_softmax(jnp.concatenate([front, logits], axis=-1)))
    before = _weighted(weights[..., :p], prefix.value, query.dtype)
    return before + _weighted(weights[..., p:], own.value, query.dtype)


@peft.pytree
class Blocks:
  """XLA's, one key/value head and up to 256 queries at a time, so that logits stay on the chip.

  The backward pass computes each block anew.
  """

  mask: Any = None
  bias: Any = None

  @classmethod
  def of(cls, site: 'Site', mask, bias, prefix: peft.Prefix | None) -> 'Blocks':
    return cls(mask, bias)

  def attend(self, query, own: KeyValue, prefix: peft.Prefix | None = None, dropout=None):
    """See Xla.attend; without dropout."""
    heads, parts = own.key.shape[2], query.shape[1] // _block(query.shape[1])
    # Gradients of keys are summed over blocks: in float32, whatever the dtype of the products.
    wide = lambda x: _cut(x.astype(jnp.float32), 2, heads)
    narrow = lambda x: x.astype(query.dtype)
    front = None if prefix is None else KeyValue(wide(prefix.key), wide(prefix.value))
    gate = None if prefix is None else _cut(prefix.gate, 1, heads)
    mask = None if self.mask is None or self.mask.shape[1] == 1 else _cut(self.mask, 1, parts)

    def of_head(given):
      query, own, bias, front, gate = given

      @jax.checkpoint
      def of_block(given):
        query, mask, bias = given
        columns, before = jax.tree.map(narrow, (own, front))
        if prefix is not None:
          before = peft.Prefix(before.key, before.value, prefix.mask, gate)
        kernel = Xla(self.mask if mask is None else mask, bias)
        return kernel.attend(query, columns, before)

      blocks = _cut(query, 1, parts), mask, _cut(bias, 1, parts)
      return _joined(jax.lax.map(of_block, blocks), 1)

    own = KeyValue(wide(own.key), wide(own.value))
    given = _cut(query, 2, heads), own, _cut(self.bias, 0, heads), front, gate
    return _joined(jax.lax.map(of_head, given), 2)


@peft.pytree
class CuDnn:
  """cuDNN's fused attention, through jax.nn.dot_product_attention: logits never reach memory.

  It takes masks as a bias in the dtype of the queries, and gives the bias its gradient. What is
  added to the logits is therefore made once for all layers of a stack: [b n t (p s)], or with 1 for
  b or n where all rows or heads add the same.
  """

  bias: Any = None

  @classmethod
  def of(cls, site: 'Site', mask, bias, prefix: peft.Prefix | None) -> 'CuDnn':
    front = None if prefix is None or prefix.gate is not None else prefix
    masks = [mask, None if front is None else front.mask]
    if bias is None and not any(each is not None for each in masks):
      return cls()
    # In float32 until it is whole: the gradient of the bias is summed over layers in the dtype of
    # the queries, but over rows in float32.
    low = _LOWEST[jnp.dtype(site.dtype)]
    added = jnp.zeros((1, 1, site.queries, site.own)) if bias is None else bias[None]
    if mask is not None:
      added = jnp.where(mask[:, None], added, low)  # all of a row low: numbers, not NaN
    if front is not None:
      before = jnp.zeros((1, 1, 1, site.prefix))
      if front.mask is not None:
        seen = _repeated(front.mask, site.rows if len(front.mask) > 1 else 1)
        before = jnp.where(seen[:, None, None], before, low)
      rows = max(len(before), len(added))
      wide = lambda x: jnp.broadcast_to(x, (rows, *added.shape[1:3], x.shape[-1]))
      added = jnp.concatenate([wide(before), wide(added)], axis=-1)
    added = jnp.broadcast_to(added, (*added.shape[:2], site.queries, added.shape[-1]))
    axes = [axis if size > 1 else None for axis, size in zip(('batch', 'heads'), added.shape)]
    return cls(nn.with_logical_constraint(added.astype(site.dtype), (*axes, None, None)))

  def attend(self, query, own: KeyValue, prefix: peft.Prefix | None = None, dropout=None):
    """See Xla.attend."""
    wide = lambda x: _repeated(x, query.shape[0]).astype(query.dtype)
    key, value = wide(own.key), wide(own.value)
    if prefix is not None and prefix.gate is None:
      key = _placed(jnp.concatenate([wide(prefix.key), key], axis=1))
      value = _placed(jnp.concatenate([wide(prefix.value), value], axis=1))
    y = jax.nn.dot_product_attention(
      query, key, value, self.bias, scale=1.0, implementation='cudnn'
    )
    return y if prefix is None or prefix.gate is None else y + _gated(query, prefix)


Kernel = Xla | Blocks | CuDnn
KERNELS: dict[str, type[Kernel]] = {'xla': Xla, 'blocks': Blocks, 'cudnn': CuDnn}
MASKED = -1e10  # finite, so that a row that sees nothing gives numbers and not NaN
# What cuDNN is given for it, as jax.nn gives it: it subtracts two of them.
_LOWEST = {jnp.dtype('bfloat16'): -(2.0**41), jnp.dtype('float16'): -(2.0**15)}


def _logits(query: jax.Array, key: jax.Array) -> jax.Array:
  """b t n h, c s k h -> b n t s in float32."""
  b, t, n, h = query.shape
  c, s, k, _ = key.shape
  query = query.reshape(c, b // c, t, k, n // k, h)
  key = jnp.swapaxes(key, 1, 2).astype(query.dtype)  # apart, so that a loop turns a memory's once
  # Named, so that the products of the backward pass have both operands in the queries' dtype: by
  # default one stays in float32, in which GPUs then multiply, and which TPUs write and read.
  exact = _ALGORITHMS.get(query.dtype)
  logits = jnp.einsum(
    'cmtkgh,cksh->cmkgts', query, key, precision=exact, preferred_element_type=jnp.float32
  )
  return logits.reshape(b, n, t, s)


_ALGORITHMS = {jnp.dtype('bfloat16'): jax.lax.DotAlgorithmPreset.BF16_BF16_F32}


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
  value = jnp.swapaxes(value, 1, 2).astype(dtype)
  out = jnp.einsum('cksh,cmkgts->cmtkgh', value, weights)
  return out.reshape(b, t, n, h)


def _front(query: jax.Array, prefix: peft.Prefix) -> tuple[jax.Array, jax.Array]:
  """Logits of the prefix's columns, b n t p, and which are seen."""
  logits, seen = _logits(query, prefix.key), jnp.ones((1, 1, 1, 1), bool)
  if prefix.mask is not None:
    seen = _repeated(prefix.mask, query.shape[0])[:, None, None, :]
    logits = jnp.where(seen, logits, 2 * MASKED)  # unseen also by rows whose own are all masked
  return logits, seen


def _gated(query: jax.Array, prefix: peft.Prefix, dropout=lambda weights: weights) -> jax.Array:
  """What a prefix with a softmax of its own adds, times tanh(gate)."""
  gate = jnp.tanh(jnp.asarray(prefix.gate, jnp.float32))
  gate = _repeated(gate, query.shape[0])[:, None, :, None].astype(query.dtype)
  logits, seen = _front(query, prefix)
  weights = jnp.where(seen, _softmax(logits), 0)  # all masked: no prefix
  return gate * _weighted(dropout(weights), prefix.value, query.dtype)


def _block(queries: int) -> int:
  """How many queries are read at a time: 64 to 256 where that divides them, else all."""
  size = math.gcd(queries, 256)
  return size if size >= 64 else queries


def _cut(x: jax.Array | None, axis: int, parts: int) -> jax.Array | None:
  """An axis in equal parts, which are stacked in front."""
  if x is None:
    return None
  shape = (*x.shape[:axis], parts, x.shape[axis] // parts, *x.shape[axis + 1 :])
  return jnp.moveaxis(x.reshape(shape), axis, 0)


def _joined(x: jax.Array, axis: int) -> jax.Array:
  """The inverse of `_cut`."""
  x = jnp.moveaxis(x, 0, axis)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _placed(x: jax.Array) -> jax.Array:
  """b s k h as queries are split over a mesh, which cuDNN's calls ask for."""
  return nn.with_logical_constraint(x, ('batch', 'length', 'heads', 'kv'))


def _repeated(x: jax.Array, rows: int) -> jax.Array:
  """c … -> b …: row i has that of context i // (b / c)."""
  return jnp.repeat(x, rows // x.shape[0], axis=0)


# -- Which kernel ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Site:
  """One attention of a stack: what a kernel has to cope with."""

  name: str  # self-attention, cross-attention
  dtype: Any
  rows: int
  queries: int
  own: int  # columns
  prefix: int  # columns in front of them, in the same softmax
  head_dim: int
  cached: bool = False
  dropout: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
  """The kernel of a site, and why it is not cuDNN's (None: it is)."""

  site: str
  kernel: type[Kernel]
  reason: str | None = None


def choose(site: Site, wanted: str | None = None) -> Choice:
  """cuDNN where it can compute a site, XLA elsewhere.

  Args:
    wanted: a name in KERNELS. 'cudnn' and 'blocks' leave reading with a cache to XLA, and 'blocks'
      also dropout.

  Raises:
    InputError: cuDNN is wanted and cannot compute the site; says why.
  """
  if wanted == 'blocks' and not (site.cached or site.dropout):
    return Choice(site.name, Blocks)
  reason = f'ATTENTION is {wanted!r}' if wanted in ('xla', 'blocks') else unfit(site)
  if reason is None:
    return Choice(site.name, CuDnn)
  if wanted == 'cudnn' and not site.cached:
    raise InputError(
      f"ATTENTION (T5Config.attention) is 'cudnn', but cuDNN cannot compute this {site.name}: "
      f'{reason}; with None each attention takes the kernel that fits'
    )
  return Choice(site.name, Xla, reason)


def unfit(site: Site) -> str | None:
  """Why cuDNN cannot compute a site; None: it can."""
  columns = site.prefix + site.own
  missing = machine_lacks()
  checks = {
    'it reads a cache': site.cached,
    missing or '': missing is not None,
    f'{jnp.dtype(site.dtype)} instead of bfloat16': jnp.dtype(site.dtype) not in _LOWEST,
    f'head_dim {site.head_dim}, not a multiple of 8 up to 128': site.head_dim % 8
    or site.head_dim > 128,
    f'{site.queries} queries and {columns} keys, not both even': site.queries % 2 or columns % 2,
    'dropout of its weights': site.dropout,
  }
  return next((reason for reason, holds in checks.items() if holds), None)


def machine_lacks() -> str | None:
  """Why there is no cuDNN attention where programs are going to run; None: there is.

  Flash attention asks for compute capability 8.0 (Ampere).
  """
  mesh = jax.sharding.get_abstract_mesh().abstract_device  # None: no mesh is set
  platform = jax.default_backend() if mesh is None else mesh.platform
  if jax.default_backend() != 'gpu' or platform not in ('gpu', 'cuda'):
    return platform
  device = jax.local_devices()[0]
  if 'cuda' not in device.client.platform_version.lower():
    return 'a GPU without CUDA'
  capability = tuple(int(x) for x in device.compute_capability.split('.'))
  return None if capability >= (8, 0) else f'compute capability {device.compute_capability}'


@contextlib.contextmanager
def overheard() -> Iterator[dict[str, Choice]]:
  """Where an attention is -> its kernel, of all models that are traced meanwhile."""
  found: dict[str, Choice] = {}

  def listen(follow, args, kwargs, context):
    result = follow(*args, **kwargs)
    if isinstance(result, Choice):
      found['/'.join((*context.module.path, result.site))] = result
    return result

  with nn.intercept_methods(listen):
    yield found


def in_words(found: Mapping[str, Choice]) -> str:
  """A line such as: attention: cuDNN in encoder/self-attention; XLA in … (why)."""
  groups: dict[tuple[type[Kernel], str | None], list[str]] = {}
  for where, choice in found.items():
    groups.setdefault((choice.kernel, choice.reason), []).append(where)
  names = {Xla: 'XLA', Blocks: 'XLA in blocks', CuDnn: 'cuDNN'}
  parts = [
    names[kernel]
    + (f' in {", ".join(places)}' if len(groups) > 1 else '')
    + (f' ({reason})' if reason else '')
    for (kernel, reason), places in groups.items()
  ]
  return f'attention: {"; ".join(parts) or "none"}'

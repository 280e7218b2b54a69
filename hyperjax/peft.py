"""phi: PEFT parameters as a typed value that is generated, learned, saved, averaged and applied.

Dimensions: l layers, c contexts, d in, f out, r rank, p prefix length, k key/value heads, h head
dim, n heads, s length. Leaves start [l, c] except `Prefix.mask` and `memory`; inside a layer of a
scanned stack they start [c]. `c` is read per leaf: row i of a batch of b uses context i // (b / c).
A leaf that is None adapts nothing; the structure of phi is the configuration.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import jax.numpy as jnp

from hyperjax.errors import InputError

# A leaf is a jax or numpy array, or while specs and shardings are worked out anything that stands
# for one, so the fields below are not checked by type; `check` checks them against a model.
Leaf = Any

T = TypeVar('T')


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
  """Makes a frozen dataclass a pytree whose unflattening does not call `__init__`.

  A constructor that checks its fields (jaxtyping under pytest) would refuse the placeholders that
  jax puts into leaves: None, shapes, shardings.
  """
  made: Any = dataclasses.dataclass(frozen=True)(cls)
  names = [field.name for field in dataclasses.fields(made)]

  def flatten_with_keys(value):
    return [(jax.tree_util.GetAttrKey(name), getattr(value, name)) for name in names], None

  def flatten(value):
    return [getattr(value, name) for name in names], None

  def unflatten(_, children):
    value = object.__new__(made)
    for name, child in zip(names, children, strict=True):
      object.__setattr__(value, name, child)
    return value

  jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
  return made


@pytree
class LowRank:
  """A low-rank update of one linear map: y += (x @ a) @ b, with alpha/r and gates folded into b."""

  a: Leaf  # l c d r
  b: Leaf  # l c r f


@pytree
class Prefix:
  """Keys (before rotation) and values in front of the sequence's own."""

  key: Leaf  # l c p k h
  value: Leaf  # l c p k h
  mask: Leaf | None = None  # c p, bool; None: all are seen
  gate: Leaf | None = None  # l c n; None: one softmax with the sequence; else added as tanh(gate)


@pytree
class AttentionPhi:
  """What adapts one attention: a prefix, and updates of its four linear maps."""

  prefix: Prefix | None = None
  query: LowRank | None = None
  key: LowRank | None = None
  value: LowRank | None = None
  out: LowRank | None = None


@pytree
class MlpPhi:
  """What adapts one MLP."""

  wi_0: LowRank | None = None
  wi_1: LowRank | None = None
  wo: LowRank | None = None


@pytree
class LayerPhi:
  """What adapts the layers of one stack."""

  attention: AttentionPhi | None = None
  cross_attention: AttentionPhi | None = None
  mlp: MlpPhi | None = None


@pytree
class Memory:
  """Encoded context for cross-attention, joined to the downstream encoder's own output."""

  states: Leaf  # c s d
  mask: Leaf  # c s, bool


@pytree
class Phi:
  """PEFT parameters of a whole model. Decoder-only models use `decoder`."""

  encoder: LayerPhi | None = None
  decoder: LayerPhi | None = None
  memory: Memory | None = None


def attribute(value, *names: str):
  """value.name1.name2…, or None as soon as something on the way is None."""
  for name in names:
    value = getattr(value, name) if value is not None else None
  return value


def leaf_names(phi) -> list[str]:
  """Slash-joined names of the leaves that are there, such as `encoder/attention/prefix/key`."""
  paths, _ = jax.tree_util.tree_flatten_with_path(phi)
  return [path_name(path) for path, _ in paths]


def path_name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def from_leaves(leaves: dict[str, Leaf]) -> Phi:
  """The inverse of `dict(zip(leaf_names(phi), jax.tree.leaves(phi)))`.

  Raises:
    InputError: a name that no leaf of a Phi can have.
  """
  return _build(Phi, '', dict(leaves))


_CHILDREN: dict[type, dict[str, type]] = {
  Phi: {'encoder': LayerPhi, 'decoder': LayerPhi, 'memory': Memory},
  LayerPhi: {'attention': AttentionPhi, 'cross_attention': AttentionPhi, 'mlp': MlpPhi},
  AttentionPhi: {'prefix': Prefix, **dict.fromkeys(('query', 'key', 'value', 'out'), LowRank)},
  MlpPhi: dict.fromkeys(('wi_0', 'wi_1', 'wo'), LowRank),
}


def _build(cls, where: str, leaves: dict[str, Leaf]):
  if cls not in _CHILDREN:
    required = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
    allowed = {f.name for f in dataclasses.fields(cls)}
    if not required <= set(leaves) <= allowed:
      raise InputError(f'phi at {where} has leaves {sorted(leaves)}; expected {sorted(allowed)}')
    return cls(**leaves)
  groups: dict[str, dict[str, Leaf]] = {}
  for name, leaf in leaves.items():
    head, _, rest = name.partition('/')
    if head not in _CHILDREN[cls] or not rest:
      raise InputError(f'{where or "phi"} has no leaf {name!r}; expected {sorted(_CHILDREN[cls])}')
    groups.setdefault(head, {})[rest] = leaf
  return cls(
    **{
      head: _build(_CHILDREN[cls][head], f'{where}/{head}'.lstrip('/'), group)
      for head, group in groups.items()
    }
  )


# -- Specs: which leaves, of which shapes ----------------------------------------------------------


@runtime_checkable
class StackShape(Protocol):
  """Sizes of one stack of layers, as specs need them."""

  @property
  def num_layers(self) -> int: ...
  @property
  def emb_dim(self) -> int: ...
  @property
  def num_heads(self) -> int: ...
  @property
  def num_kv_heads(self) -> int: ...
  @property
  def head_dim(self) -> int: ...
  @property
  def mlp_dim(self) -> int: ...
  @property
  def mlp_activations(self) -> tuple[str, ...]: ...  # two where the MLP is gated
  @property
  def cross_attention(self) -> bool: ...


@runtime_checkable
class ModelShape(Protocol):
  """A model's config: its stacks by name, 'encoder' and 'decoder' where they exist."""

  def stack(self, name: str) -> StackShape | None: ...


@runtime_checkable
class Method(Protocol):
  """A kind of PEFT: says which leaves phi has for a model."""

  def spec(self, model: ModelShape, contexts: int = 1) -> Phi: ...


@dataclasses.dataclass(frozen=True)
class PrefixTuning:
  """`length` key/value pairs before the self-attention of every layer of `stacks`.

  HyperTuning's prefix: encoder and decoder self-attention, no cross-attention (papers.md C.1).
  The paper does not publish the length; 16 is our default.
  """

  length: int = 16
  stacks: tuple[str, ...] = ('encoder', 'decoder')

  def __post_init__(self):
    if self.length < 0:
      raise InputError(f'PrefixTuning.length is {self.length}; give a length of 0 or more')
    if not self.stacks:
      raise InputError("PrefixTuning.stacks is empty; give 'encoder', 'decoder' or both")

  def spec(self, model: ModelShape, contexts: int = 1) -> Phi:
    """A Phi of shapes: key and value [l, contexts, length, k, h] in each stack."""

    def stack(name):
      s = _stack(model, name, 'PrefixTuning.stacks')
      shape = (s.num_layers, contexts, self.length, s.num_kv_heads, s.head_dim)
      return LayerPhi(AttentionPhi(Prefix(_shape(shape), _shape(shape))))

    return Phi(**{name: stack(name) for name in self.stacks})


ATTENTION_QV = tuple(
  f'{site}/{part}'
  for site in ('encoder/attention', 'decoder/attention', 'decoder/cross_attention')
  for part in ('query', 'value')
)


@dataclasses.dataclass(frozen=True)
class LoRA:
  """Rank-`rank` updates of the linear maps named in `sites`, scaled by alpha / rank.

  The default sites are HyperTuning's: query and value of encoder self-, decoder self- and
  cross-attention. alpha=None means alpha = rank, a scale of 1.
  """

  rank: int = 8
  alpha: float | None = None
  sites: tuple[str, ...] = ATTENTION_QV

  def __post_init__(self):
    if self.rank < 1:
      raise InputError(f'LoRA.rank is {self.rank}; give a rank of 1 or more')
    if not self.sites or len(set(self.sites)) != len(self.sites):
      raise InputError(f'LoRA.sites is {self.sites}; give one or more different sites')

  @property
  def scale(self) -> float:
    return 1.0 if self.alpha is None else self.alpha / self.rank

  def spec(self, model: ModelShape, contexts: int = 1) -> Phi:
    """A Phi of shapes: a [l, contexts, d, rank] and b [l, contexts, rank, f] at each site."""
    leaves = {}
    for site in self.sites:
      layers, d, f = linear_shape(model, site)
      leaves[f'{site}/a'] = _shape((layers, contexts, d, self.rank))
      leaves[f'{site}/b'] = _shape((layers, contexts, self.rank, f))
    return from_leaves(leaves)


def linear_shape(model: ModelShape, site: str) -> tuple[int, int, int]:
  """(layers, in, out) of the linear map at a site such as `encoder/attention/query`."""
  name, _, part = site.partition('/')
  s = _stack(model, name, f'the LoRA site {site!r}')
  q, kv = s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim
  attention = {
    'query': (s.emb_dim, q),
    'key': (s.emb_dim, kv),
    'value': (s.emb_dim, kv),
    'out': (q, s.emb_dim),
  }
  known = {f'mlp/wi_{i}': (s.emb_dim, s.mlp_dim) for i in range(len(s.mlp_activations))}
  known['mlp/wo'] = (s.mlp_dim, s.emb_dim)
  for block in ('attention', 'cross_attention') if s.cross_attention else ('attention',):
    known |= {f'{block}/{k}': v for k, v in attention.items()}
  if part not in known:
    raise InputError(f'no LoRA site {site!r}; {name} has {", ".join(sorted(known))}')
  return (s.num_layers, *known[part])


def _stack(model: ModelShape, name: str, where: str) -> StackShape:
  stack = model.stack(name)
  if stack is None:
    raise InputError(f'{where} names {name!r}, a stack that {type(model).__name__} does not have')
  return stack


def _shape(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


# Logical axes of each leaf, by the last part of its name; see `logical_axes`.
_AXES = {
  'prefix/key': ('layers', 'contexts', 'prefix', 'heads', 'kv'),
  'prefix/value': ('layers', 'contexts', 'prefix', 'heads', 'kv'),
  'prefix/mask': ('contexts', 'prefix'),
  'prefix/gate': ('layers', 'contexts', 'heads'),
  'a': ('layers', 'contexts', 'embed', 'rank'),
  'b': ('layers', 'contexts', 'rank', 'joined_kv'),
  'out/a': ('layers', 'contexts', 'joined_kv', 'rank'),
  'out/b': ('layers', 'contexts', 'rank', 'embed'),
  'wi_0/b': ('layers', 'contexts', 'rank', 'mlp'),
  'wi_1/b': ('layers', 'contexts', 'rank', 'mlp'),
  'wo/a': ('layers', 'contexts', 'mlp', 'rank'),
  'wo/b': ('layers', 'contexts', 'rank', 'embed'),
  'states': ('contexts', 'length', 'embed'),
  'mask': ('contexts', 'length'),
}


def axes_of(name: str) -> tuple[str, ...]:
  """Logical axes of the leaf with this name."""
  two = '/'.join(name.split('/')[-2:])
  return _AXES.get(two) or _AXES[name.rsplit('/', 1)[-1]]


def logical_axes(phi: Phi) -> Phi:
  """Logical axis names of every leaf, in phi's structure."""
  return jax.tree_util.tree_map_with_path(lambda path, _: axes_of(path_name(path)), phi)


def constrain(phi: Phi) -> Phi:
  """phi with its leaves sharded by their logical axes, under a mesh and rules; else as it is.

  A leaf with a single context is on every device.
  """
  from flax import linen as nn

  def one(path, leaf):
    sizes = zip(axes_of(path_name(path)), leaf.shape, strict=True)
    axes = [None if axis == 'contexts' and size == 1 else axis for axis, size in sizes]
    return nn.with_logical_constraint(leaf, tuple(axes))

  return jax.tree_util.tree_map_with_path(one, phi)


def check(phi: Phi | None, model: ModelShape, batch: int) -> None:
  """Refuses a phi that does not fit the model or the batch.

  Raises:
    InputError: names the leaf, its size and the model's.
  """
  if phi is None:
    return
  shared: dict[tuple[str, str], tuple[str, int]] = {}
  for name, leaf in zip(leaf_names(phi), jax.tree.leaves(phi), strict=True):
    _check_leaf(name, tuple(leaf.shape), model, batch)
    for axis in {'prefix', 'rank', 'length'}.intersection(axes_of(name)):
      size = leaf.shape[axes_of(name).index(axis)]
      other, known = shared.setdefault((name.rpartition('/')[0], axis), (name, size))
      if size != known:
        raise InputError(f'phi leaf {name} has {axis} {size}, but {other} has {known}')


def _check_leaf(name: str, shape: tuple[int, ...], model: ModelShape, batch: int) -> None:
  axes = axes_of(name)
  if len(shape) != len(axes):
    raise InputError(f'phi leaf {name} has shape {shape}; expected dimensions {axes}')
  sizes = dict(zip(axes, shape, strict=True))
  if batch % max(sizes['contexts'], 1) or sizes['contexts'] < 1:
    raise InputError(
      f'phi leaf {name} has {sizes["contexts"]} contexts, which do not divide a batch of {batch}'
    )
  stack_name, _, site = name.partition('/')
  if stack_name == 'memory':
    stack = _stack(model, 'decoder', 'phi.memory')
    _check_cross_attention(name, stack)
    wanted = {'embed': stack.emb_dim}
  else:
    stack = _stack(model, stack_name, 'phi')
    wanted = {'layers': stack.num_layers}
    if '/prefix/' in name:
      if site.startswith('cross_attention'):
        _check_cross_attention(name, stack)
      heads = stack.num_heads if name.endswith('gate') else stack.num_kv_heads
      wanted |= {'heads': heads, 'kv': stack.head_dim}
    else:
      _, d, f = linear_shape(model, name.rsplit('/', 1)[0])
      wanted |= {axes[2]: d} if name.endswith('/a') else {axes[3]: f}
  for axis, size in wanted.items():
    if axis in sizes and sizes[axis] != size:
      raise InputError(
        f'phi leaf {name} has {sizes[axis]} {axis}, the downstream model {size}; '
        'was it written for another model?'
      )


def _check_cross_attention(name: str, stack: StackShape) -> None:
  if not stack.cross_attention:
    raise InputError(f'phi leaf {name} is for cross-attention, which the downstream model lacks')


# -- Applying phi inside one layer -----------------------------------------------------------------


def layered(phi: LayerPhi | None, num_layers: int) -> LayerPhi | None:
  """phi with the prefix masks repeated per layer, so that every leaf can be scanned over layers."""

  def repeat(attention: AttentionPhi | None) -> AttentionPhi | None:
    prefix = attention.prefix if attention is not None else None
    if attention is None or prefix is None or prefix.mask is None:
      return attention
    mask = jnp.broadcast_to(prefix.mask, (num_layers, *prefix.mask.shape))
    return dataclasses.replace(attention, prefix=dataclasses.replace(prefix, mask=mask))

  if phi is None:
    return None
  return LayerPhi(repeat(phi.attention), repeat(phi.cross_attention), phi.mlp)


def by_context(x: jax.Array, contexts: int) -> jax.Array:
  """b … -> c m …: the rows of one context are contiguous."""
  return x.reshape(contexts, x.shape[0] // contexts, *x.shape[1:])


def low_rank(x: jax.Array, phi: LowRank) -> jax.Array:
  """(x @ a) @ b, each row with its own context's factors: x b t d -> b t f.

  Never x @ (W + ab): that is one full kernel per context.
  """
  b, t, _ = x.shape
  a, factor = phi.a.astype(x.dtype), phi.b.astype(x.dtype)
  down = jnp.einsum('cmtd,cdr->cmtr', by_context(x, a.shape[0]), a).reshape(b, t, -1)
  up = jnp.einsum('cmtr,crf->cmtf', by_context(down, factor.shape[0]), factor)
  return up.reshape(b, t, -1)


# -- Algebra ---------------------------------------------------------------------------------------


def count(phi: Phi | None) -> int:
  """Values in phi for one context (masks excepted)."""
  total = 0
  for name, leaf in zip(leaf_names(phi), jax.tree.leaves(phi), strict=True):
    if not name.endswith('mask'):
      total += leaf.size // leaf.shape[axes_of(name).index('contexts')]
  return total


def num_contexts(phi: Phi) -> int:
  """The largest number of contexts among phi's leaves."""
  return max(_contexts(phi), default=1)


def _contexts(phi: Phi) -> tuple[int, ...]:
  """The number of contexts of each leaf."""
  return tuple(
    leaf.shape[axes_of(name).index('contexts')]
    for name, leaf in zip(leaf_names(phi), jax.tree.leaves(phi), strict=True)
  )


def _along(function: Callable, *phis: Phi, axis: str = 'contexts') -> Phi:
  """Calls function(name, index of the axis, leaves…) on every leaf."""
  _same_structure(phis)

  def one(path, *leaves):
    name = path_name(path)
    _same_sizes(name, leaves, axis)
    return function(name, axes_of(name).index(axis), *leaves)

  return jax.tree_util.tree_map_with_path(one, *phis)


def _same_structure(phis: Sequence[Phi]) -> None:
  names = [leaf_names(phi) for phi in phis]
  for other in names[1:]:
    if other != names[0]:
      odd = sorted(set(other) ^ set(names[0]))
      raise InputError(
        f'these phi adapt different sites: not all of them have {", ".join(odd)}; '
        'give phi of one method'
      )


def _same_sizes(name: str, leaves: Sequence[Any], *but: str) -> None:
  """Refuses leaves that differ along an axis other than those named in `but`."""
  for axis, *sizes in zip(axes_of(name), *(leaf.shape for leaf in leaves)):
    if axis not in but and len(set(sizes)) > 1:
      raise InputError(
        f'phi leaf {name} has {axis} {" and ".join(map(str, sizes))}; '
        'give phi of one model and method'
      )


def select(phi: Phi, index: int) -> Phi:
  """One context out of phi, kept as a context axis of size 1. A leaf with c = 1 stays.

  Raises:
    InputError: phi has no such context.
  """
  contexts = num_contexts(phi)
  if not 0 <= index < contexts:
    raise InputError(f'phi has no context {index}; give one of 0 to {contexts - 1}')

  def one(_, axis, leaf):
    own = index * leaf.shape[axis] // contexts
    return leaf[(slice(None),) * axis + (slice(own, own + 1),)]

  return _along(one, phi)


def stack(phis: Sequence[Phi]) -> Phi:
  """Phis side by side on the contexts axis.

  Raises:
    InputError: they adapt different sites, or there is none.
  """
  if not phis:
    raise InputError('stack needs at least one phi')
  if len({_contexts(phi) for phi in phis}) > 1:
    phis = [_widened(phi) for phi in phis]
  return _along(lambda _, axis, *leaves: jnp.concatenate(leaves, axis), *phis)


def _widened(phi: Phi) -> Phi:
  """phi with leaves that all of its contexts share repeated, so that each context has its own."""
  c = num_contexts(phi)
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: _with_contexts(path_name(path), leaf, c), phi
  )


def mean(phi: Phi) -> Phi:
  """The average over contexts, one context. LoRA's factors are averaged, not their products.

  Raises:
    InputError: phi has masks; a position seen by some contexts only has no average.
  """
  masks = {n for n in leaf_names(phi) if n.endswith('mask')}
  if masks:
    raise InputError(f'the mean of phi with {sorted(masks)[0]} is not defined; concatenate instead')
  return _along(lambda _, axis, leaf: jnp.mean(leaf, axis, keepdims=True), phi)


def interpolate(first: Phi, second: Phi, weight: float) -> Phi:
  """(1 - weight) * first + weight * second, leaf by leaf; one context goes with many."""
  if any(n.endswith('mask') for n in leaf_names(first)):
    raise InputError('phi with masks cannot be interpolated; concatenate instead')

  def between(name, axis, *leaves):
    c = max(leaf.shape[axis] for leaf in leaves)
    x, y = (_with_contexts(name, leaf, c) for leaf in leaves)
    return (1 - weight) * x + weight * y

  return _along(between, first, second)


def concatenate(phis: Sequence[Phi]) -> Phi:
  """Adapters used together: prefixes joined along their length, LoRA along its rank.

  Joined LoRA factors add their updates. A mask of None counts as all seen. Gated prefixes have a
  softmax each and cannot be joined.
  """
  if not phis:
    raise InputError('concatenate needs at least one phi')
  phis = [_with_masks(phi) for phi in phis] if _any_mask(phis) else list(phis)
  axis = {'a': 'rank', 'b': 'rank', 'states': 'length'}

  def join(path, *leaves):
    name = path_name(path)
    kind = name.rsplit('/', 1)[-1]
    if kind == 'gate':
      raise InputError(f'{name}: gated prefixes have a softmax each and cannot be concatenated')
    along = axis.get(kind, 'length' if name == 'memory/mask' else 'prefix')
    _same_sizes(name, leaves, along, 'contexts')
    c = max(leaf.shape[axes_of(name).index('contexts')] for leaf in leaves)
    leaves = [_with_contexts(name, leaf, c) for leaf in leaves]
    return jnp.concatenate(leaves, axes_of(name).index(along))

  _same_structure(phis)
  return jax.tree_util.tree_map_with_path(join, *phis)


def _with_contexts(name: str, leaf, contexts: int):
  axis = axes_of(name).index('contexts')
  if leaf.shape[axis] not in (1, contexts):
    raise InputError(f'{name} has {leaf.shape[axis]} contexts beside one of {contexts}')
  return jnp.broadcast_to(leaf, (*leaf.shape[:axis], contexts, *leaf.shape[axis + 1 :]))


def _any_mask(phis: Sequence[Phi]) -> bool:
  return any(n.endswith('prefix/mask') for phi in phis for n in leaf_names(phi))


def _with_masks(phi: Phi) -> Phi:
  leaves = dict(zip(leaf_names(phi), jax.tree.leaves(phi), strict=True))
  for name in [n for n in leaves if n.endswith('prefix/key')]:
    _, c, p, *_ = leaves[name].shape
    leaves.setdefault(name.replace('prefix/key', 'prefix/mask'), jnp.ones((c, p), bool))
  return from_leaves(leaves)


_MODULES = {
  'encoder/attention': ('encoder', 'layers', 'attention'),
  'encoder/mlp': ('encoder', 'layers', 'mlp'),
  'decoder/attention': ('decoder', 'layers', 'self_attention'),
  'decoder/cross_attention': ('decoder', 'layers', 'encoder_decoder_attention'),
  'decoder/mlp': ('decoder', 'layers', 'mlp'),
}


def merge(params: dict, phi: Phi) -> dict:
  """The model's parameters with one LoRA phi added into their kernels, for export.

  Args:
    params: a T5 tree (kernels [l, d, f]).
    phi: LoRA with a single context.

  Raises:
    InputError: phi has more than one context, or a prefix, which no weight can express, or does
      not fit the model.
  """
  leaves = dict(zip(leaf_names(phi), jax.tree.leaves(phi), strict=True))
  if num_contexts(phi) != 1:
    raise InputError(f'merge takes one context, phi has {num_contexts(phi)}; select one first')
  merged = jax.tree.map(lambda x: x, params)
  for name in leaves:
    site, _, factor = name.rpartition('/')
    if factor not in ('a', 'b'):
      raise InputError(f'{name} cannot be merged into weights; only LoRA can')
    if factor == 'b':
      continue
    block, _, linear = site.rpartition('/')
    module = merged
    for key in _MODULES[block]:
      module = module[key]
    linear = linear if linear in module else 'wi'  # T5 1.0's MLP has one, and no wi_0
    update = jnp.einsum('ldr,lrf->ldf', leaves[f'{site}/a'][:, 0], leaves[f'{site}/b'][:, 0])
    kernel = module[linear]['kernel']
    if update.shape != kernel.shape:
      raise InputError(
        f'{site} is {update.shape} in phi and {kernel.shape} in the model; '
        'was phi written for another model?'
      )
    module[linear]['kernel'] = (kernel + update).astype(kernel.dtype)
  return merged

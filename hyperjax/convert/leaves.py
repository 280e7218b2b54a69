"""Arrays in other people's files, read by slices, and our parameters made of them.

A mesh's process reads the slices of its own devices; nothing is held twice.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperjax.errors import InputError

Slices = tuple[slice, ...]
Part = tuple[np.ndarray, Slices]  # where it goes, and which it is
Tree = dict[str, Any]

READERS = 8
"""Files that are read at once."""


@dataclasses.dataclass(frozen=True)
class Leaf:
  """An array that is not read yet: `fill` reads parts of it, all that this process needs at once.

  What parts share in a file, such as a chunk, is read once. The array that a part goes to may have
  another dtype, and be a view: a layer of a stack, a transpose.
  """

  shape: tuple[int, ...]
  dtype: Any
  fill: Callable[[Sequence[Part]], None]

  def read(self, slices: Slices) -> np.ndarray:
    """A part as an array of its own."""
    sizes = [len(range(size)[part]) for size, part in zip(self.shape, slices, strict=True)]
    out = np.empty(sizes, self.dtype)
    self.fill([(out, slices)])
    return out

  def transpose(self, *axes: int) -> 'Leaf':
    """As numpy's; all axes are named."""
    back = np.argsort(axes)

    def fill(parts: Sequence[Part]) -> None:
      turned = [(out.transpose(back), tuple(at[axis] for axis in back)) for out, at in parts]
      self.fill(turned)

    return Leaf(tuple(self.shape[axis] for axis in axes), self.dtype, fill)

  def merge(self, axis: int) -> 'Leaf':
    """Joins an axis and the next, as numpy's reshape does."""
    outer, inner = self.shape[axis : axis + 2]

    def fill(parts: Sequence[Part]) -> None:
      apart = []
      for out, slices in parts:
        start, stop, _ = slices[axis].indices(outer * inner)
        first, last = start // inner, -(-stop // inner)
        whole = (*slices[:axis], slice(first, last), slice(None), *slices[axis + 1 :])
        if (last - first) * inner == stop - start:  # to split an axis makes a view
          sizes = (*out.shape[:axis], last - first, inner, *out.shape[axis + 1 :])
          apart.append((out.reshape(sizes), whole))
        else:
          cut = slice(start - first * inner, stop - first * inner)
          joined = self.read(whole).reshape((*out.shape[:axis], -1, *out.shape[axis + 1 :]))
          out[...] = joined[(*[slice(None)] * axis, cut)]
      self.fill(apart)

    shape = (*self.shape[:axis], outer * inner, *self.shape[axis + 2 :])
    return Leaf(shape, self.dtype, fill)


def of(read: Callable[[Slices], np.ndarray], shape: Sequence[int], dtype: Any) -> Leaf:
  """A leaf from what gives a part as an array."""

  def fill(parts: Sequence[Part]) -> None:
    for out, slices in parts:
      out[...] = read(slices)

  return Leaf(tuple(shape), dtype, fill)


def held(array: np.ndarray) -> Leaf:
  """An array that is in memory already."""
  return of(array.__getitem__, array.shape, array.dtype)


def stack(leaves: Sequence[Leaf]) -> Leaf:
  """Leaves of one shape along a new first axis."""

  def fill(parts: Sequence[Part]) -> None:
    by_leaf: dict[int, list[Part]] = {}
    for out, (own, *inner) in parts:
      for i, layer in zip(range(len(leaves))[own], out, strict=True):
        by_leaf.setdefault(i, []).append((layer, tuple(inner)))
    with futures.ThreadPoolExecutor(READERS) as pool:  # remote files answer late
      list(pool.map(lambda i: leaves[i].fill(by_leaf[i]), by_leaf))

  return Leaf((len(leaves), *leaves[0].shape), leaves[0].dtype, fill)


def named(tree: Any) -> dict[str, Any]:
  """{'encoder/layers/…': leaf} of a tree."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def assemble(
  found: Mapping[str, Leaf], shapes: Tree, where: str, dtype: Any, shardings: Any = None
) -> Tree:
  """Parameters with the structure of `shapes`, read from `found` leaf by leaf.

  Args:
    found: leaves by our names.
    shapes: jax.ShapeDtypeStruct, or arrays, of the model's parameters.
    where: what the errors name.
    dtype: of the result; one, or a tree of them.
    shardings: of the result; one, or a tree of them; None: one device.

  Raises:
    InputError: leaves that are missing, unexpected or of another shape, all before one is read.
  """
  check({name: leaf.shape for name, leaf in found.items()}, shapes, where)
  for name, leaf in found.items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise InputError(f'{where}: {name} is {leaf.dtype}, which is not a float')
  one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  dtypes, places = _each(dtype, shapes, 'dtypes'), _each(shardings or one, shapes, 'shardings')
  arrays = [
    _array(found[name], jnp.dtype(dtypes[name]), places[name], f'{where}: {name}')
    for name in named(shapes)
  ]
  return jax.tree.unflatten(jax.tree.structure(shapes), arrays)


def _each(given: Any, shapes: Tree, what: str) -> dict[str, Any]:
  """By name, one value for all leaves or a tree's."""
  names = named(shapes)
  if not isinstance(given, dict):
    return dict.fromkeys(names, given)
  values = named(given)
  if odd := sorted(values.keys() ^ names.keys()):
    raise InputError(f'the {what} must be a tree like the parameters; {odd[0]} is not in both')
  return values


def _array(leaf: Leaf, dtype: Any, sharding: jax.sharding.Sharding, what: str) -> jax.Array:
  """Each slice is read once, also where several of this process's devices hold it."""
  places: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
  for device, slices in sharding.addressable_devices_indices_map(leaf.shape).items():
    bounds = (part.indices(size)[:2] for part, size in zip(slices or (), leaf.shape, strict=True))
    places.setdefault(tuple(bounds), []).append(device)
  parts = [
    (_empty([stop - start for start, stop in bounds], dtype), tuple(slice(*b) for b in bounds))
    for bounds in places
  ]
  try:
    leaf.fill(parts)
  except (OSError, ValueError) as error:  # TensorStore's too
    raise InputError(f'{what} cannot be read ({reason(error)}); copy the file anew') from error
  arrays = [
    jax.device_put(part, device)
    for (part, _), devices in zip(parts, places.values(), strict=True)
    for device in devices
  ]
  return jax.make_array_from_single_device_arrays(leaf.shape, sharding, arrays)


def _empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
  """As numpy's, at a multiple of 64 bytes: there JAX takes an array on a CPU without a copy."""
  size = math.prod(shape) * dtype.itemsize
  room = np.empty(size + 64, np.uint8)
  start = -room.ctypes.data % 64
  return room[start : start + size].view(dtype).reshape(shape)


def check(given: Mapping[str, Sequence[int]], shapes: Tree, where: str) -> None:
  """InputError that lists the leaves that are missing, unexpected or of another shape."""
  wanted = {name: tuple(leaf.shape) for name, leaf in named(shapes).items()}
  odd = [f'{name} is missing' for name in sorted(wanted.keys() - given.keys())]
  odd += [f'{name} is not part of the model' for name in sorted(given.keys() - wanted.keys())]
  odd += [
    f'{name} is {list(given[name])} and should be {list(wanted[name])}'
    for name in sorted(wanted.keys() & given.keys())
    if wanted[name] != tuple(given[name])
  ]
  if odd:
    more = f' (and {len(odd) - 5} more)' if len(odd) > 5 else ''
    raise InputError(
      f'{where} does not fit the model: {"; ".join(odd[:5])}{more}; '
      'give the checkpoint of this model, or the model of this checkpoint'
    )


def nested(leaves: Mapping[str, Any]) -> Tree:
  """The tree of {'a/b': leaf}."""
  tree: Tree = {}
  for name, leaf in leaves.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree


def reason(error: BaseException) -> str:
  """The first of an error's words, without TensorStore's path to it."""
  return str(error).split(' [', 1)[0].splitlines()[0][:200] if str(error) else type(error).__name__

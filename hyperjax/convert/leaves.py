"""Arrays in other people's files, read by slices, and our parameters made of them.

A mesh's process reads the slices of its own devices; nothing is held twice.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperjax.errors import InputError

Slices = tuple[slice, ...]
Tree = dict[str, Any]

READERS = 8
"""Files that are read at once."""


@dataclasses.dataclass(frozen=True)
class Leaf:
  """An array that is not read yet: `read` gives a part of it, by a slice an axis."""

  shape: tuple[int, ...]
  dtype: Any
  read: Callable[[Slices], np.ndarray]

  def transpose(self, *axes: int) -> 'Leaf':
    """As numpy's; all axes are named."""

    def read(slices: Slices) -> np.ndarray:
      theirs = [slice(None)] * len(axes)
      for own, axis in enumerate(axes):
        theirs[axis] = slices[own]
      return self.read(tuple(theirs)).transpose(axes)

    return Leaf(tuple(self.shape[axis] for axis in axes), self.dtype, read)

  def merge(self, axis: int) -> 'Leaf':
    """Joins an axis and the next, as numpy's reshape does."""
    outer, inner = self.shape[axis : axis + 2]
    shape = (*self.shape[:axis], outer * inner, *self.shape[axis + 2 :])

    def read(slices: Slices) -> np.ndarray:
      start, stop, _ = slices[axis].indices(outer * inner)
      first, last = start // inner, -(-stop // inner)
      whole = (*slices[:axis], slice(first, last), slice(None), *slices[axis + 1 :])
      part = self.read(whole)
      part = part.reshape(*part.shape[:axis], -1, *part.shape[axis + 2 :])
      cut = slice(start - first * inner, stop - first * inner)
      return part[(*[slice(None)] * axis, cut)]

    return Leaf(shape, self.dtype, read)


def of(array: np.ndarray) -> Leaf:
  """An array that is in memory already."""
  return Leaf(array.shape, array.dtype, lambda slices: array[slices])


def stack(leaves: Sequence[Leaf]) -> Leaf:
  """Leaves of one shape along a new first axis."""
  shape = (len(leaves), *leaves[0].shape)

  def read(slices: Slices) -> np.ndarray:
    chosen, inner = leaves[slices[0]], slices[1:]
    first = chosen[0].read(inner)
    result = np.empty((len(chosen), *first.shape), first.dtype)
    result[0] = first

    def fill(i: int) -> None:
      result[i] = chosen[i].read(inner)

    with futures.ThreadPoolExecutor(READERS) as pool:  # remote files answer late
      list(pool.map(fill, range(1, len(chosen))))
    return result

  return Leaf(shape, leaves[0].dtype, read)


def named(tree: Any) -> dict[str, Any]:
  """{'encoder/layers/…': leaf} of a tree."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def assemble(
  found: Mapping[str, Leaf], shapes: Tree, where: str, dtype: Any, shardings: Tree | None = None
) -> Tree:
  """Parameters with the structure of `shapes`, read from `found` leaf by leaf.

  Args:
    found: leaves by our names.
    shapes: jax.ShapeDtypeStruct, or arrays, of the model's parameters.
    where: what the errors name.
    dtype: of the result.
    shardings: of the result; None: one device.

  Raises:
    InputError: leaves that are missing, unexpected or of another shape, all before one is read.
  """
  check({name: leaf.shape for name, leaf in found.items()}, shapes, where)
  dtype = jnp.dtype(dtype)
  places = named(shardings) if shardings is not None else {}
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  arrays = {
    name: _array(found[name], dtype, places.get(name, one), f'{where}: {name}')
    for name in named(shapes)
  }
  structure = jax.tree.structure(shapes)
  return jax.tree.unflatten(structure, arrays.values())


def _array(leaf: Leaf, dtype: Any, sharding: jax.sharding.Sharding, what: str) -> jax.Array:
  parts: dict[Any, np.ndarray] = {}  # replicas are read once

  def read(slices: Any) -> np.ndarray:
    key = tuple((part.start, part.stop) for part in slices)
    if key not in parts:
      try:
        part = leaf.read(slices)
      except (OSError, ValueError) as error:  # TensorStore's too
        raise InputError(f'{what} cannot be read ({reason(error)}); copy the file anew') from error
      parts[key] = np.ascontiguousarray(part.astype(dtype, copy=False))
    return parts[key]

  return jax.make_array_from_callback(leaf.shape, sharding, read)


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

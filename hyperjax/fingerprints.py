"""What an array holds, in a few bytes: checksums of every bit, and fingerprints of a sample.

Both are the same however an array is sharded. Neither brings a whole array to one place, unless a
full fingerprint is asked for.
"""

import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperjax.errors import InputError

SAMPLE = 65_536  # elements of a leaf that a fingerprint reads


def fingerprint(params: Any, full: bool = False) -> dict[str, str]:
  """{'encoder/…/kernel': 16 hex digits} of the values rounded to bfloat16, and of the shape.

  So a float32 source and the bfloat16 copy that a run computes with agree. Reads at most 65,536
  evenly strided elements of a leaf: enough to tell other weights and a training step, not one
  edited row; `full` reads all of them, leaf after leaf.
  """
  return {_name(path): _digest(leaf, full) for path, leaf in _leaves(params)}


def check_fingerprint(
  params: Any, expected: Mapping[str, str], where: str, full: bool = False
) -> None:
  """InputError naming the first leaf that is not what `expected`, a fingerprint, says.

  `where` begins the sentence: whose weights these are, or which file asked for them.
  """
  leaves = {_name(path): leaf for path, leaf in _leaves(params)}
  for name in sorted(leaves.keys() | expected.keys()):
    if name not in expected:
      raise InputError(f'{where}: leaf {name} is not among the weights of the run')
    if name not in leaves:
      raise InputError(f'{where}: leaf {name} of the run is missing')
    found = _digest(leaves[name], full)
    if found != expected[name]:
      raise InputError(
        f'{where}: leaf {name} holds other values than the run had (fingerprint {found}, '
        f'expected {expected[name]}): give the weights that the run began with'
      )


def checksums(tree: Any) -> dict[str, int]:
  """{'a/b': 32-bit checksum} of every bit of every leaf; any one flipped bit changes it."""
  sums = _checksums({_name(path): _words(leaf) for path, leaf in _leaves(tree)})
  return {name: int(value) for name, value in jax.device_get(sums).items()}


@jax.jit  # one program: several that exchange at once can wait for each other across processes
def _checksums(leaves: dict[str, Any]) -> dict[str, jax.Array]:
  return {name: _checksum(_bits(leaf)) for name, leaf in leaves.items()}


def _words(x: Any) -> Any:
  """The leaf as jit takes it; random keys as the numbers that they hold."""
  key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.random.key_data(x) if key else x


def _checksum(bits: jax.Array) -> jax.Array:
  """Sum of bits * (2 * index + 1) modulo 2^32: exact, so the order of addition is free."""
  weight, stride = jnp.ones((), jnp.uint32), 2
  for axis in reversed(range(bits.ndim)):
    index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    weight = weight + index * jnp.uint32(stride % 2**32)
    stride *= bits.shape[axis]
  return jnp.sum(bits.astype(jnp.uint32) * weight, dtype=jnp.uint32)


def _bits(x: jax.Array) -> jax.Array:
  if x.dtype == jnp.bool_:
    return x.astype(jnp.uint32)
  width = min(x.dtype.itemsize, 4)  # wider types get one more axis
  return jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * width}'))


def _digest(x: Any, full: bool) -> str:
  digest = hashlib.sha256(str(tuple(x.shape)).encode())
  part = _strided(x, (1,) * x.ndim if full else _strides(x.shape))
  if jnp.issubdtype(part.dtype, jnp.floating):  # on the host: devices differ on tiny numbers
    part = part.astype(jnp.bfloat16)
  digest.update(part.tobytes())
  return digest.hexdigest()[:16]


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Steps along each axis that leave at most SAMPLE elements: the longest axis is thinned first."""
  strides, sizes = [1] * len(shape), list(shape)
  while math.prod(sizes) > SAMPLE:
    axis = sizes.index(max(sizes))
    strides[axis] *= 2
    sizes[axis] = -(-shape[axis] // strides[axis])
  return tuple(strides)


def _strided(x: Any, strides: tuple[int, ...]) -> np.ndarray:
  """x[::strides[0], ::strides[1], …] on this host, of a numpy array or a sharded one."""
  if not isinstance(x, jax.Array):
    return np.asarray(np.asarray(x)[tuple(slice(None, None, stride) for stride in strides)])
  whole = x.is_fully_addressable and all(stride == 1 for stride in strides)
  return np.asarray(x if whole else _slice(x, strides, _everywhere(x.sharding)))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _slice(x, strides, sharding):
  part = jax.lax.slice(x, (0,) * x.ndim, x.shape, strides)
  return part if sharding is None else jax.lax.with_sharding_constraint(part, sharding)


def _everywhere(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding | None:
  if isinstance(sharding, jax.sharding.NamedSharding):
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
  return None


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
  return jax.tree_util.tree_leaves_with_path(tree)


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')

"""Where arrays live: a mesh of devices, and the mesh axes over which each logical axis is split.

Mesh axes are data (rows only), fsdp (rows, and the embed axis of parameters) and model (vocab, mlp,
heads). One device is the mesh 1 x 1 x 1, and the same code. So are several slices of a TPU.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hyperjax.errors import InputError

MESH_AXES = ('data', 'fsdp', 'model')
ROWS = ('data', 'fsdp')  # the mesh axes over which the rows of a batch are split

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

# T5X's standard rules, and FSDP. The first that fits wins: an activation ('batch', 'length',
# 'embed') has spent fsdp on its batch and keeps embed whole; a parameter splits embed over fsdp.
STANDARD_RULES: Rules = (
  ('batch', ROWS),
  ('contexts', ROWS),
  ('vocab', 'model'),
  ('mlp', 'model'),
  ('heads', 'model'),
  ('joined_kv', 'model'),
  ('embed', 'fsdp'),
  ('kv', None),
  ('relpos_buckets', None),
  ('abspos_buckets', None),
  ('length', None),
  ('layers', None),
  ('stack', None),
  ('mlp_activations', None),
  ('prefix', None),
  ('rank', None),
  ('gist', None),
)


@dataclasses.dataclass(frozen=True)
class MeshShape:
  """How many devices lie along each mesh axis; -1 (once) takes all that are left.

  Slices are machines of their own that a slower network joins. `data` counts the devices of all of
  them and is the only axis that crosses them, so that what crosses is a sum of gradients. None: as
  many as the devices say. A number for devices that say nothing cuts them into equal parts: a
  rehearsal on CPUs, or hosts of GPUs.
  """

  data: int = -1
  fsdp: int = 1
  model: int = 1
  slices: int | None = None


def make_mesh(shape: MeshShape = MeshShape(), devices: Sequence[Any] | None = None) -> Mesh:
  """The mesh ('data', 'fsdp', 'model') over `devices` (all there are), slice after slice.

  Raises:
    InputError: sizes whose product is another number of devices; slices that are not there, or that
      data does not divide into.
  """
  devices = jax.devices() if devices is None else list(devices)
  parts = _slices(devices, shape.slices)
  data, *inner = _mesh_sizes((shape.data, shape.fsdp, shape.model), len(devices))
  if data % len(parts):
    raise InputError(
      f'mesh data={data} cannot be split over {len(parts)} slices: make it a multiple of '
      f'{len(parts)}; fsdp and model lie inside a slice'
    )
  placed = [_placed((data // len(parts), *inner), part) for part in parts]
  # Auto: under jax's default, Explicit, flax's logical constraints are assertions that fail.
  return Mesh(np.concatenate(placed), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def _slices(devices: Sequence[Any], wanted: int | None) -> Sequence[Sequence[Any]]:
  """The devices of each slice."""
  known: dict[int, list[Any]] = {}
  for device in devices:  # GPUs have an index too, that of a fast network: not what is meant here
    index = getattr(device, 'slice_index', 0) if device.platform == 'tpu' else 0
    known.setdefault(index, []).append(device)
  if len(known) > 1 or wanted is None or wanted == 1:
    if wanted not in (None, len(known)):
      raise InputError(f'mesh slices={wanted}, but the devices lie in {len(known)} slices')
    return [known[index] for index in sorted(known)]
  if wanted < 1 or len(devices) % wanted:
    raise InputError(f'mesh slices={wanted} does not divide {len(devices)} devices')
  size = len(devices) // wanted
  return [devices[i : i + size] for i in range(0, len(devices), size)]


def _placed(sizes: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
  """The devices of a slice, so that neighbours on the mesh are neighbours in the slice."""
  try:
    return mesh_utils.create_device_mesh(sizes, devices)
  except NotImplementedError:  # a TPU whose sides are none of these sizes, but can be cut
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)


def rules(contexts: int | None = None, first: Rules = ()) -> Rules:
  """The logical axis rules, for `nn.logical_axis_rules` and for the functions here.

  A single context (`contexts` = 1) is on every device. Rules in `first` win over the standard.
  """
  whole: Rules = (('contexts', None),) if contexts == 1 else ()
  return (*first, *whole, *STANDARD_RULES)


@contextlib.contextmanager
def placed(mesh: Mesh, contexts: int | None = None) -> Iterator[None]:
  """Arrays are made on the mesh, by the rules for logical axes and a number of contexts."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(rules(contexts)):
    yield


def spec(axes: Sequence[str | None], rules: Rules = STANDARD_RULES) -> PartitionSpec:
  """Logical axis names to mesh axes, each mesh axis used once; as `nn.logical_to_mesh_axes`."""
  placed: dict[int, str | tuple[str, ...] | None] = {}
  spent: set[str] = set()
  for name, target in rules:
    for i, axis in enumerate(axes):
      if axis == name and i not in placed and spent.isdisjoint(_names(target)):
        placed[i] = target
        spent.update(_names(target))
  return PartitionSpec(*(placed.get(i) for i in range(len(axes))))


def parameter_shardings(mesh: Mesh, axes: Any, shapes: Any, rules: Rules = STANDARD_RULES) -> Any:
  """A NamedSharding for every parameter, from the tree of its logical axis names.

  `axes` has a tuple of names where `shapes` has an array or a shape. Raises InputError with leaf,
  axis and size where a mesh axis does not divide, and for names that no rule or mesh knows.
  """
  check_rules(mesh, rules)

  def one(path, names, leaf):
    where = _path_name(path)
    _check_leaf(mesh, where, names, leaf.shape, rules)
    single = [None if n == 'contexts' and d == 1 else n for n, d in zip(names, leaf.shape)]
    return NamedSharding(mesh, _inward(mesh, single, leaf.shape, spec(single, rules)))

  return jax.tree_util.tree_map_with_path(one, axes, shapes, is_leaf=_is_axes)


WIDE = ('mlp', 'joined_kv')


def _inward(
  mesh: Mesh, names: Sequence[str | None], shape: Sequence[int], axes: PartitionSpec
) -> PartitionSpec:
  """The same, but for kernels [wide, embed], which fsdp splits by rows if it divides these.

  By columns, a TPU sums their gradients by all-reduce, which sends twice as much as the
  reduce-scatter that it uses along an axis before the last one.
  """
  if len(names) < 2 or names[-2] not in WIDE or names[-1] != 'embed' or axes[-1] is None:
    return axes
  moved = (*_names(axes[-2]), *_names(axes[-1]))
  if shape[-2] % math.prod(mesh.shape[axis] for axis in moved):
    return axes
  return PartitionSpec(*axes[:-2], moved if len(moved) > 1 else moved[0], None)


def state_shardings(mesh: Mesh, state: Any, parameters: Any, shardings: Any) -> Any:
  """Shardings of a training state (optimiser state, moving averages …) from the parameters'.

  A leaf whose path holds a parameter's path and whose shape is that parameter's lies like it
  (Adam's moments, the parameters themselves); all else (counts, the step, Adafactor's factored
  moments: vectors) is on every device.
  """
  known = {
    _keys(path): (leaf.shape, sharding)
    for (path, leaf), sharding in zip(
      jax.tree_util.tree_leaves_with_path(parameters), jax.tree.leaves(shardings), strict=True
    )
  }
  whole = NamedSharding(mesh, PartitionSpec())

  def one(path, leaf):
    found = next((known[part] for part in _runs(_keys(path)) if part in known), None)
    return found[1] if found and found[0] == leaf.shape else whole

  return jax.tree_util.tree_map_with_path(one, state)


def check_rules(mesh: Mesh, rules: Rules) -> None:
  """InputError for a rule that names an axis the mesh does not have."""
  for name, target in rules:
    for axis in _names(target):
      if axis not in mesh.axis_names:
        raise InputError(
          f'axis rule {name!r} -> {axis!r}: the mesh has no such axis, only {mesh.axis_names}'
        )


def check_batch(mesh: Mesh, batch_size: int, contexts: int) -> None:
  """InputError where the mesh does not divide the rows of a batch, or its contexts."""
  check_sizes(mesh, {'batch': batch_size, 'contexts': contexts}, rules(contexts))


def check_sizes(mesh: Mesh, sizes: Mapping[str, int], rules: Rules = STANDARD_RULES) -> None:
  """InputError where the mesh does not divide a size, by logical axis: batch, contexts, heads …

  One context is always fine: it is on every device.
  """
  for name, size in sizes.items():
    single = name == 'contexts' and size == 1
    _check_split(mesh, name, size, () if single else _names(spec([name], rules)[0]))


def data_layout(mesh: Mesh) -> tuple[int, int]:
  """(index, count): which of how many equal parts of every batch this process has to read.

  Processes that share the same rows (a model axis across hosts) get the same index.
  """
  rows = mesh.devices.reshape(-1, mesh.devices.shape[-1])
  held: dict[int, set[int]] = {}
  for i, devices in enumerate(rows):
    for device in devices:
      held.setdefault(device.process_index, set()).add(i)
  parts = sorted({tuple(sorted(part)) for part in held.values()})
  if [i for part in parts for i in part] != list(range(len(rows))) or len(set(map(len, parts))) > 1:
    raise InputError(
      f'mesh {dict(mesh.shape)} spreads the rows of a batch unevenly over {len(held)} processes: '
      'let model divide the devices of a process, or be a multiple of them'
    )
  return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def batch_shardings(
  mesh: Mesh, batch: Mapping[str, Any], contexts: int | None = None
) -> dict[str, NamedSharding]:
  """Rows over data and fsdp; a leaf with the batch's only context (or only row) everywhere.

  `contexts` is the number of contexts in the whole batch; needed only where this process reads a
  part of the batch with one row in some leaf.
  """
  whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (ROWS,)))
  alone = contexts == 1 or (contexts is None and data_layout(mesh)[1] == 1)
  return {name: whole if alone and len(x) == 1 else split for name, x in batch.items()}


def put_batch(
  mesh: Mesh, batch: Mapping[str, np.ndarray], contexts: int | None = None
) -> dict[str, jax.Array]:
  """This process's part of a batch (see `data_layout`) as global arrays on the mesh."""
  count = data_layout(mesh)[1]

  def put(name, x, sharding):
    split = bool(sharding.spec)
    rows = len(x) * (count if split else 1)
    if split:
      _check_split(mesh, f'batch ({name})', rows, ROWS)
    return jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:]))

  shardings = batch_shardings(mesh, batch, contexts)
  return {name: put(name, np.asarray(x), shardings[name]) for name, x in batch.items()}


def put(tree: Any, shardings: Any) -> Any:
  """Host arrays, the same in every process, as global arrays with these shardings.

  `shardings` is one sharding or a tree of them. Only the parts for local devices are copied.
  """

  def one(x, sharding):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  if isinstance(shardings, jax.sharding.Sharding):
    return jax.tree.map(lambda x: one(x, shardings), tree)
  return jax.tree.map(one, tree, shardings)


def _mesh_sizes(sizes: tuple[int, ...], devices: int) -> tuple[int, ...]:
  shown = ', '.join(f'{axis}={size}' for axis, size in zip(MESH_AXES, sizes))
  if sizes.count(-1) > 1 or any(size != -1 and size < 1 for size in sizes):
    raise InputError(f'mesh {shown}: sizes are positive, and at most one is -1 (all the rest)')
  given = math.prod(size for size in sizes if size != -1)
  full = tuple(devices // given if size == -1 else size for size in sizes)
  if math.prod(full) != devices:
    raise InputError(
      f'mesh {shown} does not fit {devices} devices: the product of the sizes must be {devices}'
    )
  return full


def _check_leaf(
  mesh: Mesh, where: str, names: Sequence[str | None], shape: Sequence[int], rules: Rules
) -> None:
  if len(names) != len(shape):
    raise InputError(f'{where} has shape {tuple(shape)} but the axes {tuple(names)}')
  known = {name for name, _ in rules}
  for name in names:
    if name is not None and name not in known:
      raise InputError(f'{where}: no rule for the logical axis {name!r}; give one, if only -> None')
  for name, size, target in zip(names, shape, spec(names, rules)):
    single = name == 'contexts' and size == 1
    _check_split(mesh, f'{where}: axis {name}', size, () if single else _names(target))


def _check_split(mesh: Mesh, what: str, size: int, targets: Sequence[str]) -> None:
  parts = math.prod(mesh.shape[axis] for axis in targets)
  if size % parts:
    over = ' x '.join(f'{axis}={mesh.shape[axis]}' for axis in targets)
    raise InputError(
      f'{what} of size {size} cannot be split over {over}: '
      f'make it a multiple of {parts}, or another mesh: {" x ".join(targets)} must divide it'
    )


def _names(target: str | tuple[str, ...] | None) -> tuple[str, ...]:
  return () if target is None else (target,) if isinstance(target, str) else tuple(target)


def _is_axes(value: Any) -> bool:
  return isinstance(value, tuple)


def _keys(path: tuple[Any, ...]) -> tuple[Any, ...]:
  return tuple(
    getattr(k, 'key', getattr(k, 'name', f'[{k.idx}]' if hasattr(k, 'idx') else k)) for k in path
  )


def _runs(keys: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
  """All contiguous parts of a path, the longest first."""
  for length in range(len(keys), 0, -1):
    for start in range(len(keys) - length + 1):
      yield keys[start : start + length]


def _path_name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')

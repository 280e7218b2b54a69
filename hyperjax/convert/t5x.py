"""T5X's checkpoints: its own layout (msgpack index and zarr), its Orbax layout, and scalable_t5's.

    checkpoint_<step>/checkpoint          msgpack: {'version', 'optimizer': {'target', 'state'}}
                      target.encoder.…/   zarr; a leaf may also be inline in the msgpack
    checkpoint_<step>/state/_METADATA, …  Orbax: OCDBT or plain zarr, {'target', 'state'}

Kernels are [in, out] in both; T5X has a leaf a layer where we have axis 0. Paths may be gs:// ones:
everything is read and written through TensorStore.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import linen as nn
from flax import serialization

from hyperjax.convert import leaves, places
from hyperjax.errors import InputError
from hyperjax.models import t5

CHUNK_BYTES = 64 * 2**20  # T5X's own
_LAYER = re.compile(r'(encoder|decoder)\.layers_(\d+)\.(.+)')


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A checkpoint whose leaves, by our names, are not read yet; `path` is what errors name."""

  path: str
  step: int
  leaves: Mapping[str, leaves.Leaf]

  def load(self, config: t5.T5Config, dtype: Any, shardings: Any = None) -> leaves.Tree:
    """See `load`."""
    shapes = nn.unbox(jax.eval_shape(t5.T5(config).init_params, jax.random.key(0)))
    return leaves.assemble(self.leaves, shapes, self.path, dtype, shardings)

  def config(self, mlp_activations: Sequence[str] | None = None) -> t5.T5Config:
    """See `config_of`."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
      if name not in self.leaves or len(self.leaves[name].shape) != rank:
        raise InputError(f"{self.path} is no T5's checkpoint: it has no {name} of {rank} axes")
      return self.leaves[name].shape

    gated = 'encoder/layers/mlp/wi_0/kernel' in self.leaves
    layers, _, mlp_dim = shape(f'encoder/layers/mlp/{"wi_0" if gated else "wi"}/kernel', 3)
    vocab_size, emb_dim = shape('token_embedder/embedding', 2)
    num_heads, buckets = shape('encoder/relpos_bias/rel_embedding', 2)
    return t5.T5Config(
      vocab_size=vocab_size,
      emb_dim=emb_dim,
      num_heads=num_heads,
      num_encoder_layers=layers,
      num_decoder_layers=shape('decoder/layers/mlp/wo/kernel', 3)[0],
      head_dim=shape('encoder/layers/attention/query/kernel', 3)[2] // num_heads,
      mlp_dim=mlp_dim,
      mlp_activations=mlp_activations or (('gelu', 'linear') if gated else ('relu',)),
      logits_via_embedding='decoder/logits_dense/kernel' not in self.leaves,
      relpos_buckets=buckets,
    )


def load(
  directory: str | os.PathLike[str],
  config: t5.T5Config,
  dtype: Any = 'float32',
  shardings: leaves.Tree | None = None,
) -> leaves.Tree:
  """Parameters of T5(config) from a T5X checkpoint, local or gs://.

  Args:
    directory: …/checkpoint_<step>, or a model_dir that holds such; then the latest step is read.
    config: the model, such as `config_of` finds.
    dtype: of the result; one, or a tree of them.
    shardings: where each leaf goes (None: one device); each process reads its own slices.

  Raises:
    InputError: no checkpoint there; leaves that are missing, unexpected, misshapen or damaged.
  """
  return checkpoint(directory).load(config, dtype, shardings)


def config_of(
  directory: str | os.PathLike[str], mlp_activations: Sequence[str] | None = None
) -> t5.T5Config:
  """The model that a checkpoint's leaves have the names and shapes of.

  Args:
    mlp_activations: which the files do not tell. None: T5's, ReLU, or gated GELU with two kernels.

  Raises:
    InputError: no checkpoint there, or no T5's.
  """
  return checkpoint(directory).config(mlp_activations)


def checkpoint(directory: str | os.PathLike[str], step: int | None = None) -> Checkpoint:
  """The checkpoint_<step> of a path, or in the model_dir at it (None: the latest one).

  Raises:
    InputError: there is none.
  """
  found = find(directory, step)
  if found is None:
    which = '' if step is None else f' of step {step}'
    raise InputError(
      f'{directory} is not a T5X checkpoint{which} (no file `checkpoint` and no state/_METADATA): '
      'give its checkpoint_<step>, or the model_dir that holds it'
    )
  return found


def find(directory: str | os.PathLike[str], step: int | None = None) -> Checkpoint | None:
  """As `checkpoint`; None: there is none.

  Raises:
    InputError: a place that cannot be read; a damaged index.
  """
  place = places.place(directory)
  index = _index(place)
  if index is None:
    names = place.names('checkpoint_')
    steps = {int(m[1]) for name in names if (m := re.fullmatch(r'checkpoint_(\d+)', name))}
    tried = sorted(steps if step is None else steps & {step}, reverse=True)
    indices = (_index(place / f'checkpoint_{step}') for step in tried)
    index = next((index for index in indices if index is not None), None)
  if index is None:
    return None
  named = re.search(r'checkpoint_(\d+)$', index.path)
  own = int(named[1]) if named else 0
  if step is not None and step != own:
    return None
  theirs = dict((_of_msgpack if index.layout == 't5x' else _of_orbax)(index))
  return Checkpoint(index.path, own, _ours(theirs, index.path))


def save(
  directory: str | os.PathLike[str],
  params: leaves.Tree,
  config: t5.T5Config,
  step: int = 0,
  layout: str = 't5x',
) -> None:
  """Writes parameters of T5(config) as a checkpoint that T5X reads.

  No optimiser state is written: T5X's infer and eval read it as it is; a run that trains from it
  needs T5X's `RestoreCheckpointConfig.fallback_to_scratch = True`.

  Args:
    directory: the checkpoint's own, …/checkpoint_<step>; it must not exist.
    layout: 't5x' (msgpack and zarr) or 'orbax' (T5X's default today; Orbax copies the parameters).

  Raises:
    InputError: the directory exists or cannot be written; parameters that are not config's.
  """
  place = places.place(directory)
  shapes = nn.unbox(jax.eval_shape(t5.T5(config).init_params, jax.random.key(0)))
  given = {name: leaf.shape for name, leaf in leaves.named(params).items()}
  leaves.check(given, shapes, 'what is to be written')
  if layout not in ('t5x', 'orbax'):
    raise InputError(f"layout is {layout!r}; give 't5x' or 'orbax'")
  place.check_empty()
  if (places.Place(os.path.dirname(place.path))).read('model.json') is not None:
    raise InputError(f'{directory} is inside a run of hyperjax; give a place of its own')
  try:
    (_write_t5x if layout == 't5x' else _write_orbax)(place, params, step)
  except (OSError, ValueError) as error:
    raise InputError(f'{directory} cannot be written ({leaves.reason(error)})') from error


# -- The index -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Index:
  """What a checkpoint's files say of its leaves, which are in `place`."""

  path: str
  layout: str
  place: places.Place
  content: bytes


def _index(own: places.Place) -> _Index | None:
  for layout, place, name in (
    ('t5x', own, 'checkpoint'),
    ('orbax', own / 'state', '_METADATA'),
    ('t5x', own / 'state', 'checkpoint'),
    ('orbax', own, '_METADATA'),
  ):
    content = place.read(name)
    if content is not None:
      return _Index(own.path, layout, place, content)
  return None


# -- Reading ---------------------------------------------------------------------------------------


def _of_msgpack(index: _Index) -> Iterator[tuple[str, leaves.Leaf]]:
  """The parameters by T5X's names, 'encoder.layers_0.mlp.wo.kernel'."""
  try:
    content = serialization.msgpack_restore(index.content)
    named = list(_flat(content.get('optimizer', content)['target']))
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise InputError(
      f'{index.place.path}/checkpoint is not the index of a T5X checkpoint '
      f'({leaves.reason(error)}); copy it anew; a TensorFlow checkpoint must be converted with '
      'T5X first'
    ) from error
  specs = []
  for name, leaf in named:
    if isinstance(leaf, Mapping):  # a spec, whose path may be another machine's
      specs.append((name, (index.place / f'target.{name}').spec()))
    else:
      array = np.asarray(leaf)
      yield name, leaves.held(array.view(jnp.bfloat16) if array.dtype == np.uint16 else array)
  yield from _opened(specs, 'zarr')


def _of_orbax(index: _Index) -> Iterator[tuple[str, leaves.Leaf]]:
  try:
    metadata = json.loads(index.content)
    driver = 'zarr3' if metadata.get('use_zarr3') else 'zarr'
    entries = [
      [str(part['key']) for part in entry['key_metadata']]
      for entry in metadata['tree_metadata'].values()
    ]
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f"{index.place.path}/_METADATA is not Orbax's ({leaves.reason(error)}); copy it anew"
    ) from error
  ocdbt = index.place.read('manifest.ocdbt') is not None
  stores: list[tuple[str, Any]] = []
  for keys in entries:
    if keys[:1] == ['target']:
      name = '.'.join(keys)
      inside = {'driver': 'ocdbt', 'base': index.place.spec(), 'path': f'{name}/'}
      stores.append(('.'.join(keys[1:]), inside if ocdbt else (index.place / name).spec()))
  yield from _opened(stores, driver)


def _flat(tree: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """(dotted name, leaf); a dict with a `driver` is TensorStore's spec of a leaf."""
  for key, value in tree.items():
    if isinstance(value, Mapping) and not isinstance(value.get('driver'), str):
      yield from _flat(value, f'{prefix}{key}.')
    else:
      yield prefix + key, value


def _opened(stores: Sequence[tuple[str, Any]], driver: str) -> Iterator[tuple[str, leaves.Leaf]]:
  with futures.ThreadPoolExecutor(leaves.READERS) as pool:
    opened = pool.map(lambda store: _zarr(store, driver), [store for _, store in stores])
    yield from zip([name for name, _ in stores], opened, strict=True)


def _zarr(store: Any, driver: str) -> leaves.Leaf:
  try:
    spec = {'driver': driver, 'kvstore': store}
    # A chunk that is not there is not zeros.
    array = ts.open(spec | {'fill_missing_data_reads': False}, open=True).result()
  except ValueError as error:
    raise InputError(
      f'{store["path"]} cannot be opened '
      f'({leaves.reason(error)}); the checkpoint is not whole: copy it anew'
    ) from error
  if array.dtype == ts.uint16:  # bfloat16, as T5X wrote it before version 3
    read = lambda slices: array[slices].read().result().view(jnp.bfloat16)
    return leaves.of(read, array.shape, jnp.dtype('bfloat16'))

  def fill(parts: Sequence[leaves.Part]) -> None:
    # All at once, so that a chunk that is in several parts is decoded once; no part is copied.
    reading = [
      ts.array(out).write(ts.cast(array, ts.dtype(out.dtype))[slices][ts.d[:].translate_to[0]])
      for out, slices in parts
    ]
    for part in reading:
      part.result()

  return leaves.Leaf(tuple(array.shape), array.dtype.numpy_dtype, fill)


def _ours(theirs: Mapping[str, leaves.Leaf], where: str) -> dict[str, leaves.Leaf]:
  """The leaves by our names, layers on axis 0."""
  ours: dict[str, leaves.Leaf] = {}
  layers: dict[str, dict[int, leaves.Leaf]] = {}
  for name, leaf in theirs.items():
    scanned = re.fullmatch(r'(encoder|decoder)\.\1\.(.+)', name)
    layer = _LAYER.fullmatch(name)
    if scanned:
      ours[f'{scanned[1]}/layers/{scanned[2].replace(".", "/")}'] = _of_scan(name, leaf)
    elif layer:
      ours_name = f'{layer[1]}/layers/{layer[3].replace(".", "/")}'
      layers.setdefault(ours_name, {})[int(layer[2])] = leaf
    else:
      ours[name.replace('.', '/')] = leaf
  ours |= {name: _stacked(found, name, where) for name, found in layers.items()}
  for stack in ('encoder', 'decoder'):
    per_layer = ours.pop(f'{stack}/layers/relpos_bias/rel_embedding', None)
    if per_layer is not None:
      ours[f'{stack}/relpos_bias/rel_embedding'] = _one_bias(per_layer, stack, where)
  return ours


def _of_scan(name: str, leaf: leaves.Leaf) -> leaves.Leaf:
  """A leaf of scalable_t5, whose layers are axis 1 and whose attention kernels have heads apart."""
  if len(leaf.shape) < 2:
    return leaf  # no leaf of a T5: told where shapes are checked
  leaf = leaf.transpose(1, 0, *range(2, len(leaf.shape)))
  if len(leaf.shape) == 4:  # [l, d, n, h], or of `out` [l, n, h, d]
    leaf = leaf.merge(1 if name.endswith('out.kernel') else 2)
  return leaf


def _stacked(found: Mapping[int, leaves.Leaf], name: str, where: str) -> leaves.Leaf:
  absent = sorted(set(range(max(found) + 1)) - found.keys())
  shapes = {leaf.shape for leaf in found.values()}
  if absent or len(shapes) > 1:
    why = f'is missing in layer {absent[0]}' if absent else f'has the shapes {sorted(shapes)}'
    raise InputError(f'{where}: {name} {why}; the checkpoint is not whole: copy it anew')
  return leaves.stack([found[i] for i in range(len(found))])


def _one_bias(leaf: leaves.Leaf, stack: str, where: str) -> leaves.Leaf:
  """Position biases [l, n, buckets] as one, if all layers have the same."""
  if len(leaf.shape) != 3:
    raise InputError(
      f'{where}: a position bias of the {stack} is {list(leaf.shape)}, not [l, n, b]'
    )
  values = leaf.read((slice(None),) * 3)
  if not (values == values[:1]).all():
    layer = int(np.argmax((values != values[:1]).any((1, 2))))
    raise InputError(
      f'{where}: the {stack} has a position bias of its own in every layer (layer {layer} differs '
      'from layer 0), as scalable_t5 trains them; T5 has one a stack: this model cannot be loaded'
    )
  return leaves.held(values[0])


# -- Writing ---------------------------------------------------------------------------------------


def _theirs(params: leaves.Tree) -> Iterator[tuple[str, Any, int | None]]:
  """(T5X's name, our leaf, which layer of it) of every leaf of theirs."""
  for name, leaf in leaves.named(params).items():
    stack, *rest = name.split('/')
    if rest[0] == 'layers':
      for i in range(leaf.shape[0]):
        yield '.'.join((stack, f'layers_{i}', *rest[1:])), leaf, i
    else:
      yield '.'.join((stack, *rest)), leaf, None


def _array(leaf: Any, layer: int | None) -> np.ndarray:
  return np.asarray(leaf if layer is None else leaf[layer])


def _write_t5x(place: places.Place, params: leaves.Tree, step: int) -> None:
  def write(entry: tuple[str, Any, int | None]) -> tuple[str, dict[str, Any]]:
    name, array = entry[0], _array(*entry[1:])  # here, so that few are held at once
    spec = {
      'driver': 'zarr',
      'dtype': array.dtype.name,
      'kvstore': {'driver': 'file', 'path': f'target.{name}/'},
      'metadata': {
        'chunks': _chunks(array.shape, CHUNK_BYTES // array.itemsize),
        'compressor': None,  # T5X's gzip saves 7 % and takes twenty times as long
        'shape': list(array.shape),
      },
    }
    own = spec | {'kvstore': (place / f'target.{name}').spec()}
    ts.open(own, create=True).result().write(array).result()
    return name.replace('.', '/'), spec

  with futures.ThreadPoolExecutor(leaves.READERS) as pool:
    specs = dict(pool.map(write, _theirs(params)))
  state = {'step': np.int32(step), 'param_states': {}}
  index = {'version': 3, 'optimizer': {'target': leaves.nested(specs), 'state': state}}
  # Last: without it there is no checkpoint.
  place.write('checkpoint', serialization.msgpack_serialize(index))


def _chunks(shape: tuple[int, ...], most: int) -> list[int]:
  """T5X's rule: the largest dimension goes down a divisor until a chunk has at most `most`."""
  divisors = [[i for i in range(1, size + 1) if size % i == 0] for size in shape]
  chunk = lambda: [of[-1] for of in divisors]
  while np.prod(chunk()) > most:
    divisors[int(np.argmax(chunk()))].pop()
  return chunk()


def _write_orbax(place: places.Place, params: leaves.Tree, step: int) -> None:
  target = {name.replace('.', '/'): _array(leaf, i) for name, leaf, i in _theirs(params)}
  tree = {'state': {'step': np.int32(step), 'param_states': {}}, 'target': leaves.nested(target)}
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
    writer.save(place.path, ocp.args.Composite(state=ocp.args.PyTreeSave(tree)))

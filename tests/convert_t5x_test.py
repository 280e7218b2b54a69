"""T5X's checkpoints in every layout become our parameters and go home again."""

import json
import pathlib
import shutil

import fake_gcs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
import tiny_models as tiny
from flax import linen as nn
from flax import serialization

from hyperjax import errors, partitioning
from hyperjax.convert import leaves, places, t5x
from hyperjax.models import t5

CONFIG = tiny.DOWNSTREAM
T5_1_0 = t5.T5Config(38, 10, 4, 2, 3, 6, 14, ('relu',), logits_via_embedding=True)
SHARED = t5.T5Config(256, 64, 4, 2, 2, 16, 128)


@pytest.fixture(scope='module')
def params():
  return tiny.params_of(t5.T5(CONFIG))


@pytest.fixture(scope='module')
def written(params, tmp_path_factory):
  """The same parameters in both layouts."""
  folder = tmp_path_factory.mktemp('t5x')
  for layout in ('t5x', 'orbax'):
    t5x.save(folder / layout / 'checkpoint_7', params, CONFIG, 7, layout)
  return folder


def same(a, b) -> bool:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  return jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a, b))


def index_of(checkpoint: pathlib.Path):
  return serialization.msgpack_restore((checkpoint / 'checkpoint').read_bytes())


def put_index(checkpoint: pathlib.Path, index) -> None:
  (checkpoint / 'checkpoint').write_bytes(serialization.msgpack_serialize(index))


def changed_specs(node, change, path=()):
  """The index's tree with `change(dotted name, spec)` for every spec."""
  if isinstance(node.get('driver'), str):
    return change('.'.join(path), node)
  return {key: changed_specs(value, change, (*path, key)) for key, value in node.items()}


def rewritten(source: pathlib.Path, target: pathlib.Path, change) -> pathlib.Path:
  shutil.copytree(source, target)
  index = index_of(target)
  tree = index['optimizer']['target']
  index['optimizer']['target'] = changed_specs(tree, change)
  put_index(target, index)
  return target


# --- What t5x wrote -------------------------------------------------------------------------------


def test_a_checkpoint_that_t5x_wrote(shared_data):
  folder = shared_data / 't5x'
  loaded = leaves.named(t5x.load(folder / 'checkpoint_1000', SHARED))
  with np.load(folder / 'checkpoint_1000_params.npz') as theirs:
    seen = set()
    for name in theirs.files:
      stack, layer, *rest = name.split('/')
      if layer.startswith('layers_'):
        own = loaded['/'.join((stack, 'layers', *rest))][int(layer.removeprefix('layers_'))]
        seen.add('/'.join((stack, 'layers', *rest)))
      else:
        own = loaded[name]
        seen.add(name)
      assert np.array_equal(own, theirs[name]), name
  assert seen == loaded.keys()


def test_ours_is_laid_out_as_t5xs_but_for_compression(shared_data, tmp_path):
  theirs = shared_data / 't5x' / 'checkpoint_1000'
  t5x.save(tmp_path / 'checkpoint_9', t5x.load(theirs, SHARED), SHARED, 9)
  ours = tmp_path / 'checkpoint_9'
  targets = lambda folder: {path.name for path in folder.iterdir() if path.name[:6] == 'target'}
  assert targets(ours) == targets(theirs)
  for name in targets(ours):
    assert {f.name for f in (ours / name).iterdir()} == {f.name for f in (theirs / name).iterdir()}
    own, other = (json.loads((each / name / '.zarray').read_text()) for each in (ours, theirs))
    assert own == other | {'compressor': None}
  ours, theirs = index_of(ours), index_of(theirs)
  gzip = {'id': 'gzip', 'level': 1}
  plain = lambda leaf: None if leaf == gzip else leaf
  target = jax.tree.map(plain, theirs['optimizer']['target'], is_leaf=lambda leaf: leaf == gzip)
  assert ours['optimizer']['target'] == target
  assert ours['version'] == theirs['version'] and ours['optimizer']['state']['step'] == 9


# --- Back and forth -------------------------------------------------------------------------------


@pytest.mark.parametrize('layout', ['t5x', 'orbax'])
@pytest.mark.parametrize('config', [CONFIG, T5_1_0], ids=['1.1', '1.0'])
def test_what_is_written_is_read_back(tmp_path, layout, config):
  params = tiny.params_of(t5.T5(config), 3)
  t5x.save(tmp_path / 'checkpoint_2', params, config, 2, layout)
  assert same(t5x.load(tmp_path / 'checkpoint_2', config), params)
  half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  t5x.save(tmp_path / 'checkpoint_11', half, config, 11, layout)
  loaded = t5x.load(tmp_path, config, 'bfloat16')  # the latest
  assert same(loaded, half) and loaded['decoder']['decoder_norm']['scale'].dtype == jnp.bfloat16
  assert same(t5x.load(tmp_path, config), jax.tree.map(lambda x: x.astype(jnp.float32), half))


def test_orbax_s_tree_is_t5xs(written):
  state = written / 'orbax' / 'checkpoint_7' / 'state'
  names = ts.KvStore.open({'driver': 'ocdbt', 'base': f'file://{state}/'}).result().list().result()
  names = {name.decode().split('/')[0] for name in names}
  kept = {path.name for path in (written / 't5x' / 'checkpoint_7').iterdir()} - {'checkpoint'}
  assert names == kept | {'state.step'}


@pytest.mark.parametrize(
  'kvstore',
  [
    lambda name: {'kvstore': {'driver': 'gcs', 'bucket': 't5x-dummy-bucket', 'path': name}},
    lambda name: {'kvstore': {'driver': 'gfile', 'path': f'/cns/of/them/{name}'}},
    lambda name: {'kvstore': {'driver': 'file'}, 'path': name},  # TensorStore before 0.1.14
  ],
)
def test_the_place_that_a_spec_names_does_not_matter(written, params, tmp_path, kvstore):
  moved = rewritten(
    written / 't5x/checkpoint_7',
    tmp_path / 'checkpoint_7',
    lambda name, spec: spec | kvstore(f'target.{name}/'),
  )
  assert same(t5x.load(moved, CONFIG), params)


def test_any_leaf_may_be_inline(written, params, tmp_path):
  source = written / 't5x/checkpoint_7'
  for stays in ('encoder', 'nothing'):

    def inline(name, spec, stays=stays):
      if name.startswith(stays):
        return spec
      store = {'driver': 'zarr', 'kvstore': f'file://{source}/target.{name}/'}
      return ts.open(store).result().read().result()

    target = rewritten(source, tmp_path / stays / 'checkpoint_7', inline)
    for path in target.iterdir():
      if path.is_dir() and not path.name.startswith(f'target.{stays}'):
        shutil.rmtree(path)
    assert same(t5x.load(target, CONFIG), params)


def test_leaves_may_have_many_chunks(params, tmp_path, monkeypatch):
  monkeypatch.setattr(t5x, 'CHUNK_BYTES', 60)
  t5x.save(tmp_path / 'checkpoint_7', params, CONFIG)
  wide = tmp_path / 'checkpoint_7' / 'target.encoder.layers_0.mlp.wi_0.kernel'
  assert len(list(wide.iterdir())) > 8  # .zarray, and chunks of at most 15 numbers
  assert same(t5x.load(tmp_path / 'checkpoint_7', CONFIG), params)


def test_bfloat16_may_be_stored_as_uint16(written, params, tmp_path):
  def as_uint16(name, spec):
    store = {'driver': 'zarr', 'kvstore': f'file://{source}/target.{name}/'}
    value = ts.open(store).result().read().result().astype(jnp.bfloat16).view(np.uint16)
    place = {'driver': 'zarr', 'kvstore': f'file://{tmp_path}/checkpoint_7/target.{name}/'}
    new = ts.open(place, create=True, delete_existing=True, dtype=ts.uint16, shape=value.shape)
    new.result().write(value).result()
    return spec

  source = written / 't5x/checkpoint_7'
  target = rewritten(source, tmp_path / 'checkpoint_7', as_uint16)
  half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  assert same(t5x.load(target, CONFIG, 'bfloat16'), half)


def test_chunks_are_t5xs(shared_data):
  # _choose_chunk_shape of t5x, run once: (write shape, most elements): chunk.
  known = {
    ((32128, 512), 2**24): [32128, 512],
    ((32128, 768), 2**24): [16064, 768],
    ((4096, 10240), 2**24): [4096, 2560],
    ((7, 6, 5), 20): [1, 3, 5],
  }
  assert {key: t5x._chunks(*key) for key in known} == known


# --- scalable_t5 ----------------------------------------------------------------------------------


def scanned(params, folder: pathlib.Path, bias=lambda stacked: stacked) -> pathlib.Path:
  """Written as scalable_t5: layers on axis 1, heads apart, a position bias a layer."""
  config, target = CONFIG, {}
  for name, leaf in leaves.named(params).items():
    stack, *rest = name.split('/')
    value = np.asarray(leaf)
    if rest[0] == 'layers':
      if 'attention' in rest[1] and rest[-1] == 'kernel':
        heads = (config.num_heads, config.head_dim)
        out = rest[2] == 'out'
        value = value.reshape((len(value), *heads, -1) if out else (*value.shape[:2], *heads))
      rest = [stack, *rest[1:]]
      value = np.moveaxis(value, 0, 1)
    elif rest[0] == 'relpos_bias':
      rest = [stack, *rest]
      layers = getattr(config, f'num_{stack}_layers')
      value = bias(np.stack([value] * layers, axis=1))
    target['/'.join((stack, *rest))] = value
  index = {'version': 3, 'optimizer': {'target': leaves.nested(target), 'state': {}}}
  folder.mkdir(parents=True)
  put_index(folder, index)
  return folder


def test_scalable_t5_is_unscanned(params, tmp_path):
  assert same(t5x.load(scanned(params, tmp_path / 'checkpoint_4'), CONFIG), params)


def test_scalable_t5_with_a_bias_a_layer_is_another_model(params, tmp_path):
  def differing(value):
    value = value.copy()
    value[2, 1] += 1e-3
    return value

  folder = scanned(params, tmp_path / 'checkpoint_4', differing)
  with pytest.raises(
    errors.InputError, match='encoder has a position bias of its own .*layer 1 differs'
  ):
    t5x.load(folder, CONFIG)


# --- On a mesh ------------------------------------------------------------------------------------


def on_a_mesh(config):
  boxed = jax.eval_shape(t5.T5(config).init_params, jax.random.key(0))
  specs = nn.get_partition_spec(boxed)
  axes = jax.tree.map(tuple, specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))
  mesh = partitioning.make_mesh(partitioning.MeshShape(data=2, fsdp=2, model=2))
  return partitioning.parameter_shardings(mesh, axes, nn.unbox(boxed))


def test_a_mesh_reads_its_own_slices(written, params, tmp_path, monkeypatch):
  shardings = on_a_mesh(CONFIG)
  whole = leaves.Leaf
  asked = []

  def recording(shape, dtype, fill):
    ask = lambda parts: asked.extend((shape, at) for _, at in parts)
    return whole(shape, dtype, lambda parts: ask(parts) or fill(parts))

  monkeypatch.setattr(leaves, 'Leaf', recording)
  for folder in (written / 't5x', written / 'orbax', scanned(params, tmp_path / 'checkpoint_1')):
    asked.clear()
    loaded = t5x.load(folder, CONFIG, shardings=shardings)
    assert same(loaded, params)
    assert jax.tree.all(
      jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), loaded, shardings)
    )
    embedding = [at for shape, at in asked if shape == (38, 10)]
    part = loaded['token_embedder']['embedding'].sharding.shard_shape((38, 10))
    assert {tuple(len(range(n)[s]) for n, s in zip((38, 10), at)) for at in embedding} == {part}
    assert len(embedding) == 38 * 10 // np.prod(part) > 1  # replicas are read once


def test_every_leaf_is_read_once_and_only_in_the_slices_of_the_mesh(written, monkeypatch):
  assemble, asked = leaves.assemble, {}

  def watched(name, leaf):
    ask = lambda parts: asked.setdefault(name, []).extend(at for _, at in parts)
    return leaves.Leaf(leaf.shape, leaf.dtype, lambda parts: ask(parts) or leaf.fill(parts))

  def watching(found, *rest):
    return assemble({name: watched(name, leaf) for name, leaf in found.items()}, *rest)

  monkeypatch.setattr(leaves, 'assemble', watching)
  loaded = leaves.named(t5x.load(written / 't5x', CONFIG, 'bfloat16', on_a_mesh(CONFIG)))
  assert asked.keys() == loaded.keys()
  for name, leaf in loaded.items():
    assert leaf.dtype == jnp.bfloat16
    bounds = lambda at, shape=leaf.shape: tuple(s.indices(n) for s, n in zip(at, shape))
    mine = {bounds(shard.index) for shard in leaf.addressable_shards}
    assert sorted(map(bounds, asked[name])) == sorted(mine), name


def test_dtypes_and_shardings_may_differ_by_leaf(written, params):
  dtypes = jax.tree.map(lambda x: jnp.dtype('bfloat16' if x.ndim > 2 else 'float32'), params)
  loaded = t5x.load(written / 't5x', CONFIG, dtypes)
  assert jax.tree.map(lambda x: x.dtype, loaded) == dtypes
  where = on_a_mesh(CONFIG)
  del where['encoder']['layers']['mlp']
  with pytest.raises(errors.InputError, match='shardings .* like the parameters; encoder/layers/m'):
    t5x.load(written / 't5x', CONFIG, shardings=where)


# --- Elsewhere ------------------------------------------------------------------------------------


def test_a_bucket_is_read_and_written(written, params, tmp_path, monkeypatch):
  bucket = tmp_path / 'bucket'
  for layout in ('t5x', 'orbax'):
    shutil.copytree(written / layout, bucket / layout)
  with fake_gcs.serving(tmp_path) as (url, read):
    monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', url)
    monkeypatch.setenv('GOOGLE_APPLICATION_CREDENTIALS', '')
    assert same(t5x.load('gs://bucket/t5x', CONFIG), params)
    assert read.count('t5x/checkpoint_7/checkpoint') == 1  # it may be the whole model
    assert same(t5x.load('gs://bucket/orbax/checkpoint_7', CONFIG), params)
    t5x.save('gs://bucket/new/checkpoint_1', params, CONFIG, 1)
    assert same(t5x.load('gs://bucket/new/checkpoint_1', CONFIG), params)
    with pytest.raises(errors.InputError, match='gs://bucket/none is not a T5X checkpoint'):
      t5x.load('gs://bucket/none', CONFIG)


# --- What is wrong --------------------------------------------------------------------------------


def test_leaves_that_do_not_fit_are_listed_before_any_is_read(written, monkeypatch):
  monkeypatch.setattr(leaves, '_array', None)
  wide = t5.T5Config(38, 10, 4, 2, 2, 6, 15, logits_via_embedding=True)
  with pytest.raises(errors.InputError) as caught:
    t5x.load(written / 't5x', wide)
  for said in (
    'decoder/logits_dense/kernel is not part of the model',
    r'decoder/layers/encoder_decoder_attention/key/kernel is [3, 10, 24] and should be [2, 10, 24]',
  ):
    assert said in str(caught.value)
  one = t5.T5Config(38, 10, 4, 2, 3, 6, 14, ('relu',))
  with pytest.raises(errors.InputError, match='encoder/layers/mlp/wi/kernel is missing'):
    t5x.load(written / 't5x', one)


@pytest.mark.parametrize('layout', ['t5x', 'orbax'])
def test_a_checkpoint_that_is_not_whole_is_told_by_its_leaf(written, tmp_path, layout):
  folder = tmp_path / 'checkpoint_7'
  shutil.copytree(written / layout / 'checkpoint_7', folder)
  if layout == 't5x':
    name = 'target.encoder.layers_1.mlp.wo.kernel'
    chunk = folder / name / '0.0'
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(errors.InputError, match='encoder/layers/mlp/wo/kernel cannot be read'):
      t5x.load(folder, CONFIG)
    shutil.rmtree(folder / name)
    with pytest.raises(errors.InputError, match=f'{name}/ cannot be opened'):
      t5x.load(folder, CONFIG)
    (folder / 'checkpoint').write_bytes((folder / 'checkpoint').read_bytes()[:-30])
    says = 'is not the index of a T5X checkpoint'
  else:
    for path in (folder / 'state').rglob('d/*'):
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(errors.InputError, match='cannot be (read|opened)'):
      t5x.load(folder, CONFIG)
    (folder / 'state' / '_METADATA').write_text('{"tree_meta')
    says = '_METADATA is not Orbax'
  with pytest.raises(errors.InputError, match=says):
    t5x.load(folder, CONFIG)


def test_a_chunk_that_is_missing_is_not_zeros(written, tmp_path):
  folder = tmp_path / 'checkpoint_7'
  shutil.copytree(written / 't5x' / 'checkpoint_7', folder)
  (folder / 'target.encoder.layers_1.mlp.wo.kernel' / '0.0').unlink()
  with pytest.raises(errors.InputError, match='encoder/layers/mlp/wo/kernel cannot be read'):
    t5x.load(folder, CONFIG)


@pytest.mark.parametrize('layout', ['t5x', 'orbax'])
def test_a_leaf_of_zeros_comes_back_also_through_odd_paths(params, tmp_path, layout):
  """Zeros are what zarr may leave out; a URL would take % and # for something else."""
  zeros = jax.tree.map(jnp.zeros_like, params)
  folder = tmp_path / 'a %20b#c?d é' / 'checkpoint_5'
  t5x.save(folder, zeros, CONFIG, layout=layout)
  assert folder.is_dir() and same(t5x.load(folder, CONFIG), zeros)


def test_inline_leaves_are_bfloat16_where_they_are_uint16_and_floats_otherwise(written, tmp_path):
  folder = tmp_path / 'checkpoint_7'
  shutil.copytree(written / 't5x' / 'checkpoint_7', folder)
  norm = np.linspace(-2, 3, 10).astype(jnp.bfloat16)
  for value, says in ((norm.view(np.uint16), None), (np.arange(10), 'is int64, which is not a')):
    index = index_of(folder)
    index['optimizer']['target']['decoder']['decoder_norm']['scale'] = value
    put_index(folder, index)
    if says is None:
      assert np.array_equal(t5x.load(folder, CONFIG)['decoder']['decoder_norm']['scale'], norm)
    else:
      with pytest.raises(errors.InputError, match=says):
        t5x.load(folder, CONFIG)


def test_a_bucket_that_does_not_answer_is_told_soon(monkeypatch):
  monkeypatch.setattr(places, 'RETRIES', 1)
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', 'http://localhost:1')
  monkeypatch.setenv('GOOGLE_APPLICATION_CREDENTIALS', '')
  with pytest.raises(errors.InputError, match='gs://bucket/x/checkpoint cannot be read'):
    t5x.load('gs://bucket/x', CONFIG)


def test_a_run_of_hyperjax_is_not_written_into(params, tmp_path):
  (tmp_path / 'model.json').write_text('{}')
  with pytest.raises(errors.InputError, match='is inside a run of hyperjax'):
    t5x.save(tmp_path / 'checkpoint_9', params, CONFIG)


def test_a_layer_that_is_missing_is_named(written, tmp_path):
  folder = tmp_path / 'checkpoint_7'
  shutil.copytree(written / 't5x' / 'checkpoint_7', folder)
  index = index_of(folder)
  del index['optimizer']['target']['decoder']['layers_1']['mlp']['wo']
  put_index(folder, index)
  with pytest.raises(errors.InputError, match='decoder/layers/mlp/wo/kernel is missing in layer 1'):
    t5x.load(folder, CONFIG)


def test_where_there_is_no_checkpoint(tmp_path):
  for place in (tmp_path, tmp_path / 'nowhere'):
    assert t5x.find(place) is None
    with pytest.raises(errors.InputError, match='is not a T5X checkpoint'):
      t5x.load(place, CONFIG)


def test_nothing_is_written_over_something(written, params):
  before = sorted(written.rglob('*'))
  for layout in ('t5x', 'orbax'):
    assert t5x.find(written / layout).step == 7
    with pytest.raises(errors.InputError, match='is not empty'):
      t5x.save(written / layout / 'checkpoint_7', params, CONFIG)
  with pytest.raises(errors.InputError, match='what is to be written does not fit the model'):
    t5x.save(written / 'new', params, T5_1_0)
  with pytest.raises(errors.InputError, match="layout is 'zip'"):
    t5x.save(written / 'new', params, CONFIG, layout='zip')
  assert sorted(written.rglob('*')) == before

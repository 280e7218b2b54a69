"""Truths of the mesh: T5X's rules, refusals by name, and a batch that is the same however split."""

import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from hyperjax import optim, partitioning
from hyperjax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
AXES = {
  'embedder': ('vocab', 'embed'),
  'stack': {'kernel': ('layers', 'embed', 'mlp'), 'scale': ('layers', 'embed')},
  'bias': ('heads', 'relpos_buckets'),
  'phi': ('layers', 'contexts', 'prefix', 'heads', 'kv'),
}


def _shapes(**changed):
  shapes = {
    'embedder': (12, 8),
    'stack': {'kernel': (3, 8, 6), 'scale': (3, 8)},
    'bias': (2, 5),
    'phi': (3, 1, 7, 2, 4),
  } | changed

  def is_shape(x):
    return isinstance(x, tuple)

  return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=is_shape)


def _mesh(data=-1, fsdp=1, model=1):
  return partitioning.make_mesh(partitioning.MeshShape(data, fsdp, model))


def _specs(shardings):
  return jax.tree.map(lambda s: s.spec, shardings)


def test_a_mesh_takes_all_devices_by_default():
  assert dict(_mesh().shape) == {'data': 8, 'fsdp': 1, 'model': 1}
  assert dict(_mesh(2, -1, 2).shape) == {'data': 2, 'fsdp': 2, 'model': 2}
  one = partitioning.make_mesh(devices=jax.devices()[3:4])
  assert dict(one.shape) == {'data': 1, 'fsdp': 1, 'model': 1}
  assert one.devices.item() == jax.devices()[3]


@pytest.mark.parametrize('shape', [(3, 1, 1), (-1, 3, 1), (-1, -1, 2), (0, 1, 8), (2, 2, 1)])
def test_a_mesh_that_does_not_fit_is_refused(shape):
  with pytest.raises(InputError, match=f'data={shape[0]}'):
    _mesh(*shape)


class Device:
  """A device that knows its slice, as far as a mesh looks at it."""

  def __init__(self, id, slice_index, within, platform):
    self.id, self.slice_index, self.platform = id, slice_index, platform
    self.process_index, self.device_kind = slice_index, 'none'
    self.coords, self.core_on_chip = (within % 2, within // 2, 0), 0


def _of_slices(count, each, platform='tpu', **shape):
  # Not in the order of their slices.
  devices = [Device(i, i % count, i // count, platform) for i in range(count * each)]
  mesh = partitioning.make_mesh(partitioning.MeshShape(**shape), devices)
  return np.vectorize(lambda device: device.slice_index)(mesh.devices)


def test_only_data_goes_from_slice_to_slice():
  slices = _of_slices(3, 4, data=6, model=2)
  assert slices.shape == (6, 1, 2)
  np.testing.assert_array_equal(slices[:, 0, 0], [0, 0, 1, 1, 2, 2])
  np.testing.assert_array_equal(slices, np.broadcast_to(slices[:, :1, :1], slices.shape))
  np.testing.assert_array_equal(_of_slices(3, 4, fsdp=4)[:, 0, 0], [0, 1, 2])
  with pytest.raises(InputError, match='data=1 cannot be split over 3 slices: .*multiple of 3'):
    _of_slices(3, 4, data=1, fsdp=12)
  with pytest.raises(InputError, match='slices=2, but the devices lie in 3 slices'):
    _of_slices(3, 4, slices=2)


def test_hosts_of_gpus_are_no_slices_unless_a_run_says_so():
  assert _of_slices(2, 4, 'gpu', data=1, fsdp=8).shape == (1, 8, 1)
  assert _of_slices(2, 4, 'gpu', fsdp=4, slices=2).shape == (2, 4, 1)
  with pytest.raises(InputError, match='data=1 cannot be split over 2 slices'):
    _of_slices(2, 4, 'gpu', data=1, fsdp=8, slices=2)


def test_devices_that_know_no_slice_are_cut_in_their_order():
  mesh = partitioning.make_mesh(partitioning.MeshShape(fsdp=2, slices=2))
  assert dict(mesh.shape) == {'data': 4, 'fsdp': 2, 'model': 1}
  assert set(mesh.devices[:2].flat) == set(jax.devices()[:4])
  for slices in (0, 3):
    with pytest.raises(InputError, match=f'slices={slices} does not divide 8 devices'):
      partitioning.make_mesh(partitioning.MeshShape(slices=slices))


def test_parameters_lie_as_their_axes_say():
  got = _specs(partitioning.parameter_shardings(_mesh(2, 2, 2), AXES, _shapes()))
  assert got == {
    'embedder': P('model', 'fsdp'),
    'stack': {'kernel': P(None, 'fsdp', 'model'), 'scale': P(None, 'fsdp')},
    'bias': P('model', None),
    'phi': P(None, None, None, 'model', None),  # one context: everyone's
  }


@pytest.mark.parametrize(
  'axes, shape, wanted',
  [
    (('layers', 'mlp', 'embed'), (3, 12, 8), P(None, ('model', 'fsdp'), None)),
    (('joined_kv', 'embed'), (8, 6), P(('model', 'fsdp'), None)),
    (('layers', 'mlp', 'embed'), (3, 6, 8), P(None, 'model', 'fsdp')),  # 6 rows in 4 parts
    (('layers', 'embed', 'mlp'), (3, 8, 12), P(None, 'fsdp', 'model')),
    (('vocab', 'embed'), (12, 8), P('model', 'fsdp')),
  ],
)
def test_kernels_from_wide_to_embed_are_split_by_rows_where_these_divide(axes, shape, wanted):
  leaf = {'kernel': jax.ShapeDtypeStruct(shape, jnp.float32)}
  got = partitioning.parameter_shardings(_mesh(2, 2, 2), {'kernel': axes}, leaf)
  assert got['kernel'].spec == wanted


def test_many_contexts_of_a_parameter_are_split_over_rows():
  shapes = _shapes(phi=(3, 4, 7, 2, 4))
  got = partitioning.parameter_shardings(_mesh(2, 2, 2), AXES, shapes)
  assert got['phi'].spec == P(None, ('data', 'fsdp'), None, 'model', None)


def test_specs_are_those_of_flax():
  rules = partitioning.rules()
  for axes in [
    ('batch', 'length', 'embed'),
    ('batch', 'length', 'mlp'),
    ('batch', 'heads', 'length', 'kv'),
    ('layers', 'embed', 'joined_kv'),
    ('joined_kv', 'embed'),
    ('vocab', 'embed'),
    ('mlp', 'vocab'),
    ('contexts', 'length', 'embed'),
    (None, 'heads'),
    (),
  ]:
    assert partitioning.spec(axes, rules) == nn.logical_to_mesh_axes(axes, rules), axes


def test_an_activation_is_split_by_the_rules():
  mesh = _mesh(2, 2, 2)

  def split(contexts):
    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules(contexts)):

      def constrain(x):
        return nn.with_logical_constraint(x, ('contexts', 'length', 'mlp'))

      return jax.jit(constrain)(jnp.zeros((contexts, 5, 6))).sharding.spec

  assert split(4) == P(('data', 'fsdp'), None, 'model')
  assert split(1) == P(None, None, 'model')


def test_rules_given_first_win():
  rules = partitioning.rules(first=(('embed', None), ('kv', 'fsdp')))
  assert partitioning.spec(('embed', 'kv'), rules) == P(None, 'fsdp')


@pytest.mark.parametrize(
  'axes, shapes, words',
  [
    (AXES, _shapes(embedder=(13, 8)), 'embedder: axis vocab of size 13 .*model=2'),
    (AXES, _shapes(stack={'kernel': (3, 7, 6), 'scale': (3, 8)}), 'stack/kernel: axis embed.* 7'),
    (AXES, _shapes(phi=(3, 5, 7, 2, 4)), 'phi: axis contexts of size 5 .*data=2 x fsdp=2'),
    (AXES, _shapes(bias=(2,)), 'bias has shape'),
    (AXES | {'bias': ('heads', 'buckets')}, _shapes(), "bias: no rule for .*'buckets'"),
  ],
)
def test_a_parameter_that_cannot_be_split_is_named(axes, shapes, words):
  with pytest.raises(InputError, match=words):
    partitioning.parameter_shardings(_mesh(2, 2, 2), axes, shapes)


def test_a_rule_to_an_unknown_mesh_axis_is_named():
  with pytest.raises(InputError, match="'embed' -> 'modle'"):
    rules = partitioning.rules(first=(('embed', 'modle'),))
    partitioning.parameter_shardings(_mesh(), AXES, _shapes(), rules)


def test_sizes_of_a_run_are_checked_up_front():
  mesh = _mesh(2, 2, 2)
  partitioning.check_sizes(mesh, {'batch': 8, 'contexts': 1, 'heads': 6, 'length': 7})
  for name, size in {'batch': 6, 'contexts': 2, 'heads': 3, 'mlp': 5}.items():
    with pytest.raises(InputError, match=f'{name} of size {size}'):
      partitioning.check_sizes(mesh, {name: size})


def test_state_lies_like_its_parameters():
  mesh, shapes = _mesh(2, 2, 2), _shapes()
  over = partitioning.parameter_shardings(mesh, AXES, shapes)
  adam = optax.adam(1e-3)
  state = {
    'step': jax.ShapeDtypeStruct((), jnp.int32),
    'trainable': shapes,
    'opt_state': jax.eval_shape(adam.init, shapes),
    'extra': {'teacher': shapes, 'stack': {'kernel': jax.ShapeDtypeStruct((3,), jnp.float32)}},
  }
  got = _specs(partitioning.state_shardings(mesh, state, shapes, over))
  assert got['step'] == P()
  assert got['trainable'] == got['opt_state'][0].mu == got['extra']['teacher'] == _specs(over)
  assert got['opt_state'][0].count == P()
  assert got['extra']['stack']['kernel'] == P()  # a parameter's name, another shape


def test_factored_moments_are_everywhere_and_full_ones_like_their_parameter():
  mesh, shapes = _mesh(2, 2, 2), _shapes()
  over = partitioning.parameter_shardings(mesh, AXES, shapes)
  tx = optim.Adafactor(min_dim_size_to_factor=6).transformation(AXES, 5)
  state = jax.eval_shape(tx.init, shapes)
  moments = _specs(partitioning.state_shardings(mesh, state, shapes, over))[1]
  assert state[1]['stack']['kernel'][0].v_row.shape == (3, 6)
  assert moments['stack']['kernel'][0].v_row == moments['stack']['kernel'][0].v == P()
  assert moments['stack']['scale'][0].v == P(None, 'fsdp')
  assert moments['stack']['scale'][0].count == P()


def _batch(rows=8, contexts=4):
  rng = np.random.default_rng(0)

  def tokens(*shape):
    return rng.integers(0, 9, shape, np.int32)

  return {
    'hyper_input_tokens': tokens(contexts, 5),
    'task_id': tokens(contexts),
    'encoder_input_tokens': tokens(rows, 3),
    'decoder_loss_weights': np.ones((rows, 7), np.float32),
  }


@pytest.mark.parametrize('contexts', [1, 4, 8])
def test_a_batch_arrives_whole_and_split_by_rows(contexts):
  mesh, batch = _mesh(2, 2, 2), _batch(contexts=contexts)
  placed = partitioning.put_batch(mesh, batch)
  jax.tree.map(np.testing.assert_array_equal, placed, batch)
  rows, hyper = (placed[k] for k in ('encoder_input_tokens', 'hyper_input_tokens'))
  assert rows.sharding.shard_shape(rows.shape) == (2, 3)
  assert hyper.sharding.shard_shape(hyper.shape) == (max(contexts // 4, 1), 5)


def test_rows_that_cannot_be_split_are_named():
  with pytest.raises(InputError, match=r'hyper_input_tokens.* of size 3 .*data=8'):
    partitioning.put_batch(_mesh(), _batch(contexts=3))


def test_put_places_host_arrays():
  over = partitioning.parameter_shardings(_mesh(2, 2, 2), AXES, _shapes())
  values = jax.tree.map(lambda s: np.random.default_rng(0).normal(size=s.shape), _shapes())
  placed = partitioning.put(values, over)
  jax.tree.map(np.testing.assert_array_equal, placed, jax.tree.map(np.float32, values))
  assert jax.tree.map(lambda x: x.sharding, placed) == over


_PROCESS = """
  import sys
  import jax, numpy as np
  from hyperjax import fingerprints, partitioning
  from jax.experimental import multihost_utils

  jax.config.update('jax_num_cpu_devices', 2)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  index, port = int(sys.argv[1]), sys.argv[2]
  jax.distributed.initialize('127.0.0.1:' + port, 2, index, shutdown_timeout_seconds=5)
  whole = {'hyper': np.arange(4 * 3).reshape(4, 3), 'rows': np.arange(8 * 5).reshape(8, 5)}
  single = {'hyper': whole['hyper'][:1], 'rows': whole['rows']}
  pair = {'hyper': whole['hyper'][:2], 'rows': whole['rows'][:4]}
  cases = [(whole, (4, 1, 1)), (whole, (1, 2, 2)), (whole, (1, 1, 4))]
  cases += [(whole, (4, 1, 1, 2)), (whole, (2, 2, 1, 2))]  # a process is a slice
  for batch, shape in [*cases, (single, (2, 1, 2)), (pair, (2, 1, 2))]:
    contexts = len(batch['hyper'])
    mesh = partitioning.make_mesh(partitioning.MeshShape(*shape))
    part, parts = partitioning.data_layout(mesh)
    assert (part, parts) == ((0, 1) if shape == (1, 1, 4) else (index, 2))
    cut = lambda x: x[part * len(x) // parts : (part + 1) * len(x) // parts]
    local = {k: x if len(x) == 1 else cut(x) for k, x in batch.items()}
    placed = partitioning.put_batch(mesh, local, contexts)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    back = jax.device_get(jax.jit(lambda x: x, out_shardings=everywhere)(placed))
    jax.tree.map(np.testing.assert_array_equal, back, batch)
  over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  placed = partitioning.put(whole['rows'], over)
  back = multihost_utils.process_allgather(placed, tiled=True)
  np.testing.assert_array_equal(back, whole['rows'])
  prints = [fingerprints.fingerprint({'x': x}) for x in (placed, np.int32(whole['rows']))]
  assert prints[0] == prints[1]
  print('same')
"""


def test_two_processes_make_the_batch_of_one():
  environment = dict(os.environ, JAX_PLATFORMS='cpu', XLA_FLAGS='')
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = str(free.getsockname()[1])
  program = [sys.executable, '-c', textwrap.dedent(_PROCESS)]
  pipes = {'cwd': ROOT, 'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  runs = [subprocess.Popen([*program, str(i), port], env=environment, **pipes) for i in range(2)]
  try:
    for run in runs:
      out, error = run.communicate(timeout=120)
      assert run.returncode == 0 and out.endswith('same\n'), error[-3000:]
  finally:
    for run in runs:
      run.kill()

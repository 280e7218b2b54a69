"""Forecasts: the very program that the trainer runs, what it holds, and what to change."""

import importlib.util
import math

import jax
import pytest
import tiny_models
import tiny_runs

from hyperjax import (
  errors,
  forecasts,
  objectives,
  optim,
  partitioning,
  peft,
  program,
  step,
  topologies,
  trainer,
)
from hyperjax.hypermodels import hypert5
from hyperjax.models import t5

tpu = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu is missing')
SIZES = forecasts.Sizes({'hyper_inputs': 22, 'inputs': 9, 'targets': 5}, 16, 2)
MESH = partitioning.MeshShape(2, 2, 2)
P = 4


def program_of(
  trainable=('hypermodel',), accumulate=1, method=peft.PrefixTuning(P), **changes
) -> program.Program:
  """HyperT5 on a tiny frozen model, both with these changes."""
  down, trunk = (
    t5.T5Config(**(vars(config) | changes))
    for config in (tiny_models.DOWNSTREAM, tiny_models.TRUNK)
  )
  model = step.Model(t5.T5(down), hypert5.HyperT5(trunk, down, method))
  objective, optimizer = objectives.CrossEntropy(), optim.AdamW()
  return program.Program(model, trainable, 100, objective, optimizer, 0, accumulate, None)


def forecast(what='train', topology='cpu:8', mesh=MESH, sizes=SIZES, **changes):
  return forecasts.forecast(program_of(**changes), sizes, mesh, topologies.topology(topology), what)


def run_of(mesh=MESH, devices=8, sizes=SIZES, **changes) -> forecasts.Run:
  """A program on the first devices, not compiled."""
  devices = jax.devices()[:devices]
  return forecasts.Run.of(program_of(**changes), sizes, partitioning.make_mesh(mesh, devices))


# -- The same program ------------------------------------------------------------------------------


def test_the_step_that_is_compiled_is_the_one_that_the_trainer_runs(tmp_path, tmp_path_factory):
  root, caught = tmp_path_factory.getbasetemp(), {}

  class Stop(Exception):
    pass

  def stop(loop, state, frozen, batches):
    batch = loop.feed.put(next(batches)[1])
    caught['step'] = loop.advance.lower(state, frozen, batch).as_text()
    given = {'trained': state.trainable, 'optimizer': state.opt_state, 'frozen': frozen}
    held = lambda tree: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
    caught['bytes'] = {name: held(tree) for name, tree in given.items()}
    raise Stop

  options = {
    'mesh': partitioning.MeshShape(1, 4, 2),
    'accumulate': 1,
    'hypermodel': tiny_runs.hypermodel(root),
    'downstream': t5.T5(tiny_runs.config(root, dtype='bfloat16')),
  }
  with tiny_runs.quick(root), pytest.MonkeyPatch.context() as patch:
    tiny_runs.backbone(root)
    patch.setattr(trainer.Loop, 'run', stop)
    with pytest.raises(Stop):
      tiny_runs.train(root, tmp_path, **options)
  own = program.Program(
    step.Model(options['downstream'], options['hypermodel']),
    ('hypermodel',),
    tiny_runs.STEPS,
    objectives.CrossEntropy(),
    tiny_runs.OPTIMIZER,
    0,
    1,
    None,
  )
  live = tiny_runs.live(root)
  sizes = forecasts.Sizes(live.lengths, live.batch_size, live.targets_per_context)
  mesh = partitioning.make_mesh(options['mesh'], jax.devices())
  run = forecasts.Run.of(own, sizes, mesh)
  made = run.train()
  with run.placed():
    assert made.traced.lower().as_text() == caught['step']
  report = forecasts.forecast(own, sizes, options['mesh'], topologies.topology('cpu:8'))
  assert caught['bytes'].items() <= report['memory'].items()


@pytest.mark.parametrize('method', [peft.PrefixTuning(P), peft.LoRA(2)])
def test_a_program_does_not_grow_with_depth(method):
  def lines(layers: int) -> int:
    depth = {'num_encoder_layers': layers, 'num_decoder_layers': layers}
    run = run_of(partitioning.MeshShape(1), 1, method=method, **depth, remat='full')
    return run.train().traced.lower().as_text().count('\n')

  assert lines(2) == lines(24) > 1000


# -- What it tells ---------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained():
  return forecast(remat='full')


def test_memory_is_of_one_device_and_parameters_are_counted_whole(trained):
  model = program_of().model
  shapes = {
    part: jax.eval_shape(getattr(model, part).init_params, jax.random.key(0))
    for part in ('hypermodel', 'downstream')
  }
  size = lambda part: sum(leaf.size for leaf in jax.tree.leaves(shapes[part]))
  assert trained['parameters'] == {'trained': size('hypermodel'), 'frozen': size('downstream')}
  memory = trained['memory']
  assert 4 * size('hypermodel') / 4 < memory['trained'] < 4 * size('hypermodel')
  # Adam: two moments that lie like the parameters, and two counts of steps.
  assert memory['optimizer'] == 2 * memory['trained'] + 2 * 4
  half = forecasts.forecast(
    program_of(dtype='bfloat16'), SIZES, MESH, topologies.topology('cpu:8'), 'evaluate'
  )
  assert memory['frozen'] == 2 * half['memory']['frozen']  # two bytes a parameter
  rows = 16 * (9 + 5 + 5 + 5) + 8 * (22 + 1)
  assert memory['batch'] == 4 * (rows - 8) // 4  # task ids are not read
  parts = ('step', 'trained', 'optimizer', 'frozen', 'batch', 'results', 'temporaries')
  assert memory['peak'] == pytest.approx(sum(memory[part] for part in parts), abs=64)
  assert trained['fits'] is None and trained['estimate'] is None  # nothing is known of CPUs


def test_what_a_step_computes_does_not_depend_on_the_mesh_or_on_accumulation(trained):
  alone = run_of(partitioning.MeshShape(1), 1, remat='full', accumulate=2).train()
  assert alone.total.total == trained['work']['flops']
  assert alone.model_flops == trained['work']['model_flops']
  assert trained['work']['flops_per_chip'] == trained['work']['flops'] / 8


def test_fsdp_gathers_and_every_leaf_says_how_it_is_split(trained):
  assert {'all-gather', 'all-reduce'} <= trained['work']['collectives'].keys()
  leaves = {leaf['name']: leaf for leaf in trained['leaves']}
  assert list(leaves) == sorted(leaves, key=lambda name: -leaves[name]['bytes'])
  run = run_of(MESH)
  every = {leaf['name']: leaf for leaf in forecasts.leaves(run.params, most=999)}
  wi = every['hypermodel/t5/decoder/layers/mlp/wi_0/kernel']
  assert set(leaves) < set(every)
  assert wi['split'] == [None, 'fsdp', 'model'] and wi['bytes'] == 4 * wi['bytes_per_chip'] > 0
  assert all(one['times'] >= 1 and one['sent'] > 0 for one in trained['exchanges'])


def test_other_steps_compute_once_forward(trained):
  run = run_of(MESH)
  work = {what: forecasts.WHAT[what](run).model_flops for what in ('evaluate', 'adapt', 'predict')}
  loss = work['evaluate']
  assert loss < trained['work']['model_flops'] < 3 * loss
  # The loss reads phi's writer and the model; answers are read token by token, memory's keys once.
  assert 0 < work['adapt'] < loss
  assert work['predict'] == loss - work['adapt']
  with pytest.raises(errors.InputError, match="--what is 'fit'; give one of train, evaluate"):
    forecast('fit')


def test_what_does_not_go_together_is_told():
  with pytest.raises(
    errors.InputError, match='batch of size 12 cannot be split over .*multiple of 8'
  ):
    forecast(mesh=partitioning.MeshShape(8, 1, 1), sizes=forecasts.Sizes(SIZES.lengths, 12, 2))
  with pytest.raises(errors.InputError, match='accumulate=3 does not divide the 8 contexts'):
    forecast(accumulate=3)
  with pytest.raises(errors.InputError, match='mesh data=3.* does not fit 8 devices'):
    forecast(mesh=partitioning.MeshShape(3))


def test_between_slices_go_sums_of_gradients_and_no_parameter():
  """Also a row of phi, which the metrics compare with the next one."""
  found = forecast(topology='2*cpu:4', mesh=partitioning.MeshShape(4, 2), remat='full')
  assert (found['slices'], found['mesh']) == (2, {'data': 4, 'fsdp': 2, 'model': 1})
  work = found['work']
  assert {'all-gather', 'all-reduce'} <= work['collectives'].keys()
  across = work['between_slices']
  largest = (
    4 * found['parameters']['trained'] / 2 * 1.5
  )  # float32 parts, and what is small and whole
  assert 0 < across['all-reduce']['bytes'] < largest
  others = sum(row['bytes'] for kind, row in across.items() if kind != 'all-reduce')
  assert others < across['all-reduce']['bytes'] / 5
  assert 'between slices:' in forecasts.as_text(found)
  alone = forecast(topology='cpu:8', mesh=partitioning.MeshShape(4, 2), remat='full')
  assert alone['work']['between_slices'] == {} and alone['slices'] == 1


# -- What to change --------------------------------------------------------------------------------

REPORT = {
  'what': 'train',
  'fits': False,
  'chips': 8,
  'hbm': 100,
  'mesh': {'data': 8, 'fsdp': 1, 'model': 1},
  'dtype': 'float32',
  'remat': None,
  'accumulate': 1,
  'batch_size': 32,
  'targets_per_context': 1,
  'memory': {'trained': 20, 'optimizer': 40, 'frozen': 20, 'temporaries': None, 'peak': None},
}


def suggested(**changes) -> str:
  return ' | '.join(forecasts.suggestions(REPORT | changes))


def test_a_plan_that_fits_without_room_is_not_known_to_fit():
  fits = lambda peak, until: forecasts.fits({'peak': peak, 'temporaries': 30}, 100, until)
  assert [fits(peak, 'code') for peak in (91, 100, 101)] == [True, True, False]
  assert [fits(peak, 'plan') for peak in (90, 91, 100, 101)] == [True, None, None, False]
  assert forecasts.fits({'peak': 1, 'temporaries': 1}, None, 'code') is None


def test_suggestions_come_cheapest_first_and_none_is_made_twice():
  every = suggested()
  order = ["DTYPE='bfloat16'", "REMAT='minimal'", 'MeshShape.data=1 and .fsdp=8', 'ACCUMULATE=2']
  assert [every.index(each) for each in order] == sorted(every.index(each) for each in order)
  assert suggested(fits=True) == suggested(fits=None) == ''
  done = suggested(dtype='bfloat16', remat='full', mesh=dict(data=1, fsdp=8, model=1), accumulate=4)
  assert done == 'a larger --topology, or chips with more memory'
  assert "REMAT='full'" in suggested(remat='minimal') and 'REMAT' not in suggested(what='predict')
  assert 'BATCH_SIZE' in suggested(what='predict') and 'MeshShape' not in suggested(hbm=1000)


def test_a_large_leaf_on_every_chip_is_told():
  leaf = {'name': 'a/table', 'bytes': 2**27, 'bytes_per_chip': 2**27}
  leaves = [leaf, leaf | {'bytes_per_chip': 2**25}, leaf | {'bytes': 2**20}]
  report = {'chips': 4, 'mesh': {'fsdp': 4}, 'work': {'collectives': None}, 'leaves': leaves}
  assert forecasts.warnings(report) == ['a/table (128 MiB) is whole on every chip']
  assert forecasts.warnings(report | {'chips': 1}) == []


def test_parameters_that_move_by_all_reduce_are_told():
  def told(fsdp=4, **sent) -> list[str]:
    collectives = {kind.replace('_', '-'): {'sent': size} for kind, size in sent.items()}
    report = {'chips': 4, 'mesh': {'fsdp': fsdp}, 'work': {'collectives': collectives}}
    return forecasts.warnings(report | {'leaves': []})

  (said,) = told(all_reduce=2**30, all_gather=2**20)
  assert 'by all-reduce' in said and 'fsdp below 4' in said
  assert told(all_reduce=2**30, all_gather=2**30) == told(all_gather=2**30) == []
  assert told(fsdp=1, all_reduce=2**30) == told(all_reduce=2**20) == []


def test_what_xla_would_have_needed_is_read():
  for said, size in (
    ('total memory required for HLO temporaries (31.50G) exceeds available HBM (15.75G)', 31.5),
    ('Ran out of memory in memory space hbm. Used 20.25G of 15.75G hbm. Exceeded', 20.25),
  ):
    assert forecasts.needed(said) == size * 2**30
  assert forecasts.needed('no number') is None


# -- Chips -----------------------------------------------------------------------------------------


@pytest.fixture
def quiet(monkeypatch):
  for name, value in topologies.QUIET.items():
    monkeypatch.setenv(name, value)


@tpu
@pytest.mark.parametrize('topology', ['v5e:2x4', 'v4:2x2x2'])
def test_a_chip_holds_what_a_cpu_device_holds(topology, trained, quiet):
  found = forecast(topology=topology, remat='full')
  assert found['fits'] is True and found['memory']['peak'] < found['hbm']
  for name in ('trained', 'optimizer', 'frozen', 'batch'):
    assert found['memory'][name] == trained['memory'][name]
  assert found['leaves'] == trained['leaves']
  for name in ('flops', 'model_flops'):
    assert found['work'][name] == trained['work'][name]
  assert {'all-gather', 'all-reduce'} <= found['work']['collectives'].keys()
  parts = (found['estimate'][name] for name in ('compute', 'hbm', 'interconnect'))
  assert found['estimate']['step'] == pytest.approx(math.fsum(parts))


# Bytes of a chip, and the kinds of exchanges inside a slice and between slices, of HyperT5-Prefix in
# bfloat16 with full remat: what our rules for meshes and axes come to. Permutes: rows of phi, for
# its metrics.
BETWEEN = {'all-reduce', 'collective-permute'}
GOLDEN = {
  'v5e:2x2': ((1, 2, 2), (12352, 24712, 5676, 1120), BETWEEN | {'all-gather', 'all-to-all'}, set()),
  'v4:2x2x1': (
    (2, 2, 1),
    (23872, 47752, 11202, 560),
    BETWEEN | {'all-gather', 'reduce-scatter'},
    set(),
  ),
  'v5p:2x2x1': ((2, 1, 2), (24448, 48904, 11096, 1120), BETWEEN | {'all-gather'}, set()),
  'v6e:2x2': ((4, 1, 1), (47232, 94472, 21892, 560), BETWEEN, set()),
  '2*v5e:2x2': (
    (4, 2, 1),
    (23872, 47752, 11202, 280),
    BETWEEN | {'all-gather', 'reduce-scatter'},
    BETWEEN,
  ),
}


@tpu
@pytest.mark.parametrize('topology', GOLDEN)
def test_small_topologies_are_as_they_were(topology, quiet):
  mesh, sizes, kinds, between = GOLDEN[topology]
  own = program_of(remat='full', dtype='bfloat16')
  machine, shape = topologies.topology(topology), partitioning.MeshShape(*mesh)
  found = forecasts.forecast(own, SIZES, shape, machine, until='plan')
  parts = ('trained', 'optimizer', 'frozen', 'batch')
  assert tuple(found['memory'][part] for part in parts) == sizes
  assert found['fits'] is True and found['work']['flops'] == 16256768
  assert found['work']['collectives'].keys() == kinds
  assert found['work']['between_slices'].keys() == between


@tpu
def test_what_does_not_fit_says_so_and_what_to_change(quiet):
  sizes = forecasts.Sizes({'hyper_inputs': 4096, 'inputs': 9, 'targets': 5}, 512)
  found = forecast(topology='v5e:2x2', mesh=partitioning.MeshShape(), sizes=sizes)
  assert found['fits'] is False and found['memory']['peak'] > found['hbm']
  assert found['work']['collectives'] is None and found['estimate'] is None
  assert "DTYPE='bfloat16'" in found['suggestions'][0]
  assert 'DOES NOT FIT' in forecasts.as_text(found)

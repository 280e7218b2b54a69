"""Truths of checkpoints: what was saved comes back bit by bit, or the damage is named."""

import os
import pathlib
import resource
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperjax import checkpoints, optim, partitioning
from hyperjax.errors import InputError
from hyperjax.step import TrainState

ROOT = pathlib.Path(__file__).parents[1]
AXES = {
  'hypermodel': {
    'stack': {'kernel': ('layers', 'embed', 'mlp')},
    'query': ('embed', 'vocab'),
    'scale': ('embed',),
  }
}


def _params(seed=0):
  rng = np.random.default_rng(seed)
  kernel, query, scale = (rng.normal(size=s) for s in ((3, 8, 16), (8, 64), (8,)))
  leaves = {'stack': {'kernel': kernel}, 'query': query, 'scale': scale}
  return {'hypermodel': jax.tree.map(jnp.float32, leaves)}


def _state(step=4, seed=0, config=None, extra=None):
  params = _params(seed)
  tx = (config or optim.AdamW()).transformation(AXES, 10)
  rng = np.random.default_rng(seed)
  fill = lambda x: jnp.asarray(rng.normal(size=x.shape) * 9, x.dtype)
  opt_state = jax.tree.map(fill, jax.eval_shape(tx.init, params))
  return TrainState(jnp.int32(step), params, opt_state, extra)


def _shaped(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def _placed(state, shape):
  mesh = partitioning.make_mesh(partitioning.MeshShape(*shape), jax.devices()[: np.prod(shape)])
  over = partitioning.parameter_shardings(mesh, AXES, state.trainable)
  return jax.tree.map(
    jax.device_put, state, partitioning.state_shardings(mesh, state, state.trainable, over)
  )


def _same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    assert x.dtype == y.dtype and x.shape == y.shape
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def _saved(directory, *steps, **arguments):
  """A directory with checkpoints of these steps; step n holds the state of seed n."""
  arguments = {'save_period': 1, 'keep': None} | arguments
  writer = checkpoints.Checkpoints(directory, **arguments)
  for step in steps:
    assert writer.save(_state(step, seed=step), {'note': step})
  writer.close()
  return writer


# -- What comes back -------------------------------------------------------------------------------


@pytest.mark.parametrize('config', [optim.AdamW(), optim.Adafactor(min_dim_size_to_factor=5)])
@pytest.mark.parametrize('extra', [None, 'more'])
def test_a_state_comes_back_bit_by_bit_with_its_metadata(tmp_path, config, extra):
  if extra:
    table = jnp.asarray([1.5, np.nan, -0.0], jnp.bfloat16)
    extra = {'key': jax.random.key(3), 'table': [table, None, ()], 'seen': jnp.asarray([True])}
  state = _state(config=config, extra=extra)
  writer = checkpoints.Checkpoints(tmp_path / 'run', save_period=2)
  metadata = {'frozen': {'source': tmp_path, 'prints': {'a/b': 'ff'}}, 'loss': np.float32(0.5)}
  assert writer.save(state, metadata)
  writer.close()
  back, told = checkpoints.Checkpoints(tmp_path / 'run').restore(_shaped(state))
  _same(back, state)
  assert told == {'frozen': {'source': str(tmp_path), 'prints': {'a/b': 'ff'}}, 'loss': 0.5}


def test_restoring_onto_another_mesh_is_exact(tmp_path):
  state = _state()
  writer = checkpoints.Checkpoints(tmp_path, save_period=2)
  writer.save(_placed(state, (1, 4, 2)), {})
  writer.close()
  for shape in [(1, 2, 4), (1, 1, 1)]:
    target = _shaped(_placed(_state(seed=5), shape))
    back, _ = writer.restore(target)
    _same(back, state)
    assert jax.tree.map(lambda x: x.sharding, back) == jax.tree.map(lambda x: x.sharding, target)


def test_trained_weights_load_without_the_rest(tmp_path):
  _saved(tmp_path, 3, 7)
  shutil.rmtree(tmp_path / 'checkpoint_7' / 'opt_state')
  weights, metadata = checkpoints.load_trainable(tmp_path)
  _same(weights, _state(seed=7).trainable)
  assert metadata == {'note': 7}


def test_trained_weights_come_as_they_are_asked_for(tmp_path):
  """Some of the leaves, in other dtypes, on a mesh."""
  _saved(tmp_path, 3)
  like = _shaped(_placed(_state(), (1, 4, 2)).trainable)
  del like['hypermodel']['stack']
  query = like['hypermodel']['query']
  half = jax.ShapeDtypeStruct(query.shape, jnp.bfloat16, sharding=query.sharding)
  like['hypermodel']['query'] = half
  spread, _ = checkpoints.load_trainable(tmp_path / 'checkpoint_3', like=like)
  saved = {name: _state(seed=3).trainable['hypermodel'][name] for name in ('query', 'scale')}
  _same(spread, {'hypermodel': saved | {'query': saved['query'].astype(jnp.bfloat16)}})
  assert spread['hypermodel']['query'].sharding == query.sharding
  like['hypermodel']['query'] = jax.ShapeDtypeStruct((8, 3), jnp.float32)
  with pytest.raises(
    InputError, match=r'checkpoint_3 has no hypermodel/query of the shape \[8, 3]'
  ):
    checkpoints.load_trainable(tmp_path, like=like)


# -- When it is saved, and what is kept ------------------------------------------------------------


def test_a_step_is_saved_when_due_or_forced_and_only_once(tmp_path):
  writer = checkpoints.Checkpoints(tmp_path, save_period=3, keep=None)
  assert [s for s in range(7) if writer.due(s)] == [0, 3, 6]
  assert not writer.save(_state(4), {})
  assert writer.save(_state(4, seed=1), {}, force=True)
  assert not writer.save(_state(4, seed=2), {}, force=True)  # still being written
  writer.wait()
  assert not writer.save(_state(4, seed=3), {}, force=True)
  writer.close()
  assert not writer.save(_state(4, seed=4), {}, force=True)  # by a later run
  assert writer.steps() == [4]
  _same(writer.restore(_state(4))[0], _state(4, seed=1))
  writer.close()


@pytest.mark.parametrize('restart', [False, True])
def test_latest_best_and_periodic_ones_all_survive(tmp_path, restart):
  losses = {1: 0.9, 2: 0.2, 3: 0.5, 4: float('nan'), 5: 0.2, 6: None, 7: 0.3, 8: 0.8, 9: None}
  best = {1: 1, 2: 2, 3: 2, 4: 2, 5: 5, 6: 5, 7: 5, 8: 5, 9: 5}  # of equals the newest
  options = {'save_period': 1, 'keep': 2, 'keep_best': ('loss', 'min'), 'keep_period': 4}
  writer = checkpoints.Checkpoints(tmp_path, **options)
  for step, loss in losses.items():
    writer.save(_state(step), {}, metrics=None if loss is None else {'loss': loss, 'other': 1})
    writer.wait()
    assert writer.best_step() == best[step]
    if restart:
      writer.close()
      writer = checkpoints.Checkpoints(tmp_path, **options)
  writer.close()
  assert writer.steps() == [4, 5, 8, 9]
  assert writer.latest_step() == 9


def test_the_best_may_be_the_highest(tmp_path):
  writer = checkpoints.Checkpoints(tmp_path, save_period=1, keep_best=['rougeL', 'max'])
  for step, rouge in [(1, 3.0), (2, 7.0), (3, 5.0), (4, 6.0)]:
    writer.save(_state(step), {}, metrics={'rougeL': rouge})
  writer.close()
  assert (writer.steps(), writer.best_step(), writer.latest_step()) == ([2, 4], 2, 4)


def test_checkpoints_from_before_the_metric_was_asked_for_are_not_kept_for_it(tmp_path):
  _saved(tmp_path, 1, 2)
  writer = checkpoints.Checkpoints(tmp_path, save_period=1, keep_best=('loss', 'min'))
  for step, loss in [(3, 0.5), (4, 0.7), (5, 0.6)]:
    writer.save(_state(step), {}, metrics={'loss': loss})
  writer.close()
  assert (writer.steps(), writer.best_step()) == ([3, 5], 3)


def test_saves_in_quick_succession_and_donated_states_are_whole(tmp_path):
  spoil = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
  writer = checkpoints.Checkpoints(tmp_path, save_period=1, keep=None)
  for step in (1, 2, 3):
    state = _placed(_state(step, seed=step), (1, 4, 2))
    writer.save(state, {'note': step})
    jax.block_until_ready(spoil(state))
  writer.close()
  for step in (1, 2, 3):
    back, metadata = writer.restore(_state(), step)
    _same(back, _state(step, seed=step))
    assert metadata == {'note': step}


# -- Interruption and damage -----------------------------------------------------------------------

_KILLED = """
  import os, signal, sys
  import jax.numpy as jnp, numpy as np
  from hyperjax import checkpoints
  from hyperjax.step import TrainState

  def state(step):
    weights = np.random.default_rng(step).normal(size=(400,)).astype(np.float32)
    return TrainState(jnp.int32(step), {'w': jnp.asarray(weights)}, ())

  def kill(event, arguments):
    if event == sys.argv[2] and str(arguments[0]).endswith(sys.argv[3]):
      os.kill(os.getpid(), signal.SIGKILL)

  writer = checkpoints.Checkpoints(sys.argv[1], save_period=1)
  writer.save(state(1), {'note': 1})
  writer.wait()
  sys.addaudithook(kill)  # called before the file system is
  writer.save(state(2), {'note': 2})
  writer.wait()
"""


@pytest.mark.parametrize(
  'event, name',
  [
    ('os.mkdir', 'array_metadatas'),  # before the arrays
    ('os.rename', 'trainable.orbax-checkpoint-tmp'),  # after some
    ('os.rename', 'checkpoint_2.orbax-checkpoint-tmp'),  # before the last act
  ],
)
def test_a_kill_in_the_middle_of_a_write_leaves_the_checkpoint_before(tmp_path, event, name):
  program = [sys.executable, '-c', textwrap.dedent(_KILLED), str(tmp_path), event, name]
  run = subprocess.run(program, cwd=ROOT, env=dict(os.environ, JAX_PLATFORMS='cpu'), check=False)
  assert run.returncode == -9
  names = os.listdir(tmp_path)
  assert any('tmp' in name for name in names) and 'checkpoint_2' not in names
  writer = checkpoints.Checkpoints(tmp_path, save_period=1)
  assert writer.steps() == [1] and os.listdir(tmp_path) == names  # reading changes nothing

  def state(step):
    weights = np.random.default_rng(step).normal(size=(400,)).astype(np.float32)
    return TrainState(jnp.int32(step), {'w': jnp.asarray(weights)}, ())

  back, metadata = writer.restore(_shaped(state(0)))
  _same(back, state(1))
  assert metadata == {'note': 1}
  assert writer.save(state(3), {'note': 3})
  writer.close()
  assert os.listdir(tmp_path) == ['checkpoint_3']
  _same(writer.restore(state(0))[0], state(3))


def _largest(directory):
  return max((f for f in directory.rglob('*') if f.is_file()), key=lambda f: f.stat().st_size)


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


def _empty(directory):
  shutil.rmtree(directory)
  directory.mkdir()


DAMAGE = {
  'a flipped bit': lambda d: _flip(_largest(d / 'trainable')),
  'a flipped bit of a moment': lambda d: _flip(_largest(d / 'opt_state')),
  'a truncated array': lambda d: os.truncate(_largest(d / 'trainable'), 99),
  'a missing item': lambda d: shutil.rmtree(d / 'opt_state'),
  'a missing file': lambda d: (d / 'trainable' / 'manifest.ocdbt').unlink(),
  'no metadata': lambda d: shutil.rmtree(d / 'metadata'),
  'cut metadata': lambda d: os.truncate(d / 'metadata' / 'metadata', 50),
  'flipped metadata': lambda d: _flip(d / 'metadata' / 'metadata'),
  'other JSON': lambda d: (d / 'metadata' / 'metadata').write_text('[1]'),
  'an empty directory': _empty,
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_found(tmp_path, damage):
  writer = _saved(tmp_path, 1, 2, 3)
  for step in (2, 3):
    DAMAGE[damage](tmp_path / f'checkpoint_{step}')
  with pytest.raises(checkpoints.Damaged, match=r'checkpoint_3 is damaged.*checkpoint_1 is whole'):
    writer.restore(_state())
  assert writer.steps() == [1, 2, 3]
  back, metadata = writer.restore(_state(), fall_back=True)
  _same(back, _state(1, seed=1))
  assert metadata == {'note': 1} and writer.steps() == [1]
  assert {'damaged_checkpoint_2', 'damaged_checkpoint_3'} < set(os.listdir(tmp_path))
  assert writer.save(_state(2, seed=7), {})
  writer.close()
  _same(writer.restore(_state())[0], _state(2, seed=7))


def test_a_lone_damaged_checkpoint_stays_where_it_is(tmp_path):
  writer = _saved(tmp_path, 3)
  DAMAGE['a truncated array'](tmp_path / 'checkpoint_3')
  with pytest.raises(checkpoints.Damaged, match=r'checkpoint_3 is damaged.*no older one'):
    writer.restore(_state(), fall_back=True)
  with pytest.raises(checkpoints.Damaged, match='trainable cannot be read'):
    checkpoints.load_trainable(tmp_path)
  assert writer.steps() == [3]


# -- What does not fit -----------------------------------------------------------------------------


def _with(state, **leaves):
  return TrainState(
    state.step, {'hypermodel': state.trainable['hypermodel'] | leaves}, state.opt_state, state.extra
  )


@pytest.mark.parametrize(
  'change, words',
  [
    (lambda s: _with(s, query=jnp.zeros((8, 63))), r'query as float32\[8, 64\], this run as .*63'),
    (lambda s: _with(s, scale=jnp.zeros(8, jnp.bfloat16)), r'scale as float32\[8\].* bfloat16'),
    (lambda s: _with(s, bias=jnp.zeros(3)), 'has no trainable/hypermodel/bias, which this run has'),
    (lambda s: _state(config=optim.Adafactor()), r'(has no|has) opt_state/.*which this run has'),
    (lambda s: _state(extra={'ema': jnp.ones(2)}), 'has no extra/ema'),
  ],
)
def test_a_checkpoint_of_another_run_is_refused_by_leaf(tmp_path, change, words):
  writer = _saved(tmp_path, 1, 2)
  with pytest.raises(InputError, match=f'checkpoint_2 .*{words}') as error:
    writer.restore(_shaped(change(_state())), fall_back=True)
  assert not isinstance(error.value, checkpoints.Damaged) and writer.steps() == [1, 2]


def test_a_run_without_an_extra_that_was_saved_says_so(tmp_path):
  writer = checkpoints.Checkpoints(tmp_path, save_period=1)
  writer.save(_state(extra={'ema': jnp.ones(2)}), {})
  writer.close()
  with pytest.raises(InputError, match='has extra/ema, which this run has not'):
    writer.restore(_state())


def test_absent_checkpoints_are_named(tmp_path):
  reader = checkpoints.Checkpoints(tmp_path / 'none')
  assert reader.steps() == [] and reader.latest_step() is None and reader.best_step() is None
  with pytest.raises(InputError, match='none does not exist'):
    reader.restore(_state())
  assert not (tmp_path / 'none').exists()
  with pytest.raises(InputError, match='holds no checkpoint_<step>'):
    checkpoints.load_trainable(tmp_path)
  _saved(tmp_path, 3, 5)
  with pytest.raises(InputError, match='no checkpoint of step 4, only of 3, 5'):
    checkpoints.load_trainable(tmp_path, step=4)


@pytest.mark.parametrize(
  'setting',
  [{'save_period': 0}, {'keep': 0}, {'keep_period': -1}, {'keep_best': ('loss', 'least')}],
)
def test_bad_settings_are_named(tmp_path, setting):
  with pytest.raises(InputError, match=f'Checkpoints.{next(iter(setting))} = '):
    checkpoints.Checkpoints(tmp_path, **setting)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  writer = checkpoints.Checkpoints(tmp_path / 'file' / 'run', save_period=1)
  with pytest.raises(InputError, match=r'checkpoint_4 cannot be written to .*file/run'):
    writer.save(_state(), {})


def test_a_full_disk_is_named_and_costs_nothing_that_was_whole(tmp_path):
  writer = checkpoints.Checkpoints(tmp_path, save_period=1)
  writer.save(_state(1, seed=1), {})
  writer.wait()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))  # files cannot grow past this
  try:
    with pytest.raises(InputError, match=r'cannot be written .*whole on disk: 1. Make room'):
      writer.save(_state(2, seed=2), {})
      writer.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert writer.steps() == [1]
  _same(writer.restore(_state())[0], _state(1, seed=1))
  assert writer.save(_state(2, seed=2), {})  # there is room again
  writer.close()
  assert os.listdir(tmp_path) == ['checkpoint_2']
  _same(writer.restore(_state())[0], _state(2, seed=2))


_UNLUCKY = """
  import gc, os, pathlib, resource, sys, time
  import jax.numpy as jnp, numpy as np
  from hyperjax import checkpoints, errors
  from hyperjax.step import TrainState

  def told(function, *arguments):
    try:
      function(*arguments)
    except errors.InputError as error:
      print('error:', error, file=sys.stderr)
    time.sleep(0.1)  # for threads that speak late
    left_behind()  # a coroutine that nobody waits for, as Orbax's sometimes are
    gc.collect()

  async def left_behind():
    pass

  rng = np.random.default_rng(0)
  weights = {str(i): jnp.asarray(rng.normal(size=(3_000,)), jnp.float32) for i in range(9)}
  writer = checkpoints.Checkpoints(sys.argv[1], save_period=1)
  writer.save(TrainState(jnp.int32(1), weights, ()), {})
  writer.wait()
  for file in pathlib.Path(sys.argv[1]).glob('checkpoint_1/trainable/**/d/*'):
    os.truncate(file, 9)
  for _ in range(5):
    told(writer.restore, TrainState(jnp.int32(0), weights, ()))
  resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
  writer.save(TrainState(jnp.int32(2), weights, ()), {})
  told(writer.wait)
"""


def test_failures_are_one_sentence_each_and_no_traceback(tmp_path):
  program = [sys.executable, '-c', textwrap.dedent(_UNLUCKY), str(tmp_path)]
  environment = dict(os.environ, JAX_PLATFORMS='cpu')
  run = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
  slow = 'WARNING:absl:Waiting for previous save'  # a busy machine
  lines = [line for line in run.stderr.splitlines() if not line.startswith(slow)]
  assert run.returncode == 0 and all(line.startswith('error: ') for line in lines), run.stderr
  assert sum('is damaged' in line for line in lines) == 5
  assert 'cannot be written' in lines[-1] and len(lines) == 6

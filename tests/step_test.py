"""One update: who trains, what is summed, and that parts, meshes and seeds change nothing else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models as tiny
from flax import linen as nn
from jax.sharding import PartitionSpec

from hyperjax import objectives, partitioning, peft, step
from hyperjax.errors import InputError
from hyperjax.hypermodels import hypert5, learned
from hyperjax.models import t5

PREFIX = peft.PrefixTuning(3)
HYPER = step.Model(t5.T5(tiny.DOWNSTREAM), hypert5.HyperT5(tiny.TRUNK, tiny.DOWNSTREAM, PREFIX, 12))
SHARED = step.Model(t5.T5(tiny.DOWNSTREAM), learned.LearnedPhi(tiny.DOWNSTREAM, PREFIX))
SGD = optax.sgd(1.0)


def params_of(model):
  """Random weights from numpy; new arrays, which a step may take the memory of."""
  parts = {'hypermodel': model.hypermodel, 'downstream': model.downstream}
  trees = {name: tiny.params_of(part) for name, part in parts.items() if part is not None}
  return jax.tree.map(jnp.array, trees)


@functools.cache
def compiled(model, tx=SGD, objective=None, **kwargs):
  objective = objective or objectives.CrossEntropy()
  run = functools.partial(step.train_step, model=model, objective=objective, tx=tx, **kwargs)
  return step.jit_step(run)


def begin(model, trainable, tx=SGD, at=0):
  """(state, frozen) at the first step."""
  own, frozen = step.split(params_of(model), trainable)
  return step.TrainState(jnp.int32(at), own, tx.init(own)), frozen


def gradients_of(model, trainable, batch, **kwargs):
  """What one step of plain SGD subtracts, and its metrics."""
  state, frozen = begin(model, trainable)
  before = jax.tree.map(np.array, state.trainable)
  state, metrics = compiled(model, **kwargs)(state, frozen, batch)
  return jax.tree.map(lambda x, y: x - np.asarray(y), before, state.trainable), metrics


# -- Who trains ------------------------------------------------------------------------------------


PARAMS = {
  'hypermodel': {'queries': 1, 't5': {'encoder': {'a': 2, 'b': 3}, 'decoder': {'a': 4}}},
  'downstream': {'a': 5, 'ab': {'c': 6}},
}


@pytest.mark.parametrize(
  'trainable, taken',
  [
    (('hypermodel',), {1, 2, 3, 4}),
    (('hypermodel', 'downstream'), {1, 2, 3, 4, 5, 6}),
    (('hypermodel/t5/encoder', 'downstream/ab'), {2, 3, 6}),
    (('downstream/a',), {5}),
    (('hypermodel/t5', 'hypermodel/t5/decoder/a'), {2, 3, 4}),
    ((), set()),
  ],
)
def test_split_takes_what_is_named_and_join_undoes_it(trainable, taken):
  own, frozen = step.split(PARAMS, trainable)
  assert set(jax.tree.leaves(own)) == taken
  assert set(jax.tree.leaves(frozen)) == {1, 2, 3, 4, 5, 6} - taken
  assert step.join(own, frozen) == step.join(frozen, own) == PARAMS


@pytest.mark.parametrize('name', ['hyper', 'hypermodel/t5/encoder/a/x', '', 'downstream/'])
def test_a_name_of_no_parameter_is_refused(name):
  with pytest.raises(InputError, match=f"'{name}'"):
    step.split(PARAMS, ('hypermodel', name))


def test_only_what_trains_moves():
  """Here the decoder's head: all of its leaves move, and gradients and Adam know no other."""
  tx, named = optax.adam(1e-2), 'hypermodel/heads_decoder'
  state, frozen = begin(HYPER, (named,), tx)
  copy = jax.tree.map(np.array, (state.trainable, frozen))
  count = len(jax.tree.leaves(state.trainable))
  assert len(jax.tree.leaves(state.opt_state)) == 2 * count + 1
  new, metrics = compiled(HYPER, tx)(state, frozen, tiny.batch())
  assert new.step == 1 and metrics['grad_norm'] > 0
  assert list(new.trainable) == ['hypermodel']
  assert list(new.trainable['hypermodel']) == ['heads_decoder']
  for name, leaf in tiny.named(new.trainable).items():
    assert np.abs(leaf - tiny.named(copy[0])[name]).min(axis=-1).max() > 0, name
  jax.tree.map(np.testing.assert_array_equal, frozen, copy[1])
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.trainable))  # memory is reused


def test_every_leaf_of_a_joint_run_gets_a_gradient():
  """Hypermodel and downstream together: equation (4) reaches all of both."""
  grads, _ = gradients_of(HYPER, ('hypermodel', 'downstream'), tiny.batch())
  still = [name for name, leaf in tiny.named(grads).items() if not leaf.any()]
  assert still == []


def test_nobody_may_write_phi():
  """T5-MTF: no hypermodel, phi is None, and the downstream model trains."""
  model = step.Model(t5.T5(tiny.DOWNSTREAM))
  grads, metrics = gradients_of(model, ('downstream',), tiny.batch())
  assert set(grads) == {'downstream'}
  assert not [name for name in metrics if name.startswith('phi')]
  assert set(jax.eval_shape(model.init_params, jax.random.key(0))) == {'downstream'}


# -- Sums and parts --------------------------------------------------------------------------------


def test_the_loss_is_a_mean_over_target_tokens():
  """Gradients of the mean: a second copy of every context changes nothing."""
  batch = tiny.batch()
  grads, metrics = gradients_of(SHARED, ('hypermodel',), batch)
  assert metrics['weight'] == batch['decoder_loss_weights'].sum()
  twice = {name: jnp.concatenate([x, x]) for name, x in batch.items()}
  grads_twice, metrics_twice = gradients_of(SHARED, ('hypermodel',), twice)
  assert metrics_twice['weight'] == 2 * metrics['weight']
  tiny.close(grads_twice, grads, atol=1e-6)
  for name in ('loss', 'accuracy', 'grad_norm'):
    np.testing.assert_allclose(metrics_twice[name], metrics[name], rtol=1e-4)


def test_a_normalizing_factor_divides_instead_of_the_tokens():
  batch = tiny.batch()
  mean, metrics = gradients_of(SHARED, ('hypermodel',), batch)
  factor, other = gradients_of(SHARED, ('hypermodel',), batch, loss_normalizing_factor=13.0)
  ratio = float(metrics['weight']) / 13
  assert abs(ratio - 1) > 0.2
  tiny.close(factor, jax.tree.map(lambda g: g * ratio, mean), atol=1e-6)
  np.testing.assert_allclose(other['loss'], metrics['loss'], rtol=1e-6)  # reported per token


def test_a_batch_without_target_tokens_gives_zeros_and_no_nan():
  batch = tiny.batch()
  batch['decoder_loss_weights'] = jnp.zeros_like(batch['decoder_loss_weights'])
  grads, metrics = gradients_of(SHARED, ('hypermodel',), batch)
  assert not any(leaf.any() for leaf in jax.tree.leaves(grads))
  assert metrics['loss'] == 0 and np.isfinite(metrics['grad_norm'])


OBJECTIVE = objectives.CrossEntropy(z_loss=0.01)
SOME = ('hypermodel', 'downstream/decoder')


def unequal_batch():
  batch = tiny.batch(c=8)
  batch['decoder_loss_weights'] *= (jnp.arange(16) != 4)[:, None]  # a target without any token
  return batch


def test_accumulation_equals_the_full_batch():
  """8 contexts x 2 targets with unequal numbers of tokens; float32 gradients, z-loss, metrics."""
  batch = unequal_batch()
  assert len(np.unique(batch['decoder_loss_weights'].sum(axis=1))) > 2
  whole, metrics = gradients_of(HYPER, SOME, batch, objective=OBJECTIVE)
  sums, again = gradients_of(HYPER, SOME, batch, objective=OBJECTIVE, accumulate=4)
  assert {leaf.dtype for leaf in jax.tree.leaves(sums)} == {np.dtype('float32')}
  tiny.close(sums, whole, atol=1e-6)
  for name in ('loss', 'accuracy', 'z_loss', 'cross_ent_loss', 'weight', 'grad_norm'):
    np.testing.assert_allclose(again[name], metrics[name], rtol=1e-4)


def test_parts_take_whole_contexts():
  """Context i, its task and its m targets stay together, in order; each is in one part."""
  c, m, parts = 6, 5, 3
  context = np.arange(c)
  batch = {
    'hyper_input_tokens': np.stack([context, context], axis=1),
    'task_id': 10 + context,
    'encoder_input_tokens': (100 * context[:, None] + np.arange(m)).reshape(-1, 1),
    'decoder_target_tokens': np.repeat(context, m)[:, None],
  }
  for keys in (tuple(batch), tuple(batch)[1:]):  # with contexts, and where nobody reads them
    cut = step.microbatches({key: jnp.asarray(batch[key]) for key in keys}, parts)
    assert cut['encoder_input_tokens'].shape == (parts, 10, 1)
    for part in range(parts):
      contexts = np.asarray(cut['task_id'][part] - 10)
      rows = (100 * contexts[:, None] + np.arange(m)).reshape(-1, 1)
      np.testing.assert_array_equal(cut['encoder_input_tokens'][part], rows)
      if 'hyper_input_tokens' in keys:
        np.testing.assert_array_equal(cut['hyper_input_tokens'][part][:, 0], contexts)
    assert sorted(np.ravel(cut['task_id'] - 10)) == list(range(c))


def test_parts_that_do_not_divide_are_refused():
  step.check_batch(12, 6, 3)
  for accumulate in (0, 4):
    with pytest.raises(InputError, match=f'accumulate={accumulate} .* 6 contexts .* 12'):
      step.check_batch(12, 6, accumulate)


def test_what_an_objective_carries_goes_through_every_part():
  @dataclasses.dataclass(frozen=True)
  class Counting:
    def __call__(self, generate, answer, batch, extra):
      total, metrics, _ = objectives.CrossEntropy()(generate, answer, batch, None)
      return total, metrics, {'seen': extra['seen'].at[batch['task_id']].add(1)}

  state, frozen = begin(SHARED, ('hypermodel',))
  state = dataclasses.replace(state, extra={'seen': jnp.zeros(7, jnp.int32)})
  run = compiled(SHARED, objective=Counting(), accumulate=2)
  for _ in range(2):
    state, _ = run(state, frozen, tiny.batch(c=4))
  assert state.extra['seen'].tolist() == [2, 2, 2, 2, 0, 0, 0] and state.step == 2


# -- A mesh ----------------------------------------------------------------------------------------


def test_sharded_equals_unsharded():
  """8 contexts x 2 targets in 2 parts on data 2 x fsdp 2 x model 2, and whole on one device."""
  batch = unequal_batch()
  expected, metrics = gradients_of(HYPER, SOME, batch, objective=OBJECTIVE)
  mesh, params = tiny.mesh(), params_of(HYPER)
  placed = jax.device_put(params, tiny.shardings(mesh, HYPER))
  own, frozen = step.split(placed, SOME)
  before = jax.device_get(own)
  with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules()):
    state = step.TrainState(jnp.int32(0), own, SGD.init(own))
    on_mesh = partitioning.put_batch(mesh, jax.device_get(batch))
    state, sharded = compiled(HYPER, objective=OBJECTIVE, accumulate=2)(state, frozen, on_mesh)
  kernel = state.trainable['hypermodel']['heads_decoder']['key_kernel']
  assert kernel.addressable_shards[0].data.shape == (3, 6, 12)  # of 12 x 24: fsdp x model
  after = jax.device_get(state.trainable)
  tiny.close(jax.tree.map(lambda x, y: x - y, before, after), expected)
  for name in ('loss', 'accuracy', 'z_loss', 'weight', 'grad_norm'):
    np.testing.assert_allclose(sharded[name], metrics[name], rtol=1e-4)


def test_kernels_that_are_split_by_rows_have_the_gradients_of_whole_ones():
  """As above, in sizes that let the mesh split every kernel [wide, embed] by its rows."""
  even = lambda config: dataclasses.replace(config, mlp_dim=20, num_heads=2, head_dim=6)
  down, trunk = even(tiny.DOWNSTREAM), even(tiny.TRUNK)
  model = step.Model(t5.T5(down), hypert5.HyperT5(trunk, down, peft.PrefixTuning(3)))
  batch, both = unequal_batch(), ['hypermodel', 'downstream']
  expected, metrics = gradients_of(model, both, batch, objective=OBJECTIVE)
  mesh = tiny.mesh()
  over = tiny.shardings(mesh, model)
  for part in (over['downstream'], over['hypermodel']['t5']):
    for stack, name in (('encoder', 'attention'), ('decoder', 'self_attention')):
      layer = part[stack]['layers']
      for kernel in (layer['mlp']['wo']['kernel'], layer[name]['out']['kernel']):
        assert kernel.spec == PartitionSpec(None, ('model', 'fsdp'), None)
  own, frozen = step.split(jax.device_put(params_of(model), over), both)
  before = jax.device_get(own)
  with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules()):
    state = step.TrainState(jnp.int32(0), own, SGD.init(own))
    on_mesh = partitioning.put_batch(mesh, jax.device_get(batch))
    state, sharded = compiled(model, objective=OBJECTIVE)(state, frozen, on_mesh)
  after = jax.device_get(state.trainable)
  tiny.close(jax.tree.map(lambda x, y: x - y, before, after), expected)
  np.testing.assert_allclose(sharded['grad_norm'], metrics['grad_norm'], rtol=1e-4)


# -- Dropout ---------------------------------------------------------------------------------------


def dropping(model):
  """The same model with dropout in both of its parts."""
  drop = lambda config: dataclasses.replace(config, dropout_rate=0.4)
  hypermodel = model.hypermodel
  if isinstance(hypermodel, hypert5.HyperT5):
    hypermodel = hypermodel.clone(trunk=drop(tiny.TRUNK), downstream=drop(tiny.DOWNSTREAM))
  return step.Model(t5.T5(drop(tiny.DOWNSTREAM)), hypermodel)


@functools.partial(jax.jit, static_argnames=('model', 'parts'))
def loss_of(own, frozen, model, parts):
  """The loss as the parts named in `parts` see it when they train."""
  assert set(own) == set(parts)
  args = own, frozen, tiny.batch(), None, jax.random.key(4), model, objectives.CrossEntropy()
  return step.loss_fn(*args)[0]


def test_dropout_acts_in_what_trains_only():
  def loss(model, *parts):
    return float(loss_of(*step.split(params_of(model), parts), model, parts))

  for model in (HYPER, SHARED):
    plain = loss(model, 'hypermodel')
    dropping_downstream = step.Model(dropping(model).downstream, model.hypermodel)
    assert loss(dropping_downstream, 'hypermodel') == plain
    assert abs(loss(dropping_downstream, 'downstream') - plain) > 0.01
  dropping_hypermodel = step.Model(HYPER.downstream, dropping(HYPER).hypermodel)
  plain = loss(HYPER, 'downstream')
  assert loss(dropping_hypermodel, 'downstream') == plain
  assert abs(loss(dropping_hypermodel, 'hypermodel') - plain) > 0.01


def first_loss(batch, at=0, seed=0, accumulate=1):
  """Of a step of SHARED whose downstream model trains, a norm of it, with dropout."""
  model, tx = dropping(SHARED), optax.set_to_zero()
  state, frozen = begin(model, ('downstream/decoder/decoder_norm',), tx, at)
  run = compiled(model, tx, seed=seed, accumulate=accumulate)
  return float(run(state, frozen, batch)[1]['loss'])


def test_dropout_is_a_function_of_seed_and_step():
  """… and of nothing else: two runs agree, another step or seed does not."""
  batch = tiny.batch()
  first = first_loss(batch)
  assert first_loss(batch) == first and first_loss(batch, at=2) == first_loss(batch, at=2)
  assert len({first, first_loss(batch, at=1), first_loss(batch, at=2)}) == 3
  assert first_loss(batch, seed=1) not in {first, first_loss(batch, at=1)}


def test_parts_have_dropout_of_their_own():
  """The same context three times, in three parts, is not dropped alike."""
  one = tiny.batch(c=1)
  three = {name: jnp.concatenate([x] * 3) for name, x in one.items()}
  assert abs(first_loss(three, accumulate=3) - first_loss(one)) > 1e-3

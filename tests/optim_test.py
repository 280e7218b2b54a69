"""Truths of the optimisers: schedules by hand, optax's own AdamW, and stacked equals separate."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyperjax import optim, partitioning
from hyperjax.errors import InputError

AXES = {
  'stack': {'kernel': ('layers', 'embed', 'mlp'), 'scale': ('layers', 'embed')},
  'short': {'kernel': ('layers', 'mlp', 'embed')},
  'head': {'kernel': ('embed', 'vocab'), 'scale': ('embed',)},
}
LAYERS = {'stack': 3, 'short': 2}  # stacks of one tree need not be equally deep


def _params(seed=0, scale=1.0):
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

  sizes = jnp.asarray([1.0, 10.0, 100.0])
  return {
    'stack': {'kernel': draw(3, 8, 6) * sizes[:, None, None], 'scale': draw(3, 8)},
    'short': {'kernel': draw(2, 6, 8)},
    'head': {'kernel': draw(8, 10), 'scale': draw(8)},
  }


def _run(tx, params, steps=3):
  state, step = tx.init(params), jax.jit(tx.update)
  for i in range(steps):
    updates, state = step(_params(seed=i + 1), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def _adafactor(**fields):
  return optim.Adafactor(learning_rate=0.1, min_dim_size_to_factor=5, **fields)


def _close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_linear_decay_rises_to_its_peak_and_falls_to_its_end():
  rate = optim.AdamW(learning_rate=optim.LinearDecay(0.4, warmup_steps=4, final=0.1)).rate(10)
  expected = [0.0, 0.1, 0.2, 0.3, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.1]
  np.testing.assert_allclose([rate(i) for i in range(12)], expected, rtol=1e-6)
  assert float(optim.AdamW(learning_rate=optim.LinearDecay(0.4)).rate(10)(0)) == np.float32(0.4)


def test_constant_and_rsqrt():
  constant = optim.AdamW(learning_rate=0.3).rate(10)
  assert [float(constant(i)) for i in (0, 9)] == [np.float32(0.3)] * 2
  t5 = optim.AdamW(learning_rate=optim.Rsqrt()).rate(100_000)
  np.testing.assert_allclose([t5(0), t5(9_999), t5(40_000)], [0.01, 0.01, 0.005], rtol=1e-6)


def test_rate_of_a_traced_step_is_the_rate_of_that_step():
  rate = optim.AdamW(learning_rate=optim.LinearDecay(0.4, warmup_steps=4)).rate(10)
  _close(jax.jit(jax.vmap(rate))(jnp.arange(12)), jnp.stack([rate(i) for i in range(12)]))


def test_adamw_is_optax_adamw_behind_a_clip_that_decays_matrices_only():
  schedule = optim.LinearDecay(0.1, warmup_steps=1)
  ours = optim.AdamW(schedule, b2=0.98, weight_decay=0.2, clip=0.7).transformation(AXES, 5)
  matrices = jax.tree.map(
    lambda names: len([n for n in names if n != 'layers']) == 2,
    AXES,
    is_leaf=lambda x: isinstance(x, tuple),
  )
  theirs = optax.chain(
    optax.clip_by_global_norm(0.7),
    optax.adamw(lambda s: schedule(s, 5), b2=0.98, weight_decay=0.2, mask=matrices),
  )
  _close(_run(ours, _params())[0], _run(theirs, _params())[0], rtol=1e-6)


def test_adafactor_of_a_stack_is_adafactor_of_its_layers():
  together, state = _run(_adafactor().transformation(AXES, 5), _params())
  assert state[1]['stack']['kernel'][0].v_row.shape == (3, 6)  # factored, and one per layer

  def separate(params):
    cut = {k: v for k, v in params.items() if k not in LAYERS}
    for name, layers in LAYERS.items():
      for i in range(layers):
        cut[f'{name}_{i}'] = jax.tree.map(lambda x, i=i: x[i], params[name])
    return cut

  apart = optax.adafactor(0.1, min_dim_size_to_factor=5)
  params = separate(_params())
  state = apart.init(params)
  for i in range(3):
    updates, state = apart.update(separate(_params(seed=i + 1)), state, params)
    params = optax.apply_updates(params, updates)
  _close(separate(together), params, rtol=2e-6, atol=1e-6)


def test_adafactor_moves_each_layer_by_its_own_size():
  before = _params()['stack']['kernel']
  after = _run(_adafactor().transformation(AXES, 5), _params(), steps=1)[0]['stack']['kernel']

  def size(x):
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=(1, 2)))

  np.testing.assert_allclose(size(after - before) / size(before), 0.1, rtol=0.05)


@pytest.mark.parametrize('config', [optim.AdamW(0.1), _adafactor()])
def test_zero_gradients_change_nothing(config):
  params = _params()
  tx = config.transformation(AXES, 5)
  zeros = jax.tree.map(jnp.zeros_like, params)
  _close(jax.jit(tx.update)(zeros, tx.init(params), params)[0], zeros, atol=0)


@pytest.mark.parametrize('config', [optim.AdamW(0.1), _adafactor()])
def test_state_keeps_its_structure_when_clip_and_decay_change(config):
  changed = dataclasses.replace(config, clip=0.5, weight_decay=0.1, learning_rate=optim.Rsqrt())
  old, new = (c.transformation(AXES, 5).init(_params()) for c in (config, changed))
  assert jax.tree.structure(old) == jax.tree.structure(new)


@pytest.mark.parametrize(
  'config, shape',
  [(optim.AdamW(0.1), (4, 2, 1)), (optim.AdamW(0.1), (1, 1, 2)), (_adafactor(), (2, 2, 2))],
)
def test_sharded_steps_equal_unsharded_ones(config, shape):
  mesh = partitioning.make_mesh(
    partitioning.MeshShape(*shape), jax.devices()[: int(np.prod(shape))]
  )
  params = _params()
  tx = config.transformation(AXES, 5)
  over = partitioning.parameter_shardings(mesh, AXES, params)
  states = partitioning.state_shardings(mesh, jax.eval_shape(tx.init, params), params, over)
  placed = partitioning.put(params, over)
  state = jax.jit(tx.init, out_shardings=states)(placed)

  def step(state, params, grads):
    updates, state = tx.update(grads, state, params)
    return state, optax.apply_updates(params, updates)

  step = jax.jit(step, in_shardings=(states, over, over), out_shardings=(states, over))
  for i in range(3):
    state, placed = step(state, placed, partitioning.put(_params(seed=i + 1), over))
  assert placed['stack']['kernel'].sharding == over['stack']['kernel']
  _close(placed, _run(tx, params)[0], rtol=2e-5, atol=1e-5)


def test_a_sweep_may_trace_its_learning_rate():
  params = _params()

  def move(rate):
    tx = optim.AdamW(optim.LinearDecay(rate)).transformation(AXES, 5)
    return tx.update(_params(seed=1), tx.init(params), params)[0]['head']['scale']

  both = jax.jit(jax.vmap(move))(jnp.asarray([0.1, 0.2]))
  np.testing.assert_allclose(both[1], 2 * both[0], rtol=1e-6)


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: optim.AdamW(learning_rate='fast'), 'learning_rate'),
    (lambda: optim.AdamW(learning_rate=-1.0), 'rate = -1.0'),
    (lambda: optim.AdamW(weight_decay='0.1'), 'weight_decay'),
    (lambda: optim.Adafactor(clip=0), 'clip = 0'),
    (lambda: optim.LinearDecay(peak=float('nan')), 'peak'),
    (
      lambda: optim.AdamW(optim.LinearDecay(warmup_steps=7)).transformation(AXES, 7),
      'train longer',
    ),
  ],
)
def test_bad_settings_are_named(make, words):
  with pytest.raises(InputError, match=words):
    make()

"""Truths of fingerprints: the same however an array lies, another as soon as its values move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from hyperjax import fingerprints
from hyperjax.errors import InputError

SPECS = [P(), P('x'), P(None, ('x', 'y')), P('y', 'x')]


def _weights(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'kernel': rng.normal(size=(264, 520)).astype(np.float32),  # more than a sample
    'scale': rng.normal(size=(7,)).astype(np.float32),
    'gate': np.float32(rng.normal()).reshape(()),
  }


def _placed(x, spec):
  mesh = jax.make_mesh((2, 4), ('x', 'y'), axis_types=(AxisType.Auto,) * 2)
  return jax.device_put(x, NamedSharding(mesh, spec))


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('spec', SPECS)
def test_a_fingerprint_does_not_depend_on_where_the_array_lies(spec, full):
  weights = _weights()
  expected = fingerprints.fingerprint(weights, full)
  kernel = _placed(weights['kernel'], spec)
  assert fingerprints.fingerprint({'kernel': kernel}, full) == {'kernel': expected['kernel']}
  halves = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), weights)
  assert fingerprints.fingerprint(halves, full) == expected  # as a run holds frozen weights


@pytest.mark.parametrize(
  'shape', [(264, 520), (1_000_001,), (3, 5, 65_537), (), (0, 4), (70_000, 1)]
)
def test_a_sample_is_large_and_bounded(shape):
  sample = [-(-d // s) for d, s in zip(shape, fingerprints._strides(shape))]
  assert min(np.prod(shape), fingerprints.SAMPLE / 4) <= np.prod(sample) <= fingerprints.SAMPLE


def test_only_the_sample_leaves_its_devices():
  kernel = _placed(np.zeros((2048, 4096), np.float32), P('x', 'y'))
  strides = fingerprints._strides(kernel.shape)
  everywhere = NamedSharding(kernel.sharding.mesh, P())
  memory = fingerprints._slice.lower(kernel, strides, everywhere).compile().memory_analysis()
  assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 8 * fingerprints.SAMPLE


def test_a_training_step_changes_every_fingerprint_and_names_the_leaf():
  weights = _weights()
  expected = fingerprints.fingerprint(weights)
  moved = weights | {'kernel': weights['kernel'] + np.float32(1e-5)}
  assert fingerprints.fingerprint(moved)['kernel'] != expected['kernel']
  column = {'scale': weights['scale'].reshape(7, 1)}
  assert fingerprints.fingerprint(column) != {'scale': expected['scale']}
  fingerprints.check_fingerprint(weights, expected, 'weights/')
  with pytest.raises(InputError, match='weights/: leaf kernel holds other values'):
    fingerprints.check_fingerprint(moved, expected, 'weights/')
  with pytest.raises(InputError, match='leaf scale of the run is missing'):
    fingerprints.check_fingerprint({k: weights[k] for k in ('kernel', 'gate')}, expected, 'x')
  with pytest.raises(InputError, match='leaf zebra is not among'):
    fingerprints.check_fingerprint(weights | {'zebra': weights['gate']}, expected, 'x')


def test_only_a_full_fingerprint_sees_every_element():
  weights = _weights()
  edited = {k: v.copy() for k, v in weights.items()}
  edited['kernel'][1, 1] += 1  # not in the sample
  sampled, full = (
    [fingerprints.fingerprint(w, full)['kernel'] for w in (weights, edited)]
    for full in (False, True)
  )
  assert sampled[0] == sampled[1] and full[0] != full[1]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int32', 'uint8', 'bool', 'float16'])
def test_a_checksum_changes_with_any_bit_and_any_swap(dtype):
  values = np.random.default_rng(0).integers(0, 2, (5, 8)).astype(jnp.dtype(dtype))
  values[:2, :2] = [[0, 1], [0, 1]]
  expected = fingerprints.checksums({'x': jnp.asarray(values)})
  for spec in SPECS[:1] + [P(None, 'x'), P(None, 'y')]:
    assert fingerprints.checksums({'x': _placed(values, spec)}) == expected
  changed = values.copy()
  changed.view(np.uint8)[3, 3] ^= 1
  swapped = values.copy()
  swapped[0, :2] = values[0, 1::-1]
  crossed = values.copy()
  crossed[0, 1], crossed[1, 0] = values[1, 0], values[0, 1]
  for other in (changed, swapped, crossed):
    assert fingerprints.checksums({'x': jnp.asarray(other)}) != expected


def test_random_keys_have_checksums():
  sums = [fingerprints.checksums({'key': jax.random.key(i)}) for i in (1, 1, 2)]
  assert sums[0] == sums[1] != sums[2]

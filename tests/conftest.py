"""All tests run on the CPU as eight devices, and implicit rank promotion raises."""

import os
import pathlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # TensorFlow's start-up notes

import jax  # after the variables above
import pytest

ROOT = pathlib.Path(__file__).parent.parent

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """The real data packs, ../shared/data beside the checkout or $HYPERJAX_SHARED_DATA."""
  path = pathlib.Path(os.environ.get('HYPERJAX_SHARED_DATA', ROOT.parent / 'shared' / 'data'))
  if not path.is_dir():
    pytest.skip(f'no data packs at {path}')
  return path

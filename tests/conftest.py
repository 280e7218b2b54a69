"""All tests run on the CPU as eight devices, and implicit rank promotion raises."""

import os
import pathlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # TensorFlow's start-up notes

# Programs are tiny, so compiling them is what tests spend their time on. Half of it goes with these
# settings (a gradient of a tiny T5: 5 s of CPU before, 1 s after), four fifths of the rest when the
# programs are kept from run to run. Subprocesses inherit all of this.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', f'{pathlib.Path(__file__).parents[1]}/.cache/jax'
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

# Several processes share that cache, and JAX tells of an entry that another one is just writing.
os.environ.setdefault('PYTHONWARNINGS', 'ignore:Error reading persistent compilation cache entry')

import jax  # after the variables above
import pytest

if jax.__version__.startswith('0.10.'):  # XLA aborts on a flag that it does not know
  # Where the machine is busy, eight devices on its few cores may take long to meet.
  patient = '--xla_cpu_collective_call_terminate_timeout_seconds=600'
  os.environ.setdefault('XLA_FLAGS', f'--xla_cpu_use_fusion_emitters=false {patient}')

ROOT = pathlib.Path(__file__).parents[1]

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """The real data packs, ../shared/data beside the checkout or $HYPERJAX_SHARED_DATA."""
  path = pathlib.Path(os.environ.get('HYPERJAX_SHARED_DATA', ROOT.parent / 'shared' / 'data'))
  if not path.is_dir():
    pytest.skip(f'no data packs at {path}')
  return path


@pytest.fixture(scope='module', autouse=True)
def programs():
  """Compiled programs are let go after each file.

  XLA maps memory for each of their functions. Linux allows a process 65,530 pieces of it, beyond
  which there is a segmentation fault; two of our files alone make 28,000.
  """
  yield
  jax.clear_caches()

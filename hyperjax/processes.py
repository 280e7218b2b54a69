"""Several processes as one run: who takes part, told by flags or by the cluster's environment."""

import importlib.util
import os
import pathlib
from collections.abc import Mapping

from absl import flags

from hyperjax.errors import InputError

FLAGS = flags.FLAGS

NAMES = ('coordinator_address', 'process_count', 'process_index')
CLUSTERS = {
  'SLURM': 'SLURM_NTASKS',
  'Open MPI': 'OMPI_COMM_WORLD_SIZE',
  'JAX': 'JAX_NUM_PROCESSES',
}
"""Where a cluster tells how many processes there are."""

HEARTBEAT_SECONDS = 30
"""A process that is silent for so long is dead, and ends the others."""
SHUTDOWN_SECONDS = 5


def define_flags(values: flags.FlagValues = FLAGS) -> None:
  """T5X's flags; without them the environment is asked (TPU pods, SLURM, Open MPI)."""
  many = 'How many processes make this run.'
  flags.DEFINE_string('coordinator_address', None, 'HOST:PORT of process 0.', values)
  flags.DEFINE_integer('process_count', None, many, lower_bound=1, flag_values=values)
  flags.DEFINE_integer('process_index', None, 'Which one.', lower_bound=0, flag_values=values)


def start() -> None:
  """Joins the other processes of the run, if it has any; call it before JAX is used.

  Raises:
    InputError: some of the flags are missing, or do not fit; the others cannot be reached.
  """
  given = {name: FLAGS[name].value for name in NAMES}
  if all(value is None for value in given.values()):
    if is_cluster(os.environ):
      _join({})
  else:
    _check(given)
    address, count, index = given.values()
    if count != 1:
      _join({'coordinator_address': address, 'num_processes': count, 'process_id': index})


def is_cluster(environment: Mapping[str, str]) -> bool:
  """Whether an environment is that of several processes, or of a TPU host (of a pod, perhaps)."""
  counts = [environment[name] for name in CLUSTERS.values() if environment.get(name)]
  if any(count.isdigit() and int(count) > 1 for count in counts):
    return True
  if environment.get('JAX_PLATFORMS', 'tpu').split(',')[0] not in ('tpu', ''):
    return False
  chips = any(pathlib.Path(path).exists() for path in ('/dev/accel0', '/dev/vfio/0'))
  return chips and importlib.util.find_spec('libtpu') is not None


def _check(given: Mapping[str, object]) -> None:
  missing = [f'--{name}' for name in NAMES if given[name] is None]
  if missing:
    raise InputError(f'{" and ".join(missing)} must be given too: all of {_flags()}, or none')
  address, count, index = (str(given[name]) for name in NAMES)
  host, _, port = address.rpartition(':')
  if not host or not port.isdigit():
    raise InputError(f'--coordinator_address={address} is not HOST:PORT')
  if not int(index) < int(count):
    raise InputError(f'--process_index={index} must be less than --process_count={count}')


def _flags() -> str:
  return ', '.join(f'--{name}' for name in NAMES)


def _join(arguments: dict) -> None:
  import jax

  if os.environ.get('JAX_PLATFORMS') == 'cpu':
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  try:
    jax.distributed.initialize(
      **arguments,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
  except (RuntimeError, ValueError) as error:
    said = str(error).partition('\n')[0]
    raise InputError(
      f'the processes of this run did not find each other ({said}): start all of them, each with'
      f' {_flags()}, or in an environment that tells them'
    ) from error


def is_lost(error: BaseException) -> bool:
  """Whether an error tells that another process of this run has ended."""
  import jax

  if not isinstance(error, jax.errors.JaxRuntimeError) or jax.process_count() == 1:
    return False
  signs = ('gloo', 'connection closed', 'connection reset', 'coordination', 'heartbeat', 'barrier')
  return any(sign in str(error).lower() for sign in signs)


def leave(error: BaseException) -> None:
  """Ends this process at once: a clean end would wait for one that is not there any more."""
  import sys

  said = str(error).partition('\n')[0][:200]
  print(
    f'error: another process of this run has ended ({said}); start all of them again: they go on'
    ' from the latest checkpoint',
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)

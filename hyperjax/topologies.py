"""Machines that need not be there: TPU slices by name, what their chips can do, and CPUs.

libtpu compiles for any of its topologies on a machine without TPUs.
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

from hyperjax.errors import InputError

QUIET = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',  # of any topology: libtpu only wants to be told one
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # it drives no TPU, so others may compile beside it
  'JAX_PLATFORMS': 'cpu',
}
"""Environment in which libtpu neither looks for a TPU nor complains; set before JAX is imported."""

EXAMPLES = 'v5e:2x4, v5e:16x16, v5p:4x4x4, v6e:8x8, v4:2x2x4, cpu:8'


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one chip has and does, at best, in bytes and bytes or operations a second."""

  hbm: int  # that a program may use
  flops: float  # bfloat16
  hbm_bandwidth: float
  link_bandwidth: float  # of one port of the interconnect, one way
  ports: int


GIB = 2**30
CHIPS = {
  # hbm: what libtpu 0.0.42 says is there when a program asks for too much; the rest is reserved.
  # flops, hbm_bandwidth, ports: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. link_bandwidth:
  # the same pages' interconnect bandwidth a chip over its ports: v5e 400 GB/s both ways over 4,
  # v6e 800 over 4, v4 2400 Gbit/s one way over 6, v5p 4800 over 6.
  'v4': Chip(int(30.75 * GIB), 275e12, 1200e9, 50e9, 6),
  'v5e': Chip(int(15.75 * GIB), 197e12, 819e9, 50e9, 4),
  'v5p': Chip(int(95.74 * GIB), 459e12, 2765e9, 100e9, 6),
  'v6e': Chip(int(31.25 * GIB), 918e12, 1638e9, 100e9, 4),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices, and the chip that each of them is (None: a CPU, of which nothing is known)."""

  name: str
  devices: Sequence[Any]
  chip: Chip | None


def topology(name: str) -> Topology:
  """The machine of a name such as v5e:4x8 (chips) or cpu:8 (devices).

  A device is a chip: the two cores of a v4 are taken as one ("megacore").

  Raises:
    InputError: no such machine; libtpu is not installed.
  """
  kind, _, shape = name.partition(':')
  if kind == 'cpu' and re.fullmatch(r'[1-9]\d*', shape):
    return Topology(name, _cpus(int(shape)), None)
  if kind not in CHIPS or not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}', shape):
    raise InputError(
      f'--topology is {name!r}; give a kind of chip, of {", ".join(CHIPS)}, and how many lie along '
      f'each side, or a number of CPU devices: {EXAMPLES}'
    )
  if importlib.util.find_spec('libtpu') is None:
    raise InputError(
      f'compiling for {name} needs libtpu, which is not installed: pip install "hyperjax[tpu]"'
    )
  from jax.experimental import topologies

  options = {'chip_config_name': 'megacore'} if kind == 'v4' else {}
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=name, **options)
  except Exception as error:  # jaxlib's own, and plugins' of many kinds
    said = str(error).partition(': ')[2] or str(error)
    raise InputError(
      f'--topology={name} is none that libtpu knows ({said}); for example {EXAMPLES}'
    ) from error
  return Topology(name, found.devices, CHIPS[kind])


def _cpus(count: int) -> Sequence[Any]:
  import jax

  if count > jax.config.values['jax_num_cpu_devices']:
    with contextlib.suppress(RuntimeError):  # they have been used: there are those that there are
      jax.config.update('jax_num_cpu_devices', count)
  devices = jax.devices('cpu')
  if len(devices) < count:
    raise InputError(f'--topology=cpu:{count}, but this process has {len(devices)} CPU devices')
  return devices[:count]


def be_quiet() -> None:
  """Sets QUIET where the environment says nothing else."""
  for name, value in QUIET.items():
    os.environ.setdefault(name, value)

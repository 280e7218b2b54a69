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

EXAMPLES = 'v5e:2x4, v5e:16x16, v5p:4x4x4, v6e:8x8, v4:2x2x4, 4*v5e:16x16, cpu:8'


@dataclasses.dataclass(frozen=True)
class Chip:
  """What one chip has and does, at best, in bytes and bytes or operations a second."""

  hbm: int  # that a program may use
  flops: float  # bfloat16
  hbm_bandwidth: float
  link_bandwidth: float  # of one port of the interconnect, one way
  ports: int
  dcn_bandwidth: float  # of the data center network that joins slices, one way, a chip's share


GIB = 2**30
CHIPS = {
  # hbm: what libtpu 0.0.42 says is there when a program asks for too much; the rest is reserved.
  # flops, hbm_bandwidth, ports: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. link_bandwidth:
  # the same pages' interconnect bandwidth a chip over its ports: v5e 400 GB/s both ways over 4,
  # v6e 800 over 4, v4 2400 Gbit/s one way over 6, v5p 4800 over 6. dcn_bandwidth: the same pages:
  # v5p 50 Gbit/s a chip; v5e 6.4 Tbit/s a pod of 256, v6e 25.6. None is published for v4: v5p's.
  'v4': Chip(int(30.75 * GIB), 275e12, 1200e9, 50e9, 6, 6.25e9),
  'v5e': Chip(int(15.75 * GIB), 197e12, 819e9, 50e9, 4, 3.125e9),
  'v5p': Chip(int(95.74 * GIB), 459e12, 2765e9, 100e9, 6, 6.25e9),
  'v6e': Chip(int(31.25 * GIB), 918e12, 1638e9, 100e9, 4, 12.5e9),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices, and the chip that each of them is (None: a CPU, of which nothing is known)."""

  name: str
  devices: Sequence[Any]
  chip: Chip | None
  slices: int = 1  # of equally many devices, in their order; a slower network joins them


def topology(name: str) -> Topology:
  """The machine of a name such as v5e:4x8 (chips), 2*v5e:16x16 (slices) or cpu:8 (devices).

  A device is a chip: the two cores of a v4 are taken as one ("megacore").

  Raises:
    InputError: no such machine; libtpu is not installed.
  """
  count, several, one = name.rpartition('*')
  kind, _, shape = one.partition(':')
  counted = not several or re.fullmatch(r'[1-9]\d*', count)
  slices = int(count) if several and counted else 1
  if counted and kind == 'cpu' and re.fullmatch(r'[1-9]\d*', shape):
    return Topology(name, _cpus(slices * int(shape)), None, slices)
  if not counted or kind not in CHIPS or not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}', shape):
    raise InputError(
      f'--topology is {name!r}; give a kind of chip, of {", ".join(CHIPS)}, and how many lie along '
      f'each side (4* in front: four such slices), or a number of CPU devices: {EXAMPLES}'
    )
  if importlib.util.find_spec('libtpu') is None:
    raise InputError(
      f'compiling for {name} needs libtpu, which is not installed: pip install "hyperjax[tpu]"'
    )
  from jax.experimental import topologies

  options: dict[str, Any] = {'chip_config_name': 'megacore'} if kind == 'v4' else {}
  if slices > 1:
    options['num_slices'] = slices
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=one, **options)
  except Exception as error:  # jaxlib's own, and plugins' of many kinds
    said = str(error).partition(': ')[2] or str(error)
    raise InputError(
      f'--topology={name} is none that libtpu knows ({said}); for example {EXAMPLES}'
    ) from error
  return Topology(name, found.devices, CHIPS[kind], slices)


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

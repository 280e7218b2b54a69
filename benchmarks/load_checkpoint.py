"""Loading other people's checkpoints: how much memory it takes, and how fast it is.

    python benchmarks/load_checkpoint.py

prints one JSON line. A T5 1.1 with random weights is written in each layout and dtype to a folder
that is deleted afterwards, and each is loaded, as it is stored, in a process of its own: onto one
device, and onto a mesh of CPU devices.

The ratio is (peak memory - memory before) / bytes of the parameters that the process holds. Memory
is what Linux counts as resident, of files too (VmHWM); before is once JAX and the library are
loaded. Files are in the page cache when they are read: MB/s (10^6 bytes of parameters a second) is
the speed of reading and unpacking, not of the disk.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hyperjax import convert, fingerprints, partitioning
from hyperjax.convert import huggingface, t5x
from hyperjax.models import t5

MESHES = {'one device': (1, 1), 'fsdp 4, model 2': (4, 2)}


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--size', default='large', help='a T5 1.1 preset')
  parser.add_argument('--vocab', type=int, default=32128)
  parser.add_argument('--kinds', default='t5x,orbax,huggingface')
  parser.add_argument('--dtypes', default='float32,bfloat16')
  parser.add_argument('--folder', help='where there is room for a checkpoint; a temporary folder')
  parser.add_argument('--load', nargs=3, metavar=('PATH', 'DTYPE', 'MESH'), help=argparse.SUPPRESS)
  options = parser.parse_args(arguments)
  config = t5.preset(options.size, options.vocab)
  print(json.dumps(load(config, *options.load) if options.load else measure(config, options)))


def measure(config: t5.T5Config, options: argparse.Namespace) -> dict[str, Any]:
  """Of every layout and dtype: a line for the writing and one for each loading."""
  written, loaded, sizes = [], [], {}
  for dtype in options.dtypes.split(','):
    params = random_params(config, dtype)
    sizes[dtype] = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    marks = fingerprints.fingerprint(params)
    for kind in options.kinds.split(','):
      with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        place = pathlib.Path(folder, 'checkpoint_1')
        seconds = write(kind, place, params, config)
        written.append(
          {'kind': kind, 'dtype': dtype, 'mb_per_second': sizes[dtype] / 1e6 / seconds}
        )
        for mesh in MESHES:
          line = in_a_process(options, str(place), dtype, mesh)
          assert line.pop('fingerprint') == marks, f'{kind}, {dtype}, {mesh}: other values'
          loaded.append({'kind': kind, **line})
  return {
    'size': options.size,
    'vocab': options.vocab,
    'bytes': sizes,
    'cores': len(os.sched_getaffinity(0)),
    'jax': jax.__version__,
    'written': written,
    'loaded': loaded,
    'worst_ratio': max(line['ratio'] for line in loaded),
  }


def shapes_of(config: t5.T5Config) -> Any:
  return jax.eval_shape(t5.T5(config).init_params, jax.random.key(0))


def random_params(config: t5.T5Config, dtype: str) -> Any:
  """Weights that no compression makes small."""
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.standard_normal(leaf.shape, np.float32).astype(jnp.dtype(dtype))
  return jax.tree.map(draw, nn.unbox(shapes_of(config)))


def write(kind: str, place: pathlib.Path, params: Any, config: t5.T5Config) -> float:
  """The seconds that it takes."""
  start = time.perf_counter()
  if kind == 'huggingface':
    huggingface.save(place, t5.T5(config), params)
  else:
    t5x.save(place, params, config, layout=kind)
  return time.perf_counter() - start


def in_a_process(options: argparse.Namespace, *load: str) -> dict[str, Any]:
  command = [sys.executable, __file__, f'--size={options.size}', f'--vocab={options.vocab}']
  done = subprocess.run([*command, '--load', *load], stdout=subprocess.PIPE, check=True)
  return json.loads(done.stdout)


def load(config: t5.T5Config, path: str, dtype: str, mesh: str) -> dict[str, Any]:
  """Loads a checkpoint once, in a process that has done nothing else."""
  jax.config.update('jax_num_cpu_devices', 8)
  boxed = shapes_of(config)
  is_spec = lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec)
  axes = jax.tree.map(tuple, nn.get_partition_spec(boxed), is_leaf=is_spec)
  fsdp, model = MESHES[mesh]
  shape = partitioning.MeshShape(1, fsdp, model)
  devices = partitioning.make_mesh(shape, jax.devices()[: fsdp * model])
  shardings = partitioning.parameter_shardings(devices, axes, nn.unbox(boxed))
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
  before, start = resident('VmRSS'), time.perf_counter()
  params = jax.block_until_ready(convert.load(path, config, dtype, shardings)[0])
  seconds, peak = time.perf_counter() - start, resident('VmHWM')
  held = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(params)
    for shard in leaf.addressable_shards
    if shard.replica_id == 0  # copies on several devices count once
  )
  return {
    'dtype': dtype,
    'mesh': mesh,
    'bytes': held,
    'ratio': (peak - before) / held,
    'mb_per_second': held / 1e6 / seconds,
    'fingerprint': fingerprints.fingerprint(params),
  }


def resident(name: str) -> int:
  """Bytes, of this process's VmRSS (now) or VmHWM (at most)."""
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{name}:'))


if __name__ == '__main__':
  sys.exit(main())

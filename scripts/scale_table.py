"""The table of docs/scaling.md: what HyperT5-Prefix needs at the paper's batch, by compiling it.

    python scripts/scale_table.py                   # compiles every row (minutes each), prints
    python scripts/scale_table.py --only=large --jobs=2
    python scripts/scale_table.py --read=folder     # the table of forecasts that are there already

Needs libtpu: pip install "hyperjax[tpu]".
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

# size, topology, mesh (data, fsdp), other macros
ROWS = [
  ('large', 'v5e:2x4', (1, 8), {'REMAT': 'minimal'}),
  ('large', 'v5e:2x4', (1, 8), {'REMAT': 'full'}),
  ('xl', 'v5e:4x8', (1, 32), {'REMAT': 'full'}),
  ('xl', 'v5e:4x8', (4, 8), {'REMAT': 'full'}),
  ('xxl', 'v5p:4x4x4', (1, 64), {'REMAT': 'minimal'}),
  ('xxl', 'v5p:4x4x4', (4, 16), {'REMAT': 'minimal'}),
]

HEAD = (
  *('model', 'topology', 'data x fsdp', 'remat', 'fits'),
  *('parameters and optimiser', 'temporaries', 'peak of a chip'),
  *('Tflop a chip', 'sent by a chip', 'estimate of a step (compute + hbm + interconnect)'),
  'seconds to compile',
)


def command(row: tuple, output: pathlib.Path) -> list[str]:
  """The verb's arguments for a row."""
  size, topology, (data, fsdp), macros = row
  files = (f'models/t5_1_1_{size}', 'hypermodels/hypert5_prefix', 'runs/hyperpretrain')
  macros = {'DTYPE': 'bfloat16', **macros}
  return [
    *(sys.executable, '-m', 'hyperjax.compile', f'--topology={topology}', f'--output={output}'),
    *(f'--gin_file=gin/{name}.gin' for name in files),
    *(f'--gin.{name}={value!r}' for name, value in macros.items()),
    f'--gin.partitioning.MeshShape.data={data}',
    f'--gin.partitioning.MeshShape.fsdp={fsdp}',
  ]


def name_of(row: tuple) -> str:
  """The file of a row."""
  size, topology, mesh, macros = row
  return '-'.join([size, topology.replace(':', '_'), *map(str, mesh), *map(str, macros.values())])


def cells(row: tuple, report: dict[str, Any]) -> list[str]:
  """A line of the table."""
  size, topology, (data, fsdp), macros = row
  memory, estimate, work = report['memory'], report['estimate'], report['work']
  gib = lambda size: '' if size is None else f'{size / 2**30:.1f} GiB'
  step = sent = ''
  if estimate is not None:
    parts = (estimate[name] for name in ('compute', 'hbm', 'interconnect'))
    step = f'{estimate["step"]:.2f} s ({" + ".join(f"{part:.2f}" for part in parts)})'
    sent = gib(sum(kind['sent'] for kind in work['collectives'].values()))
  return [
    *(size, topology, f'{data} x {fsdp}', macros['REMAT'], 'yes' if report['fits'] else '**no**'),
    gib(sum(memory[kind] for kind in ('trained', 'optimizer', 'frozen'))),
    *(gib(memory['temporaries']), gib(memory['peak'])),
    *(f'{work["flops_per_chip"] / 1e12:.0f}', sent, step),
    f'{report["compile_seconds"]["compile"]:.0f}',
  ]


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--only', default='', help='rows whose file name holds this')
  parser.add_argument('--jobs', type=int, default=1, help='programs compiled beside each other')
  parser.add_argument('--read', help='a folder of forecasts; nothing is compiled')
  options = parser.parse_args()
  folder = pathlib.Path(options.read or tempfile.mkdtemp())
  rows = [row for row in ROWS if options.only in name_of(row)]
  place = lambda row: folder / f'{name_of(row)}.json'
  if not options.read:
    run = lambda row: subprocess.run(command(row, place(row)), check=True)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
      list(pool.map(run, rows))
  print('| ' + ' | '.join(HEAD) + ' |')
  print('|' + '---|' * len(HEAD))
  for row in rows:
    if place(row).exists():
      print('| ' + ' | '.join(cells(row, json.loads(place(row).read_text()))) + ' |')


if __name__ == '__main__':
  main()

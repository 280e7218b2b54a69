"""The tables of docs/scaling.md: what HyperT5 needs at the paper's batch, by compiling its step.

    python scripts/scale_table.py --folder=forecasts              # compiles what is not there yet
    python scripts/scale_table.py --folder=forecasts --only=xxl   # of it, rows with this name
    python scripts/scale_table.py --folder=forecasts --read       # compiles nothing
    python scripts/scale_table.py --folder=forecasts --read --write=docs/scaling.md

A row is a file of the folder, so that a script that was stopped goes on, and rows that a change
concerns are made again by deleting theirs. Needs libtpu: pip install "hyperjax[tpu]".
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hyperjax import forecasts

BATCH = 256
MARKS = ('<!-- scale table -->', '<!-- end of scale table -->')


@dataclasses.dataclass(frozen=True)
class Row:
  """One run on one machine; a mesh is (data, fsdp, model), over `slices` of a topology."""

  head: str  # prefix, lora
  size: str
  topology: str
  mesh: tuple[int, int, int]
  remat: str = 'full'
  slices: int = 1

  @property
  def machine(self) -> str:
    return self.topology if self.slices == 1 else f'{self.slices}*{self.topology}'

  @property
  def name(self) -> str:
    """Its file."""
    parts = (self.head, self.size, self.machine, 'x'.join(map(str, self.mesh)), self.remat)
    return '-'.join(parts).replace(':', '_').replace('*', '_')

  def command(self, output: pathlib.Path) -> list[str]:
    """The verb's arguments."""
    files = (f'models/t5_1_1_{self.size}', f'hypermodels/hypert5_{self.head}', 'runs/hyperpretrain')
    mesh = dict(zip(('data', 'fsdp', 'model'), self.mesh))
    return [
      *(sys.executable, '-m', 'hyperjax.compile', f'--topology={self.machine}', '--until=plan'),
      *(f'--gin_file=gin/{name}.gin' for name in files),
      *("--gin.DTYPE='bfloat16'", f'--gin.REMAT={self.remat!r}', f'--gin.BATCH_SIZE={BATCH}'),
      *(f'--gin.partitioning.MeshShape.{axis}={size}' for axis, size in mesh.items()),
      f'--output={output}',
    ]


SIDES = {  # chips -> how they lie; larger machines are several of the largest slices
  'v5e': {8: '2x4', 32: '4x8', 64: '8x8', 256: '16x16'},
  'v6e': {8: '2x4', 32: '4x8', 64: '8x8', 256: '16x16'},
  'v4': {8: '2x2x2', 32: '2x4x4', 64: '4x4x4', 256: '4x8x8', 1024: '8x8x16'},
  'v5p': {8: '2x2x2', 32: '2x4x4', 64: '4x4x4', 256: '4x8x8', 1024: '8x8x16'},
}

FSDP = {  # over how many chips parameters are split, where there are as many, by sides
  'base': {2: 8, 3: 4},
  'large': {2: 8, 3: 4},
  'xl': {2: 32, 3: 16},
  'xxl': {2: 32, 3: 16},
}


def row(head: str, size: str, kind: str, chips: int, remat: str = 'full') -> Row:
  """The row with the mesh that suits it.

  It has no more parts than the batch has rows. Parameters lie inside a slice, and never along all
  three sides of one, where XLA gathers them by all-reduce.
  """
  largest = max(SIDES[kind])
  slices = max(1, chips // largest)
  sides = SIDES[kind][chips // slices]
  model = max(1, chips // BATCH)
  fsdp = min(FSDP[size][1 + sides.count('x')], chips // slices // model)
  if sides == '2x2x2':
    fsdp = 4 if size in ('base', 'large') else 8  # otherwise too large
  mesh = (chips // fsdp // model, fsdp, model)
  return Row(head, size, f'{kind}:{sides}', mesh, remat, slices)


def rows() -> Sequence[Row]:
  """All rows, the most wanted first."""
  wanted = [('large', 'v5e', 8), ('xl', 'v5e', 32), ('xxl', 'v5p', 64)]
  found = [row(head, *each) for head in ('prefix', 'lora') for each in wanted]
  found += [row('prefix', size, 'v5e', 8) for size in ('base', 'xl')]
  for chips in (64, 256, 8, 32, 1024):  # spread out, so that every part of the table tells a slope
    for size, kinds in {
      'xxl': ('v5p', 'v6e', 'v4', 'v5e'),
      'xl': ('v5e', 'v5p', 'v6e', 'v4'),
      'large': ('v5e', 'v6e', 'v5p', 'v4'),
      'base': ('v5e',),
    }.items():
      found += [row('prefix', size, kind, chips) for kind in kinds]
  # With model=4, which gathers a quarter of the parameters, where that begins to pay.
  split = {'base': (8, 8, 4), 'large': (8, 8, 4), 'xl': (2, 32, 4), 'xxl': (2, 32, 4)}
  found += [Row('prefix', size, 'v5e:16x16', mesh) for size, mesh in split.items()]
  found.append(Row('prefix', 'xl', 'v6e:16x16', split['xl']))
  split = {'large': (16, 4, 4), 'xl': (4, 16, 4), 'xxl': (4, 16, 4)}
  found += [Row('prefix', size, 'v5p:4x8x8', mesh) for size, mesh in split.items()]
  found.append(Row('prefix', 'xl', 'v5e:16x16', (4, 32, 8), slices=4))
  found += [row('lora', size, 'v5e', chips) for size in FSDP for chips in (8, 32, 256)]
  return list(dict.fromkeys(found))


def make(one: Row, folder: pathlib.Path) -> None:
  """Compiles a row, unless it is there."""
  output = folder / f'{one.name}.json'
  if output.exists():
    return
  print(one.name, flush=True)
  unfinished = output.with_suffix('.part')
  done = subprocess.run(one.command(unfinished), capture_output=True, text=True)
  if done.returncode:
    print(done.stderr.strip()[-500:], flush=True)
  else:
    unfinished.rename(output)


# -- The table -------------------------------------------------------------------------------------

HEAD = (
  *('phi', 'model', 'topology', 'chips', 'data x fsdp x model', 'fits'),
  *('parameters and optimiser', 'peak of a chip', 'Tflop a chip', 'sent by a chip'),
  *('estimate of a step', 'compute + hbm + interconnect (+ between slices)', 'chip seconds'),
)


def _fits(report: dict[str, Any]) -> bool | None:
  return forecasts.fits(report['memory'], report['hbm'], report['until'])


def cells(one: Row, report: dict[str, Any]) -> list[str]:
  """A line of the table."""
  memory, estimate, work = report['memory'], report['estimate'], report['work']
  gib = lambda size: '' if size is None else f'{size / 2**30:.1f} GiB'
  step = parts = chip_seconds = sent = ''
  if estimate is not None:
    names = ['compute', 'hbm', 'interconnect', 'between_slices'][: 4 if one.slices > 1 else 3]
    parts = ' + '.join(f'{estimate[name]:.2f}' for name in names)
    step, chip_seconds = f'{estimate["step"]:.2f} s', f'{estimate["step"] * report["chips"]:.0f}'
    sent = gib(sum(kind['sent'] for kind in work['collectives'].values()))
  return [
    *(one.head, one.size, one.machine, str(report['chips']), ' x '.join(map(str, one.mesh))),
    {True: 'yes', False: '**no**', None: 'barely'}[_fits(report)],
    gib(sum(memory[kind] for kind in ('trained', 'optimizer', 'frozen'))),
    *(gib(memory['peak']), f'{work["flops_per_chip"] / 1e12:.0f}', sent, step, parts, chip_seconds),
  ]


def table(head: Sequence[str], lines: Iterator[Sequence[str]]) -> str:
  """Markdown."""
  ruled = [head, ['---'] * len(head), *lines]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in ruled)


def ordered(made: dict[Row, dict[str, Any]]) -> list[tuple[Row, dict[str, Any]]]:
  """By phi, size, kind of chip, number of chips."""
  sizes = list(FSDP)
  key = lambda one: (one.head != 'prefix', sizes.index(one.size), one.topology.split(':')[0])
  return sorted(made.items(), key=lambda pair: (*key(pair[0]), pair[1]['chips']))


def costs(made: dict[Row, dict[str, Any]]) -> Iterator[tuple[Row, int, float]]:
  """Row, chips, and the chip seconds of a step, of rows that fit."""
  for one, report in ordered(made):
    if _fits(report) is not False and report['estimate']:
      yield one, report['chips'], report['estimate']['step'] * report['chips']


def by_chips(made: dict[Row, dict[str, Any]]) -> Iterator[list[str]]:
  """For each model and kind of chip: the cost of a step, against that on its fewest chips."""
  lines: dict[tuple[str, ...], list[tuple[str, float]]] = {}
  for one, chips, cost in costs(made):
    where = str(chips) if one.mesh[2] == 1 else f'{chips} (model {one.mesh[2]})'
    lines.setdefault((one.head, one.size, one.topology.split(':')[0]), []).append((where, cost))
  for key, pairs in lines.items():
    if len(pairs) > 1:
      first = pairs[0][1]
      yield [*key, ', '.join(f'{where}: {cost:.0f} ({cost / first:.2f}x)' for where, cost in pairs)]


def by_size(made: dict[Row, dict[str, Any]]) -> Iterator[list[str]]:
  """For each machine: the cost of a step by size, and of that for a billion parameters.

  With no more model axis than the rows of a batch make necessary.
  """
  lines: dict[tuple[str, ...], list[str]] = {}
  for one, chips, cost in costs(made):
    if one.mesh[2] > max(1, chips // BATCH):
      continue
    billions = sum(made[one]['parameters'].values()) / 1e9
    told = f'{one.size}: {cost:.0f} ({cost / billions:.1f})'
    lines.setdefault((one.head, one.topology.split(':')[0], str(chips)), []).append(told)
  for key, each in lines.items():
    if len(each) > 1:
      yield [*key, ', '.join(each)]


def text(made: dict[Row, dict[str, Any]]) -> str:
  """All tables."""
  tables = (
    table(HEAD, (cells(*pair) for pair in ordered(made))),
    table(('phi', 'model', 'chip', 'chips: chip seconds of a step'), by_chips(made)),
    table(('phi', 'chip', 'chips', 'model: chip seconds (of a billion parameters)'), by_size(made)),
  )
  return '\n\n'.join(tables)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--folder', type=pathlib.Path, required=True, help='of forecasts')
  parser.add_argument('--only', default='', help='rows whose name holds this')
  parser.add_argument('--read', action='store_true', help='compile nothing')
  parser.add_argument('--write', type=pathlib.Path, help='a file whose marked part is renewed')
  options = parser.parse_args()
  options.folder.mkdir(parents=True, exist_ok=True)
  wanted = [one for one in rows() if options.only in one.name]
  if not options.read:
    for one in wanted:
      make(one, options.folder)
  place = lambda one: options.folder / f'{one.name}.json'
  made = {one: json.loads(place(one).read_text()) for one in wanted if place(one).exists()}
  print(text(made))
  if options.write:
    before, _, rest = options.write.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    options.write.write_text(f'{before}{MARKS[0]}\n\n{text(made)}\n\n{MARKS[1]}{after}')


if __name__ == '__main__':
  main()

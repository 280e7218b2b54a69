"""A compiled program as XLA prints it: what each device moves through its memory and to others.

The text is per device. A loop's body counts as often as it runs; a collective that is spread over
several fusions (TPU) counts once.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line: `%name = shape opcode(operands), rest`."""

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  rest: str
  root: bool = False

  def called(self, *keys: str) -> list[str]:
    """Computations that the line names under these keys, such as calls=%fusion.1."""
    return [name for key in keys for name in re.findall(rf'\b{key}=%([\w.\-]+)', self.rest)]

  @property
  def number(self) -> int:
    """The place of a parameter, the value of a whole-number constant."""
    return int(self.operands[0])


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between devices, in every round of the loops that it is in.

  `bytes` are those of the whole: what an all-gather gives, what a reduce-scatter takes.
  """

  kind: str
  bytes: int
  devices: int  # that exchange with each other
  times: int
  where: str  # the operation in our code, as XLA remembers it
  crosses: bool = False  # from one slice to another, over the slower network

  @property
  def sent(self) -> float:
    """Bytes that a device sends, all rounds together, by the best algorithm on a ring."""
    share = {'all-reduce': 2 * (self.devices - 1) / self.devices, 'collective-permute': 1.0}
    each = share.get(self.kind, (self.devices - 1) / self.devices)
    if self.kind == 'all-to-all':
      each /= 4  # halves go both ways round, and half way at most
    return self.times * self.bytes * each


@dataclasses.dataclass(frozen=True)
class Module:
  """The computations of a program, by name."""

  computations: Mapping[str, Computation]
  entry: str
  devices: int = 1
  slice_size: int | None = None  # devices of a slice; None: all lie in one

  @functools.cached_property
  def runs(self) -> Counter[str]:
    """How often each computation runs: the entry once, loops' bodies as often as they go round.

    Computations inside fusions are part of what they are fused into, and not listed.
    """
    runs: Counter[str] = Counter()
    todo = [(self.entry, 1)]
    while todo:
      name, times = todo.pop()
      runs[name] += times
      for line in self.computations[name].values():
        if line.opcode == 'while':
          todo.append((line.called('body')[0], times * self._rounds(line)))
        elif line.opcode == 'conditional':
          branches = line.called('true_computation', 'false_computation')
          listed = re.search(r'branch_computations=\{([^}]*)\}', line.rest)
          branches += re.findall(r'%([\w.\-]+)', listed[1]) if listed else []
          todo += [(branch, times) for branch in branches]
        elif line.opcode in ('call', 'async-start'):
          todo += [(called, times) for called in line.called('to_apply', 'calls')]
    return runs

  def _rounds(self, loop: Instruction) -> int:
    """What the loop says, else the largest number that its condition compares with, in its steps.

    Loops of products with a split kernel ("windowed") go on by two.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if known:
      return int(known[1])
    conditions = loop.called('condition')
    limit = max((n for name in conditions for n in self._numbers(name)), default=1)
    return -(-limit // self._stride(conditions[0], loop.called('body')[0]))

  def _stride(self, condition: str, body: str) -> int:
    """What a round adds to the number that the condition compares; 1 where that is not seen."""
    lines = self.computations[condition]
    compare = next((line for line in lines.values() if line.opcode == 'compare'), None)
    names = compare.operands if compare else ()
    places = [found[1] for name in names if (found := re.search(r'index=(\d+)', lines[name].rest))]
    root = next(line for line in self._own(body) if line.root)
    if not places or root.opcode != 'tuple':
      return 1
    return self._added(body, root.operands[int(places[0])]) or 1

  def _added(self, body: str, name: str) -> int:
    """The whole numbers that a chain of additions and copies adds up to."""
    lines = self.computations[body]
    line = lines.get(name)
    if line is None or line.opcode not in ('add', 'copy'):
      return 0
    own = [lines[each].number for each in line.operands if lines[each].opcode == 'constant']
    return sum(own) + sum(self._added(body, each) for each in line.operands)

  def _numbers(self, name: str) -> Iterator[int]:
    for line in self.computations[name].values():
      if line.opcode == 'constant' and line.shape.startswith(('s32[]', 'u32[]', 's64[]')):
        yield line.number
      for inner in line.called('calls'):
        yield from self._numbers(inner)

  @property
  def collectives(self) -> list[Collective]:
    """Every exchange between devices that the program makes."""
    return [one for name, times in self.runs.items() for one in self._exchanges(name, times)]

  def _exchanges(self, name: str, times: int) -> Iterator[Collective]:
    for fusion, line in self._fused(name):
      if line.opcode == 'send' and (between := _between_slices(line)):
        yield Collective(*between, times, _where(line), True)
      kind = line.opcode.removesuffix('-start')
      goes_on = _channel(line) in self._started and not self._starts(fusion)
      if kind not in KINDS or goes_on:
        continue
      if kind == 'all-reduce' and 'all-reduce-scatter' in fusion:
        kind = 'reduce-scatter'
      together = groups(line.rest, self.devices)
      if (devices := together.shape[1]) != 1:
        moved, where = self._moved(line, kind, fusion), _where(line)
        yield Collective(kind, moved, devices, times, where, self._crosses(together))

  def _crosses(self, together: np.ndarray) -> bool:
    """Whether some of these groups of devices have members in several slices."""
    slices = together // (self.slice_size or self.devices)
    return bool((slices != slices[:, :1]).any())

  @functools.cached_property
  def _started(self) -> set[str]:
    """Channels of exchanges that a TPU starts in one fusion.

    It goes on with them in others, perhaps inside a loop that has nothing to do with them, and ends
    them in yet another one: all of these hold the exchange, with its channel.
    """
    lines = (line for name in self.computations if self._starts(name) for line in self._own(name))
    return {channel for line in lines if (channel := _channel(line))}

  def _starts(self, name: str) -> bool:
    return any('AsyncCollectiveStart' in line.rest for line in self._own(name))

  def _own(self, name: str) -> Iterable[Instruction]:
    return self.computations[name].values()

  def _fused(self, name: str) -> Iterator[tuple[str, Instruction]]:
    """The lines of a computation and of fusions in it, with the computation that they are in."""
    for line in self.computations[name].values():
      yield name, line
      if line.opcode == 'fusion':
        for inner in line.called('calls'):
          yield from self._fused(inner)

  def _moved(self, line: Instruction, kind: str, where: str) -> int:
    shapes = _shapes(line.shape)
    if kind == 'reduce-scatter' and line.opcode.startswith('reduce-scatter'):
      within = self.computations[where]
      given = [within[name].shape for name in line.operands if name in within]
      return sum(map(size, given))
    if line.opcode.endswith('-start') and len(shapes) > 1:  # (given, result)
      return max(size(shape) for shape in shapes)
    return size(line.shape)

  @property
  def traffic(self) -> int:
    """Bytes that a device reads from and writes to its memory: every operand and result once.

    Of stacks that are sliced or written into only the slices count; what XLA keeps in the chip's
    own fast memory does not.
    """
    return sum(times * self._through(name) for name, times in self.runs.items())

  def _through(self, name: str) -> int:
    lines = self.computations[name]
    return sum(self._line(line, lines) for line in lines.values())

  def _line(self, line: Instruction, lines: Computation) -> int:
    if line.opcode in _FREE or line.opcode.endswith('-done'):
      return 0
    if line.opcode == 'fusion':
      inner = line.called('calls')[0]
      reads = sum(
        self._read(inner, i, slow(lines[name].shape))
        for i, name in enumerate(line.operands)
        if name in lines
      )
      return reads + self._written(inner, line.shape)
    given = [slow(lines[name].shape) for name in line.operands if name in lines]
    if line.opcode in ('dynamic-slice', 'gather', 'slice'):
      return 2 * slow(line.shape)
    if line.opcode in ('dynamic-update-slice', 'scatter'):
      return 2 * given[-1 if line.opcode == 'scatter' else 1]
    if line.opcode == 'slice-start':  # ((given), slice, context)
      part = _shapes(line.shape)[len(given)]
      return size(part) + slow(part)
    if line.opcode == 'copy-start':  # (copy, given, context)
      return given[0] + slow(_shapes(line.shape)[0])
    if line.opcode.endswith('-start'):
      return sum(given) + max((slow(shape) for shape in _shapes(line.shape)), default=0)
    return sum(given) + slow(line.shape)

  def _read(self, fusion: str, place: int, whole: int) -> int:
    """Bytes that a fusion reads of one of its operands, which has `whole`."""
    lines = self.computations[fusion]
    own = {line.name for line in lines.values() if line.opcode == 'parameter'}
    own = {name for name in own if lines[name].number == place}
    read = 0
    for line in lines.values():
      for i, name in enumerate(line.operands):
        if name not in own:
          continue
        if line.opcode == 'dynamic-slice':
          read += size(line.shape)
        elif line.opcode == 'fusion':
          read += self._read(line.called('calls')[0], i, whole)
        elif line.opcode != 'dynamic-update-slice' or i != 0:
          return whole
    return min(read, whole)

  def _written(self, fusion: str, shape: str) -> int:
    """Bytes that a fusion writes: of a stack that it updates in place, the update."""
    lines = self.computations[fusion]
    root = next(line for line in lines.values() if line.root)
    parts = [lines[name] for name in root.operands] if root.opcode == 'tuple' else [root]
    written = 0
    for part, place in zip(parts, _shapes(shape)):
      if part.opcode == 'dynamic-update-slice' and slow(place):
        written += size(lines[part.operands[1]].shape)
      else:
        written += slow(place)
    return written


_FREE = {
  'after-all',
  'bitcast',
  'call',
  'conditional',
  'constant',
  'get-tuple-element',
  'iota',
  'opt-barrier',
  'parameter',
  'partition-id',
  'tuple',
  'while',
}


# -- Text ------------------------------------------------------------------------------------------


def parse(text: str, slice_size: int | None = None) -> Module:
  """The program of a text that `compiled.as_text()` gave.

  Where there are several slices, `slice_size` is the number of devices of one. A TPU's program is
  then that of a slice, with sends to the hosts of others; a CPU's is that of all devices.
  """
  computations: dict[str, Computation] = {}
  entry, lines = '', None
  for line in text.splitlines():
    head = re.match(r'(ENTRY )?%?([\w.\-]+) (\(.*)?\{$', line)
    if head and ' = ' not in line.split('{')[0]:
      lines = computations.setdefault(head[2], {})
      entry = head[2] if head[1] else entry
    elif lines is not None and (one := _instruction(line)):
      lines[one.name] = one
  partitions = re.search(r'num_partitions=(\d+)', text.partition('\n')[0])
  return Module(computations, entry, int(partitions[1]) if partitions else 1, slice_size)


def _instruction(line: str) -> Instruction | None:
  head = re.match(r'\s+(ROOT )?%?([\w.\-]+) = ', line)
  if not head:
    return None
  rest = line[head.end() :]
  end = _closed(rest) if rest.startswith('(') else rest.index(' ')
  shape, rest = rest[:end], rest[end:].lstrip()
  opcode, _, _ = rest.partition('(')
  end = _closed(rest[len(opcode) :]) + len(opcode)
  given = rest[len(opcode) + 1 : end - 1]
  operands = tuple(re.findall(r'%([\w.\-]+)', given)) or (given,)
  return Instruction(head[2], shape, opcode, operands, rest[end:], bool(head[1]))


def _closed(text: str) -> int:
  """Where the parenthesis that begins the text is closed."""
  depth = 0
  for match in re.finditer(r'[()]', text):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return match.end()
  return len(text)


_SHAPE = re.compile(r'([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?')


def _shapes(shape: str) -> list[str]:
  """The arrays of a shape, which may be a tuple."""
  return [match[0] for match in _SHAPE.finditer(shape)]


def size(shape: str) -> int:
  """Bytes of a shape."""
  return sum(_bytes(match) for match in _SHAPE.finditer(shape))


def slow(shape: str) -> int:
  """Bytes of the arrays of a shape that lie in the device's main memory."""
  return sum(
    _bytes(match)
    for match in _SHAPE.finditer(shape)
    if not re.search(r'S\([1-9]\)', match[3] or '')
  )


def _bytes(match: re.Match) -> int:
  bits = 8 if match[1] == 'pred' else int((re.search(r'\d+', match[1]) or ['0'])[0])
  return math.prod(int(n) for n in match[2].split(',') if n) * bits // 8


def _channel(line: Instruction) -> str | None:
  found = re.search(r'channel_id=(\d+)', line.rest)
  return found[1] if found else None


def groups(rest: str, devices: int) -> np.ndarray:
  """Who exchanges with whom: [groups, devices of each], two in a permute."""
  if found := re.search(
    r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=(\S+))? \{([^}]*)\}', rest
  ):
    return _of_mesh(*found.groups())
  if found := re.search(r'replica_groups=(\[\S+)', rest):
    return _iota(found[1])
  if found := re.search(r'(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}', rest):
    return np.array([[int(n) for n in each.split(',')] for each in found[1][1:-1].split('},{')])
  return np.arange(devices)[None]


def _iota(text: str) -> np.ndarray:
  """[2,3]<=[3,2]T(1,0) and ([3,2]T(1,0)): whole numbers in some order, in some shape."""
  shape, *order = (
    [int(n) for n in part.split(',')] for part in re.findall(r'[\[(]([\d,]+)[\])]', text)
  )
  sizes, *turned = order if '<=' in text else [shape, *order]
  numbers = np.arange(math.prod(sizes)).reshape(sizes)
  numbers = numbers.transpose(*turned) if turned else numbers
  return numbers.reshape(shape) if '<=' in text else numbers


def _of_mesh(axes: str, order: str | None, over: str) -> np.ndarray:
  """The groups along some axes of a mesh, or along parts of axes: 'x':(2)4, after a first 2."""
  sizes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)]
  chosen = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", over)
  cut: list[tuple[int, bool]] = []  # each axis as before, part, after
  for name, size in sizes:
    found = next(((int(b or 1), int(n or size)) for axis, b, n in chosen if axis == name), None)
    before, part = found or (size, 1)
    cut += [(before, False), (part, True), (size // before // part, False)]
  ids = np.arange(math.prod(size for _, size in sizes)) if order is None else _iota(order)
  ids = ids.reshape([size for size, _ in cut])
  inside = [i for i, (_, own) in enumerate(cut) if own]
  members = math.prod(cut[i][0] for i in inside)
  return np.moveaxis(ids, inside, range(-len(inside), 0)).reshape(-1, members)


_MEGASCALE = {
  'ALL_REDUCE': 'all-reduce',
  'ALL_GATHER': 'all-gather',
  'REDUCE_SCATTER': 'reduce-scatter',
  'ALL_TO_ALL': 'all-to-all',
  'ONE_TO_ONE': 'collective-permute',
}


def _between_slices(line: Instruction) -> tuple[str, int, int] | None:
  """(kind, bytes, slices) of what a TPU hands to its host, for the hosts of other slices."""
  found = re.search(r'_xla_megascale_transfer_type="(\w+)"', line.rest)
  if not found:
    return None
  kind = _MEGASCALE.get(found[1], 'all-to-all')
  target = re.search(r'_xla_megascale_target="\{([^}]*)\}', line.rest)
  count = 2
  if target:
    ends = [[int(n) for n in part.split(':')] for part in target[1].split(',')]
    count = sum(end[-1] - end[0] + 1 for end in ends)
  given = size(_shapes(line.shape)[0])
  return kind, given * (count if kind == 'all-gather' else 1), count


def _where(line: Instruction) -> str:
  found = re.search(r'op_name="([^"]*)"', line.rest)
  return found[1] if found else ''


def by_kind(collectives: Sequence[Collective]) -> dict[str, dict[str, int]]:
  """Of each kind: how many exchanges a step makes, the bytes of the whole, and those sent."""
  table: dict[str, dict[str, int]] = {}
  for one in collectives:
    row = table.setdefault(one.kind, {'count': 0, 'bytes': 0, 'sent': 0})
    row['count'] += one.times
    row['bytes'] += one.times * one.bytes
    row['sent'] += round(one.sent)
  return table

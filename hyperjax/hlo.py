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
      kind = line.opcode.removesuffix('-start')
      goes_on = _channel(line) in self._started and not self._starts(fusion)
      if kind not in KINDS or goes_on:
        continue
      if kind == 'all-reduce' and 'all-reduce-scatter' in fusion:
        kind = 'reduce-scatter'
      devices = _group(line.rest) or self.devices
      if devices != 1:
        yield Collective(kind, self._moved(line, kind, fusion), devices, times, _where(line))

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


def parse(text: str) -> Module:
  """The program of a text that `compiled.as_text()` gave."""
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
  return Module(computations, entry, int(partitions[1]) if partitions else 1)


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


def _group(rest: str) -> int | None:
  """How many devices exchange with each other, two in a permute; None: all there are."""
  if found := re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', rest):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
    parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
    return math.prod(int(part or sizes[axis]) for axis, part in parts)
  if found := re.search(r'replica_groups=\[\d+,(\d+)\]', rest):
    return int(found[1])
  if found := re.search(r'replica_groups=\{\{([\d,]*)\}', rest):
    return found[1].count(',') + 1
  return 2 if 'source_target_pairs' in rest else None


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

"""An episode is a context and targets of the same task; episode n = f(seed, n)."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
from jaxtyping import Int32

from hyperjax import errors
from hyperjax.vocabulary import Vocabulary
from hyperjax.windows import Documents, Windows

Tokens = Int32[np.ndarray, ' _']
Episode = dict[str, Any]
"""task_id: int; hyper_inputs: int32 ids; inputs, targets: tuples of m arrays of int32 ids, targets
with EOS where the text ends; cut: how many parts of the context did not fit whole."""

NOTHING = np.zeros(0, np.int32)


@runtime_checkable
class Episodes(Protocol):
  """A pure function of (seed, n) over the examples of some tasks."""

  @property
  def task_names(self) -> tuple[str, ...]:
    """What `task_id` counts."""
    ...

  @property
  def statistics(self) -> dict[str, dict[str, int]]:
    """Task -> what was kept, left out or truncated -> how many."""
    ...

  def __call__(self, seed: int, n: int) -> Episode: ...

  def wrong_context(self, seed: int, n: int) -> Episode:
    """Episode n with a context that is not its own (an ablation)."""
    ...


# --- Examples and contexts ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
  """One input and all its references, tokenised without EOS."""

  input: Tokens
  outputs: tuple[Tokens, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TaskExamples:
  """A task: its definition, the positive examples of its card, and its instances."""

  name: str
  definition: Tokens | None
  positives: Sequence[Example]
  examples: Sequence[Example]


class Packed(Sequence[Example]):
  """Examples end to end in one array, unpacked when asked for.

  Objects of their own take four times the memory, which counts where there are millions (P3).
  """

  def __init__(self, unpacked: Sequence[Example]):
    texts = [text for each in unpacked for text in (each.input, *each.outputs)]
    small = max((int(text.max()) for text in texts if len(text)), default=0) < 2**16
    self._tokens = np.concatenate([NOTHING, *texts]).astype(np.uint16 if small else np.int32)
    self._ends = np.cumsum([0, *map(len, texts)])
    self._firsts = np.cumsum([0, *(1 + len(each.outputs) for each in unpacked)])

  def __len__(self) -> int:
    return len(self._firsts) - 1

  @overload
  def __getitem__(self, i: int) -> Example: ...
  @overload
  def __getitem__(self, i: slice) -> Sequence[Example]: ...
  def __getitem__(self, i: int | slice) -> Example | Sequence[Example]:
    if isinstance(i, slice):
      return [self[each] for each in range(len(self))[i]]
    i = range(len(self))[i]
    ends = self._ends[self._firsts[i] : self._firsts[i + 1] + 1].tolist()
    tokens = self._tokens[ends[0] : ends[-1]].astype(np.int32)
    x, *ys = (tokens[a - ends[0] : b - ends[0]] for a, b in itertools.pairwise(ends))
    return Example(x, tuple(ys))


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationTask:
  """What one adaptation must answer: a context, and inputs with their references.

  Several that share a name are one task, whose questions have contexts of their own.
  """

  name: str
  category: str | None
  context: Tokens
  inputs: list[Tokens]
  references: list[tuple[str, ...]]
  options: list[tuple[str, ...]] | None = None
  """Of each input the answers to choose from (rank classification); None: answers are written."""
  normalize_by_target_length: bool = False
  """Whether options are compared by their mean log-probability per token; else by its sum."""
  metrics: tuple[str, ...] = ('rouge_l', 'exact_match')
  """The scores of the answers, the main one first (hyperjax.metrics)."""
  context_outputs: tuple[str, ...] = ()
  """The outputs of the examples that the context shows whole (baselines copy them)."""
  cut: int = 0
  """Parts of the context that did not fit whole; of the longest one if each input has its own."""
  empty: int = 0
  """Questions without an input or an answer, which are not asked."""
  shots_missing: int = 0
  """Examples that the context should show, but its task does not have."""
  inputs_truncated: int = 0
  """Inputs that are longer than their length, and lose their head."""


def examples(vocabulary: Vocabulary, pairs: Sequence[tuple[str, Sequence[str]]]) -> list[Example]:
  """Tokenised (input, references) pairs."""
  ids = iter(vocabulary.encode_many([text for x, ys in pairs for text in (x, *ys)]))
  return [Example(next(ids), tuple(next(ids) for _ in ys)) for _, ys in pairs]


def _parts(
  vocabulary: Vocabulary, definition: Tokens | None, shots: Sequence[Example]
) -> list[list[np.ndarray]]:
  x, y = np.array([[vocabulary.x_id], [vocabulary.y_id]], np.int32)
  parts = [] if definition is None else [[x, definition]]
  return parts + [[x, shot.input, y, shot.outputs[0]] for shot in shots]


def context(
  vocabulary: Vocabulary, definition: Tokens | None, shots: Sequence[Example], length: int
) -> tuple[Tokens, int]:
  """`<x> definition <x> in <y> out <x> in <y> out …`, and how many parts did not fit whole.

  The first reference of each shot is shown. As many whole examples as fit, then the head of the
  next one (papers: HyperTuning, appendix A.1).
  """
  parts = _parts(vocabulary, definition, shots)
  if not parts:
    raise errors.InputError('a context needs a definition or at least one example, got neither')
  return _fit(parts, length)


def _fit(parts: list[list[np.ndarray]], length: int) -> tuple[Tokens, int]:
  ends = np.cumsum([sum(map(len, part)) for part in parts])
  tokens = np.concatenate([NOTHING, *(piece for part in parts for piece in part)])
  return tokens[:length], int(np.sum(ends > length))


def joined(
  vocabulary: Vocabulary,
  definition: Tokens | None,
  shots: Sequence[Example],
  query: Tokens,
  length: int,
) -> tuple[Tokens, int]:
  """`<x> definition <x> in1 <y> out1 … <x> query <y>`, and how many parts did not fit whole.

  The context is cut first; of a query that alone is too long the tail is kept.
  """
  room = length - len(query) - 2
  head, cut = _fit(_parts(vocabulary, definition, shots), max(room, 0))
  x, y = np.array([[vocabulary.x_id], [vocabulary.y_id]], np.int32)
  return np.concatenate([head, x, query[max(-room, 0) :], y]), cut


# --- Few-shot episodes ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class FewShotEpisodes:
  """Targets of a task, in the context of its definition and of other examples of it.

  The context is the definition, the first `positives` positive examples of the task, and `shots`
  examples drawn at random in random order. Neither the input of a target nor that of a positive
  example appears a second time. The reference of an example that has several is drawn anew in each
  episode. `rates`: how often each task is drawn (None: as often as it has examples). With
  `join_context` the context stands in the target's own input (in-context baselines).
  """

  tasks: tuple[TaskExamples, ...]
  vocabulary: Vocabulary
  lengths: Mapping[str, int]
  shots: int = 0
  positives: int = 0
  definition: bool = True
  rates: tuple[float, ...] | None = None
  targets_per_context: int = 1
  join_context: bool = False
  relabel: Callable[[np.random.Generator, int, list[Example]], list[Example]] | None = None

  def __post_init__(self):
    if not any(self._usable):
      raise errors.InputError(
        f'none of {len(self.tasks)} tasks has {self.targets_per_context} different examples to'
        f' make an episode of (first: {[task.name for task in self.tasks[:3]]})'
      )
    if self.rates is not None and len(self.rates) != len(self.tasks):
      raise errors.InputError(f'{len(self.rates)} rates for {len(self.tasks)} tasks')

  @functools.cached_property
  def task_names(self) -> tuple[str, ...]:
    return tuple(task.name for task in self.tasks)

  def __call__(self, seed: int, n: int) -> Episode:
    rng = np.random.default_rng((seed, n))
    task_id = int(np.searchsorted(self._cumulative, rng.random(), side='right'))
    targets, shots = self._drawn(rng, task_id)
    return self._episode(rng, task_id, targets, task_id, shots)

  def wrong_context(self, seed: int, n: int) -> Episode:
    """Episode n with the context of another task."""
    others = np.flatnonzero(self._usable)
    if len(others) < 2:
      raise errors.InputError('a wrong context needs a second task with examples')
    rng = np.random.default_rng((seed, n))
    task_id = int(np.searchsorted(self._cumulative, rng.random(), side='right'))
    targets, _ = self._drawn(rng, task_id)
    other = int(rng.choice(others[others != task_id]))
    return self._episode(rng, task_id, targets, other, self._drawn(rng, other)[1])

  def _episode(
    self,
    rng: np.random.Generator,
    task_id: int,
    targets: list[Example],
    context_id: int,
    shots: list[Example],
  ) -> Episode:
    task = self.tasks[context_id]
    definition = task.definition if self.definition else None
    shots = [*self._positives[context_id], *shots]
    inputs = tuple(target.input for target in targets)
    hyper_inputs, cut = NOTHING, 0
    if self.join_context:
      length = self.lengths['inputs']
      both = [joined(self.vocabulary, definition, shots, query, length) for query in inputs]
      inputs, cut = tuple(tokens for tokens, _ in both), max(cut for _, cut in both)
    elif definition is not None or shots:
      hyper_inputs, cut = context(
        self.vocabulary, definition, shots, self.lengths.get('hyper_inputs', 0)
      )
    eos = np.array([self.vocabulary.eos_id], np.int32)
    return {
      'task_id': task_id,
      'hyper_inputs': hyper_inputs,
      'inputs': inputs,
      'targets': tuple(np.concatenate([target.outputs[0], eos]) for target in targets),
      'cut': cut,
    }

  def _drawn(self, rng: np.random.Generator, task_id: int) -> tuple[list[Example], list[Example]]:
    """Targets and shots, all of different inputs, each with one reference."""
    groups, m = self._groups[task_id], self.targets_per_context
    count = min(len(groups), m + self.shots)
    picked = [_one(rng, groups[i]) for i in rng.choice(len(groups), count, replace=False)]
    drawn = [Example(each.input, (_one(rng, each.outputs),)) for each in picked]
    if self.relabel is not None:
      drawn = self.relabel(rng, task_id, drawn)
    return drawn[:m], drawn[m:]

  @functools.cached_property
  def _positives(self) -> list[tuple[Example, ...]]:
    return [
      tuple(example for example in task.positives if not _empty(example))[: self.positives]
      for task in self.tasks
    ]

  @functools.cached_property
  def _groups(self) -> list['_ByInput']:
    """Per task: the examples that can be drawn, those of one input together."""
    return [
      _ByInput(task.examples, {shot.input.tobytes() for shot in shots})
      for task, shots in zip(self.tasks, self._positives)
    ]

  @functools.cached_property
  def _usable(self) -> np.ndarray:
    return np.array([len(groups) >= self.targets_per_context for groups in self._groups], bool)

  @functools.cached_property
  def _cumulative(self) -> np.ndarray:
    counts = [groups.examples for groups in self._groups]
    rates = np.array(counts if self.rates is None else self.rates, np.float64)
    rates = np.where(self._usable, rates, 0)
    if np.any(rates < 0) or not rates.sum():
      raise errors.InputError(f'rates of the tasks must be positive, got {self.rates}')
    return np.cumsum(rates / rates.sum())

  @functools.cached_property
  def statistics(self) -> dict[str, dict[str, int]]:
    """Of each task: examples, and how many of them were left out, or are truncated when used."""
    return {
      task.name: self._statistics_of(task, len(positives), groups)
      for task, positives, groups in zip(self.tasks, self._positives, self._groups)
    }

  def _statistics_of(
    self, task: TaskExamples, positives: int, groups: '_ByInput'
  ) -> dict[str, int]:
    kept = [example for group in groups for example in group]
    empty = sum(map(_empty, task.examples))
    drawable = len(groups) if len(groups) >= self.targets_per_context else 0
    room = self.lengths['inputs'] - 2 * self.join_context
    longest = self.lengths['targets'] - 1  # and EOS
    return {
      'examples': len(kept),
      'empty': empty,
      'skipped': len(task.examples) - empty - len(kept) + (0 if drawable else len(kept)),
      'shots_missing': max(0, self.shots - max(0, len(groups) - self.targets_per_context)),
      'positives_missing': self.positives - positives,
      'inputs_truncated': sum(len(example.input) > room for example in kept),
      'targets_truncated': sum(
        any(len(output) > longest for output in example.outputs) for example in kept
      ),
    }


def _empty(example: Example) -> bool:
  return not len(example.input) or not any(map(len, example.outputs))


class _ByInput(Sequence[list[Example]]):
  """Those of some examples that are not empty nor taken: of each input a list."""

  def __init__(self, every: Sequence[Example], taken: set[bytes]):
    groups = collections.defaultdict(list)
    for i, each in enumerate(every):
      if not _empty(each) and (key := each.input.tobytes()) not in taken:
        groups[key].append(i)
    self._every = every
    self._order = np.array([i for group in groups.values() for i in group], np.uint32)
    self._ends = np.cumsum([0, *map(len, groups.values())], dtype=np.uint32)

  @property
  def examples(self) -> int:
    """How many there are, in all lists."""
    return len(self._order)

  def __len__(self) -> int:
    return len(self._ends) - 1

  def __getitem__(self, i):
    first, end = self._ends[i], self._ends[i + 1]  # IndexError where iteration ends
    return [_without_empty(self._every[j]) for j in self._order[first:end].tolist()]


def _without_empty(example: Example) -> Example:
  """The example with those of its references that say something."""
  if all(map(len, example.outputs)):
    return example
  return Example(example.input, tuple(y for y in example.outputs if len(y)))


def _one(rng: np.random.Generator, choices: Sequence) -> Any:
  return choices[int(rng.integers(len(choices)))] if len(choices) > 1 else choices[0]


# --- Episodes of running text ---------------------------------------------------------------------


class _OverText:
  """What episodes over the windows of documents have in common; a task is a source of text."""

  documents: Documents

  @property
  def windows(self) -> Windows:
    raise NotImplementedError

  @property
  def task_names(self) -> tuple[str, ...]:
    return self.documents.sources

  @property
  def statistics(self) -> dict[str, dict[str, int]]:
    return self.windows.statistics


@dataclasses.dataclass(frozen=True, eq=False)
class CaclmEpisodes(_OverText):
  """Context-augmented causal language modelling (HyperTuning, section 4.2): window = A B C D.

  hyper_inputs `A <extra_id_0> <extra_id_1> D`, inputs B, targets C without EOS (the text goes on).
  |B| is fixed, |C| drawn from `c_lengths`, the rest falls to A and D, each at least `min_segment`.
  With several targets a context the window is A B1 C1 B2 C2 … D.
  """

  documents: Documents
  vocabulary: Vocabulary
  lengths: Mapping[str, int]
  window: int = 512
  b_length: int = 32
  c_lengths: tuple[int, int] = (64, 128)
  min_segment: int = 32
  targets_per_context: int = 1

  def __post_init__(self):
    if self.min_segment < 1:
      raise errors.InputError(f'min_segment is {self.min_segment}; give 1 or more')
    least = self.targets_per_context * (self.b_length + self.c_lengths[0])
    _check_segments(self.b_length, self.c_lengths, self.window, 2 - least, self.lengths)
    _ = self.windows  # raises if there is none

  @functools.cached_property
  def windows(self) -> Windows:
    answers = self.targets_per_context * (self.b_length + self.c_lengths[0])
    shortest = 2 * self.min_segment + answers
    return Windows(self.documents, self.window, shortest)

  def __call__(self, seed: int, n: int) -> Episode:
    return self._episode(seed, n, self.windows.drawn(seed, n))[0]

  def wrong_context(self, seed: int, n: int) -> Episode:
    """Episode n with A and D of another document (of the same source where it has one)."""
    index = self.windows.drawn(seed, n)
    episode, rng = self._episode(seed, n, index)
    a, *_, d = self._segments(rng, self.windows[self.windows.elsewhere(rng, index)])
    return episode | {'hyper_inputs': self._marked(a, d)}

  def _episode(self, seed: int, n: int, index: int) -> tuple[Episode, np.random.Generator]:
    rng = np.random.default_rng((seed, n))
    a, *pairs, d = self._segments(rng, self.windows[index])
    episode = {
      'task_id': self.windows.source(index),
      'hyper_inputs': self._marked(a, d),
      'inputs': tuple(pairs[::2]),
      'targets': tuple(pairs[1::2]),
      'cut': 0,
    }
    return episode, rng

  def _segments(self, rng: np.random.Generator, window: Tokens) -> list[np.ndarray]:
    return segments(
      rng, window, self.b_length, self.c_lengths, self.min_segment, self.targets_per_context
    )

  def _marked(self, a: Tokens, d: Tokens) -> Tokens:
    return marked(self.vocabulary, a, d)


def _check_segments(
  b_length: int,
  c_lengths: tuple[int, int],
  window: int,
  more: int,
  lengths: Mapping[str, int],
) -> None:
  """InputError where B or C is empty, or `lengths` hold less than a window and `more` tokens."""
  low, high = c_lengths
  if not (0 < low <= high and b_length > 0):
    raise errors.InputError(
      f'segments must have at least one token, and c_lengths go up: got b_length {b_length},'
      f' c_lengths {c_lengths}'
    )
  needs = {'hyper_inputs': window + more, 'inputs': b_length, 'targets': high}
  for feature, least in needs.items():
    if lengths.get(feature, 0) < least:
      raise errors.InputError(
        f'length of {feature} is {lengths.get(feature, 0)}, a window of {window} tokens needs'
        f' {least}: raise TASK_FEATURE_LENGTHS or lower window'
      )


def segments(
  rng: np.random.Generator,
  window: Tokens,
  b_length: int,
  c_lengths: tuple[int, int],
  min_segment: int,
  targets: int = 1,
) -> list[np.ndarray]:
  """A, B, C, D of a window (A, B1, C1, B2, C2, …, D for several targets), cut at random."""
  low, high = c_lengths
  free = len(window) - 2 * min_segment - targets * b_length
  c = int(rng.integers(low, min(high, free // targets) + 1))
  a = int(rng.integers(min_segment, min_segment + free - targets * c + 1))
  return np.split(window, np.cumsum([a, *([b_length, c] * targets)]))


def marked(vocabulary: Vocabulary, a: Tokens, d: Tokens) -> Tokens:
  """`A <extra_id_0> <extra_id_1> D`: what the hypermodel reads."""
  sentinels = np.array([vocabulary.sentinel(0), vocabulary.sentinel(1)], np.int32)
  return np.concatenate([a, sentinels, d])


@dataclasses.dataclass(frozen=True, eq=False)
class ReconstructionEpisodes(_OverText):
  """A window is the context; a target goes on, inside it, from the b_length tokens of its input.

  It teaches phi to carry what the context says word for word (as the autoencoding of ICAE does).
  Where each target is in the window, and how long it is, is drawn anew.
  """

  documents: Documents
  lengths: Mapping[str, int]
  window: int = 512
  b_length: int = 32
  c_lengths: tuple[int, int] = (64, 128)
  targets_per_context: int = 1

  def __post_init__(self):
    _check_segments(self.b_length, self.c_lengths, self.window, 0, self.lengths)
    _ = self.windows  # raises if there is none

  @functools.cached_property
  def windows(self) -> Windows:
    return Windows(self.documents, self.window, self.b_length + self.c_lengths[0])

  def __call__(self, seed: int, n: int) -> Episode:
    index = self.windows.drawn(seed, n)
    return self._episode(np.random.default_rng((seed, n)), index, self.windows[index])

  def wrong_context(self, seed: int, n: int) -> Episode:
    """Episode n with the window of another document (of the same source where it has one)."""
    index, rng = self.windows.drawn(seed, n), np.random.default_rng((seed, n))
    episode = self._episode(rng, index, self.windows[index])
    return episode | {'hyper_inputs': self.windows[self.windows.elsewhere(rng, index)]}

  def _episode(self, rng: np.random.Generator, index: int, window: Tokens) -> Episode:
    cuts = [self._cut(rng, len(window)) for _ in range(self.targets_per_context)]
    return {
      'task_id': self.windows.source(index),
      'hyper_inputs': window,
      'inputs': tuple(window[a:b] for a, b, _ in cuts),
      'targets': tuple(window[b:c] for _, b, c in cuts),
      'cut': 0,
    }

  def _cut(self, rng: np.random.Generator, length: int) -> tuple[int, int, int]:
    low, high = self.c_lengths
    c = int(rng.integers(low, min(high, length - self.b_length) + 1))
    start = int(rng.integers(length - self.b_length - c + 1))
    return start, start + self.b_length, start + self.b_length + c


@dataclasses.dataclass(frozen=True, eq=False)
class ClmEpisodes(_OverText):
  """Language modelling as T5's LM adaptation does: a prefix to read, its continuation to write.

  A window is cut at random; both sides have `min_segment` tokens, and fit their lengths. There is
  no context, and no EOS (the text goes on).
  """

  documents: Documents
  lengths: Mapping[str, int]
  window: int = 512
  min_segment: int = 32

  def __post_init__(self):
    if self.min_segment < 1:
      raise errors.InputError(f'min_segment is {self.min_segment}; give 1 or more')
    inputs, targets = self.lengths['inputs'], self.lengths['targets']
    if self.window > inputs + targets or self.min_segment > min(inputs, targets):
      raise errors.InputError(
        f'a window of {self.window} tokens cut into parts of at least {self.min_segment} does not'
        f' fit inputs {inputs} and targets {targets}: lower window or min_segment'
      )
    _ = self.windows

  @functools.cached_property
  def windows(self) -> Windows:
    return Windows(self.documents, self.window, 2 * self.min_segment)

  def __call__(self, seed: int, n: int) -> Episode:
    index = self.windows.drawn(seed, n)
    window = self.windows[index]
    cut = prefix(np.random.default_rng((seed, n)), len(window), self.lengths, self.min_segment)
    return {
      'task_id': self.windows.source(index),
      'hyper_inputs': NOTHING,
      'inputs': (window[:cut],),
      'targets': (window[cut:],),
      'cut': 0,
    }

  def wrong_context(self, seed: int, n: int) -> Episode:
    raise errors.InputError('language modelling has no context, hence no wrong one')


def prefix(
  rng: np.random.Generator, length: int, lengths: Mapping[str, int], min_segment: int
) -> int:
  """Where to cut a window so that both sides fit."""
  first = max(min_segment, length - lengths['targets'])
  last = min(length - min_segment, lengths['inputs'])
  return int(rng.integers(first, last + 1))

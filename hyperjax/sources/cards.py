"""Tasks as text, what a context shows of them, and what is asked."""

import dataclasses
import warnings
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hyperjax import episodes, errors
from hyperjax.episodes import EvaluationTask, Example, FewShotEpisodes, TaskExamples
from hyperjax.vocabulary import Vocabulary

ANSWERS = ('generate', 'rank', 'rank_mean')
MISSING = ('error', 'skip')
CONTEXTS = ('task', 'per_example', 'eval_split')


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
  """An input, its references, and the options among which the answer is, if there are any."""

  input: str
  outputs: tuple[str, ...]
  options: tuple[str, ...] = ()

  @property
  def empty(self) -> bool:
    """Whether nothing can be learned from it."""
    return not self.input or not any(self.outputs)


@dataclasses.dataclass(frozen=True)
class Card:
  """One task: its definition, the positive examples that go with it, and its instances."""

  name: str
  instances: Sequence[Instance]
  definition: str | None = None
  positives: Sequence[Instance] = ()
  category: str | None = None
  metrics: tuple[str, ...] = ('rouge_l', 'exact_match')
  """The scores of its answers, the main one first (hyperjax.metrics)."""
  empty: int = 0
  """Instances that say nothing, and were left out."""


@dataclasses.dataclass(frozen=True)
class Asked:
  """A card whose instances are to be answered, and the examples that its context shows."""

  card: Card
  shots: tuple[Instance, ...] = ()


@dataclasses.dataclass(frozen=True)
class Assembly:
  """What stands in a context, and where the context goes."""

  definition: bool = True
  positives: int = 0
  shots: int = 0
  join_context: bool = False
  answer: str = 'generate'

  def __post_init__(self):
    if self.answer not in ANSWERS:
      raise errors.InputError(f'answer is {self.answer!r}; give one of {", ".join(ANSWERS)}')

  @property
  def has_context(self) -> bool:
    """Whether there is one for a hypermodel to read."""
    return not self.join_context and bool(self.definition or self.positives or self.shots)


def seeded(seed: int, name: str) -> np.random.Generator:
  """The generator of a task's draws: the same for a name and a seed, wherever it is listed."""
  return np.random.default_rng((seed, zlib.crc32(name.encode())))


def check(mixture: Any, least: Mapping[str, int]) -> None:
  """InputError where a number of a mixture is less than it may be, or `missing` is no rule."""
  for name, value in least.items():
    given = getattr(mixture, name)
    if given is not None and given < value:
      raise errors.InputError(f'{type(mixture).__name__}.{name} is {given}; give {value} or more')
  if getattr(mixture, 'missing', 'error') not in MISSING:
    raise errors.InputError(f'missing is {mixture.missing!r}; give one of {", ".join(MISSING)}')
  if getattr(mixture, 'contexts', 'task') not in CONTEXTS:
    raise errors.InputError(f'contexts is {mixture.contexts!r}; give one of {", ".join(CONTEXTS)}')


def present(wanted: Sequence[str], there: Container[str], file: str, missing: str) -> list[str]:
  """Those of the wanted tasks that are there: all, or under missing='skip' as many as there are."""
  absent = [name for name in wanted if name not in there]
  if not absent:
    return list(wanted)
  said = f'{len(absent)} of {len(wanted)} tasks have no {file}: {_some(absent, 3)}'
  if missing == 'skip' and len(absent) == len(wanted):
    raise errors.InputError(f'{said}; put the files of one at least there')
  if missing == 'error':
    raise errors.InputError(
      f"{said}; put the files there, or set missing='skip' to do without (MIXTURE_ARGUMENTS;"
      ' --arguments)'
    )
  warnings.warn(f'{said}; they are left out', errors.Note, stacklevel=3)
  return [name for name in wanted if name in there]


def told_apart(
  tasks: Iterable[TaskExamples], keep: Callable[[TaskExamples], bool], why: str
) -> Iterator[TaskExamples]:
  """The tasks to keep; it is told which are left out, and why."""
  out = []
  for task in tasks:
    if keep(task):
      yield task
    else:
      out.append(task.name)
  tell(out, why)


def tell(left_out: Sequence[str], why: str) -> None:
  """Notes which tasks are left out, if any."""
  if left_out:
    said = f'{len(left_out)} tasks are left out, which {why}: {_some(left_out)}'
    warnings.warn(said, errors.Note, stacklevel=3)


def _some(names: Sequence[str], most: int = 10) -> str:
  return ', '.join(names[:most]) + (', …' if len(names) > most else '')


# --- For training ---------------------------------------------------------------------------------


def few_shot_episodes(
  tasks: Iterable[TaskExamples],
  assembly: Assembly,
  vocabulary: Vocabulary,
  lengths: Mapping[str, int],
  targets_per_context: int,
  rates: Sequence[float] | None = None,
  relabel: Callable[[np.random.Generator, int, list[Example]], list[Example]] | None = None,
) -> FewShotEpisodes:
  """The episodes over tasks; see FewShotEpisodes."""
  return FewShotEpisodes(
    tuple(tasks),
    vocabulary,
    lengths,
    shots=assembly.shots,
    positives=assembly.positives,
    definition=assembly.definition,
    rates=None if rates is None else tuple(rates),
    targets_per_context=targets_per_context,
    join_context=assembly.join_context,
    relabel=relabel,
  )


def tokenised(vocabulary: Vocabulary, cards: Iterable[Card]) -> Iterator[TaskExamples]:
  """Each card's texts as tokens, card by card, so that few texts are held at once."""
  return (_tokenised(vocabulary, card) for card in cards)


def _tokenised(vocabulary: Vocabulary, card: Card) -> TaskExamples:
  both = [*card.positives, *card.instances]
  examples = episodes.examples(vocabulary, [(each.input, each.outputs) for each in both])
  return TaskExamples(
    name=card.name,
    definition=None if card.definition is None else vocabulary.encode(card.definition),
    positives=tuple(examples[: len(card.positives)]),
    examples=episodes.Packed(examples[len(card.positives) :]),
  )


# --- For evaluation -------------------------------------------------------------------------------


def drawn(pool: Iterable[Instance], asked: Iterable[str], count: int, rng) -> tuple[Instance, ...]:
  """`count` instances of a pool in random order, no input twice nor among those that are asked.

  Fewer where the pool has no more. Of an instance with several references one is drawn.
  """
  asked = set(asked)
  usable = {each.input: each for each in pool if not each.empty and each.input not in asked}
  pool = list(usable.values())
  return one_reference((pool[i] for i in rng.permutation(len(pool))[:count]), rng)


def one_reference(instances: Iterable[Instance], rng) -> tuple[Instance, ...]:
  """The instances with one reference each, drawn from those that are not empty."""
  return tuple(
    dataclasses.replace(each, outputs=(str(rng.choice([y for y in each.outputs if y] or [''])),))
    for each in instances
  )


def in_contexts(
  card: Card, pool: Sequence[Instance], count: int, seed: int, contexts: str
) -> list[Asked]:
  """A card's questions, in the context of `count` examples of a pool that are not asked.

  `contexts`: 'task', one set of examples, drawn by (task, seed), for all questions; 'per_example'
  or 'eval_split', a set for each question, which may show the others if the pool has them.
  """
  rng = seeded(seed, card.name)
  if contexts == 'task':
    asked = [each.input for each in card.instances]
    return [Asked(card, drawn(pool, asked, count, rng))]
  return [
    Asked(dataclasses.replace(card, instances=[each]), _around(each, pool, count, rng))
    for each in card.instances
  ]


def _around(asked: Instance, pool: Sequence[Instance], count: int, rng) -> tuple[Instance, ...]:
  """`drawn` for one question: a pool of thousands is not gone through for each."""
  order = rng.permutation(len(pool))
  for some in (4 * count + 8, len(pool)):
    found = drawn((pool[i] for i in order[:some]), [asked.input], count, rng)
    if len(found) == count or some >= len(pool):
      break
  return found


def evaluation_tasks(
  asked: Sequence[Asked],
  assembly: Assembly,
  vocabulary: Vocabulary,
  lengths: Mapping[str, int],
  seed: int = 0,
  wrong_context: bool = False,
) -> list[EvaluationTask]:
  """The questions as tokens; with `wrong_context` each card gets another one's context."""
  shown = asked
  if wrong_context:
    shown = [asked[i] for i in _others([each.card.name for each in asked], seed)]
  known: dict[str, np.ndarray] = {}  # contexts of their own for each question repeat their examples

  def encode(texts: Sequence[str]) -> list[np.ndarray]:
    new = list(dict.fromkeys(text for text in texts if text not in known))
    known.update(zip(new, vocabulary.encode_many(new)))
    return [known[text] for text in texts]

  return [
    _evaluation_task(own, other, assembly, vocabulary, lengths, encode)
    for own, other in zip(asked, shown, strict=True)
  ]


def _evaluation_task(
  own: Asked,
  shown: Asked,
  assembly: Assembly,
  vocabulary: Vocabulary,
  lengths: Mapping[str, int],
  encode: Callable[[Sequence[str]], list[np.ndarray]],
) -> EvaluationTask:
  definition = shown.card.definition if assembly.definition else None
  said = None if definition is None else encode([definition])[0]
  xs, ys = encode([s.input for s in shown.shots]), encode([s.outputs[0] for s in shown.shots])
  examples = [Example(x, (y,)) for x, y in zip(xs, ys)]
  inputs = encode([each.input for each in own.card.instances])
  room = lengths['inputs'] - 2 * assembly.join_context  # and two markers
  truncated = sum(len(tokens) > room for tokens in inputs)
  context, cut = episodes.NOTHING, 0
  if assembly.join_context:
    length = lengths['inputs']
    both = [episodes.joined(vocabulary, said, examples, query, length) for query in inputs]
    inputs, cut = [tokens for tokens, _ in both], max(cut for _, cut in both)
  elif said is not None or examples:
    context, cut = episodes.context(vocabulary, said, examples, lengths.get('hyper_inputs', 0))
  return EvaluationTask(
    name=own.card.name,
    category=own.card.category,
    context=context,
    inputs=inputs,
    references=[each.outputs for each in own.card.instances],
    options=_options(own.card, assembly.answer),
    normalize_by_target_length=assembly.answer == 'rank_mean',
    metrics=own.card.metrics,
    context_outputs=tuple(s.outputs[0] for s in shown.shots[: max(0, len(shown.shots) - cut)]),
    cut=cut,
    empty=own.card.empty,
    shots_missing=max(0, assembly.positives + assembly.shots - len(shown.shots)),
    inputs_truncated=truncated,
  )


def _options(card: Card, answer: str) -> list[tuple[str, ...]] | None:
  """The options of each question, where answers are ranked and every question has some."""
  if answer == 'generate' or not all(each.options for each in card.instances):
    return None
  return [each.options for each in card.instances]


def _others(names: Sequence[str], seed: int) -> np.ndarray:
  """For each entry one of another name; where all names differ, each entry once."""
  unique = list(dict.fromkeys(names))
  if len(unique) < 2:
    raise errors.InputError('a wrong context needs a second task')
  order = np.random.default_rng(seed).permutation(len(unique))
  follows = np.empty(len(unique), np.int64)
  follows[order] = np.roll(order, 1)
  places = {name: [i for i, other in enumerate(names) if other == name] for name in unique}
  count = dict.fromkeys(unique, 0)
  others = np.empty(len(names), np.int64)
  for i, name in enumerate(names):
    theirs = places[unique[follows[unique.index(name)]]]
    others[i] = theirs[count[name] % len(theirs)]
    count[name] += 1
  return others

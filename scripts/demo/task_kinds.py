"""A demo task is a rule that draws pairs of a short input and its output.

Also the small grammars that inputs are drawn from. All randomness comes from the generator that is
passed in, seeded with the task's name, so that a task does not change when another one does.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import task_tables as tables

Pair = tuple[str, tuple[str, ...]]  # input, references
Draw = Callable[[random.Random], tuple[str, str]]
TextDraw = Callable[[random.Random], str]

EXECUTION = 'Program Execution'
DRAWS = 20_000  # how often a rule is asked for one more pair before it counts as exhausted


@dataclasses.dataclass(frozen=True)
class Task:
  """One task; `held_out` is None for a training task.

  pairs: candidate pairs without end or from a finite table, in the order they are taken.
  labels: the outputs of a classification task, which the instances hold in equal numbers.
  held_out: the words which no training task writes (labels, affixes, separators), may be empty.
  """

  name: str
  category: str
  definition: str
  pairs: Callable[[random.Random], Iterator[Pair]]
  labels: tuple[str, ...] = ()
  held_out: tuple[str, ...] | None = None


def rule(
  name: str, category: str, definition: str, draw: Draw, held_out: Sequence[str] | None = None
) -> Task:
  """A task whose pairs are drawn one by one."""

  def pairs(rng: random.Random) -> Iterator[Pair]:
    for _ in range(DRAWS):
      source, output = draw(rng)
      yield source, (output,)

  return Task(name, category, definition, pairs, held_out=_words(held_out))


def mapped(
  name: str,
  definition: str,
  source: TextDraw,
  change: Callable[[str], str],
  held_out: Sequence[str] | None = None,
  category: str = EXECUTION,
) -> Task:
  """A task whose output is a function of the input alone."""

  def draw(rng: random.Random) -> tuple[str, str]:
    text = source(rng)
    return text, change(text)

  return rule(name, category, definition, draw, held_out)


def table(
  name: str,
  category: str,
  definition: str,
  entries: Sequence[tuple[str, ...]],
  held_out: Sequence[str] | None = None,
) -> Task:
  """A task whose pairs are all written down: (input, output); equal inputs join their outputs."""
  references: dict[str, list[str]] = {}
  for source, output in entries:
    outputs = references.setdefault(source, [])
    if output not in outputs:
      outputs.append(output)

  def pairs(rng: random.Random) -> Iterator[Pair]:
    sources = list(references)
    rng.shuffle(sources)
    for source in sources:
      yield source, tuple(references[source])

  return Task(name, category, definition, pairs, held_out=_words(held_out))


def classes(
  name: str,
  category: str,
  definition: str,
  groups: dict[str, TextDraw],
  held_out: bool = False,
) -> Task:
  """A task that names the group (label -> draw of an input) that the input comes from."""
  labels = tuple(groups)

  def pairs(rng: random.Random) -> Iterator[Pair]:
    for _ in range(DRAWS):
      label = rng.choice(labels)
      yield groups[label](rng), (label,)

  return Task(name, category, definition, pairs, labels, labels if held_out else None)


def all_classes(
  prefix: str,
  category: str,
  groups: Iterable[tuple[str, dict[str, TextDraw]]],
  held_out: Iterable[tuple[str, dict[str, TextDraw]]],
) -> list[Task]:
  """Classification tasks of (definition, {label: draw}), named by their labels."""
  return [
    classes(f'{prefix}_' + '_or_'.join(map(slug, draws)), category, definition, draws, is_held_out)
    for is_held_out, some in ((False, groups), (True, held_out))
    for definition, draws in some
  ]


def _words(held_out: Sequence[str] | None) -> tuple[str, ...] | None:
  return None if held_out is None else tuple(held_out)


def pick(variants: Sequence[str], i: int, **fields: str) -> str:
  """The i-th wording, round and round, with its fields filled in."""
  return variants[i % len(variants)].format(**fields)


def slug(text: str) -> str:
  """A task name's form of any text."""
  return '_'.join(''.join(c if c.isalnum() else ' ' for c in text.lower()).split())


# What inputs are made of.

SHORT = ('{}', 'the {}', 'this {}', 'our {}', 'look, the {}')
SEEN = ('i saw the {}', 'he drew the {}', 'we like the {}', 'where is the {}', 'show me the {}')
SAID = ('{}', 'the word {}', 'he said {}', 'she wrote {}', 'they read {}')


def members(words: Sequence[str], frames: Sequence[str]) -> TextDraw:
  """A draw of a word in a frame."""
  return lambda rng: rng.choice(frames).format(rng.choice(words))


def third(verb: str) -> str:
  """The verb's form for he, she or it."""
  if verb in ('go', 'do'):
    return verb + 'es'
  if verb.endswith(('s', 'x', 'ch', 'sh')):
    return verb + 'es'
  if verb.endswith('y') and verb[-2] not in 'aeiou':
    return verb[:-1] + 'ies'
  return verb + 's'


def article(noun: str) -> str:
  """The noun after `a` or `an`."""
  return ('an ' if noun[0] in 'aeiou' else 'a ') + noun


def noun_phrase(rng: random.Random) -> str:
  """the small box; a blue key; old table."""
  noun = f'{rng.choice(tables.ADJECTIVES)} {rng.choice(tables.THINGS)}'
  return rng.choice((noun, noun, f'the {noun}', article(noun), f'my {noun}'))


def verb_phrase(rng: random.Random) -> str:
  """move the small box."""
  verb = rng.choice(tables.VERBS)[0]
  return f'{verb} {rng.choice(("the", "this", "my", "that"))} {_thing(rng)}'


def clause(rng: random.Random) -> str:
  """tom moved the small box."""
  return f'{rng.choice(tables.PEOPLE)} {rng.choice(tables.VERBS)[1]} the {_thing(rng)}'


def state(rng: random.Random) -> str:
  """the box is small."""
  return f'the {rng.choice(tables.THINGS)} is {rng.choice(tables.ADJECTIVES[:-3])}'


def phrase(rng: random.Random) -> str:
  """Any of the above."""
  return rng.choice((noun_phrase, noun_phrase, verb_phrase, clause, state))(rng)


def plain_word(rng: random.Random) -> str:
  """One common word."""
  return rng.choice(tables.PLAIN_WORDS)


def some_words(rng: random.Random, least: int, most: int | None = None) -> list[str]:
  """Different common words, from `least` to `most` of them."""
  return rng.sample(tables.PLAIN_WORDS, rng.randint(least, most or least))


def line(least: int, most: int) -> TextDraw:
  """A draw of from `least` to `most` different common words."""
  return lambda rng: ' '.join(some_words(rng, least, most))


def the_thing(rng: random.Random) -> str:
  """the box; the small box."""
  return f'the {_thing(rng)}'


def _thing(rng: random.Random) -> str:
  noun = rng.choice(tables.THINGS)
  return noun if rng.random() < 0.4 else f'{rng.choice(tables.ADJECTIVES)} {noun}'

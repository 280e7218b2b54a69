"""Symbol tuning: labels replaced by arbitrary symbols, which only the context's examples tell."""

import dataclasses
import functools
import re
import string
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from hyperjax import errors
from hyperjax.episodes import EvaluationTask, Example, FewShotEpisodes
from hyperjax.sources import cards
from hyperjax.sources.cards import Asked, Card, Instance
from hyperjax.sources.files import DataDir
from hyperjax.vocabulary import Vocabulary

LABELS = ('symbols', 'natural')
HELD_OUT = (
  'subj',
  'tweet_eval-hate',
  'tweet_eval-stance_abortion',
  'tweet_eval-stance_atheism',
  'tweet_eval-stance_feminist',
  'tweet_eval-stance_hillary',
  'ade_corpus_v2-classification',
)
"""Evaluation tasks of the paper, as far as CrossFit has them under these names."""


# --- Symbols --------------------------------------------------------------------------------------


def symbols(
  rng: np.random.Generator, labels: Sequence[str], training: bool, vocabulary: Vocabulary
) -> list[str]:
  """A symbol for each label: an integer, a combination of letters or a word, all different.

  None is a label or a word of one, nor has pieces that the vocabulary lacks. No symbol of training
  is one of evaluation: the parity of their checksums tells.
  """
  taken = {word for label in labels for word in (label.lower(), *re.split(r'\W|_', label.lower()))}
  drawn: dict[str, None] = {}
  for _ in range(1_000 * len(labels)):
    if len(drawn) == len(labels):
      break
    symbol = _KINDS[int(rng.integers(len(_KINDS)))](rng, words(vocabulary))
    if is_for_training(symbol) == training and symbol not in taken:
      if vocabulary.unk_id not in vocabulary.encode(symbol):
        drawn[symbol] = None
  if len(drawn) < len(labels):
    raise errors.InputError(
      f'vocabulary {vocabulary.path} can write {len(drawn)} symbols, a task has {len(labels)}'
      ' labels: symbol tuning needs one with digits, letters or words'
    )
  return list(drawn)


def is_for_training(symbol: str) -> bool:
  """Which half of all symbols one belongs to."""
  return zlib.crc32(symbol.encode()) % 2 == 0


def _integer(rng: np.random.Generator, words: Sequence[str]) -> str:
  return str(int(rng.integers(100_000)))


def _letters(rng: np.random.Generator, words: Sequence[str]) -> str:
  return ''.join(rng.choice(list(string.ascii_lowercase), int(rng.integers(3, 6))))


def _word(rng: np.random.Generator, words: Sequence[str]) -> str:
  return str(words[int(rng.integers(len(words)))]) if words else _letters(rng, words)


_KINDS: tuple[Callable[[np.random.Generator, Sequence[str]], str], ...] = (
  _integer,
  _letters,
  _word,
)


# --- Tasks with labels ----------------------------------------------------------------------------


def labelled(card: Card, max_labels: int) -> Card | None:
  """The card with its labels as the options of all its instances; None: it has none.

  Choices that differ from line to line are listed behind the input, and their letters chosen. A
  task without options is a classification if at most `max_labels` outputs make up its instances,
  each there twice in the mean.
  """
  instances = [each for each in card.instances if not each.empty and len(each.outputs) == 1]
  if not instances or len(instances) < len([each for each in card.instances if not each.empty]):
    return None
  if not any(each.options for each in instances):
    labels = tuple(sorted({each.outputs[0] for each in instances}))
    few = len(labels) <= max_labels and 2 * len(labels) <= len(instances)
    with_options = [dataclasses.replace(each, options=labels) for each in instances] if few else []
  elif len({frozenset(each.options) for each in instances}) == 1:
    labels = instances[0].options
    with_options = [dataclasses.replace(each, options=labels) for each in instances]
  else:
    counts = {len(each.options) for each in instances}
    listable = 0 < min(counts) and max(counts) <= len(string.ascii_uppercase)
    with_options = [_listed(each) for each in instances] if listable else []
  made = dataclasses.replace(card, instances=with_options, metrics=('accuracy',))
  return made if len(labels_of(made)) > 1 else None


def labels_of(card: Card) -> tuple[str, ...]:
  """The labels of a card that has some: an instance may have fewer choices than another."""
  return max((each.options for each in card.instances), key=len, default=())


def _listed(instance: Instance) -> Instance:
  letters = tuple(string.ascii_uppercase[: len(instance.options)])
  lines = (f'({letter}) {option}' for letter, option in zip(letters, instance.options))
  chosen = letters[instance.options.index(instance.outputs[0])]
  return Instance('\n'.join((instance.input, *lines)), (chosen,), letters)


# --- The mixture ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SymbolTuning:
  """Few-shot classification with arbitrary labels (Wei et al. 2023), answers by rank.

  The classification tasks of `source` (a mixture with cards: MetaICL, NaturalInstructions, P3);
  those in `held_out` are evaluated, and all others trained on; where it is empty, the source's own
  splits say which are. In an episode each label is another symbol, the same in context and targets;
  symbols of evaluation are never those of training. `instruction`: show the task's definition,
  which may name the labels. `labels`: 'symbols', or 'natural', the comparison. Tasks that are no
  classification are told and left out.
  """

  average: ClassVar[str] = 'tasks'
  has_context: ClassVar[bool] = True

  source: Any
  held_out: Sequence[str] = HELD_OUT
  instruction: bool = False
  labels: str = 'symbols'
  shots: int = 16
  max_labels: int = 16

  def __post_init__(self):
    cards.check(self, {'shots': 1, 'max_labels': 2})
    if self.labels not in LABELS:
      raise errors.InputError(f'labels is {self.labels!r}; give one of {", ".join(LABELS)}')
    if not hasattr(self.source, 'cards') or not hasattr(self.source, 'shots'):
      raise errors.InputError(
        f'SymbolTuning.source is {self.source!r}; give a mixture of tasks, such as MetaICL'
      )

  @property
  def seeds(self) -> tuple[int, ...]:
    """Those of the source."""
    return getattr(self.source, 'seeds', (0,))

  @property
  def eval_split(self) -> str:
    """That of the source."""
    return getattr(self.source, 'eval_split', 'test')

  @property
  def assembly(self) -> cards.Assembly:
    """What contexts show."""
    return cards.Assembly(self.instruction, 0, self.shots, False, 'rank')

  def episodes(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> FewShotEpisodes:
    every = list(self.source.cards(data_dir, split))
    chosen = self._of(every, [card.name for card in every], split == self.eval_split)
    usable = [card for card in self._labelled(chosen) if card is not None]
    names = [labels_of(card) for card in usable]
    return cards.few_shot_episodes(
      cards.tokenised(vocabulary, usable),
      self.assembly,
      vocabulary,
      lengths,
      targets_per_context,
      relabel=Relabelled(vocabulary, names, split == 'train') if self.labels == 'symbols' else None,
    )

  def evaluation_tasks(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'test',
    seed: int = 0,
    limit: int | None = None,
    wrong_context: bool = False,
  ) -> list[EvaluationTask]:
    """Of each task the first `limit` questions, in the context of examples of the same symbols."""
    source = dataclasses.replace(self.source, shots=self.shots)
    every = source.asked(data_dir, split, seed, None)
    chosen = self._of(every, [each.card.name for each in every], True)
    asked = self._asked(chosen, vocabulary, seed, limit)
    return cards.evaluation_tasks(asked, self.assembly, vocabulary, lengths, seed, wrong_context)

  def _of(self, every: Sequence[Any], names: Sequence[str], evaluated: bool) -> list[Any]:
    """Those that are held out, or those that are not; all where none are.

    A held-out task under a wrong name would be trained on: it is told.
    """
    if not self.held_out:
      return list(every)
    cards.tell(
      [name for name in self.held_out if name not in names],
      'are held out, but which the source does not have under these names',
    )
    chosen = [each for each, name in zip(every, names) if (name in self.held_out) == evaluated]
    if not chosen:
      raise errors.InputError(
        f'held_out {list(self.held_out)} leaves none of the {len(set(names))} tasks of the source'
        f' to {"evaluate" if evaluated else "train on"} (SymbolTuning.held_out)'
      )
    return chosen

  def _labelled(self, every: Sequence[Card]) -> list[Card | None]:
    """`labelled` of each card; which of them have no labels is told."""
    made = [labelled(card, self.max_labels) for card in every]
    bare = dict.fromkeys(card.name for card, own in zip(every, made) if own is None)
    cards.tell(list(bare), 'are no classification')
    if not any(made):
      raise errors.InputError(
        f'none of {len(every)} tasks is a classification: symbol tuning needs tasks with labels'
        ' (SymbolTuning.source, held_out)'
      )
    untold = [card.name for card in made if card is not None and card.definition is None]
    if self.instruction and untold:
      raise errors.InputError(
        f'{len(untold)} of {len(every)} tasks have no definition to show: {untold[0]}, …; take'
        ' another SymbolTuning.source, or set instruction=False'
      )
    return made

  def _asked(
    self, every: Sequence[Asked], vocabulary: Vocabulary, seed: int, limit: int | None
  ) -> list[Asked]:
    both = [  # questions and shots together: they have the same labels
      dataclasses.replace(each.card, instances=[*each.card.instances, *each.shots])
      for each in every
    ]
    made: list[Asked] = []
    counts: Counter[str] = Counter()  # of one task there may be a card for each question
    for each, card in zip(every, self._labelled(both)):
      if card is None or (limit is not None and counts[card.name] >= limit):
        continue
      count = sum(not instance.empty for instance in each.card.instances)
      some = count if limit is None else min(count, limit - counts[card.name])
      counts[card.name] += some
      card = dataclasses.replace(card, empty=card.empty + len(each.card.instances) - count)
      queries, shots = card.instances[:some], card.instances[count:]
      made.append(self._replaced(card, queries, shots, vocabulary, seed))
    return made

  def _replaced(self, card, queries, shots, vocabulary: Vocabulary, seed: int) -> Asked:
    labels = labels_of(card)
    table = dict(zip(labels, labels))
    if self.labels == 'symbols':
      rng = cards.seeded(seed, card.name)
      table = dict(zip(labels, symbols(rng, labels, False, vocabulary)))
    new = lambda each: Instance(
      each.input, (table[each.outputs[0]],), tuple(table[y] for y in each.options)
    )
    return Asked(
      dataclasses.replace(card, instances=list(map(new, queries))), tuple(map(new, shots))
    )


@functools.lru_cache(maxsize=2)
def words(vocabulary: Vocabulary) -> list[str]:
  """The pieces of a vocabulary that are whole words of three lower-case letters or more."""
  pieces = vocabulary.words
  return [word for word in pieces if len(word) > 2 and word.isascii() and word.islower()]


class Relabelled:
  """`relabel` of FewShotEpisodes: each label of a task becomes a symbol, drawn for the episode."""

  def __init__(self, vocabulary: Vocabulary, labels: Sequence[tuple[str, ...]], training: bool):
    self._vocabulary, self._labels, self._training = vocabulary, labels, training
    self._index = [
      {tokens.tobytes(): i for i, tokens in enumerate(vocabulary.encode_many(own))}
      for own in labels
    ]
    if alike := [own for own, index in zip(labels, self._index) if len(index) < len(set(own))]:
      raise errors.InputError(
        f'vocabulary {vocabulary.path} cannot tell some of the labels {", ".join(alike[0])} apart:'
        ' take one that has their letters, or leave their task out (SymbolTuning.source)'
      )

  def __call__(
    self, rng: np.random.Generator, task_id: int, examples: list[Example]
  ) -> list[Example]:
    labels = self._labels[task_id]
    drawn = symbols(rng, labels, self._training, self._vocabulary)
    tokens = [self._vocabulary.encode(symbol) for symbol in drawn]
    index = self._index[task_id]
    return [Example(each.input, (tokens[index[each.outputs[0].tobytes()]],)) for each in examples]

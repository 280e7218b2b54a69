"""Contamination: questions of an evaluation whose inputs stand in the training data too."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hyperjax import metrics
from hyperjax.episodes import EvaluationTask, TaskExamples
from hyperjax.errors import InputError
from hyperjax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Overlap:
  """An evaluated task: its questions, those that are trained on, and in each task how many."""

  name: str
  questions: int
  known: int
  trained: Mapping[str, int]


def overlaps(
  trained: Iterable[TaskExamples], asked: Sequence[EvaluationTask], vocabulary: Vocabulary
) -> list[Overlap]:
  """Of each evaluated task how many inputs are those of training examples.

  Inputs are compared whole, their prompt included, by a hash of their text in lower case, without
  punctuation and with single spaces (metrics.normal), as the vocabulary decodes it.
  """
  keys: dict[str, list[bytes]] = {}
  for questions in asked:
    keys.setdefault(questions.name, []).extend(_keys(questions.inputs, vocabulary))
  found: dict[bytes, Counter[str]] = {key: Counter() for own in keys.values() for key in own}
  for task in trained:
    for key in _keys((each.input for each in task.examples), vocabulary):
      if key in found:
        found[key][task.name] += 1
  return [_overlap(name, own, found) for name, own in keys.items()]


def _overlap(name: str, keys: Sequence[bytes], found: Mapping[bytes, Counter[str]]) -> Overlap:
  trained = Counter(task for key in keys for task in found[key])
  return Overlap(
    name, len(keys), sum(bool(found[key]) for key in keys), dict(trained.most_common())
  )


def _keys(inputs: Iterable[np.ndarray], vocabulary: Vocabulary) -> Iterator[bytes]:
  """The hashes of inputs; one that is nothing but punctuation counts by its tokens.

  Of one that a context stands in front of, `… <x> input <y>`, the input.
  """
  for tokens in inputs:
    if len(tokens) and tokens[-1] == vocabulary.y_id:
      tokens = tokens[np.max(np.flatnonzero(tokens == vocabulary.x_id), initial=-1) + 1 : -1]
    text = metrics.normal(vocabulary.decode(tokens)) or repr(list(map(int, tokens)))
    yield hashlib.blake2b(text.encode(), digest_size=8).digest()


def tasks_of(episodes: Any) -> tuple[TaskExamples, ...]:
  """The tasks behind the episodes of a mixture.

  Raises:
    InputError: it is made of running text.
  """
  parts = [episodes]
  while any(hasattr(part, 'parts') or hasattr(part, 'inner') for part in parts):
    parts = [
      each for part in parts for each in getattr(part, 'parts', [getattr(part, 'inner', part)])
    ]
  tasks = tuple(task for part in parts for task in getattr(part, 'tasks', ()))
  if not tasks:
    raise InputError('contamination is told of mixtures of tasks; this one is running text')
  return tasks

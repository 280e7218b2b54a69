"""Symbol tuning: the words of answers replaced by random ones, which only the context tells."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from hyperjax import errors
from hyperjax.episodes import NOTHING, Episode, Episodes, Tokens
from hyperjax.sources.files import DataDir
from hyperjax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Symbols:
  """Few-shot episodes of `mixture` with other words for its answers (Wei et al. 2023).

  Which words a task answers with cannot be remembered then. Unlike in the paper the task need not
  be a classification: tokens that at least two of the context's outputs have, and no input, get
  random tokens of the same kind (that begin a word, or go on with one) in place, the same in
  definition, context and targets.
  """

  mixture: Any

  def episodes(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> 'SymbolEpisodes':
    if getattr(self.mixture, 'join_context', False):
      raise errors.InputError(
        'Symbols needs the context apart; set join_context of its mixture off'
      )
    inner = self.mixture.episodes(data_dir, vocabulary, lengths, split, targets_per_context)
    return SymbolEpisodes(inner, vocabulary)


@dataclasses.dataclass(frozen=True, eq=False)
class SymbolEpisodes:
  """Episode n of `inner` under a map of tokens that is drawn by (seed, n)."""

  inner: Episodes
  vocabulary: Vocabulary

  @property
  def task_names(self) -> tuple[str, ...]:
    return self.inner.task_names

  @property
  def statistics(self) -> dict[str, dict[str, int]]:
    return self.inner.statistics

  def __call__(self, seed: int, n: int) -> Episode:
    return self._replaced(self.inner(seed, n), seed, n)

  def wrong_context(self, seed: int, n: int) -> Episode:
    return self._replaced(self.inner.wrong_context(seed, n), seed, n)

  def _replaced(self, episode: Episode, seed: int, n: int) -> Episode:
    tokens = episode['hyper_inputs']
    outputs, definition = _places(tokens, self.vocabulary)
    asked = np.concatenate([tokens[(outputs < 0) & ~definition], *episode['inputs']])
    seen = [np.unique(tokens[outputs == i]) for i in np.unique(outputs[outputs >= 0])]
    answers, counts = np.unique(np.concatenate([NOTHING, *seen]), return_counts=True)
    answers = answers[(counts > 1) & ~np.isin(answers, asked)]
    table = self._drawn(answers, np.random.default_rng((seed, n, 2)))
    return episode | {
      'hyper_inputs': np.where((outputs >= 0) | definition, table[tokens], tokens),
      'targets': tuple(table[target] for target in episode['targets']),
    }

  def _drawn(self, answers: Tokens, rng: np.random.Generator) -> Tokens:
    """A table of all ids, in which each of `answers` is another of its kind."""
    table = np.arange(self.vocabulary.size, dtype=np.int32)
    ordinary = np.arange(self.vocabulary.pieces) > self.vocabulary.unk_id
    begins = self.vocabulary.begins_word
    for kind in (begins & ordinary, ~begins & ordinary):
      own = answers[np.isin(answers, np.flatnonzero(kind))]
      table[own] = rng.choice(np.flatnonzero(kind), len(own), replace=False)
    return table


def _places(tokens: Tokens, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
  """Of each token of a context: which output it is in (-1: none), and whether in the definition."""
  x, y = tokens == vocabulary.x_id, tokens == vocabulary.y_id
  last = np.maximum.accumulate(np.where(x | y, np.arange(len(tokens)), -1))
  outputs = np.where((last >= 0) & y[last] & ~y, np.cumsum(y) - 1, -1)
  marks = np.flatnonzero(x | y)
  defined = len(marks) > 1 and bool(x[marks[1]])  # <x> definition <x> …
  return outputs, (np.arange(len(tokens)) < marks[1]) if defined else np.zeros(len(tokens), bool)

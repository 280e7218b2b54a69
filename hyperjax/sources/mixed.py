"""Several mixtures as one: each episode comes from a part drawn by its rate."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hyperjax import errors
from hyperjax.episodes import Episode, Episodes
from hyperjax.sources.files import DataDir
from hyperjax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Mixed:
  """Episodes of `parts`, (mixture, rate) pairs; rates are relative.

  All parts share the lengths. A part without contexts, such as Clm, has empty ones.
  """

  parts: Sequence[Any]

  def __post_init__(self):
    if not self.parts or not all(map(_is_part, self.parts)):
      raise errors.InputError(f'Mixed.parts is {self.parts!r}; give (mixture, rate above 0) pairs')

  def episodes(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> 'MixedEpisodes':
    parts = [
      mixture.episodes(data_dir, vocabulary, lengths, split, targets_per_context)
      for mixture, _ in self.parts
    ]
    return MixedEpisodes(tuple(parts), tuple(float(rate) for _, rate in self.parts))


@dataclasses.dataclass(frozen=True, eq=False)
class MixedEpisodes:
  """Episode n of the part that (seed, n) draws; task ids count through the parts."""

  parts: tuple[Episodes, ...]
  rates: tuple[float, ...]

  @functools.cached_property
  def task_names(self) -> tuple[str, ...]:
    return tuple(name for part in self.parts for name in part.task_names)

  @property
  def statistics(self) -> dict[str, dict[str, int]]:
    """By task; one that comes again in a later part has that part's number (from 0) behind it."""
    result: dict[str, dict[str, int]] = {}
    for i, part in enumerate(self.parts):
      own = part.statistics.items()
      result |= {f'{name} ({i})' if name in result else name: counts for name, counts in own}
    return result

  def __call__(self, seed: int, n: int) -> Episode:
    part, first = self._drawn(seed, n)
    return _shifted(part(seed, n), first)

  def wrong_context(self, seed: int, n: int) -> Episode:
    part, first = self._drawn(seed, n)
    return _shifted(part.wrong_context(seed, n), first)

  def _drawn(self, seed: int, n: int) -> tuple[Episodes, int]:
    """The part, and the number of tasks in the parts before it."""
    shares = np.cumsum(self.rates) / np.sum(self.rates)
    # A third word in the seed keeps this draw apart from those inside the part.
    index = int(np.searchsorted(shares, np.random.default_rng((seed, n, 1)).random(), side='right'))
    return self.parts[index], sum(len(part.task_names) for part in self.parts[:index])


def _is_part(part: Any) -> bool:
  """Whether it is (mixture, rate)."""
  if not isinstance(part, (tuple, list)) or len(part) != 2 or not hasattr(part[0], 'episodes'):
    return False
  return isinstance(part[1], (int, float)) and part[1] > 0


def _shifted(episode: Episode, first: int) -> Episode:
  return {**episode, 'task_id': episode['task_id'] + first}

"""Running text in C4's JSONL form, `{"text": …}` a line: CACLM, reconstruction and CLM."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from hyperjax import errors, windows
from hyperjax.episodes import CaclmEpisodes, ClmEpisodes, ReconstructionEpisodes
from hyperjax.sources import files
from hyperjax.sources.files import DataDir
from hyperjax.vocabulary import Vocabulary

FILES = ('text/*{split}*.json*', 'c4/en/*{split}*.json*', 'c4/*{split}*.json*')
"""Where text is looked for under the data folder, the first that is there (C4's own are the second:
c4/en/c4-train.00000-of-01024.json.gz)."""


def texts(
  data_dir: DataDir, patterns: str | Sequence[str], split: str
) -> Iterator[tuple[str, str]]:
  """(text, source) of each document; "source" is an optional field."""
  patterns = [patterns] if isinstance(patterns, str) else patterns
  for path in files.find(data_dir, *(each.replace('{split}', split) for each in patterns)):
    for where, record in files.records(path):
      source = files.text(record, 'source', where) if 'source' in record else 'c4'
      yield files.text(record, 'text', where), source


def documents(
  data_dir: DataDir,
  patterns: str | Sequence[str],
  split: str,
  vocabulary: Vocabulary,
  max_documents: int | None,
) -> windows.Documents:
  """The tokenised documents of a split, in memory: 2 bytes a token (35M tokens: 8 s on 2 cores)."""
  if max_documents is not None and max_documents < 1:
    raise errors.InputError(f'max_documents is {max_documents}; give 1 or more, or None for all')
  some = itertools.islice(texts(data_dir, patterns, split), max_documents)
  return windows.Documents.encoded(vocabulary, some)


@dataclasses.dataclass(frozen=True)
class Caclm:
  """Hyperpretraining: segments A and D to the hypermodel, B to the downstream, C to predict."""

  files: str | Sequence[str] = FILES
  window: int = 512
  b_length: int = 32
  c_lengths: tuple[int, int] = (64, 128)
  min_segment: int = 32
  max_documents: int | None = None

  def episodes(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> CaclmEpisodes:
    return CaclmEpisodes(
      documents(data_dir, self.files, split, vocabulary, self.max_documents),
      vocabulary,
      lengths,
      window=self.window,
      b_length=self.b_length,
      c_lengths=(self.c_lengths[0], self.c_lengths[1]),  # gin may give a list
      min_segment=self.min_segment,
      targets_per_context=targets_per_context,
    )


@dataclasses.dataclass(frozen=True)
class Reconstruction:
  """Hyperpretraining: the whole window to the hypermodel; B of it to the downstream, C after B."""

  files: str | Sequence[str] = FILES
  window: int = 512
  b_length: int = 32
  c_lengths: tuple[int, int] = (64, 128)
  max_documents: int | None = None

  def episodes(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> ReconstructionEpisodes:
    return ReconstructionEpisodes(
      documents(data_dir, self.files, split, vocabulary, self.max_documents),
      lengths,
      window=self.window,
      b_length=self.b_length,
      c_lengths=(self.c_lengths[0], self.c_lengths[1]),  # gin may give a list
      targets_per_context=targets_per_context,
    )


@dataclasses.dataclass(frozen=True)
class Clm:
  """LM pretraining: the prefix of a window to read, its continuation to write; no context."""

  has_context: ClassVar[bool] = False

  files: str | Sequence[str] = FILES
  window: int = 512
  min_segment: int = 32
  max_documents: int | None = None

  def episodes(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> ClmEpisodes:
    if targets_per_context != 1:
      raise errors.InputError(
        f'targets_per_context is {targets_per_context}, language modelling has 1 target'
      )
    return ClmEpisodes(
      documents(data_dir, self.files, split, vocabulary, self.max_documents),
      lengths,
      window=self.window,
      min_segment=self.min_segment,
    )

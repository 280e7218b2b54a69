"""Documents as tokens, and the windows cut from them."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int32, Integer

from hyperjax import errors
from hyperjax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Documents:
  """Tokenised documents end to end: document i is `tokens[ends[i - 1]:ends[i]]`."""

  tokens: Integer[np.ndarray, ' tokens']
  ends: Integer[np.ndarray, ' documents']
  source: Integer[np.ndarray, ' documents']
  """Where each document is from, as an index into `sources`."""
  sources: tuple[str, ...]

  @classmethod
  def encoded(
    cls, vocabulary: Vocabulary, texts: Iterable[tuple[str, str]], at_once: int = 512
  ) -> 'Documents':
    """Documents of (text, source) pairs; held as uint16 where the ids fit, and never twice."""
    dtype = np.uint16 if vocabulary.size <= 2**16 else np.int32
    tokens = bytearray()  # grows in place: billions of tokens would not fit a second time
    lengths: list[int] = []
    source: list[int] = []
    sources: dict[str, int] = {}
    for some in _batched(texts, at_once):
      ids = vocabulary.encode_many([text for text, _ in some])
      lengths += map(len, ids)
      source += [sources.setdefault(name, len(sources)) for _, name in some]
      tokens += np.concatenate(ids).astype(dtype).tobytes()
    if not lengths:
      raise errors.InputError('no document to read')
    ends = np.cumsum(lengths)
    return cls(np.frombuffer(tokens, dtype), ends, np.array(source, np.int32), tuple(sources))

  @property
  def starts(self) -> np.ndarray:
    return np.concatenate([[0], self.ends[:-1]])


def _batched(items: Iterable, size: int) -> Iterator[list]:
  some = []
  for item in items:
    some.append(item)
    if len(some) == size:
      yield some
      some = []
  if some:
    yield some


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """Every non-overlapping window of `length` tokens of every document, by source and document.

  The last window of a document may be shorter, down to `shortest`; less than that is left out.
  """

  documents: Documents
  length: int
  shortest: int

  def __post_init__(self):
    if self.shortest > self.length:
      raise errors.InputError(
        f'a window of {self.length} tokens is too short for its segments, which need'
        f' {self.shortest}: raise window, or lower min_segment, b_length and c_lengths'
      )
    if not self.count:
      raise errors.InputError(
        f'no document has {self.shortest} tokens (the longest has'
        f' {np.max(self.documents.ends - self.documents.starts)}): lower window'
      )

  @functools.cached_property
  def _table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Document, start and end of each window."""
    documents = self.documents
    order = np.argsort(documents.source, kind='stable')
    lengths = (documents.ends - documents.starts)[order]
    counts = lengths // self.length + (lengths % self.length >= self.shortest)
    document = np.repeat(order, counts)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = documents.starts[document] + nth * self.length
    return document, starts, np.minimum(starts + self.length, documents.ends[document])

  @functools.cached_property
  def _sources(self) -> np.ndarray:
    return self.documents.source[self._table[0]]

  @property
  def count(self) -> int:
    return len(self._table[0])

  def __getitem__(self, index: int) -> Int32[np.ndarray, ' window']:
    _, starts, ends = self._table
    return self.documents.tokens[starts[index] : ends[index]].astype(np.int32)

  def source(self, index: int) -> int:
    return int(self._sources[index])

  def drawn(self, seed: int, n: int) -> int:
    """The window of episode n: each once an epoch, in a fresh order."""
    epoch, place = divmod(n, self.count)
    return int(_permutation(self.count, seed, epoch)[place])

  def elsewhere(self, rng: np.random.Generator, index: int) -> int:
    """A window of another document of the same source; of another source if it has no other."""
    document = self._table[0]
    own = _run(document == document[index])
    same = _run(self._sources == self._sources[index])
    first, last = same if same != own else (0, self.count)
    rest = last - first - (own[1] - own[0])
    if not rest:
      raise errors.InputError('a wrong context needs a second document with a window')
    other = first + int(rng.integers(rest))
    return other if other < own[0] else other + own[1] - own[0]

  @functools.cached_property
  def statistics(self) -> dict[str, dict[str, int]]:
    """Of each source: documents, those too short for a window, windows, tokens used and dropped."""
    documents, (document, starts, ends) = self.documents, self._table
    windows = np.bincount(document, minlength=len(documents.ends))
    used = np.bincount(document, ends - starts, len(documents.ends)).astype(np.int64)
    lengths = documents.ends - documents.starts
    columns = {
      'documents': np.ones_like(windows),
      'empty': lengths == 0,
      'skipped': (windows == 0) & (lengths > 0),
      'windows': windows,
      'tokens': lengths,
      'tokens_dropped': lengths - used,
    }
    return {
      name: {key: int(column[documents.source == i].sum()) for key, column in columns.items()}
      for i, name in enumerate(documents.sources)
    }


def _run(mask: np.ndarray) -> tuple[int, int]:
  first = int(np.argmax(mask))
  return first, first + int(np.sum(mask))


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(count)

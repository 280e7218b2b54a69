"""A vocabulary: the pieces of a sentencepiece file, and T5's extra ids above them."""

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, SupportsInt

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from hyperjax import errors, files


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The file is read at first use; copies and pickles carry the path only.

  Sentinels count down from the top as in T5: `<extra_id_0>` is the last id. The two lowest extra
  ids are the markers `<x>` and `<y>` (T5: 32000 and 32001, extra_id_99 and extra_id_98).
  """

  path: str
  extra_ids: int = 100

  pad_id: ClassVar[int] = 0
  eos_id: ClassVar[int] = 1
  unk_id: ClassVar[int] = 2

  def __post_init__(self):
    if self.extra_ids < 4:
      raise errors.InputError(
        f'vocabulary {self.path}: extra_ids is {self.extra_ids}, expected at least 4'
        ' (two for the markers <x> and <y>, two for the sentinels of CACLM)'
      )

  def __reduce__(self):
    return Vocabulary, (self.path, self.extra_ids)

  @functools.cached_property
  def _model(self) -> bytes:
    try:
      return files.read_bytes(self.path)
    except errors.InputError as error:
      raise errors.InputError(
        f'vocabulary {error}: VOCABULARY or HYPERJAX_VOCABULARY must name a sentencepiece file'
      ) from error

  @functools.cached_property
  def _processor(self) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
      processor.LoadFromSerializedProto(self._model)
    except RuntimeError as error:
      raise errors.InputError(f'vocabulary {self.path} is not a sentencepiece model') from error
    ids = processor.pad_id(), processor.eos_id(), processor.unk_id()
    if ids != (self.pad_id, self.eos_id, self.unk_id):
      raise errors.InputError(
        f'vocabulary {self.path} has pad, eos, unk = {ids}, expected (0, 1, 2) as in T5:'
        ' train it with pad_id=0, eos_id=1, unk_id=2, bos_id=-1'
      )
    return processor

  @functools.cached_property
  def pieces(self) -> int:
    """Number of ordinary pieces; the extra ids follow."""
    if self.inside not in (0, self.extra_ids):
      raise errors.InputError(
        f'vocabulary {self.path} ends in {self.inside} extra ids, extra_ids is {self.extra_ids}:'
        f' set it to {self.inside}'
      )
    return self._processor.get_piece_size() - self.inside

  @functools.cached_property
  def inside(self) -> int:
    """How many extra ids the file itself ends in, as T5X's `100extra` does."""
    last, inside = self._processor.get_piece_size() - 1, 0
    while self._spelled(last - inside) == f'<extra_id_{inside}>':
      inside += 1
    return inside

  @functools.cached_property
  def words(self) -> list[str]:
    """The pieces that begin a word, without sentencepiece's ▁, in the order of their ids."""
    return [self._spelled(int(i)) for i in np.flatnonzero(self.begins_word)]

  @functools.cached_property
  def begins_word(self) -> np.ndarray:
    """[pieces], bool: whether a piece begins a word, as sentencepiece's ▁ says."""
    pieces = self._processor.id_to_piece(list(range(self.pieces)))
    return np.array([piece.startswith('▁') for piece in pieces])

  def _spelled(self, i: int) -> str:
    return self._processor.id_to_piece(i).lstrip('▁')

  @property
  def size(self) -> int:
    """Number of ids: pieces and extra ids."""
    return self.pieces + self.extra_ids

  @property
  def added(self) -> int:
    """How many of the extra ids the file itself does not hold: all, or none (T5X's `100extra`)."""
    return self.size - self._processor.get_piece_size()

  def bare(self) -> bytes:
    """The file's bytes; where it ends in its extra ids, without them."""
    if self.added:
      return self._model
    pb2: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    model = pb2.ModelProto.FromString(self._model)
    del model.pieces[self.pieces :]
    return model.SerializeToString()

  @property
  def x_id(self) -> int:
    """The marker `<x>`, in front of an input or a definition."""
    return self.pieces

  @property
  def y_id(self) -> int:
    """The marker `<y>`, in front of an output."""
    return self.pieces + 1

  def sentinel(self, i: int) -> int:
    """The id of `<extra_id_i>`."""
    return self.size - 1 - i

  @functools.cached_property
  def sha256(self) -> str:
    """The hash of the file."""
    return hashlib.sha256(self._model).hexdigest()

  def check_fits(self, vocab_size: int) -> None:
    """Raises InputError unless every id has a row in a table of `vocab_size` rows."""
    if self.size > vocab_size:
      raise errors.InputError(
        f'vocabulary {self.path} has {self.size} ids, the model {vocab_size} embedding rows:'
        ' use the vocabulary that the model was trained with'
      )

  def encode(self, text: str) -> np.ndarray:
    """The int32 ids of a text, without EOS."""
    return np.asarray(self._processor.encode(text), np.int32)

  def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
    """`encode` of each text, in as many threads as there are cores."""
    ids = self._processor.encode(list(texts), num_threads=os.cpu_count() or 1)
    return [np.asarray(i, np.int32) for i in ids]

  def decode(self, ids: Iterable[SupportsInt]) -> str:
    """The text up to the first EOS: padding is nothing, extra ids are spelled out."""
    kept = itertools.takewhile(lambda i: i != self.eos_id, map(int, ids))
    texts: list[str] = []
    for ordinary, group in itertools.groupby(kept, lambda i: i < self.pieces):
      run = list(group)
      texts += [self._processor.decode(run)] if ordinary else map(self._extra, run)
    return ' '.join(text for text in texts if text)

  def _extra(self, i: int) -> str:
    # T5 has 32,128 rows for 32,100 ids: the rows above mean nothing, but a model can emit them.
    return f'<extra_id_{self.size - 1 - i}>' if i < self.size else '⁇'

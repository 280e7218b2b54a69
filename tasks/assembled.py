"""An assembled mixture as a seqio task: the same episodes, in the same order."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hyperjax import data, errors, mixtures
from hyperjax.vocabulary import Vocabulary

FEATURES = ('hyper_inputs', 'inputs', 'targets')
Row = dict[str, Any]


# --- Vocabularies ---------------------------------------------------------------------------------


def seqio_vocabulary(vocabulary: Vocabulary) -> seqio.SentencePieceVocabulary:
  """Our vocabulary as one of seqio's."""
  return seqio.SentencePieceVocabulary(vocabulary.path, vocabulary.added)


def vocabulary_of(vocabulary: seqio.Vocabulary) -> Vocabulary:
  """A vocabulary of seqio's as ours."""
  path = getattr(vocabulary, 'sentencepiece_model_file', None)
  if path is None:
    raise errors.InputError(
      f'{type(vocabulary).__name__} has no sentencepiece file: set VOCABULARY'
    )
  return Vocabulary(str(path), vocabulary.extra_ids or 100)


class EnvironmentVocabulary(seqio.Vocabulary):
  """The vocabulary that HYPERJAX_VOCABULARY names, looked up when it is used."""

  @property
  def vocabulary(self) -> Vocabulary:
    return data.from_environment()

  @property
  def sentencepiece_model_file(self) -> str:
    return self.vocabulary.path

  @property
  def _seqio(self) -> seqio.SentencePieceVocabulary:
    return _cached(self.vocabulary)

  @property
  def extra_ids(self) -> int:
    return self.vocabulary.extra_ids

  @property
  def eos_id(self) -> int:
    return Vocabulary.eos_id

  @property
  def unk_id(self) -> int:
    return Vocabulary.unk_id

  @property
  def vocab_size(self) -> int:
    return self.vocabulary.size

  @property
  def _base_vocab_size(self) -> int:
    return self.vocabulary.size  # as seqio's own: extra ids decode to their names

  def _encode(self, s: str) -> Sequence[int]:
    return self._seqio.encode(s)

  def _decode(self, ids: Iterable[int]) -> str:
    return self._seqio.decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    return self._seqio.encode_tf(s)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    return self._seqio.decode_tf(ids)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, EnvironmentVocabulary)

  def __hash__(self) -> int:
    return hash(EnvironmentVocabulary)


@functools.lru_cache(maxsize=8)
def _cached(vocabulary: Vocabulary) -> seqio.SentencePieceVocabulary:
  return seqio_vocabulary(vocabulary)


def features(*names: str) -> dict[str, seqio.Feature]:
  """Token features of that vocabulary; EOS is put by the assembler, where the text ends."""
  return {name: seqio.Feature(EnvironmentVocabulary(), add_eos=False) for name in names}


# --- Tasks ----------------------------------------------------------------------------------------


def register(
  name: str,
  splits: Sequence[str],
  postprocess_fn: Callable[..., Any] | None = None,
  metric_fns: Sequence[Callable[..., Any]] = (),
) -> None:
  """Registers a mixture of hyperjax.mixtures.

  Split `train` is endless: row n is episode (seed, n), with seed 0 where none is given. Any other
  split has each evaluated instance once, in order, with all its `references`; where a mixture asks
  no questions, the episodes of one epoch.
  """
  mixture = mixtures.get(name)
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(
      functools.partial(_numbers, mixture), splits=splits, caching_permitted=False
    ),
    preprocessors=[functools.partial(_assembled, mixture)],
    output_features=features(*_features_of(mixture)),
    postprocess_fn=postprocess_fn,
    metric_fns=list(metric_fns),
    shuffle_buffer_size=1,  # the order of episodes is random already
  )


def _features_of(mixture: mixtures.Mixture) -> tuple[str, ...]:
  """Without hyper_inputs where there is no context: what T5X's own converters take."""
  return FEATURES if getattr(mixture, 'has_context', True) else FEATURES[1:]


def _numbers(
  mixture: mixtures.Mixture, split: str, shuffle_files: bool = False, seed: int | None = None
) -> tf.data.Dataset:
  count = 2**62 if split == 'train' else len(_evaluated(*_arguments(mixture, split, data.LENGTHS)))
  row = {'split': split, 'seed': tf.cast(seed or 0, tf.int64)}
  return tf.data.Dataset.range(count).map(lambda n: {**row, 'n': n})


def _assembled(
  mixture: mixtures.Mixture,
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
  lengths = dict(data.LENGTHS) | {k: v for k, v in (sequence_length or {}).items() if v}

  def row(split: bytes, seed: np.int64, n: np.int64) -> list[np.ndarray]:
    each = _row(mixture, split.decode(), lengths, int(seed), int(n))
    return [each['task_id'], *(each[k] for k in FEATURES), np.array(each['references'], object)]

  def to_tensors(number: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    types = [tf.int32] * 4 + [tf.string]
    values = tf.numpy_function(row, [number['split'], number['seed'], number['n']], types)
    for value, rank in zip(values, (0, 1, 1, 1, 1)):
      value.set_shape([None] * rank)
    made = dict(zip(('task_id', *FEATURES, 'references'), values))
    return {k: v for k, v in made.items() if k not in FEATURES or k in _features_of(mixture)}

  return dataset.map(to_tensors)


def _row(
  mixture: mixtures.Mixture, split: str, lengths: Mapping[str, int], seed: int, n: int
) -> Row:
  arguments = _arguments(mixture, split, lengths)
  row = _episode(_episodes(*arguments)(seed, n)) if split == 'train' else _evaluated(*arguments)[n]
  inputs = row['inputs']
  return (
    row
    | {
      'hyper_inputs': row['hyper_inputs'][: lengths['hyper_inputs']],
      'inputs': inputs[max(0, len(inputs) - lengths['inputs']) :],  # the tail, as in data.batch
      'targets': row['targets'][: lengths['targets']],
    }
  )


def _episode(episode: Mapping[str, Any]) -> Row:
  return {
    'task_id': np.int32(episode['task_id']),
    'hyper_inputs': episode['hyper_inputs'],
    'inputs': episode['inputs'][0],
    'targets': episode['targets'][0],
    'references': (),
  }


def _arguments(mixture: mixtures.Mixture, split: str, lengths: Mapping[str, int]) -> tuple:
  # All that the rows depend on, so that the caches below see a change of the environment.
  return mixture, split, tuple(sorted(lengths.items())), os.environ.get('HYPERJAX_DATA')


@functools.lru_cache(maxsize=4)
def _episodes(mixture, split, lengths, data_dir):
  return mixture.episodes(data_dir, data.from_environment(), dict(lengths), split)


@functools.lru_cache(maxsize=4)
def _evaluated(mixture, split, lengths, data_dir) -> list[Row]:
  vocabulary = data.from_environment()
  if not hasattr(mixture, 'evaluation_tasks'):
    episodes = _episodes(mixture, split, lengths, data_dir)
    return [_episode(episodes(0, n)) for n in range(episodes.windows.count)]
  seed = getattr(mixture, 'seeds', (0,))[0]
  tasks = mixture.evaluation_tasks(data_dir, vocabulary, dict(lengths), split, seed)
  return [
    {
      'task_id': np.int32(i),
      'hyper_inputs': task.context,
      'inputs': tokens,
      'targets': np.append(vocabulary.encode(answers[0]), np.int32(vocabulary.eos_id)),
      'references': answers,
    }
    for i, task in enumerate(tasks)
    for tokens, answers in zip(task.inputs, task.references)
  ]

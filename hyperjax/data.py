"""Batches of episodes: mixture -> numpy arrays, where batch k is a function of (seed, k)."""

import contextlib
import dataclasses
import functools
import importlib
import os
import queue
import threading
import types
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hyperjax import buckets as bucketing
from hyperjax import errors, mixtures, records
from hyperjax.episodes import NOTHING, Episode, Episodes, EvaluationTask
from hyperjax.sources import files
from hyperjax.vocabulary import Vocabulary

LENGTHS: Mapping[str, int] = types.MappingProxyType(
  {'hyper_inputs': 1024, 'inputs': 384, 'targets': 128}
)
"""TASK_FEATURE_LENGTHS of the paper (HyperTuning, appendix A); 1408 for in-context baselines."""

Batch = dict[str, np.ndarray]


# --- Episodes to batches --------------------------------------------------------------------------


def batch(episodes: Sequence[Episode], lengths: Mapping[str, int]) -> Batch:
  """c episodes of m targets each as a batch: int32, padded with 0 on the right.

  hyper_input_tokens [c, t] (absent where its length is 0 or not given), task_id [c], and [c*m, …],
  the targets of one context side by side: encoder_input_tokens, decoder_input_tokens,
  decoder_target_tokens, decoder_loss_weights (float32, 1 on target tokens). Inputs that are too
  long keep their tail, targets their head.
  """
  s, t = lengths['inputs'], lengths['targets']
  inputs = [tokens[max(0, len(tokens) - s) :] for each in episodes for tokens in each['inputs']]
  targets = [tokens[:t] for each in episodes for tokens in each['targets']]
  target_tokens = _padded(targets, t)
  result = {
    'task_id': np.array([each['task_id'] for each in episodes], np.int32),
    'encoder_input_tokens': _padded(inputs, s),
    'decoder_input_tokens': np.pad(target_tokens[:, :-1], [(0, 0), (1, 0)]),
    'decoder_target_tokens': target_tokens,
    'decoder_loss_weights': (
      np.arange(t) < np.array([len(tokens) for tokens in targets])[:, None]
    ).astype(np.float32),
  }
  if length := lengths.get('hyper_inputs', 0):
    result['hyper_input_tokens'] = _padded(
      [each['hyper_inputs'][:length] for each in episodes], length
    )
  return result


def _padded(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
  padded = np.zeros((len(rows), length), np.int32)
  for i, row in enumerate(rows):
    padded[i, : len(row)] = row
  return padded


@dataclasses.dataclass(frozen=True)
class Batches:
  """Batch k holds episodes k*c to k*c + c - 1, where c = batch_size / targets_per_context.

  `batch_size` counts targets, over all processes; this process gets its part of each batch,
  contiguous contexts. `episodes` is called with (seed, n): an Episodes, or its `wrong_context`.
  With `buckets` each process makes the whole batch's episodes, so that all choose the same lengths
  without asking each other. `counted` is told of those in its own part.
  """

  episodes: Callable[[int, int], Episode]
  lengths: Mapping[str, int]
  batch_size: int
  targets_per_context: int = 1
  seed: int = 0
  process_index: int = 0
  process_count: int = 1
  buckets: Sequence[Mapping[str, int]] | None = None
  counted: Callable[[Episode], Episode] = lambda episode: episode

  def __post_init__(self):
    check_sizes(self.batch_size, self.targets_per_context, self.process_count, self.seed)

  def at(self, step: int) -> Batch:
    """The batch of a step."""
    contexts = self.batch_size // self.targets_per_context
    own = contexts // self.process_count
    first = self.process_index * own if self.buckets is None else 0
    last = first + own if self.buckets is None else contexts
    made = [self.episodes(self.seed, step * contexts + i) for i in range(first, last)]
    lengths = bucketing.fitting(made, bucketing.completed(self.buckets, self.lengths))
    mine = made[self.process_index * own - first :][:own]
    return batch([self.counted(each) for each in mine], lengths)

  def starting_at(self, step: int) -> Iterator[Batch]:
    """The batches from a step on, made ahead in a thread; resuming costs nothing."""
    return Prefetched(self._from(step))

  def _from(self, step: int) -> Iterator[Batch]:
    while True:
      yield self.at(step)
      step += 1


def check_sizes(batch_size: int, targets_per_context: int, process_count: int, seed: int) -> None:
  """Raises InputError unless the processes can share a batch."""
  if seed < 0:
    raise errors.InputError(f'seed is {seed}, expected 0 or more')
  if min(batch_size, targets_per_context) < 1 or batch_size % targets_per_context:
    raise errors.InputError(
      f'batch_size {batch_size} is not a multiple of targets_per_context {targets_per_context}'
    )
  contexts = batch_size // targets_per_context
  if contexts % process_count:
    raise errors.InputError(
      f'a batch of {batch_size} targets has {contexts} contexts, which {process_count} processes'
      ' cannot share: make batch_size a multiple of targets_per_context x processes'
    )


def check_lengths(lengths: Mapping[str, int]) -> None:
  """Raises InputError unless these are lengths of features that there are."""
  if unknown := sorted(lengths.keys() - LENGTHS.keys()):
    raise errors.InputError(
      f'TASK_FEATURE_LENGTHS names {unknown[0]!r}; the features are {", ".join(LENGTHS)}'
    )
  for feature, length in lengths.items():
    if not isinstance(length, int) or isinstance(length, bool):
      raise errors.InputError(f'TASK_FEATURE_LENGTHS gives {feature} the length {length!r}')
  for feature in ('inputs', 'targets'):
    if lengths.get(feature, 0) < 1:
      raise errors.InputError(f'TASK_FEATURE_LENGTHS must give a length to {feature}, 1 or more')
  if lengths.get('hyper_inputs', 0) < 0:
    raise errors.InputError(
      'TASK_FEATURE_LENGTHS must give a length to hyper_inputs, 0 or more, got'
      f' {lengths["hyper_inputs"]}'
    )


class Prefetched(Iterator):
  """An iterator whose next few items a background thread makes ahead.

  An exception there is raised here, at its place. The thread ends with the process, with the
  source, or when nobody holds this iterator any more.
  """

  def __init__(self, source: Iterator[Any], ahead: int = 2):
    self._items: queue.Queue = queue.Queue(maxsize=ahead)
    stop = threading.Event()
    self.close = weakref.finalize(self, stop.set)
    arguments = (source, self._items, stop)  # not self: the thread must not keep it alive
    threading.Thread(target=_fill, args=arguments, daemon=True, name='hyperjax-data').start()

  def __next__(self) -> Any:
    item, error = self._items.get()
    if error is not None:
      self._items.put((None, error))  # so that asking again does not wait for ever
      raise error
    return item


def _fill(source: Iterator[Any], items: queue.Queue, stop: threading.Event) -> None:
  def put(entry: tuple[Any, BaseException | None]) -> bool:
    while not stop.is_set():
      try:
        items.put(entry, timeout=0.2)
        return True
      except queue.Full:
        continue
    return False

  try:
    for item in source:
      if not put((item, None)):
        return
    put((None, StopIteration()))
  except BaseException as error:  # also KeyboardInterrupt and the like: the consumer decides
    put((None, error))


# --- Mixtures to batches --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Used:
  """The episodes that a run has had: of each task how many, and of how many the context was cut."""

  episodes: Counter[int] = dataclasses.field(default_factory=Counter)
  contexts_cut: Counter[int] = dataclasses.field(default_factory=Counter)

  def counted(self, episode: Episode) -> Episode:
    """The episode, which is counted."""
    self.episodes[episode['task_id']] += 1
    self.contexts_cut[episode['task_id']] += episode['cut'] > 0
    return episode

  def beside(self, statistics: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """The statistics of all tasks, in the order of their ids, and these counts beside them."""
    return {
      name: {**counts, 'episodes': self.episodes[i], 'contexts_cut': self.contexts_cut[i]}
      for i, (name, counts) in enumerate(statistics.items())
    }


class Live:
  """A mixture, tokenised and assembled while it is used; files are opened at first use.

  `mixture` is a name of hyperjax.mixtures, a Mixture, or the name of any seqio task or mixture with
  features inputs, targets and perhaps hyper_inputs (imports TensorFlow; resumes by skipping).
  `arguments` replace fields of the mixture: {'window': 160}. `buckets` are shorter lengths for
  batches that fit them: ({'hyper_inputs': 512}, {'hyper_inputs': 512, 'inputs': 128}). Without
  `vocabulary` the one that HYPERJAX_VOCABULARY names is used, or the seqio task's own.
  """

  def __init__(
    self,
    mixture: str | mixtures.Mixture,
    split: str = 'train',
    lengths: Mapping[str, int] = LENGTHS,
    batch_size: int = 32,
    targets_per_context: int = 1,
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
    data_dir: files.DataDir = None,
    arguments: Mapping[str, Any] | None = None,
    wrong_context: bool = False,
    buckets: Sequence[Mapping[str, int]] | None = None,
  ):
    check_sizes(batch_size, targets_per_context, 1, seed)
    check_lengths(lengths)
    bucketing.completed(buckets, lengths)
    self.mixture, self.split, self.lengths = mixture, split, dict(lengths)
    self.batch_size, self.targets_per_context, self.seed = batch_size, targets_per_context, seed
    self._vocabulary, self._data_dir, self._arguments = vocabulary, data_dir, arguments
    self._wrong_context = wrong_context
    self.buckets = buckets
    self._used = Used()

  @property
  def name(self) -> str:
    return self.mixture if isinstance(self.mixture, str) else type(self.mixture).__name__

  @property
  def is_assembled(self) -> bool:
    """Whether there are `episodes` by index; a seqio task is read from its beginning."""
    return self._own is not None

  def other(self, mixture: str | mixtures.Mixture, arguments: Mapping[str, Any] | None) -> 'Live':
    """Another mixture over the same data, in the same vocabulary and lengths."""
    return Live(
      mixture,
      self.split,
      self.lengths,
      vocabulary=self.vocabulary,
      data_dir=self._data_dir,
      arguments=arguments,
    )

  @property
  def average(self) -> str:
    """What the mixture's scores are the mean of; see metrics.AVERAGES."""
    return getattr(self._own, 'average', 'instances')

  @property
  def seeds(self) -> tuple[int, ...]:
    """The seeds that the mixture is evaluated with, if nobody says others."""
    return getattr(self._own, 'seeds', (0,))

  @property
  def eval_split(self) -> str:
    """The split that the mixture is evaluated on, if nobody says another."""
    return getattr(self._own, 'eval_split', 'test')

  @property
  def recipe(self) -> Any:
    """The class and the fields of the mixture, as JSON."""
    return records.to_json(self._own, 'a report')

  @functools.cached_property
  def vocabulary(self) -> Vocabulary:
    """What the tokens stand for."""
    if self._vocabulary is None and self._stream is not None:
      return self._stream.vocabulary
    return self._vocabulary or from_environment()

  @functools.cached_property
  def episodes(self) -> Episodes:
    """The assembler behind the mixture; the data are read here, once."""
    if self._own is None:
      _ = _provider(self.name, None)  # a name that is none is told as such
      raise errors.InputError(
        f'{self.name} is a seqio task, which has no episodes by index: seqio stores it itself'
      )
    return self._own.episodes(
      self._data_dir, self.vocabulary, self.lengths, self.split, self.targets_per_context
    )

  def episode(self, n: int) -> Episode:
    """Episode n of its seed, with a context of its own or a wrong one."""
    episodes = self.episodes
    return (episodes.wrong_context if self._wrong_context else episodes)(self.seed, n)

  def settings(self) -> dict[str, Any]:
    """What its episodes depend on, apart from the data files, as JSON."""
    if not self.is_assembled:
      _ = self.episodes  # says why there are none
    vocabulary = self.vocabulary
    return {
      'name': self.name,
      'mixture': records.to_json(self._own, 'a manifest'),
      'split': self.split,
      'seed': self.seed,
      'lengths': self.lengths,
      'targets_per_context': self.targets_per_context,
      'wrong_context': self._wrong_context,
      'vocabulary': {
        'file': os.path.basename(vocabulary.path),
        'sha256': vocabulary.sha256,
        'extra_ids': vocabulary.extra_ids,
        'size': vocabulary.size,
      },
    }

  def starting_at(
    self, step: int, process_index: int = 0, process_count: int = 1
  ) -> Iterator[Batch]:
    """The batches from a step on; see Batches."""
    if self._stream is not None:
      check_sizes(self.batch_size, self.targets_per_context, process_count, self.seed)
      return self._stream.starting_at(step, process_index, process_count)
    return Batches(
      lambda _, n: self.episode(n),
      self.lengths,
      self.batch_size,
      self.targets_per_context,
      self.seed,
      process_index,
      process_count,
      self.buckets,
      self._used.counted,
    ).starting_at(step)

  def statistics(self) -> dict[str, dict[str, int]]:
    """Task -> what -> how many: examples kept, left out, truncated; and of the episodes made so far
    `episodes`, and `contexts_cut`: those whose context did not fit whole."""
    if self._stream is not None:
      return {}
    return self._used.beside(self.episodes.statistics)

  def evaluation_tasks(
    self,
    split: str | None = None,
    seed: int | None = None,
    limit: int | None = None,
    wrong_context: bool = False,
  ) -> list[EvaluationTask]:
    """What to answer, task by task: `limit` instances of each; see NaturalInstructions.

    Without `split` or `seed`, the mixture's own split, and the first of its seeds.
    """
    split = self.eval_split if split is None else split
    seed = self.seeds[0] if seed is None else seed
    if limit is not None and limit < 1:
      raise errors.InputError(f'limit is {limit}; give 1 or more instances of each task, or None')
    if seed < 0:
      raise errors.InputError(f'seed is {seed}, expected 0 or more')
    evaluation_tasks = getattr(self._own, 'evaluation_tasks', None)
    if evaluation_tasks is None:
      _ = self._own or _provider(self.name, None)  # a name that is none is told as such
      raise errors.InputError(f'mixture {self.name} is scored by its loss: it asks no questions')
    return evaluation_tasks(
      self._data_dir, self.vocabulary, self.lengths, split, seed, limit, wrong_context
    )

  @functools.cached_property
  def _own(self) -> mixtures.Mixture | None:
    if not isinstance(self.mixture, str):
      return mixtures.replaced(self.mixture, self._arguments, self.name)
    if self.mixture in mixtures.MIXTURES:
      return mixtures.get(self.mixture, self._arguments)
    return None

  @functools.cached_property
  def _stream(self) -> '_Stream | None':
    if self._own is not None:
      return None
    provider = _provider(self.name, self._vocabulary)
    if self.targets_per_context != 1 or self._wrong_context or self._arguments:
      raise errors.InputError(
        f'{self.name} is not a mixture of hyperjax: targets_per_context, wrong_context and'
        ' arguments do not apply to seqio tasks'
      )
    return _Stream(provider, self.split, self.lengths, self.batch_size, self.seed, self.buckets)


def from_environment() -> Vocabulary:
  """The vocabulary that HYPERJAX_VOCABULARY names."""
  path = os.environ.get('HYPERJAX_VOCABULARY')
  if not path:
    raise errors.InputError(
      'no vocabulary: set VOCABULARY (gin) or HYPERJAX_VOCABULARY to a sentencepiece file'
    )
  return Vocabulary(path)


# --- Any seqio task -------------------------------------------------------------------------------


def _provider(name: str, vocabulary: Vocabulary | None) -> Any:
  """The seqio task or mixture of a name, reading with `vocabulary` if that is given."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # or its start-up lines come before ours
  try:
    import seqio
    import tensorflow as tf

    importlib.import_module('tasks')  # registers ours, TFDS's among them
    with contextlib.suppress(RuntimeError):  # too late where somebody has used TensorFlow before
      tf.config.set_visible_devices([], 'GPU')  # they are JAX's
  except ImportError as error:
    raise errors.InputError(
      f'{mixtures.unknown(name, mixtures.MIXTURES)} (other seqio tasks need TensorFlow and seqio:'
      f' pip install "hyperjax[seqio]"; {error})'
    ) from error
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if name not in known:
    raise errors.InputError(mixtures.unknown(name, known | set(mixtures.MIXTURES)))
  provider = seqio.get_mixture_or_task(name)
  return provider if vocabulary is None else _reading_with(provider, vocabulary)


def _reading_with(provider: Any, vocabulary: Vocabulary) -> Any:
  import seqio

  from tasks import assembled

  if isinstance(provider, seqio.Task):
    wrapped = assembled.seqio_vocabulary(vocabulary)
    features = {
      key: dataclasses.replace(feature, vocabulary=wrapped)
      for key, feature in provider.output_features.items()
    }
    return provider.replace(output_features=features)
  size = provider.output_features['targets'].vocabulary.vocab_size
  if size != vocabulary.size:
    raise errors.InputError(
      f'mixture {provider.name} has a vocabulary of {size} ids, {vocabulary.path} has'
      f' {vocabulary.size}: leave VOCABULARY out, or register the mixture with that vocabulary'
    )
  return provider


@dataclasses.dataclass(frozen=True)
class _Stream:
  """A seqio task or mixture, read from its beginning; a step is reached by skipping."""

  provider: Any
  split: str
  lengths: Mapping[str, int]
  batch_size: int
  seed: int
  buckets: Sequence[Mapping[str, int]] | None

  @property
  def vocabulary(self) -> Vocabulary:
    from tasks import assembled

    return assembled.vocabulary_of(self.provider.output_features['targets'].vocabulary)

  def starting_at(self, step: int, process_index: int, process_count: int) -> Iterator[Batch]:
    return Prefetched(self._from(step, process_index, process_count))

  def _from(self, step: int, process_index: int, process_count: int) -> Iterator[Batch]:
    own = self.batch_size // process_count
    rows = self._rows(step * self.batch_size)
    while True:
      episodes = [_as_episode(next(rows)) for _ in range(self.batch_size)]
      lengths = bucketing.fitting(episodes, bucketing.completed(self.buckets, self._lengths))
      yield batch(episodes[process_index * own :][:own], lengths)

  def _rows(self, skipped: int) -> Iterator[dict[str, Any]]:
    import tensorflow as tf

    if self.split not in self.provider.splits:
      raise errors.InputError(
        f'{self.provider.name} has no split {self.split!r}, but {sorted(self.provider.splits)}'
      )
    try:
      dataset = self.provider.get_dataset(
        self._lengths, self.split, shuffle=True, seed=self.seed, num_epochs=None
      )
      yield from dataset.skip(skipped).as_numpy_iterator()
    except errors.InputError:
      raise
    # What its source lacks, TFDS's "could not find data" among it: other people's code.
    except (tf.errors.OpError, OSError, AssertionError, ImportError, ValueError) as error:
      said = str(error).partition('\n')[0]
      raise errors.InputError(f'{self.provider.name} cannot be read: {said}') from error
    raise errors.InputError(f'{self.provider.name} has no example in split {self.split!r}')

  @property
  def _lengths(self) -> dict[str, int]:
    features = self.provider.output_features
    for feature in ('inputs', 'targets'):
      if feature not in features:
        raise errors.InputError(
          f'{self.provider.name} has features {sorted(features)}, expected inputs and targets'
        )
    return {key: length for key, length in self.lengths.items() if key in features}


def _as_episode(row: Mapping[str, Any]) -> Episode:
  return {
    'task_id': 0,
    'hyper_inputs': row.get('hyper_inputs', NOTHING),
    'inputs': (row['inputs'],),
    'targets': (row['targets'],),
    'cut': 0,
  }

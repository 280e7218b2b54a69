"""Stored episodes: those of a mixture as ArrayRecord shards, and a manifest of whose they are.

directory/settings.json                           what the episodes depend on; written first
          episodes-00000-of-00013.array_record    a record an episode
          episodes-00000-of-00013.json            what is in that shard, and its hash
          manifest.json                           the settings, all counts, the shards; written last

A record is numbers, little-endian: as int32 task_id, cut, the number of targets, the length of
hyper_inputs and of each input and target in turn; then their tokens in that order, without padding,
as uint16, or as uint32 where the vocabulary has more ids than that.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hyperjax import data, files, records
from hyperjax.episodes import Episode
from hyperjax.errors import InputError
from hyperjax.vocabulary import Vocabulary

FORMAT = 1
OPTIONS = 'group_size:1,uncompressed'  # each record on its own, for reading by index
MOST_SHARDS = 512
"""A reader keeps every shard open, and systems allow a process about a thousand files."""
REPORT_EVERY = 256
BLOCK = 64  # records read at once: a call takes the longer the more records its shard has


# --- Records --------------------------------------------------------------------------------------


def token_dtype(vocabulary_size: int) -> str:
  """The smaller of two types that holds every id."""
  return 'uint16' if vocabulary_size <= 2**16 else 'uint32'


def encoded(episode: Episode, dtype: str) -> bytes:
  """An episode as a record."""
  pairs = zip(episode['inputs'], episode['targets'], strict=True)
  arrays = [episode['hyper_inputs'], *(tokens for pair in pairs for tokens in pair)]
  head = [episode['task_id'], episode['cut'], len(episode['targets']), *map(len, arrays)]
  tokens = np.concatenate(arrays).astype(np.dtype(dtype).newbyteorder('<'))
  return np.array(head, '<i4').tobytes() + tokens.tobytes()


def decoded(record: bytes, dtype: str) -> Episode:
  """The episode of a record, bit by bit."""
  task_id, cut, targets = np.frombuffer(record, '<i4', 3).tolist()
  lengths = np.frombuffer(record, '<i4', 1 + 2 * targets, offset=12).tolist()
  start = 12 + 4 * len(lengths)
  tokens = np.frombuffer(record, np.dtype(dtype).newbyteorder('<'), offset=start).astype(np.int32)
  arrays, end = [], 0
  for length in lengths:
    arrays.append(tokens[end : end + length])
    end += length
  return {
    'task_id': task_id,
    'hyper_inputs': arrays[0],
    'inputs': tuple(arrays[1::2]),
    'targets': tuple(arrays[2::2]),
    'cut': cut,
  }


# --- Shards ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shards:
  """How a folder's episodes lie in files: `size` of them in each, in the last one the rest."""

  directory: pathlib.Path
  episodes: int
  size: int

  def __post_init__(self):
    if self.count > MOST_SHARDS:
      raise InputError(
        f'{self.episodes} episodes in shards of {self.size} are {self.count} files, more than the'
        f' {MOST_SHARDS} that a reader keeps open: give --shard_size={_least(self.episodes)}'
      )

  @classmethod
  def of(cls, directory: str | os.PathLike, episodes: int, size: int | None = None) -> 'Shards':
    """By default 8192 episodes a shard (of about 20 MB), more where those were too many files."""
    return cls(pathlib.Path(directory), episodes, size or max(8192, _least(episodes)))

  @property
  def count(self) -> int:
    return -(-self.episodes // self.size)

  def name(self, index: int) -> str:
    """Of a shard's file."""
    return f'episodes-{index:05}-of-{self.count:05}.array_record'

  def range(self, index: int) -> range:
    """The episodes of a shard."""
    return range(index * self.size, min((index + 1) * self.size, self.episodes))

  def unfinished(self) -> list[int]:
    """The shards that are not there, or not as they were written; reads those that are."""
    return [index for index in range(self.count) if not self._is_whole(index)]

  def _is_whole(self, index: int) -> bool:
    path = self.directory / self.name(index)
    try:
      contents = files.read_json(path.with_suffix('.json'))
      return contents['sha256'] == _sha256(path)
    except (InputError, OSError, KeyError, TypeError):
      return False


def _least(episodes: int) -> int:
  return -(-episodes // MOST_SHARDS)


def write_shard(
  live: data.Live, shards: Shards, index: int, report: Callable[[int], None] = lambda count: None
) -> None:
  """Writes the episodes of one shard, whole or not at all, and beside it what it holds.

  A function of what it is given: whoever calls it, wherever, writes the same bytes.
  """
  path = shards.directory / shards.name(index)
  beside = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
  dtype, contents = token_dtype(live.vocabulary.size), Contents()
  try:
    with _writer(beside) as write:
      for n in shards.range(index):
        episode = live.episode(n)
        contents.add(episode)
        write(encoded(episode, dtype))
        if contents.episodes % REPORT_EVERY == 0:
          report(REPORT_EVERY)
    report(contents.episodes % REPORT_EVERY)
    about = {'bytes': beside.stat().st_size, 'sha256': _sha256(beside)}
    if _count(beside) != contents.episodes:
      raise InputError(f'{beside} was not written whole: is there room?')
    os.replace(beside, path)
  except OSError as error:
    raise InputError(f'{path} cannot be written ({error.strerror or error})') from error
  finally:
    beside.unlink(missing_ok=True)
  files.write_json(path.with_suffix('.json'), about | contents.to_json(), indent=None)


@contextlib.contextmanager
def _writer(path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
  """Yields write(record); the file is on disk when the block ends."""
  from array_record.python import array_record_module

  def told(call: Callable, *arguments: Any) -> Any:
    try:
      return call(*arguments)
    except (RuntimeError, ValueError) as error:
      raise OSError(str(error)) from error

  writer = told(array_record_module.ArrayRecordWriter, str(path), OPTIONS)
  try:
    yield functools.partial(told, writer.write)
  finally:
    told(writer.close)
  with path.open('rb') as file:
    os.fsync(file.fileno())


def _count(path: pathlib.Path) -> int:
  """How many records a file's own index counts; InputError where it cannot be read."""
  from array_record.python import array_record_module

  try:
    return array_record_module.ArrayRecordReader(str(path)).num_records()
  except (RuntimeError, ValueError) as error:
    raise InputError(_damaged(path, error)) from error


def _damaged(path: pathlib.Path, error: Exception | str) -> str:
  said = str(error).partition('\n')[0]
  return f'{path} is damaged ({said}): run the hyperjax.cache command that wrote it again'


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


@dataclasses.dataclass(frozen=True)
class Contents:
  """What some episodes hold: how many of each task, with cut contexts, and how long all is."""

  used: data.Used = dataclasses.field(default_factory=data.Used)
  lengths: dict[str, Counter[int]] = dataclasses.field(
    default_factory=lambda: {feature: Counter() for feature in data.LENGTHS}
  )

  @property
  def episodes(self) -> int:
    return self.used.episodes.total()

  def add(self, episode: Episode) -> None:
    """Counts one more."""
    self.used.counted(episode)
    self.lengths['hyper_inputs'][len(episode['hyper_inputs'])] += 1
    for feature in ('inputs', 'targets'):
      self.lengths[feature].update(map(len, episode[feature]))

  def to_json(self) -> dict[str, Any]:
    """Counts as lists of [what, how many], in order."""
    pairs = lambda counter: [[key, count] for key, count in sorted(counter.items()) if count]
    return {
      'episodes': pairs(self.used.episodes),
      'contexts_cut': pairs(self.used.contexts_cut),
      'lengths': {feature: pairs(counter) for feature, counter in self.lengths.items()},
    }

  def update(self, value: Mapping[str, Any]) -> None:
    """Adds what `to_json` gave of other episodes."""
    self.used.episodes.update(dict(value['episodes']))
    self.used.contexts_cut.update(dict(value['contexts_cut']))
    for feature, counter in self.lengths.items():
      counter.update(dict(value['lengths'][feature]))

  def summary(self) -> dict[str, dict[str, float]]:
    """Feature -> mean, median and longest, in tokens."""
    return {feature: _summary(counter) for feature, counter in self.lengths.items()}


def _summary(counter: Counter[int]) -> dict[str, float]:
  lengths = np.array(sorted(counter))
  ends = np.cumsum([counter[length] for length in lengths.tolist()])
  total = int(ends[-1])
  middle = lengths[np.searchsorted(ends, [(total - 1) // 2, total // 2], side='right')]
  mean = sum(length * count for length, count in counter.items()) / total
  return {'mean': mean, 'median': float(middle.mean()), 'longest': int(lengths[-1])}


# --- A folder -------------------------------------------------------------------------------------


def settings_of(live: data.Live, shards: Shards) -> dict[str, Any]:
  """What the files of a folder depend on, apart from the data."""
  size = {'episodes': shards.episodes, 'shard_size': shards.size}
  return files.plain({'format': FORMAT} | live.settings() | size)


def check_settings(live: data.Live, shards: Shards) -> None:
  """InputError that says what differs, if a folder was begun with other settings."""
  path = shards.directory / 'settings.json'
  if not path.exists():
    return files.check_empty(shards.directory)
  found, wanted = files.read_json(path), settings_of(live, shards)
  _check_equal(found, wanted, str(path), tuple(wanted), 'give a folder of its own to --output')


def begin(live: data.Live, shards: Shards) -> dict[str, Any]:
  """Reads the data and writes settings.json, or compares it if it is there already."""
  check_settings(live, shards)
  about = {
    'tasks': live.episodes.task_names,
    'statistics': live.episodes.statistics,
    'first_episodes_sha256': _sample(live, min(shards.episodes, 64)),
  }
  settings = settings_of(live, shards) | files.plain(about)
  path = shards.directory / 'settings.json'
  if path.exists():
    mend = 'the data are other ones than it was begun with; give a folder of its own to --output'
    _check_equal(files.read_json(path), settings, str(path), tuple(about), mend)
  else:
    files.write_json(path, settings)
  return settings


def _sample(live: data.Live, count: int) -> str:
  first = (encoded(live.episode(n), token_dtype(live.vocabulary.size)) for n in range(count))
  return hashlib.sha256(b''.join(first)).hexdigest()


def finish(shards: Shards, settings: Mapping[str, Any]) -> dict[str, Any]:
  """Writes and returns the manifest of shards that are all there."""
  contents, listed = Contents(), []
  for index in range(shards.count):
    path = shards.directory / shards.name(index)
    each = files.read_json(path.with_suffix('.json'))
    contents.update(each)
    count = len(shards.range(index))
    about = {'episodes': count, 'bytes': each['bytes'], 'sha256': each['sha256']}
    listed.append({'file': path.name, **about})
  manifest = {
    **settings,
    'statistics': contents.used.beside(settings['statistics']),
    'feature_lengths': contents.summary(),
    'token_dtype': token_dtype(settings['vocabulary']['size']),
    'shards': listed,
  }
  files.write_json(shards.directory / 'manifest.json', manifest)
  for left in shards.directory.glob('.*.tmp'):  # of runs that were killed
    left.unlink(missing_ok=True)
  return manifest


def write(
  live: data.Live,
  directory: str | os.PathLike,
  episodes: int,
  shard_size: int | None = None,
) -> dict[str, Any]:
  """Writes what of episodes 0 to `episodes` - 1 is not there yet; returns the manifest.

  Raises:
    InputError: `directory` has other episodes, or something else.
  """
  shards = Shards.of(directory, episodes, shard_size)
  settings = begin(live, shards)
  for index in shards.unfinished():
    write_shard(live, shards, index)
  return finish(shards, settings)


def _check_equal(
  found: Any, wanted: Mapping[str, Any], where: str, names: tuple[str, ...], mend: str
) -> None:
  """InputError with both values of what differs, under those names."""
  if not isinstance(found, dict):
    raise InputError(f'{where} is not an object of settings: was it edited?')
  pairs = [(name, found.get(name), wanted.get(name)) for name in names]
  odd = [
    each
    for name, old, new in pairs
    for each in records.contrasts(records.completed(old), records.completed(new), name)
    if each[0] not in _IGNORED
  ]
  if not odd:
    return
  odd.sort(key=lambda each: not each[0].endswith('.class'))  # all fields of another class differ
  told = [f'{name} is {_short(old)} there and {_short(new)} here' for name, old, new in odd[:3]]
  more = f' and {len(odd) - 3} more differ' if len(odd) > 3 else ''
  raise InputError(f'{where} is of other episodes: {", ".join(told)}{more}; {mend}')


_IGNORED = ('name', 'vocabulary.file')
"""What a mixture is called and where its vocabulary lies does not change an episode."""


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:50]}…{text[-9:]}'


# --- Reading --------------------------------------------------------------------------------------


class StoredEpisodes:
  """The episodes of a folder, read by index through Grain; they repeat after the last one."""

  def __init__(self, directory: str | os.PathLike):
    self.directory = pathlib.Path(directory)
    self.manifest = _manifest(self.directory)
    self._repeats = False
    self._block = functools.lru_cache(maxsize=4)(self._read)

  def __len__(self) -> int:
    return self.manifest['episodes']

  @property
  def task_names(self) -> tuple[str, ...]:
    return tuple(self.manifest['tasks'])

  @property
  def statistics(self) -> dict[str, dict[str, int]]:
    """Those of the data that the episodes were made of."""
    own = ('episodes', 'contexts_cut')
    return {
      name: {key: count for key, count in counts.items() if key not in own}
      for name, counts in self.manifest['statistics'].items()
    }

  @functools.cached_property
  def source(self) -> Any:
    """Grain's source of the records, in their order.

    Raises:
      InputError: a shard that is missing, or not of its size.
    """
    import grain

    paths = [self._checked(shard) for shard in self.manifest['shards']]
    return grain.sources.ArrayRecordDataSource([str(path) for path in paths])

  def __call__(self, seed: int, n: int) -> Episode:
    if seed != self.manifest['seed']:
      raise InputError(f'{self.directory} has episodes of seed {self.manifest["seed"]}, not {seed}')
    epoch, place = divmod(n, len(self))
    if epoch and not self._repeats:
      self._repeats = True
      self._say_repeats()
    return decoded(self._record(place), self.manifest['token_dtype'])

  def _record(self, place: int) -> bytes:
    try:
      with contextlib.suppress(RuntimeError):  # perhaps of another record: see below
        return self._block(place // BLOCK)[place % BLOCK]
      return self.source[place]
    except RuntimeError as error:  # Riegeli's: a chunk that does not have its hash
      index = place // self.manifest['shard_size']
      path = self.directory / self.manifest['shards'][index]['file']
      raise InputError(_damaged(path, error)) from error

  def _read(self, block: int) -> Sequence[bytes]:
    return self.source.__getitems__(range(block * BLOCK, min((block + 1) * BLOCK, len(self))))

  def wrong_context(self, seed: int, n: int) -> Episode:
    """InputError: contexts are stored as they are."""
    raise InputError(f'{self.directory} has no wrong contexts; store a mixture with wrong_context')

  def _checked(self, shard: Mapping[str, Any]) -> pathlib.Path:
    path = self.directory / shard['file']
    if not path.is_file():
      raise InputError(f'{path} is missing: run the hyperjax.cache command that wrote it again')
    if (size := path.stat().st_size) != shard['bytes']:
      raise InputError(_damaged(path, f'{size} bytes instead of {shard["bytes"]}'))
    if (count := _count(path)) != shard['episodes']:
      raise InputError(_damaged(path, f'{count} episodes instead of {shard["episodes"]}'))
    return path

  def _say_repeats(self) -> None:
    from hyperjax import logs  # imports JAX, as Grain does

    logs.say(f'all {len(self):,} episodes of {self.directory} are used: they repeat from the first')


def _manifest(directory: pathlib.Path) -> dict[str, Any]:
  path = directory / 'manifest.json'
  if not path.exists():
    begun = (directory / 'settings.json').exists()
    mend = 'is not complete: run its hyperjax.cache command again' if begun else 'has no manifest'
    raise InputError(f'{path} is missing: {directory} {mend}')
  manifest = files.read_json(path)
  format_ = manifest.get('format') if isinstance(manifest, dict) else None
  if format_ != FORMAT:
    raise InputError(f'{path} has format {format_!r}, this hyperjax reads {FORMAT}: store it again')
  if missing := sorted({'shards', 'tasks', 'statistics', 'token_dtype'} - manifest.keys()):
    raise InputError(f'{path} has no {missing[0]}: was it edited?')
  return manifest


class Stored:
  """The stored episodes of a folder in the place of the live ones that `live` would make.

  Batches are bitwise those of `live`, while the episodes last; nothing of its data is read, but
  its settings must be those of the manifest. Files are opened at first use.
  """

  is_assembled = True

  def __init__(self, directory: str, live: data.Live):
    self.directory, self.live = directory, live
    self.lengths, self.batch_size = live.lengths, live.batch_size
    self.targets_per_context, self.seed, self.split = (
      live.targets_per_context,
      live.seed,
      live.split,
    )
    self._used = data.Used()

  @property
  def name(self) -> str:
    return self.live.name

  @property
  def vocabulary(self) -> Vocabulary:
    return self.live.vocabulary

  @functools.cached_property
  def episodes(self) -> StoredEpisodes:
    """What is read; InputError where it is not what `live` makes, or a shard is not whole."""
    episodes, wanted = StoredEpisodes(self.directory), files.plain(self.live.settings())
    where = str(episodes.directory / 'manifest.json')
    mend = 'store the episodes of this run, or give the run what they were stored with'
    _check_equal(episodes.manifest, wanted, where, tuple(wanted), mend)
    _ = episodes.source
    return episodes

  def starting_at(
    self, step: int, process_index: int = 0, process_count: int = 1
  ) -> Iterator[data.Batch]:
    """The batches from a step on; see Batches."""
    episodes = self.episodes  # here, not in a thread later
    return data.Batches(
      episodes,
      self.lengths,
      self.batch_size,
      self.targets_per_context,
      self.seed,
      process_index,
      process_count,
      self.live.buckets,
      self._used.counted,
    ).starting_at(step)

  def statistics(self) -> dict[str, dict[str, int]]:
    """As Live's: of the data, and of the episodes read so far."""
    return self._used.beside(self.episodes.statistics)

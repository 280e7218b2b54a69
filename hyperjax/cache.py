"""`python -m hyperjax.cache`: the episodes of a mixture, stored once, to be read by many runs.

python -m hyperjax.cache --mixture=sni_def_2pos --data_dir=data --vocabulary=spiece.model \\
  --output=episodes --episodes=100000
python -m hyperjax.cache --gin_file=gin/runs/mtf.gin … --output=…    # the training data of a run
"""

import concurrent.futures
import copy
import gc
import multiprocessing
import os
import pathlib
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any

import tqdm
from absl import flags

from hyperjax import adapt, cli, data, inspect, stored
from hyperjax.errors import InputError

FLAGS = flags.FLAGS
SECONDS_BETWEEN_LINES = 30  # printed where there is no terminal to draw a bar on


def define_flags() -> None:
  """The flags of this verb; those of the data are hyperjax.inspect's."""
  inspect.define_data_flags()
  flags.DEFINE_string('output', None, 'The folder of the episodes.')
  flags.DEFINE_integer('episodes', None, 'How many: episodes 0, 1, …', lower_bound=1)
  flags.DEFINE_integer(
    'shard_size', None, 'Episodes of a file; 8192, or what makes 512 files.', lower_bound=1
  )
  flags.DEFINE_integer('workers', None, 'Processes; as many as cores by default.', lower_bound=1)
  flags.DEFINE_enum(
    'runner', 'processes', ['processes', 'beam'], 'beam: as an Apache Beam pipeline.'
  )
  flags.DEFINE_string('pipeline_options', None, "Beam's, such as --runner=FlinkRunner.")


def main() -> None:
  """Writes the shards that are not there yet, then the manifest."""
  adapt.require('output', 'episodes')
  inspect.check_data_flags()
  if FLAGS.workers and FLAGS.runner == 'beam':
    raise InputError('--workers are those of --runner=processes; Beam has --pipeline_options')
  if FLAGS.pipeline_options and FLAGS.runner != 'beam':
    raise InputError('--pipeline_options are those of Beam: give --runner=beam too')
  live = of_run() if FLAGS.gin_file else inspect.of_flags()
  shards = stored.Shards.of(FLAGS.output, FLAGS.episodes, FLAGS.shard_size)
  stored.check_settings(live, shards)
  todo = unfinished(shards)
  if not todo and (shards.directory / 'manifest.json').exists():
    print(f'{shards.directory} has these {shards.episodes:,} episodes already')
    return
  unread = copy.copy(live)  # what Beam sends to its workers
  settings = stored.begin(live, shards)
  if FLAGS.runner == 'beam':
    in_beam(unread, shards, todo, shlex.split(FLAGS.pipeline_options or ''))
  else:
    in_processes(live, shards, todo, FLAGS.workers or cores())
  manifest = stored.finish(shards, settings)
  print('\n'.join(told(shards.directory, manifest)))


def unfinished(shards: stored.Shards) -> list[int]:
  """The shards to write; says which of them are there but damaged."""
  todo = shards.unfinished()
  for path in (shards.directory / shards.name(index) for index in todo):
    if path.exists() and path.with_suffix('.json').exists():
      print(f'{path} is damaged: it is written again', flush=True)
  if 0 < len(todo) < shards.count:
    print(f'{shards.count - len(todo)} of {shards.count} shards are there already', flush=True)
  return todo


def told(directory: pathlib.Path, manifest: dict[str, Any]) -> list[str]:
  """A table of lengths, and what there is."""
  size = sum(shard['bytes'] for shard in manifest['shards'])
  rows = [['feature', 'length', 'mean', 'median', 'longest']]
  for feature, about in manifest['feature_lengths'].items():
    cells = [f'{about["mean"]:.1f}', f'{about["median"]:.0f}', str(about['longest'])]
    rows.append([feature, str(manifest['lengths'].get(feature, 0)), *cells])
  cut = sum(counts['contexts_cut'] for counts in manifest['statistics'].values())
  count = f'{manifest["episodes"]:,} episodes of {len(manifest["tasks"])} tasks'
  end = f'{directory}: {count}, {size / 1e6:,.1f} MB'
  return [*inspect.columns(rows), f'contexts cut: {cut:,}', end]


def of_run() -> data.Live:
  """The training data of a run, as they are without gin/data/stored.gin."""
  try:
    found = in_another_process(inspect.of_run, *inspect.run_flags())
  except ImportError as error:
    raise InputError(
      f'--gin_file needs all that a run does ({error}): describe the data by --mixture instead'
    ) from error
  return found.live if isinstance(found, stored.Stored) else found


# -- Processes -------------------------------------------------------------------------------------


def in_another_process(function: Callable, *arguments: Any) -> Any:
  """What a function returns, called where it may import JAX, which does not bear a fork here."""
  spawn = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
    return pool.submit(function, *arguments).result()


def cores() -> int:
  """How many this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def in_processes(live: data.Live, shards: stored.Shards, todo: Sequence[int], workers: int) -> None:
  """Writes shards in forks of this process, which all read the data that it has read.

  The data are held once: a fork copies only what is written to. JAX must not have been used here,
  since its threads do not live on in a fork. An InputError of a worker is raised.
  """
  live.episode(0)  # what is computed at the first episode is computed once
  done = sum(len(shards.range(index)) for index in set(range(shards.count)) - set(todo))
  if min(workers, len(todo)) < 2:
    progress = Progress(shards.episodes, done)
    for index in todo:
      stored.write_shard(live, shards, index, progress.add)
    return progress.close()
  gc.freeze()  # or a collection would write to all of it
  running = dict(
    _started(live, shards, todo[worker::workers]) for worker in range(min(workers, len(todo)))
  )
  progress = Progress(shards.episodes, done)
  try:
    while running:
      for reader in connection.wait(list(running)):
        _heard(reader, running, progress)
  finally:
    for process in running.values():
      process.terminate()
    progress.close()


def _started(live, shards, todo) -> tuple[Any, Any]:
  fork = multiprocessing.get_context('fork')
  reader, writer = fork.Pipe(duplex=False)
  process = fork.Process(target=_work, args=(live, shards, todo, writer, os.getpid()), daemon=True)
  process.start()
  writer.close()  # so that the worker's end is the last one, and its death is heard
  return reader, process


def _work(live, shards, todo, writer, parent: int) -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers

  def report(count: int) -> None:
    if os.getppid() != parent:  # it was killed
      raise SystemExit(1)
    writer.send(count)

  try:
    for index in todo:
      stored.write_shard(live, shards, index, report)
  except InputError as error:
    writer.send(error)


def _heard(reader: Any, running: dict[Any, Any], progress: 'Progress') -> None:
  """Takes one message of a worker: episodes, an error, or its end."""
  try:
    said = reader.recv()
  except EOFError:
    process = running.pop(reader)
    process.join()
    if process.exitcode:
      raise InputError(
        f'a worker ended with status {process.exitcode}, for want of memory if nothing else is'
        ' said: give fewer --workers; the same command goes on from here'
      ) from None
    return
  if isinstance(said, InputError):
    raise said
  progress.add(said)


class Progress:
  """Episodes written, how fast, and the time left: a bar, or lines where there is no terminal."""

  def __init__(self, total: int, done: int):
    self._bar = tqdm.tqdm(
      total=total, initial=done, disable=None, unit='episode', dynamic_ncols=True, smoothing=0.1
    )
    self._total, self._first, self._done = total, done, done
    self._began = self._printed = time.monotonic()

  def add(self, count: int) -> None:
    """So many more are written."""
    self._done += count
    self._bar.update(count)
    now = time.monotonic()
    late = now - self._printed >= SECONDS_BETWEEN_LINES
    if self._bar.disable and count and (late or self._done == self._total):
      rate = (self._done - self._first) / max(now - self._began, 1e-9)
      left = (self._total - self._done) / rate / 60
      said = f'episode {self._done:,}/{self._total:,}: {rate:,.0f} episodes/s, {left:.1f} min left'
      print(said, flush=True)
      self._printed = now

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()


# -- Apache Beam -----------------------------------------------------------------------------------


def in_beam(
  live: data.Live, shards: stored.Shards, todo: Sequence[int], options: Sequence[str]
) -> None:
  """Writes shards as a Beam pipeline, whose workers see the same folders as this machine.

  Each worker reads the data once. docs/architecture.md says how Beam is installed.
  """
  try:
    import apache_beam as beam
    from apache_beam.options import pipeline_options
  except ImportError as error:
    raise InputError(
      '--runner=beam needs Apache Beam, in an environment of its own (docs/architecture.md):'
      f' {error}'
    ) from error
  with beam.Pipeline(options=pipeline_options.PipelineOptions(list(options))) as pipeline:
    indices = pipeline | beam.Create(list(todo)) | beam.Reshuffle()
    _ = indices | 'write' >> beam.Map(Write(live, shards))


class Write:
  """Writes the shard of an index: what a Beam worker is sent."""

  def __init__(self, live: data.Live, shards: stored.Shards):
    self._live, self._shards = live, shards

  def __call__(self, index: int) -> None:
    stored.write_shard(self._live, self._shards, index)


if __name__ == '__main__':
  # Processes and Beam find what they run by its module, which is not __main__.
  from hyperjax import cache as verb

  define_flags()
  cli.run(verb.main)

"""Kills a run again and again, and compares it with one that nobody touched.

    python -m scripts.chaos --kills=20 --output=runs/chaos -- --gin_file=… --gin.TRAIN_STEPS=1000

What follows `--` are the flags of `python -m hyperjax.train`, without MODEL_DIR. Each kill is a
`kill -9` at a random moment: while the run starts, between two steps, or while a checkpoint is
being written. With --processes=2 the run is two processes here, one of which is killed, and the
other must end by itself. Prints and writes (--output/chaos.json) what happened; exit status 1 if
the last checkpoints or the metrics of the two runs differ in a bit.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

ROOT = pathlib.Path(__file__).parent.parent
MOMENTS = ('start', 'step', 'save')
PATIENCE = 60  # seconds in which the other processes of a run must end


class Failure(Exception):
  """What a run should not have done."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A training command with its model_dir, as so many processes."""

  arguments: Sequence[str]
  model_dir: pathlib.Path
  processes: int = 1
  environment: dict[str, str] | None = None

  def start(self) -> list[subprocess.Popen]:
    """Starts the processes; what they say goes to `log`."""
    command = [sys.executable, '-m', 'hyperjax.train', *self.arguments]
    command += [f'--gin.MODEL_DIR={str(self.model_dir)!r}']
    environment = os.environ | {'PYTHONPATH': str(ROOT)} | (self.environment or {})
    self.model_dir.parent.mkdir(parents=True, exist_ok=True)
    flags = _flags(self.processes)
    return [
      subprocess.Popen(
        command + more,
        cwd=ROOT,
        env=environment,
        stdout=self.log(index).open('ab'),
        stderr=subprocess.STDOUT,
      )
      for index, more in enumerate(flags)
    ]

  @contextlib.contextmanager
  def alive(self) -> Iterator['Life']:
    """The processes of one start, all of them gone at the end."""
    lives, left = self.lives(), self.half_written()
    processes = self.start()
    try:
      yield Life(self, processes, lives, left)
    finally:
      for process in processes:
        process.kill()
        process.wait()

  def log(self, index: int = 0) -> pathlib.Path:
    """What a process has said, in all of its lives."""
    return self.model_dir.with_name(f'{self.model_dir.name}.{index}.log')

  def finish(self) -> None:
    """Runs to the end."""
    with self.alive() as life:
      statuses = [process.wait() for process in life.processes]
    if any(statuses):
      raise Failure(f'{self.model_dir} ended with status {statuses}: {self.said()}')

  def said(self) -> str:
    """The last words of every process."""
    texts = [self.log(index).read_text() for index in range(self.processes)]
    return ' | '.join(' '.join(text.splitlines()[-2:]) for text in texts)

  def steps(self) -> int:
    """How many steps have been logged; those of the lives before count once."""
    path = self.model_dir / 'train' / 'metrics.jsonl'
    return path.read_bytes().count(b'"loss"') if path.exists() else 0

  def lives(self) -> int:
    """How often the loop of steps has begun: each time opens a file for TensorBoard."""
    return len(list((self.model_dir / 'train').glob('events.out.*')))

  def half_written(self) -> set[tuple[str, int]]:
    """Checkpoints in the making, or left so, each by name and inode."""
    found = [p for p in _inside(self.model_dir) if 'orbax-checkpoint-tmp' in p.name]
    with contextlib.suppress(FileNotFoundError):  # it was finished meanwhile
      return {(p.name, p.stat().st_ino) for p in found}
    return set()

  def checkpoints(self) -> dict[str, object]:
    """Checkpoint -> its leaves with dtypes, shapes and checksums."""
    paths = [p for p in _inside(self.model_dir) if p.name.startswith('checkpoint_')]
    return {p.name: json.loads((p / 'metadata' / 'metadata').read_text())['leaves'] for p in paths}


def _flags(processes: int) -> list[list[str]]:
  if processes == 1:
    return [[]]
  # Below the ports that systems give out by themselves: this one is bound seconds later.
  for port in random.Random().sample(range(20_000, 32_000), 100):
    with socket.socket() as one, contextlib.suppress(OSError):
      one.bind(('localhost', port))
      break
  address = f'localhost:{port}'
  both = [f'--coordinator_address={address}', f'--process_count={processes}']
  return [[*both, f'--process_index={index}'] for index in range(processes)]


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
  return list(folder.iterdir()) if folder.is_dir() else []


def kill(run: Run, moment: str, rng: random.Random, window: float = 2) -> dict[str, object]:
  """Starts a run, kills one of its processes at a moment of that kind, and sees the others end.

  `window` is the length in seconds of what a step's moment is drawn from; a start's is five times
  as long.

  Raises:
    Failure: the run ended before; another process went on, or ended as if nothing had happened.
  """
  victim = rng.randrange(run.processes)
  left = run.half_written()
  with run.alive() as life:
    life.wait_for(moment, rng, window)
    while moment == 'save' and not life.stopped_in_a_save(victim):
      life.wait_for_a_save()
    life.processes[victim].kill()
    killed = time.monotonic()
    life.processes[victim].wait()
    found = {'moment': moment, 'in_a_save': bool(run.half_written() - left), 'step': run.steps()}
    others = [p for p in life.processes if p is not life.processes[victim]]
    try:
      statuses = [process.wait(PATIENCE) for process in others]
    except subprocess.TimeoutExpired as error:
      raise Failure(f'a process went on for {PATIENCE} s beside one that was killed') from error
  if 0 in statuses:
    raise Failure(f'a process ended with status 0 beside one that was killed: {run.said()}')
  return found | {'process': victim, 'others_ended': round(time.monotonic() - killed, 1)}


@dataclasses.dataclass(frozen=True)
class Life:
  """A run's processes from a start to their end, and what was on disk before."""

  run: Run
  processes: list[subprocess.Popen]
  lives: int
  left: set[tuple[str, int]]

  def wait_for(self, moment: str, rng: random.Random, window: float) -> None:
    """Returns at a moment of that kind."""
    if moment == 'start':
      self._until(_after(rng.uniform(0, 5 * window)))
      return
    self._until(lambda: self.run.lives() > self.lives)
    first = self.run.steps()
    self._until(lambda: self.run.steps() > first)
    self._until(_after(rng.uniform(0, window)))
    if moment == 'save':
      self.wait_for_a_save()

  def wait_for_a_save(self) -> None:
    """Returns when a checkpoint is in the making."""
    self._until(lambda: self.run.half_written() - self.left)

  def stopped_in_a_save(self, victim: int) -> bool:
    """Stops a process, or lets it go on where its save has ended meanwhile."""
    self.processes[victim].send_signal(signal.SIGSTOP)
    if self.run.half_written() - self.left:
      return True
    self.processes[victim].send_signal(signal.SIGCONT)
    return False

  def _until(self, condition: Callable[[], object]) -> None:
    while not condition():
      if any(process.poll() is not None for process in self.processes):
        said = self.run.said()
        raise Failure(f'the run ended before it was killed; give more TRAIN_STEPS: {said}')
      time.sleep(0.001)


def _after(seconds: float) -> Callable[[], bool]:
  end = time.monotonic() + seconds
  return lambda: time.monotonic() >= end


def chaos(whole: Run, killed: Run, kills: int, seed: int, window: float = 2) -> dict[str, object]:
  """Both runs, one of them killed so many times; what happened, and what differs in the end."""
  rng = random.Random(seed)
  found = []
  for number in range(kills):
    found.append(kill(killed, MOMENTS[number % len(MOMENTS)], rng, window))
    print(f'kill {number + 1}: {found[-1]}', flush=True)
  killed.finish()
  whole.finish()
  metrics = [run.model_dir / 'train' / 'metrics.jsonl' for run in (whole, killed)]
  names = ('checkpoints', 'metrics')
  same = (whole.checkpoints() == killed.checkpoints(), _same(*metrics))
  return {
    'kills': found,
    'in_a_save': sum(bool(one['in_a_save']) for one in found),
    'steps': whole.steps(),
    'differ': [name for name, equal in zip(names, same) if not equal],
  }


def _same(first: pathlib.Path, second: pathlib.Path) -> bool:
  return first.read_bytes() == second.read_bytes()


def main() -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--processes', type=int, default=1)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  parser.add_argument('flags', nargs='+', help='flags of hyperjax.train, after --')
  given = parser.parse_args()
  if given.processes < 1 or given.kills < 0:
    sys.exit('error: --processes must be at least 1, --kills at least 0')
  if _inside(given.output):
    sys.exit(f'error: {given.output} is not empty; give a new folder')
  runs = [Run(given.flags, given.output / name, given.processes) for name in ('whole', 'killed')]
  try:
    report = chaos(*runs, given.kills, given.seed)
  except Failure as error:
    sys.exit(f'error: {error}')
  except KeyboardInterrupt:
    sys.exit('interrupted')
  (given.output / 'chaos.json').write_text(json.dumps(report, indent=1) + '\n')
  print(
    f'{len(report["kills"])} kills, {report["in_a_save"]} of them with a checkpoint half written; '
    f'{report["steps"]} steps; '
    + (f'{report["differ"]} differ' if report['differ'] else 'no bit differs')
  )
  sys.exit(1 if report['differ'] else 0)


if __name__ == '__main__':
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  main()

"""What a run tells while it runs: a progress line, TensorBoard scalars, and metrics.jsonl.

model_dir/train/metrics.jsonl     every step's metrics exactly, and those of evaluations
          train/events.out…       the same about once a second, under T5X's tags, with timing
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile
import time
from typing import TextIO

import jax
import tqdm
from etils import epath

from hyperjax import files
from hyperjax.phases import Phases

SECONDS_BETWEEN_SCALARS = 1
SECONDS_BETWEEN_LINES = 30  # printed where there is no terminal to draw a bar on


def open_log(model_dir: str, first: int, total: int, batch_size: int) -> 'Log | Silent':
  """The log of a run of `total` steps that goes on from step `first`; one process writes it."""
  return Log(model_dir, first, total, batch_size) if jax.process_index() == 0 else Silent()


def say(text: str) -> None:
  """Prints once, however many processes there are."""
  if jax.process_index() == 0:
    print(text, flush=True)


class Silent:
  """The log of all processes but one."""

  def started(self, number: int, phases: Phases) -> None:
    """Nothing."""

  def compiled(self, number: int, seconds: float) -> None:
    """Nothing."""

  def step(self, number: int, metrics: dict[str, float]) -> None:
    """Nothing."""

  def evaluation(self, number: int, metrics: dict[str, float]) -> None:
    """Nothing."""

  def flush(self) -> None:
    """Nothing."""

  def close(self) -> None:
    """Nothing."""


class Log:
  """What every step and every evaluation measured, for people, TensorBoard and programs.

  Lines of metrics.jsonl after the step that a run goes on from are dropped, so that an interrupted
  run's file equals an uninterrupted one's.
  """

  def __init__(self, model_dir: str, first: int, total: int, batch_size: int):
    from hyperjax import events  # here: it imports PyTorch where there is one, which takes seconds

    self._folder = Folder.of(files.place(model_dir) / 'train')
    with self._folder.writing():
      self._lines = _lines_until(self._folder.local / 'metrics.jsonl', first)
      self._events = events.Events(self._folder.local, first)
    self._bar = tqdm.tqdm(
      total=total, initial=first, disable=None, unit='step', dynamic_ncols=True, smoothing=0.1
    )
    self._total, self._batch_size = total, batch_size
    self._began = self._printed = time.monotonic()
    self._window = _Window(time.monotonic())

  def started(self, number: int, phases: Phases) -> None:
    """The first step was made, after these phases."""
    tags = {f'timing/start_up/{name}_seconds': each for name, each in phases.seconds.items()}
    self._scalars(number, {tag.replace(' ', '_'): each for tag, each in tags.items()})
    self._print(str(phases))

  def compiled(self, number: int, seconds: float) -> None:
    """A step was compiled, the first or one for other lengths; rates are measured from here on."""
    self._scalars(number, {'timing/compilation_seconds': seconds})
    self._window = _Window(time.monotonic())

  def step(self, number: int, metrics: dict[str, float]) -> None:
    """One step's metrics; 'weight' is its number of target tokens."""
    self._line(number, metrics)
    self._bar.update()
    self._window.steps += 1
    self._window.tokens += metrics['weight']
    if self._window.seconds() >= SECONDS_BETWEEN_SCALARS or number == self._total:
      self._tell(number, metrics)
      self._window = _Window(time.monotonic())

  def evaluation(self, number: int, metrics: dict[str, float]) -> None:
    """The metrics of an evaluation during training, whose seconds count for no rate."""
    self._line(number, metrics)
    self._scalars(number, metrics)
    self._print(f'step {number}: ' + ', '.join(f'{k} {v:.4f}' for k, v in _shown(metrics).items()))
    self._window = _Window(time.monotonic())

  def flush(self) -> None:
    """All lines are on disk: called before a save, so that a kill after it leaves no gap."""
    with self._folder.writing():
      self._lines.flush()
      self._events.flush()
      self._folder.send()

  def close(self) -> None:
    """Ends the bar and the files."""
    self._bar.close()
    with self._folder.writing():
      self._lines.close()
      self._events.close()
      self._folder.send()
    self._folder.close()

  def _line(self, number: int, metrics: dict[str, float]) -> None:
    with self._folder.writing():
      self._lines.write(json.dumps({'step': number, **metrics}) + '\n')

  def _scalars(self, number: int, values: dict[str, float]) -> None:
    with self._folder.writing():
      self._events.scalars(number, values)

  def _tell(self, number: int, metrics: dict[str, float]) -> None:
    timing = self._window.timing(self._batch_size)
    self._scalars(number, {tag: value for tag, value in metrics.items() if tag != 'weight'})
    uptime = {'timing/uptime': time.monotonic() - self._began}
    self._scalars(number, timing | uptime | _memory())
    with self._folder.writing():
      self._lines.flush()
      self._events.flush()
    rates = (
      f'loss {metrics["loss"]:.4f}, {timing["timing/seqs_per_second"]:.1f} examples/s, '
      f'{timing["timing/target_tokens_per_second"]:.0f} target tokens/s'
    )
    self._bar.set_postfix_str(rates)  # the bar itself tells the time left
    late = time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES
    if self._bar.disable and (late or number == self._total):
      left = (self._total - number) / timing['timing/steps_per_second']
      self._print(f'step {number}/{self._total}: {rates}, {left / 60:.1f} min left')
      self._printed = time.monotonic()

  def _print(self, text: str) -> None:
    if self._bar.disable:
      print(text, flush=True)
    else:
      self._bar.write(text)


@dataclasses.dataclass
class _Window:
  """The steps since rates were last told."""

  began: float
  steps: int = 0
  tokens: float = 0.0

  def seconds(self) -> float:
    return max(time.monotonic() - self.began, 1e-9)

  def timing(self, batch_size: int) -> dict[str, float]:
    """T5X's tags; a core is a device."""
    seconds, cores = self.seconds(), jax.device_count()
    sequences, tokens = self.steps * batch_size / seconds, self.tokens / seconds
    return {
      'timing/seconds': seconds,
      'timing/steps_per_second': self.steps / seconds,
      'timing/seqs_per_second': sequences,
      'timing/seqs_per_second_per_core': sequences / cores,
      'timing/target_tokens_per_second': tokens,
      'timing/target_tokens_per_second_per_core': tokens / cores,
    }


def _memory() -> dict[str, float]:
  """The most bytes that the first device has held; nothing where it does not tell, as CPUs."""
  told = jax.local_devices()[0].memory_stats() or {}
  return {'memory/peak_bytes': told['peak_bytes_in_use']} if 'peak_bytes_in_use' in told else {}


def _shown(metrics: dict[str, float]) -> dict[str, float]:
  """Without the norms of phi, of which there is one a site."""
  return {name: value for name, value in metrics.items() if 'phi_norm/' not in name}


# -- Files -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Folder:
  """Where files grow: on this machine's disk, from where they are sent to a remote place."""

  remote: epath.Path
  local: pathlib.Path
  sent: dict[str, int] = dataclasses.field(default_factory=dict)  # sizes

  @classmethod
  def of(cls, path: epath.Path) -> 'Folder':
    """That folder, made; of a remote one a copy, since objects there cannot grow."""
    if not files.is_remote(path):
      with files.writing(path):
        path.mkdir(parents=True, exist_ok=True)
      return cls(path, pathlib.Path(path))
    own = cls(path, pathlib.Path(tempfile.mkdtemp(prefix='hyperjax-')))
    if files.exists(lines := path / 'metrics.jsonl'):
      (own.local / lines.name).write_bytes(files.read_bytes(lines))
    return own

  def writing(self) -> contextlib.AbstractContextManager[None]:
    """Errors name the place."""
    return files.writing(self.remote)

  def send(self) -> None:
    """All files that are remote and have grown, as they are now."""
    if files.is_remote(self.remote):
      for path in self.local.iterdir():
        size = path.stat().st_size
        if self.sent.get(path.name) != size:
          files.write_bytes(self.remote / path.name, path.read_bytes())
          self.sent[path.name] = size

  def close(self) -> None:
    """Deletes the copy of a remote folder."""
    if files.is_remote(self.remote):
      shutil.rmtree(self.local)


def _lines_until(path: pathlib.Path, step: int) -> TextIO:
  """The file opened for appending, without lines of later steps or a half-written last one."""
  kept = []
  if step and path.exists():
    with path.open(encoding='utf-8') as file:
      for line in file:
        with contextlib.suppress(ValueError):
          if line.endswith('\n') and json.loads(line)['step'] <= step:
            kept.append(line)
  files.write_text(path, ''.join(kept))
  return path.open('a', encoding='utf-8')

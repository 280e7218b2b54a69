"""What a run tells while it runs: a progress line, TensorBoard scalars, and metrics.jsonl.

model_dir/train/metrics.jsonl     every step's metrics exactly, and those of evaluations
          train/events.out…       the same about once a second, under T5X's tags, with timing
"""

import contextlib
import dataclasses
import json
import os
import time
from typing import TextIO

import jax
import tqdm
from tensorboardX import SummaryWriter

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
    folder = os.path.join(model_dir, 'train')
    os.makedirs(folder, exist_ok=True)
    self._lines = _lines_until(os.path.join(folder, 'metrics.jsonl'), first)
    self._events = SummaryWriter(folder, purge_step=first + 1, flush_secs=20)
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
    self._lines.flush()

  def close(self) -> None:
    """Ends the bar and the files."""
    self._bar.close()
    self._lines.close()
    self._events.close()

  def _line(self, number: int, metrics: dict[str, float]) -> None:
    self._lines.write(json.dumps({'step': number, **metrics}) + '\n')

  def _scalars(self, number: int, values: dict[str, float]) -> None:
    for tag, value in values.items():
      self._events.add_scalar(tag, value, number)

  def _tell(self, number: int, metrics: dict[str, float]) -> None:
    timing = self._window.timing(self._batch_size)
    self._scalars(number, {tag: value for tag, value in metrics.items() if tag != 'weight'})
    self._scalars(number, timing | {'timing/uptime': time.monotonic() - self._began})
    self._lines.flush()
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


def _shown(metrics: dict[str, float]) -> dict[str, float]:
  """Without the norms of phi, of which there is one a site."""
  return {name: value for name, value in metrics.items() if 'phi_norm/' not in name}


def _lines_until(path: str, step: int) -> TextIO:
  """The file opened for appending, without lines of later steps or a half-written last one."""
  kept = []
  if step and os.path.exists(path):
    with open(path, encoding='utf-8') as file:
      for line in file:
        with contextlib.suppress(ValueError):
          if line.endswith('\n') and json.loads(line)['step'] <= step:
            kept.append(line)
  files.write_text(path, ''.join(kept))
  return open(path, 'a', encoding='utf-8')

"""The trainer: one loop over batches that steps, evaluates and saves when due.

It takes modules and an iterable of numpy batches; everything that the papers call a row is a
difference in its arguments.
"""

import contextlib
import dataclasses
import io
import itertools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from hyperjax import (
  checkpoints,
  files,
  fingerprints,
  initial,
  logs,
  objectives,
  optim,
  partitioning,
  phases,
  protocols,
  runs,
  step,
)
from hyperjax.errors import InputError
from hyperjax.models import attention
from hyperjax.program import Program
from hyperjax.vocabulary import Vocabulary

Batch = dict[str, np.ndarray]


@runtime_checkable
class Data(Protocol):
  """Where batches come from: hyperjax.data.Live, hyperjax.stored.Stored."""

  @property
  def name(self) -> str: ...
  @property
  def vocabulary(self) -> Vocabulary: ...

  lengths: dict[str, int]
  batch_size: int
  targets_per_context: int

  def starting_at(
    self, step: int, process_index: int = 0, process_count: int = 1
  ) -> Iterator[dict[str, np.ndarray]]:
    """The batches of steps step, step + 1, …; the same ones whenever it is asked."""
    ...

  def statistics(self) -> dict[str, dict[str, int]]:
    """Task -> what -> how many: kept, left out, truncated."""
    ...


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The loss on `steps` batches that are not trained on, every `period` steps and at the end."""

  data: Data
  period: int = 1000
  steps: int = 16

  def __post_init__(self):
    for name in ('period', 'steps'):
      if getattr(self, name) < 1:
        raise InputError(f'Evaluation.{name} is {getattr(self, name)}; give at least 1')


def train(
  model_dir: str,
  data: Data,
  downstream: protocols.Downstream,
  total_steps: int,
  hypermodel: protocols.Hypermodel | None = None,
  trainable: Sequence[str] = ('hypermodel',),
  downstream_checkpoint: str | None = None,
  hypermodel_checkpoint: str | None = None,
  objective: protocols.Objective = objectives.CrossEntropy(),
  optimizer: optim.AdamW | optim.Adafactor = optim.AdamW(),
  mesh: partitioning.MeshShape = partitioning.MeshShape(),
  accumulate: int = 1,
  loss_normalizing_factor: float | None = None,
  seed: int = 0,
  evaluation: Evaluation | None = None,
  saving: Callable[[str], checkpoints.Checkpoints] = checkpoints.Checkpoints,
  config: str | None = None,
  start_up: phases.Phases | None = None,
) -> dict[str, float]:
  """Trains, or goes on from the latest checkpoint in model_dir, until `total_steps`.

  A run that is interrupted at any moment and called again gives bitwise what it would have given.
  SIGTERM saves and exits with status 0.

  Args:
    trainable: path prefixes of what trains: 'hypermodel', 'downstream', 'hypermodel/heads'.
    downstream_checkpoint, hypermodel_checkpoint: runs to start from (or a checkpoint_<step> of
      one). A frozen part needs one. Without one a hypermodel's trunk starts from the downstream
      model's weights where their sizes are equal, and all else at random.
    saving: makes the run's Checkpoints, given model_dir.
    config: text for model_dir/config.gin.
    start_up: what took how long before; told with what the run takes until its first step is made.

  Returns:
    the metrics of the last step; nothing if the run was complete already.

  Raises:
    InputError: what does not fit together, and a loss that is not finite.
  """
  start_up = start_up or phases.Phases()
  files.check_reachable(model_dir)
  model = step.Model(downstream, hypermodel)
  program = Program(
    model,
    trainable,
    total_steps,
    objective,
    optimizer,
    seed,
    accumulate,
    loss_normalizing_factor,
  )
  record = runs.record_of(model, data.vocabulary, data.lengths, data.name, trainable)
  sources = {'downstream': downstream_checkpoint, 'hypermodel': hypermodel_checkpoint}
  setup = initial.Setup(str(files.place(model_dir)), record, program, sources)
  _check(setup, data)
  keeper = saving(setup.model_dir)
  _check_ranking(keeper, evaluation)
  if keeper.latest_step() is not None:
    runs.check_record(setup.model_dir, record)
  feed = Feed(data, partitioning.make_mesh(mesh))
  with _asked_to_stop() as asked, contextlib.closing(keeper):
    first, batches = feed.after(keeper.latest_step() or 0)
    _check_contexts(hypermodel, first, data.name)
    start_up.ended('data')
    start = initial.begin(setup, feed.mesh, keeper)
    start_up.ended('weights')
    advance = program.train_step(start.plan)
    # What does not fit together is found before anything is written.
    with feed.placed(), attention.overheard() as kernels:
      jax.eval_shape(advance, start.state, start.frozen, feed.put(first))
    if jax.process_index() == 0:
      runs.write(setup.model_dir, record, data.vocabulary, start.report, config)
    logs.say(start.report.rpartition('\n\n')[2].rstrip())
    if kernels:
      logs.say(attention.in_words(kernels))
    loop = Loop(
      setup.model_dir,
      total_steps,
      advance,
      feed,
      Evaluator.of(evaluation, feed.mesh, program),
      keeper,
      start.metadata | {'batch_size': data.batch_size},
      asked,
      start_up,
    )
    with feed.placed():
      last, metrics = loop.run(start.state, start.frozen, batches)
    fingerprints.check_fingerprint(
      start.frozen, start.metadata['fingerprint'], 'at the end of the run, frozen weights'
    )
  if jax.process_index() == 0:
    files.write_json(os.path.join(setup.model_dir, 'data-statistics.json'), data.statistics())
  if last < total_steps:
    logs.say(f'asked to stop: {_saved(keeper)}; run the same command again to go on')
    sys.exit(0)
  return metrics


def _check(setup: initial.Setup, data: Data) -> None:
  """What can be refused before any array exists."""
  program = setup.program
  if program.model.hypermodel is None and setup.sources['hypermodel']:
    raise InputError('HYPERMODEL_CHECKPOINT_PATH is given, but the run has no hypermodel')
  trunk = getattr(program.model.hypermodel, 'trunk', None)
  for config in (getattr(program.model.downstream, 'config', None), trunk):
    if config is not None:
      data.vocabulary.check_fits(config.vocab_size)
  step.check_batch(data.batch_size, data.batch_size // data.targets_per_context, program.accumulate)


def _check_contexts(hypermodel: protocols.Hypermodel | None, batch: Batch, name: str) -> None:
  """A hypermodel that reads with a trunk would learn from padding, and nothing would show it."""
  contexts = batch.get('hyper_input_tokens')
  if getattr(hypermodel, 'trunk', None) is not None and contexts is not None and not contexts.any():
    raise InputError(
      f'the hypermodel reads contexts, and those of {name} are empty: give a mixture that has '
      'some, or a hypermodel that reads none'
    )


def _check_ranking(keeper: checkpoints.Checkpoints, evaluation: Evaluation | None) -> None:
  """The best checkpoint can only be told where its metric is measured whenever one is saved."""
  if keeper.keep_best is None or not keeper.keep_best[0].startswith('eval/'):
    return
  name = keeper.keep_best[0]
  if evaluation is None:
    raise InputError(f'KEEP_BEST ranks by {name}, but the run has no EVALUATION')
  if keeper.save_period % evaluation.period:
    raise InputError(
      f'KEEP_BEST ranks by {name}, which is measured every {evaluation.period} steps, but '
      f'checkpoints are saved every {keeper.save_period}: let EVAL_PERIOD divide SAVE_PERIOD'
    )


def _saved(keeper: checkpoints.Checkpoints) -> str:
  latest = keeper.latest_step()
  where = keeper.model_dir
  if latest is None:
    return f'nothing to save yet in {where}'
  return f'step {latest} is saved in {where}'


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[int], bool]]:
  """Yields asked(step): whether SIGTERM came, on any host, so that all save the same step."""
  came: list[int] = []
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  if threading.current_thread() is not threading.main_thread():  # a notebook's worker, say
    yield lambda step: False
    return
  old = signal.signal(signal.SIGTERM, lambda signum, frame: came.append(signum))
  try:
    yield lambda step: bool(came)
  finally:
    signal.signal(signal.SIGTERM, old)


# -- The loop --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Feed:
  """Batches on a mesh. Raises InputError where the mesh does not divide them, or they end."""

  data: Data
  mesh: Mesh

  def __post_init__(self):
    partitioning.check_batch(self.mesh, self.data.batch_size, self.contexts)

  @property
  def contexts(self) -> int:
    return self.data.batch_size // self.data.targets_per_context

  @contextlib.contextmanager
  def placed(self) -> Iterator[None]:
    """Arrays are made on the mesh, by its rules for logical axes."""
    with partitioning.placed(self.mesh, self.contexts):
      yield

  def after(self, step: int) -> tuple[Batch, Iterator[tuple[int, Batch]]]:
    """The first batch after `step`, and all of them, (number, this process's part of the batch).

    The first is read now, so that bad data are found before weights are loaded.
    """
    batches = self._after(step)
    first = next(batches)
    return first[1], itertools.chain([first], batches)

  def _after(self, step: int) -> Iterator[tuple[int, Batch]]:
    batches = self.data.starting_at(step, *partitioning.data_layout(self.mesh))
    while True:
      step += 1
      batch = next(batches, None)
      if batch is None:
        raise InputError(f'the data of {self.data.name} ended before step {step}')
      yield step, batch

  def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """The whole batch on the mesh."""
    return partitioning.put_batch(self.mesh, batch, self.contexts)


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Mean metrics over an evaluation's batches, always the same ones."""

  feed: Feed
  period: int
  steps: int
  sums: Callable

  @classmethod
  def of(cls, evaluation: Evaluation | None, mesh: Mesh, program: Program):
    """None for an evaluation that is None."""
    if evaluation is None:
      return None
    feed = Feed(evaluation.data, mesh)
    return cls(feed, evaluation.period, evaluation.steps, program.evaluation_step())

  def __call__(self, state: step.TrainState, frozen: step.Tree) -> dict[str, float]:
    parts = [
      self.sums(state.trainable, frozen, self.feed.put(batch), state.extra)
      for _, batch in itertools.islice(self.feed.after(0)[1], self.steps)
    ]
    total = jax.tree.map(lambda *x: sum(x), *parts)
    return {f'eval/{name}': float(value) for name, value in step.means(total).items()}


@dataclasses.dataclass(frozen=True)
class Loop:
  """Steps, metrics, evaluation and checkpoints, in that order."""

  model_dir: str
  total: int
  advance: Callable
  feed: Feed
  evaluator: Evaluator | None
  keeper: checkpoints.Checkpoints
  metadata: dict[str, Any]
  asked: Callable[[int], bool]
  start_up: phases.Phases

  def run(
    self,
    state: step.TrainState,
    frozen: step.Tree,
    batches: Iterator[tuple[int, Batch]],
  ) -> tuple[int, dict[str, float]]:
    """To the last step, or until asked to stop; returns the step reached and its metrics."""
    first = int(state.step)
    if first >= self.total:
      logs.say(f'{self.model_dir} is at step {first} already, of {self.total}')
    if first >= self.total or self.asked(first):
      return first, {}
    log = logs.open_log(self.model_dir, first, self.total, self.feed.data.batch_size)
    with contextlib.closing(log):
      readings, compiled = Readings(self.model_dir, self.keeper, log), set()
      for number, batch in batches:
        began, shapes = time.monotonic(), tuple(x.shape for x in batch.values())
        state, metrics = self.advance(state, frozen, self.feed.put(batch))
        if shapes not in compiled:  # a first step, or one whose batch has lengths of its own
          compiled.add(shapes)
          log.compiled(number, time.monotonic() - began)
        if number == first + 1:
          self.start_up.ended('compile')
          self._check_ranked(metrics)
          jax.block_until_ready(metrics)
          self.start_up.ended('first step')
          log.started(number, self.start_up)
        readings.add(number, batch, metrics)
        last = number == self.total or self.asked(number)
        evaluated = self._evaluated(number, state, frozen, readings)
        if last or self.keeper.due(number):
          self._save(number, state, readings.read() | evaluated, log)
        if last:
          return number, readings.read()
    raise AssertionError('batches end with an error only')

  def _evaluated(self, number: int, state, frozen, readings: 'Readings') -> dict[str, float]:
    """The metrics of an evaluation, where one is due."""
    if self.evaluator is None or (number % self.evaluator.period and number != self.total):
      return {}
    readings.read()
    metrics = self.evaluator(state, frozen)
    readings.log.evaluation(number, metrics)
    return metrics

  def _save(self, number: int, state, metrics: dict[str, float], log) -> None:
    """Saves a state that is finite, its metrics being known to be."""
    if not _finite(state.trainable):
      raise InputError(
        f'the update of step {number} left a weight that is not finite, so it was not saved; '
        f'{_saved(self.keeper)}; lower the learning rate'
      )
    if not files.exists(files.place(self.model_dir) / 'model.json'):
      raise InputError(
        f'{self.model_dir} is gone, or its model.json: step {number} was not saved; put it back, '
        'or start again in another MODEL_DIR'
      )
    log.flush()
    self.keeper.save(state, self.metadata | {'step': number}, metrics, force=True)

  def _check_ranked(self, metrics: dict[str, jax.Array]) -> None:
    name = self.keeper.keep_best[0] if self.keeper.keep_best else None
    if name is not None and name.removeprefix('eval/') not in metrics:
      raise InputError(
        f'KEEP_BEST ranks by {name}, but the metrics are {", ".join(sorted(metrics))}, '
        'and in an evaluation eval/…'
      )


@jax.jit
def _finite(tree: Any) -> jax.Array:
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


class Readings:
  """The metrics of steps, read one step late, so that the device need not wait for the host."""

  def __init__(self, model_dir: str, keeper: checkpoints.Checkpoints, log):
    self.model_dir, self.keeper, self.log = model_dir, keeper, log
    self._held: tuple[int, dict, dict] | None = None
    self._last: dict[str, float] = {}

  def add(self, number: int, batch: dict[str, np.ndarray], metrics: dict[str, jax.Array]) -> None:
    """Reads the metrics of the step before and holds these."""
    self.read()
    self._held = number, batch, metrics

  def read(self) -> dict[str, float]:
    """The metrics of the latest step; InputError if its loss or gradient is not finite."""
    if self._held is not None:
      (number, batch, held), self._held = self._held, None
      self._last = {name: float(value) for name, value in jax.device_get(held).items()}
      for name in ('loss', 'grad_norm'):
        if not math.isfinite(self._last[name]):
          self._fail(number, batch, f'{name} is {self._last[name]}')
      self.log.step(number, self._last)
    return self._last

  def _fail(self, number: int, batch: dict[str, np.ndarray], what: str) -> None:
    process = f'_process_{jax.process_index()}' if jax.process_count() > 1 else ''
    path = os.path.join(self.model_dir, f'bad_batch_{number}{process}.npz')
    arrays: dict[str, Any] = dict(batch)
    content = io.BytesIO()
    np.savez(content, **arrays)
    files.write_bytes(path, content.getvalue())
    self.keeper.wait()
    raise InputError(
      f'{what} at step {number}, whose batch is in {path}; {_saved(self.keeper)}; lower the '
      'learning rate or CLIP, or look at the batch'
    )

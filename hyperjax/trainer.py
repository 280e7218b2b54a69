"""The trainer: set up a model and its state, run one loop, evaluate and save when due.

It takes modules and an iterable of numpy batches; everything that the papers call a row is a
difference in its arguments.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec
from tensorboardX import SummaryWriter

from hyperjax import (
  checkpoints,
  files,
  fingerprints,
  objectives,
  optim,
  partitioning,
  protocols,
  runs,
  step,
)
from hyperjax.errors import InputError
from hyperjax.vocabulary import Vocabulary


@runtime_checkable
class Data(Protocol):
  """Where batches come from; hyperjax.data.Live is one."""

  name: str
  vocabulary: Vocabulary
  lengths: dict[str, int]
  batch_size: int
  targets_per_context: int

  def starting_at(
    self, step: int, process_index: int = 0, process_count: int = 1
  ) -> Iterator[dict[str, np.ndarray]]:
    """The batches of steps step, step + 1, …; the same ones whenever it is asked."""
    ...

  def statistics(self) -> dict[str, dict[str, int]]: ...


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The loss on batches that are not trained on, every `period` steps over `steps` batches."""

  data: Data
  period: int = 1000
  steps: int = 16


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
  log_period: int = 10,
  config: str | None = None,
) -> dict[str, float]:
  """Trains, or goes on from the latest checkpoint in model_dir, until `total_steps`.

  Args:
    trainable: path prefixes of what trains: 'hypermodel', 'downstream', 'hypermodel/heads'.
    downstream_checkpoint, hypermodel_checkpoint: runs to start from. A frozen part needs one.
      Without one a hypermodel's trunk starts from the downstream model's weights where their sizes
      are equal, and all else at random.
    saving: makes the run's Checkpoints, given model_dir.
    config: text for model_dir/config.gin.

  Returns:
    the metrics of the last step.

  Raises:
    InputError: what does not fit together, and a loss that is not finite.
  """
  run = Setup(
    os.path.abspath(model_dir),
    step.Model(downstream, hypermodel),
    tuple(trainable),
    {'downstream': downstream_checkpoint, 'hypermodel': hypermodel_checkpoint},
    optimizer,
    mesh,
    total_steps,
    seed,
  )
  _check(run, data, accumulate, hypermodel)
  record = runs.record_of(run.model, data.vocabulary, data.lengths, data.name, run.trainable)
  device_mesh = partitioning.make_mesh(mesh)
  contexts = _contexts(data, hypermodel)
  rules = partitioning.rules(contexts)
  partitioning.check_sizes(device_mesh, {'batch': data.batch_size, 'contexts': contexts}, rules)
  with jax.set_mesh(device_mesh), nn.logical_axis_rules(rules):
    state, frozen, sources, report, shardings, tx = _set_up(run, device_mesh)
    keeper = saving(run.model_dir)
    marks = fingerprints.fingerprint(frozen)
    state, resumed = _resume(keeper, state, marks)
    runs.write_record(run.model_dir, record, data.vocabulary)
    if config is not None:
      files.write_text(os.path.join(run.model_dir, 'config.gin'), config)
    files.write_text(os.path.join(run.model_dir, 'model-info.txt'), report)
    print(report.rsplit('\n\n', 1)[-1], flush=True)
    train_step = functools.partial(
      step.train_step,
      model=run.model,
      objective=objective,
      tx=tx,
      seed=seed,
      accumulate=accumulate,
      loss_normalizing_factor=loss_normalizing_factor,
    )
    metadata = {
      'trainable': list(run.trainable),
      'frozen': sources,
      'fingerprint': marks,
      'batch_size': data.batch_size,
      'seed': seed,
    }
    loop = Loop(
      run.model_dir,
      step.jit_step(train_step, out_shardings=(shardings, None)),
      _evaluator(run.model, objective, evaluation, device_mesh),
      keeper,
      metadata,
      optimizer.rate(total_steps),
      device_mesh,
      data,
      log_period,
    )
    state, metrics = loop.run(state, frozen, resumed, total_steps)
    fingerprints.check_fingerprint(frozen, marks, 'at the end of the run, frozen weights')
  files.write_json(os.path.join(run.model_dir, 'data-statistics.json'), data.statistics())
  return metrics


@dataclasses.dataclass(frozen=True)
class Setup:
  """What a run is made of, before any array exists."""

  model_dir: str
  model: step.Model
  trainable: tuple[str, ...]
  initial: dict[str, str | None]
  optimizer: Any
  mesh: partitioning.MeshShape
  total_steps: int
  seed: int


def _check(run: Setup, data: Data, accumulate: int, hypermodel) -> None:
  if run.total_steps < 1:
    raise InputError(f'TRAIN_STEPS is {run.total_steps}; give at least 1')
  if hypermodel is None and run.initial['hypermodel']:
    raise InputError('hypermodel_checkpoint is given, but the run has no hypermodel')
  config = getattr(run.model.downstream, 'config', None)
  if config is not None:
    data.vocabulary.check_fits(config.vocab_size)
  step.check_batch(data.batch_size, data.batch_size // data.targets_per_context, accumulate)


def _contexts(data: Data, hypermodel) -> int:
  return data.batch_size // data.targets_per_context


# -- Weights ----------------------------------------------------------------------------------------


def _set_up(run: Setup, mesh):
  """State, frozen weights, their sources, the parameter report, shardings and the optimiser."""
  key = jax.random.key(run.seed)
  boxed = jax.eval_shape(run.model.init_params, key)
  # Unboxing constrains shardings under a mesh, so it has to be traced too.
  shapes = jax.eval_shape(lambda key: nn.unbox(run.model.init_params(key)), key)
  axes = _axes_tree(boxed)
  all_shardings = partitioning.parameter_shardings(mesh, axes, shapes)
  params, origin, sources = _initial_params(run, shapes, all_shardings)
  trained, frozen = step.split(params, run.trainable)
  missing = [part for part in frozen if part not in sources]
  if missing:
    raise InputError(
      f'the {missing[0]} is frozen and has no weights: give INITIAL_CHECKPOINT_PATH '
      f'(trainer.train.{missing[0]}_checkpoint), or name it in trainer.train.trainable'
    )
  trained_axes, _ = step.split(axes, run.trainable)
  trained_shardings, _ = step.split(all_shardings, run.trainable)
  frozen = _in_compute_dtype(frozen, run.model)
  tx = run.optimizer.transformation(trained_axes, run.total_steps)

  def first_state(trainable):
    return step.TrainState(jnp.zeros((), jnp.int32), trainable, tx.init(trainable))

  shardings = partitioning.state_shardings(
    mesh, jax.eval_shape(first_state, trained), trained, trained_shardings
  )
  state = jax.jit(first_state, out_shardings=shardings)(trained)
  kept = {part: source for part, source in sources.items() if part in frozen}
  return state, frozen, kept, report(params, axes, origin, run.trainable), shardings, tx


def _axes_tree(boxed) -> dict[str, Any]:
  specs = nn.get_partition_spec(boxed)
  is_spec = lambda leaf: isinstance(leaf, PartitionSpec)
  return jax.tree.map(tuple, specs, is_leaf=is_spec)


def _initial_params(run: Setup, shapes, shardings):
  """Parameters on the mesh, where each part came from, and the sources of those restored."""
  params, origin, sources = {}, {}, {}
  restored = {}
  for part, path in run.initial.items():
    if path is not None:
      restored[part], found = runs.load_part(path, part)
      _check_shapes(restored[part], shapes[part], f'{part} of {path}')
      sources[part] = runs.source(run.model_dir, path, found)
  random = [part for part in shapes if part not in restored]
  fresh = jax.jit(
    lambda key: {k: v for k, v in nn.unbox(run.model.init_params(key)).items() if k in random},
    out_shardings={part: shardings[part] for part in random},
  )(jax.random.key(run.seed))
  for part in shapes:
    params[part] = restored.get(part, fresh.get(part))
    origin[part] = f'restored from {run.initial[part]}' if part in restored else 'initialised'
  if 'hypermodel' in random and 'downstream' in restored:
    hypermodel = run.model.hypermodel
    backbone = restored['downstream']
    if hasattr(hypermodel, 'start_from') and hypermodel.trunk_fits(backbone):
      params['hypermodel'] = hypermodel.start_from(params['hypermodel'], backbone)
      origin['hypermodel'] = 'initialised, trunk from the downstream model'
  return jax.tree.map(jax.device_put, params, shardings), origin, sources


def _check_shapes(params, shapes, where: str) -> None:
  """InputError listing leaves that are missing, unexpected or of another shape."""
  names = lambda tree: {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
  given, wanted = names(params), names(shapes)
  odd = [f'{name} is missing' for name in sorted(wanted.keys() - given.keys())]
  odd += [f'{name} is not part of the model' for name in sorted(given.keys() - wanted.keys())]
  odd += [
    f'{name} is {list(given[name])} and should be {list(wanted[name])}'
    for name in sorted(wanted.keys() & given.keys())
    if wanted[name] != given[name]
  ]
  if odd:
    more = f' (and {len(odd) - 5} more)' if len(odd) > 5 else ''
    raise InputError(f'the {where} does not fit the model: {"; ".join(odd[:5])}{more}')


def _in_compute_dtype(frozen, model: step.Model):
  """Frozen weights in the dtype that they are computed in; trained ones stay float32."""
  config = getattr(model.downstream, 'config', None)
  dtype = jnp.dtype(getattr(config, 'dtype', 'float32'))
  return jax.tree.map(lambda leaf: leaf.astype(dtype), frozen)


def report(params, axes, origin: dict[str, str], trainable: Sequence[str]) -> str:
  """A line a leaf: shape, dtype, logical axes, where it came from, trained or frozen; and totals."""
  trained, _ = step.split(params, trainable)
  trained_names = {path for path, _ in _named(trained)}
  lines, totals = [], {}
  flat_axes = dict(_named(axes, is_leaf=lambda leaf: isinstance(leaf, tuple)))
  for name, leaf in _named(params):
    how = 'trained' if name in trained_names else 'frozen'
    part = name.partition('/')[0]
    shape = 'x'.join(map(str, leaf.shape))
    names = ','.join(map(str, flat_axes[name]))
    lines.append(f'{name:90} {shape:>18} {leaf.dtype!s:9} ({names}) {how}, {origin[part]}')
    count, size = totals.get((part, how), (0, 0))
    totals[part, how] = (count + leaf.size, size + leaf.nbytes)
  summary = [
    f'{part}: {count:,} parameters ({size / 2**20:,.1f} MiB) {how}, {origin[part]}'
    for (part, how), (count, size) in totals.items()
  ]
  return '\n'.join(lines) + '\n\n' + '\n'.join(summary) + '\n'


def _named(tree, is_leaf=None):
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
  return [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf) for path, leaf in leaves]


def _resume(keeper: checkpoints.Checkpoints, state: step.TrainState, marks: dict[str, str]):
  """The state to go on from, and the step it is of."""
  if keeper.latest_step() is None:
    return state, 0
  state, metadata = keeper.restore(state)
  if metadata['fingerprint'] != marks:
    odd = sorted(k for k in marks if metadata['fingerprint'].get(k) != marks[k])
    raise InputError(
      f'{keeper.model_dir}: the frozen weights are not those that the run began with '
      f'({", ".join(odd[:3])}…); give the same checkpoint, or another MODEL_DIR'
    )
  return state, int(state.step)


# -- The loop ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Loop:
  """Steps, metrics, evaluation and checkpoints, in that order."""

  model_dir: str
  train_step: Callable
  evaluate: Callable | None
  keeper: checkpoints.Checkpoints
  metadata: dict[str, Any]
  learning_rate: Callable
  mesh: Any
  data: Data
  log_period: int

  def run(self, state, frozen, first: int, total: int):
    """From step `first` to `total`; returns the state and the last metrics."""
    if first >= total:
      print(f'{self.model_dir} has its {total} steps already', flush=True)
      return state, {}
    index, count = partitioning.data_layout(self.mesh)
    batches = self.data.starting_at(first, index, count)
    contexts = self.data.batch_size // self.data.targets_per_context
    log = Log(self.model_dir, first, total, self.data.batch_size, self.learning_rate)
    metrics: dict[str, float] = {}
    pending = None  # the metrics of the step before, read while the device works on this one
    with _preemption() as preempted, contextlib.closing(log):
      for number in range(first + 1, total + 1):
        batch = next(batches, None)
        if batch is None:
          raise InputError(f'the data of {self.data.name} ended before step {number}')
        on_device = partitioning.put_batch(self.mesh, batch, contexts)
        state, new = self.train_step(state, frozen, on_device)
        if pending is not None:
          metrics = self._read(*pending, log)
        pending = (number, batch, new)
        stop = preempted(number)
        due = self.keeper.due(number) or number == total or stop
        evaluated = {}
        if due or (self.evaluate is not None and number % self.evaluate.period == 0):
          metrics, pending = self._read(*pending, log), None
          if self.evaluate is not None and (number % self.evaluate.period == 0 or number == total):
            evaluated = self.evaluate(state, frozen)
            log.evaluation(number, evaluated)
        if due:
          content = {**self.metadata, 'step': number}
          self.keeper.save(state, content, {**metrics, **evaluated}, force=True)
        if stop:
          self.keeper.close()
          print(f'asked to stop: saved step {number} in {self.model_dir}; run the same command '
                'again to go on', flush=True)
          log.close()
          sys.exit(0)
      self.keeper.close()
    return state, metrics

  def _read(self, number: int, batch, device_metrics, log: 'Log') -> dict[str, float]:
    """The metrics of a step on the host; a loss that is not finite ends the run."""
    metrics = {name: float(value) for name, value in jax.device_get(device_metrics).items()}
    bad = [name for name in ('loss', 'grad_norm') if not math.isfinite(metrics[name])]
    if bad:
      path = os.path.join(self.model_dir, f'bad_batch_{number}.npz')
      np.savez(path, **batch)
      self.keeper.close()
      last = self.keeper.latest_step()
      raise InputError(
        f'{bad[0]} is {metrics[bad[0]]} at step {number}; its batch is in {path}. Nothing was '
        f'saved after step {last}; lower the learning rate, clip, or look at the batch'
      )
    log.step(number, metrics)
    return metrics


@contextlib.contextmanager
def _preemption():
  """Yields asked(step): whether SIGTERM came, on any host, so that all save the same step."""
  came = []
  old = None
  single = jax.process_count() == 1
  if single:
    with contextlib.suppress(ValueError):  # not in the main thread: a notebook's worker
      old = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
  try:
    yield lambda number: (
      bool(came) if single else multihost_utils.reached_preemption_sync_point(number)
    )
  finally:
    if old is not None:
      signal.signal(signal.SIGTERM, old)


def _evaluator(model: step.Model, objective, evaluation: Evaluation | None, mesh):
  """A function of (state, frozen) -> mean metrics over the evaluation batches, or None."""
  if evaluation is None:
    return None

  @jax.jit
  def sums(trainable, frozen, batch, extra):
    params = step.join(trainable, frozen)
    generate = lambda b: model.generate(params, b)
    answer = lambda b, phi: model.logits(params, b, phi)
    _, metrics, _ = objective(generate, answer, batch, extra)
    return metrics

  contexts = evaluation.data.batch_size // evaluation.data.targets_per_context
  index, count = partitioning.data_layout(mesh)

  def evaluate(state, frozen) -> dict[str, float]:
    batches = evaluation.data.starting_at(0, index, count)
    total = None
    for _ in range(evaluation.steps):
      batch = partitioning.put_batch(mesh, next(batches), contexts)
      new = sums(state.trainable, frozen, batch, state.extra)
      total = new if total is None else jax.tree.map(jnp.add, total, new)
    return {f'eval/{name}': float(value) for name, value in step.means(total).items()}

  evaluate.period = evaluation.period
  return evaluate


# -- What is written while it runs ------------------------------------------------------------------


class Log:
  """Progress bar, TensorBoard scalars under T5X's tags, and train/metrics.jsonl.

  The JSON lines hold every step's loss exactly. Lines after the step that a run goes on from are
  dropped, so that an interrupted run's file equals an uninterrupted one's.
  """

  def __init__(self, model_dir: str, first: int, total: int, batch_size: int, learning_rate):
    self.main = jax.process_index() == 0
    self.learning_rate = learning_rate
    self.batch_size, self.closed = batch_size, False
    if not self.main:
      return
    folder = os.path.join(model_dir, 'train')
    os.makedirs(folder, exist_ok=True)
    self.lines = _lines_until(os.path.join(folder, 'metrics.jsonl'), first)
    self.writer = SummaryWriter(folder, purge_step=first or None, flush_secs=20)
    self.bar = tqdm.tqdm(
      total=total, initial=first, disable=None, unit='step', dynamic_ncols=True, smoothing=0.1
    )
    self.since, self.tokens, self.steps = time.monotonic(), 0.0, 0
    self.total, self.printed = total, time.monotonic()

  def step(self, number: int, metrics: dict[str, float]) -> None:
    """One step's metrics."""
    if not self.main:
      return
    rate = float(self.learning_rate(number - 1))
    line = {'step': number, **metrics, 'learning_rate': rate}
    self.lines.write(json.dumps(line) + '\n')
    self.tokens += metrics['weight']
    self.steps += 1
    self.bar.update(1)
    seconds = time.monotonic() - self.since
    if seconds < 1 and number != self.total:
      return
    self.lines.flush()
    scalars = {
      **{k: v for k, v in metrics.items() if k != 'weight'},
      'learning_rate': rate,
      'timing/steps_per_second': self.steps / seconds,
      'timing/seqs_per_second': self.steps * self.batch_size / seconds,
      'timing/target_tokens_per_second': self.tokens / seconds,
    }
    for tag, value in scalars.items():
      self.writer.add_scalar(tag, value, number)
    self._show(number, metrics, scalars)
    self.since, self.tokens, self.steps = time.monotonic(), 0.0, 0

  def _show(self, number: int, metrics: dict[str, float], scalars: dict[str, float]) -> None:
    shown = (
      f'loss {metrics["loss"]:.4f}, {scalars["timing/seqs_per_second"]:.1f} examples/s, '
      f'{scalars["timing/target_tokens_per_second"]:.0f} target tokens/s'
    )
    self.bar.set_postfix_str(shown)
    if self.bar.disable and (time.monotonic() - self.printed > 30 or number == self.total):
      left = (self.total - number) / max(scalars['timing/steps_per_second'], 1e-9)
      print(f'step {number}/{self.total}: {shown}, {left / 60:.1f} min left', flush=True)
      self.printed = time.monotonic()

  def evaluation(self, number: int, metrics: dict[str, float]) -> None:
    """The metrics of an evaluation during training."""
    if not self.main:
      return
    self.lines.write(json.dumps({'step': number, **metrics}) + '\n')
    for tag, value in metrics.items():
      self.writer.add_scalar(tag, value, number)
    shown = ', '.join(f'{k} {v:.4f}' for k, v in metrics.items() if 'phi_norm' not in k)
    self.bar.write(f'step {number}: {shown}')
    self.since = time.monotonic()

  def close(self) -> None:
    """Ends the bar and flushes the files."""
    if self.main and not self.closed:
      self.closed = True
      self.bar.close()
      self.lines.close()
      self.writer.close()


def _lines_until(path: str, step_: int):
  """The file opened for appending, without the lines of later steps or a half-written last one."""
  kept = []
  if step_ and os.path.exists(path):
    with open(path, encoding='utf-8') as file:
      for line in file:
        with contextlib.suppress(ValueError):
          if json.loads(line)['step'] <= step_:
            kept.append(line)
  files.write_text(path, ''.join(kept))
  return open(path, 'a', encoding='utf-8')

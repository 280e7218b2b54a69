"""Evaluation: phi is written once for a task, then all its questions are answered under it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperjax import data, decoding, metrics, objectives, peft, runs
from hyperjax.episodes import EvaluationTask
from hyperjax.errors import InputError

Contexts = Callable[[Sequence[EvaluationTask], int], list[np.ndarray | None]]
"""(tasks, seed) -> which context phi is written from, for each task; None: no phi."""


def own(tasks: Sequence[EvaluationTask], seed: int = 0) -> list[np.ndarray | None]:
  """Each task's own context."""
  return [task.context for task in tasks]


def others(tasks: Sequence[EvaluationTask], seed: int = 0) -> list[np.ndarray | None]:
  """Each task gets another task's context, of another category where there is one.

  A control: what is left of a score is not due to the context (papers' guard, D.3).
  """
  rng = np.random.default_rng(seed)
  result: list[np.ndarray | None] = []
  for task in tasks:
    strangers = [t for t in tasks if t.category != task.category]
    strangers = strangers or [t for t in tasks if t.name != task.name]
    if not strangers:
      raise InputError('the wrong-context control needs a second task')
    result.append(strangers[rng.integers(len(strangers))].context)
  return result


def nobody(tasks: Sequence[EvaluationTask], seed: int = 0) -> list[np.ndarray | None]:
  """No phi: the downstream model alone."""
  return [None for _ in tasks]


CONTEXTS: dict[str, Contexts] = {'own': own, 'wrong': others, 'none': nobody}


@dataclasses.dataclass(frozen=True)
class Result:
  """What was answered, and how good it is (see metrics.table)."""

  tasks: Sequence[EvaluationTask]
  predictions: list[list[str]]
  scores: dict[str, Any]


def evaluate(
  run: runs.Run,
  tasks: Sequence[EvaluationTask],
  contexts: Contexts = own,
  strategy: decoding.Strategy = decoding.GREEDY,
  batch_size: int = 32,
  max_length: int | None = None,
  seed: int = 0,
) -> Result:
  """Adapts to each task once, answers its inputs, and scores the answers.

  Args:
    contexts: whose context each phi is written from; the controls differ in this alone.
    max_length: of answers, in tokens; None: the run's length of targets.
    seed: of sampling, and of who gets whose context.

  Raises:
    InputError: no questions.
  """
  if not any(task.inputs for task in tasks):
    raise InputError('there are no tasks with questions to evaluate')
  write = writer(run)
  shapes = one_shape(tasks, batch_size, run.lengths['inputs'])
  predictions = []
  for i, (task, context) in enumerate(zip(tasks, contexts(tasks, seed), strict=True)):
    phi = None if context is None else write(context)
    rng = jax.random.fold_in(jax.random.key(seed), i)
    predictions.append(answer(run, task.inputs, phi, shapes, strategy, max_length, rng))
  return Result(tasks, predictions, metrics.table(tasks, predictions))


def one_shape(tasks: Sequence[EvaluationTask], batch_size: int, length: int) -> decoding.Shapes:
  """One shape that suits all tasks, so that answering compiles once.

  Rows are so many that the largest task fills its batches evenly; inputs are as long as the longest
  one, rounded up to a multiple of 8.
  """
  if batch_size < 1:
    raise InputError(f'batch_size is {batch_size}; give 1 or more')
  most = max(len(task.inputs) for task in tasks)
  batches = -(-most // batch_size)
  longest = max(len(tokens) for task in tasks for tokens in task.inputs)
  return decoding.Shapes((-(-most // batches),), (min(length, 8 * max(1, -(-longest // 8))),))


def writer(run: runs.Run) -> Callable[[np.ndarray], peft.Phi | None]:
  """A function from the tokens of one context to its phi, compiled once."""
  hypermodel = run.model.hypermodel
  if hypermodel is None:
    return lambda context: None
  generate = jax.jit(hypermodel.generate)
  length = run.lengths.get('hyper_inputs', 1)

  def write(context: np.ndarray) -> peft.Phi:
    if len(context) > length:
      raise InputError(f'a context has {len(context)} tokens, the run {length} (hyper_inputs)')
    tokens = np.zeros((1, length), np.int32)
    tokens[0, : len(context)] = context
    return generate(run.params, {'hyper_input_tokens': tokens})

  return write


def answer(
  run: runs.Run,
  inputs: Sequence[np.ndarray],
  phi: peft.Phi | None,
  shapes: decoding.Shapes,
  strategy: decoding.Strategy = decoding.GREEDY,
  max_length: int | None = None,
  rng: jax.Array | None = None,
) -> list[str]:
  """The answers to inputs (tokens) under one phi, as text."""
  tokens, _ = decoding.answers(
    run.model.downstream,
    run.params['downstream'],
    inputs,
    shapes,
    phi,
    strategy,
    max_length=run.lengths['targets'] if max_length is None else max_length,
    eos_id=run.vocabulary.eos_id,
    rng=rng,
  )
  return [run.vocabulary.decode(row) for row in tokens]


# -- Baselines that need no model -----------------------------------------------------------------


def majority_label(tasks: Sequence[EvaluationTask]) -> list[list[str]]:
  """The most frequent output that each task's context shows; of equals the first."""

  def most_frequent(outputs: Sequence[str]) -> str:
    return max(outputs, key=outputs.count) if outputs else ''

  return [[most_frequent(task.context_outputs)] * len(task.inputs) for task in tasks]


def copy_from_context(tasks: Sequence[EvaluationTask], seed: int = 0) -> list[list[str]]:
  """For each question an output of its task's context, at random."""
  rng = np.random.default_rng(seed)
  return [
    [str(rng.choice(task.context_outputs)) if task.context_outputs else '' for _ in task.inputs]
    for task in tasks
  ]


# -- Losses ---------------------------------------------------------------------------------------


def losses(
  run: runs.Run, live: data.Live, batches: int, first: int = 0, with_phi: bool = True
) -> np.ndarray:
  """Cross entropy summed over each target, and its tokens: [targets, 2], in nats.

  `live` decides the context: data.Live(…, wrong_context=True) gives another document's.
  """

  @jax.jit
  def each(params, batch):
    phi = run.model.generate(params, batch) if with_phi else None
    logits = run.model.logits(params, batch, phi)
    loss, _ = objectives.token_losses(logits, batch['decoder_target_tokens'])
    weights = batch['decoder_loss_weights']
    return jnp.stack([jnp.sum(loss * weights, axis=1), jnp.sum(weights, axis=1)], axis=1)

  stream = live.starting_at(first)
  return np.concatenate([np.asarray(each(run.params, next(stream))) for _ in range(batches)])


def mean_loss(sums: np.ndarray) -> float:
  """Nats per target token of `losses`."""
  return float(sums[:, 0].sum() / sums[:, 1].sum())

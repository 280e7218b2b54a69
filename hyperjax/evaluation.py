"""Evaluation: phi is written once for a task, then all its questions are answered under it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
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
  categories = len({task.category for task in tasks})
  kinds = [task.category if categories > 1 else task.name for task in tasks]
  strangers = {own: [t for t, kind in zip(tasks, kinds) if kind != own] for own in set(kinds)}
  if not all(strangers.values()):
    raise InputError('the wrong-context control needs a second task')
  return [strangers[kind][rng.integers(len(strangers[kind]))].context for kind in kinds]


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
  average: str = 'instances',
) -> Result:
  """Adapts to each task once, answers its inputs, and scores the answers.

  Where a task has options the answer is the one of the largest log-probability; else it is written.
  Tasks of one question each are adapted to and answered side by side.

  Args:
    contexts: whose context each phi is written from; the controls differ in this alone.
    strategy: of answers that are written.
    batch_size: rows of the decoder: answers, or options.
    average: what the scores are the mean of (metrics.AVERAGES).
    max_length: of answers, in tokens; None: the run's length of targets.
    seed: of sampling, and of who gets whose context.

  Raises:
    InputError: no questions.
  """
  if not any(task.inputs for task in tasks):
    raise InputError('there are no tasks with questions to evaluate')
  write = writer(run)
  shapes = one_shape(tasks, batch_size, run.lengths['inputs'])
  adaptations = list(zip(tasks, contexts(tasks, seed), strict=True))
  _check_contexts(run, adaptations)
  predictions: list[list[str]] = [[] for _ in tasks]
  for index in _side_by_side(adaptations, batch_size):
    some = [adaptations[i] for i in index]
    phi = None if some[0][1] is None else write(*(context for _, context in some))
    rng = jax.random.fold_in(jax.random.key(seed), index[0])
    answers = _answers([task for task, _ in some], run, phi, shapes, strategy, max_length, rng)
    for i, own in zip(index, answers, strict=True):
      predictions[i] = own
  return Result(tasks, predictions, metrics.table(tasks, predictions, average))


Adaptation = tuple[EvaluationTask, np.ndarray | None]
"""Questions, and the context that phi is written from."""


def _check_contexts(run: runs.Run, adaptations: Sequence[Adaptation]) -> None:
  """A hypermodel that reads nothing but padding writes some phi, and nothing would show it."""
  empty = [task.name for task, context in adaptations if context is not None and not len(context)]
  if empty and getattr(run.model.hypermodel, 'trunk', None) is not None:
    raise InputError(
      f'the hypermodel of {run.model_dir} reads contexts, and that of {empty[0]} is empty: give a'
      " mixture that has some, or CONTEXT='none'"
    )


def _side_by_side(adaptations: Sequence[Adaptation], rows: int) -> Iterator[list[int]]:
  """Which tasks go together: those of one question each, so many that they fill the rows.

  All others go alone. The last of a kind are filled up with some of the first, so that there is one
  shape.
  """
  kinds: dict[tuple, list[int]] = {}
  for i, (task, context) in enumerate(adaptations):
    alone = i if len(task.inputs) != 1 else None
    kinds.setdefault((alone, task.options is None, context is None), []).append(i)
  for (alone, *_), index in kinds.items():
    most = max(len(each) for i in index for each in adaptations[i][0].options or [()])
    at_once = max(1, rows // max(1, most)) if alone is None else 1
    for start in range(0, len(index), at_once):
      some = index[start : start + at_once]
      yield some + index[: at_once - len(some)] if start else some


def _answers(
  tasks: Sequence[EvaluationTask],
  run: runs.Run,
  phi: peft.Phi | None,
  shapes: decoding.Shapes,
  strategy: decoding.Strategy,
  max_length: int | None,
  rng: jax.Array,
) -> list[list[str]]:
  """The answers of a task, or of several of one question each, under a phi of as many contexts."""
  inputs = [tokens for task in tasks for tokens in task.inputs]
  if not inputs:
    return [[] for _ in tasks]
  if tasks[0].options is not None:
    options = [each for task in tasks for each in task.options or ()]
    answers = rank(run, inputs, options, phi, shapes, tasks[0].normalize_by_target_length)
  else:
    answers = answer(run, inputs, phi, shapes, strategy, max_length, rng)
  return [answers] if len(tasks) == 1 else [[each] for each in answers]


def one_shape(tasks: Sequence[EvaluationTask], batch_size: int, length: int) -> decoding.Shapes:
  """One shape that suits all tasks, so that answering compiles once.

  Rows are so many that the largest task fills its batches evenly (tasks of one question count
  together); inputs are as long as the longest one, rounded up to a multiple of 8.
  """
  if batch_size < 1:
    raise InputError(f'batch_size is {batch_size}; give 1 or more')
  counts = [len(task.inputs) for task in tasks]
  most = max(*counts, counts.count(1))
  batches = -(-most // batch_size)
  longest = max(len(tokens) for task in tasks for tokens in task.inputs)
  return decoding.Shapes((-(-most // batches),), (min(length, 8 * max(1, -(-longest // 8))),))


def writer(run: runs.Run) -> Callable[..., peft.Phi | None]:
  """A function from the tokens of contexts to their phi; compiled once for a number of them."""
  hypermodel = run.model.hypermodel
  if hypermodel is None:
    return lambda *contexts: None
  generate = jax.jit(hypermodel.generate)
  length = run.lengths.get('hyper_inputs', 1)

  def write(*contexts: np.ndarray) -> peft.Phi:
    tokens = np.zeros((len(contexts), length), np.int32)
    for row, context in zip(tokens, contexts):
      if len(context) > length:
        raise InputError(f'a context has {len(context)} tokens, the run {length} (hyper_inputs)')
      row[: len(context)] = context
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
  """The answers to inputs (tokens) as text, under one context or under one for each."""
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


def rank(
  run: runs.Run,
  inputs: Sequence[np.ndarray],
  options: Sequence[Sequence[str]],
  phi: peft.Phi | None,
  shapes: decoding.Shapes,
  normalize_by_target_length: bool = False,
) -> list[str]:
  """The option of the largest log-probability, EOS included, of each input; of equals the first.

  Rank classification as T0 does it: the sum over the option's tokens, or their mean.
  """
  eos = np.array([run.vocabulary.eos_id], np.int32)
  texts = list(dict.fromkeys(text for each in options for text in each))
  ids = {
    text: np.concatenate([tokens, eos])
    for text, tokens in zip(texts, run.vocabulary.encode_many(texts))
  }
  scores = decoding.rank(
    run.model.downstream,
    run.params['downstream'],
    inputs,
    [[ids[text] for text in each] for each in options],
    shapes,
    phi,
    mean=normalize_by_target_length,
  )
  return [each[int(np.argmax(own))] for each, own in zip(options, scores, strict=True)]


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

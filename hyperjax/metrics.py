"""Scores of answers: ROUGE-L and exact match as Super-NaturalInstructions counts them."""

import string
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from hyperjax import errors
from hyperjax.episodes import EvaluationTask

References = Sequence[Sequence[str]]
"""The accepted answers of each instance."""


def rouge_l_each(predictions: Sequence[str], references: References) -> np.ndarray:
  """Of each instance the stemmed ROUGE-L F-measure, best of its references, 0 to 100.

  The public scorer's formula (Tk-Instruct, compute_metrics.py), by the same package.
  """
  from rouge_score import rouge_scorer  # a second, for NLTK

  scorer = rouge_scorer.RougeScorer(['rougeL'], use_stemmer=True)
  return _each(
    predictions, references, lambda y, answer: scorer.score(answer, y)['rougeL'].fmeasure
  )


def exact_match_each(predictions: Sequence[str], references: References) -> np.ndarray:
  """100 where a prediction equals a reference but for case, punctuation and white space, else 0."""
  return _each(predictions, references, lambda y, answer: normal(y) == normal(answer))


def rouge_l(predictions: Sequence[str], references: References) -> float:
  """Mean of `rouge_l_each`."""
  return float(np.mean(rouge_l_each(predictions, references)))


def exact_match(predictions: Sequence[str], references: References) -> float:
  """Mean of `exact_match_each`."""
  return float(np.mean(exact_match_each(predictions, references)))


def normal(text: str) -> str:
  """Lower case, no punctuation, single spaces (articles stay)."""
  return ' '.join(text.lower().translate(_NO_PUNCTUATION).split())


_NO_PUNCTUATION = str.maketrans('', '', string.punctuation)


def _each(
  predictions: Sequence[str], references: References, score: Callable[[str, str], float]
) -> np.ndarray:
  if len(predictions) != len(references) or not len(references):
    raise errors.InputError(
      f'{len(predictions)} predictions for {len(references)} instances: expected one each'
    )
  return 100 * np.array(
    [max(score(y, answer) for answer in answers) for y, answers in zip(predictions, references)],
    np.float64,
  )


def means(scores: np.ndarray, groups: Sequence[Hashable]) -> dict[Hashable, float]:
  """Mean score of each group: of each task, of each category."""
  groups = list(groups)
  members: dict[Hashable, list[float]] = {group: [] for group in groups}
  for group, score in zip(groups, scores, strict=True):
    members[group].append(score)
  return {group: float(np.mean(own)) for group, own in members.items()}


def interval(
  scores: np.ndarray,
  groups: Sequence[Hashable] | None = None,
  samples: int = 10_000,
  confidence: float = 0.95,
  seed: int = 0,
) -> tuple[float, float]:
  """Bootstrap interval of the mean: instances are drawn again, or with `groups` whole groups.

  Instances of one task share a context and are alike: by task is the honest interval when the
  question is about further tasks. For a difference of two systems pass the paired differences.
  """
  scores = np.asarray(scores, np.float64)
  names = list(range(len(scores)) if groups is None else groups)
  index = {name: i for i, name in enumerate(dict.fromkeys(names))}
  member = np.array([index[name] for name in names])
  sums, counts = np.bincount(member, scores), np.bincount(member)
  rng = np.random.default_rng(seed)
  picked = (rng.integers(len(sums), size=len(sums)) for _ in range(samples))
  resampled = [sums[i].sum() / counts[i].sum() for i in picked]
  low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
  return float(low), float(high)


def table(tasks: Sequence[EvaluationTask], predictions: Sequence[Sequence[str]]) -> dict:
  """{metric: {'all': mean over instances, 'interval': of instances, 'interval_of_tasks': of whole
  tasks, 'tasks': {name: mean}, 'categories': {name: mean}}}."""
  answers = [y for each in predictions for y in each]
  references = [ys for task in tasks for ys in task.references]
  names = [task.name for task in tasks for _ in task.references]
  categories = [task.category or '' for task in tasks for _ in task.references]
  scores = {
    'rouge_l': rouge_l_each(answers, references),
    'exact_match': exact_match_each(answers, references),
  }
  return {
    metric: {
      'all': float(np.mean(each)),
      'interval': interval(each),
      'interval_of_tasks': interval(each, names),
      'tasks': means(each, names),
      'categories': means(each, categories),
    }
    for metric, each in scores.items()
  }

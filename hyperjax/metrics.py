"""Scores of answers, as the public scorers of the benchmarks count them."""

import dataclasses
import string
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

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


def accuracy_each(predictions: Sequence[str], references: References) -> np.ndarray:
  """100 where a prediction is a reference but for white space at its ends, else 0."""
  return _each(predictions, references, lambda y, answer: y.strip() == answer.strip())


def macro_f1(predictions: Sequence[str], references: References) -> float:
  """Macro-F1 over the labels that occur as references, 0 to 100, as MetaICL counts it.

  scikit-learn's f1_score(average='macro') of those labels: other predictions are wrong, and have no
  F1 of their own. Of several references the one that is predicted is the label, or else the first.
  """
  right = accuracy_each(predictions, references) > 0
  said = np.array([y.strip() for y in predictions], object)
  firsts = np.array([answers[0].strip() for answers in references], object)
  labels = np.where(right, said, firsts)
  pairs = ((labels == label, said == label) for label in dict.fromkeys(labels))
  return 100 * float(
    np.mean([2 * np.sum(right & own) / (own.sum() + of.sum()) for own, of in pairs])
  )


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


# --- Tables ---------------------------------------------------------------------------------------

EACH: dict[str, Callable[[Sequence[str], References], np.ndarray]] = {
  'rouge_l': rouge_l_each,
  'exact_match': exact_match_each,
  'accuracy': accuracy_each,
}
"""Scores that each instance has; that of a task is their mean."""

WHOLE: dict[str, Callable[[Sequence[str], References], float]] = {'macro_f1': macro_f1}
"""Scores that only a task as a whole has."""

AVERAGES = ('instances', 'tasks', 'categories')
"""What a benchmark's number is the mean of: all instances (Super-NaturalInstructions), the scores
of tasks (MetaICL), or categories, each the mean of its tasks (P3: data sets, of templates)."""


@dataclasses.dataclass(frozen=True)
class _Answered:
  """All answers to the questions of one task."""

  category: str
  metrics: tuple[str, ...]
  predictions: list[str]
  references: list[Sequence[str]]

  def each(self, metric: str) -> np.ndarray:
    """A score of each instance, or the one of the task as a whole."""
    if metric in WHOLE:
      return np.array([WHOLE[metric](self.predictions, self.references)])
    return EACH[metric](self.predictions, self.references)


def table(
  tasks: Sequence[EvaluationTask],
  predictions: Sequence[Sequence[str]],
  average: str = 'instances',
) -> dict[str, Any]:
  """{metric: {'all': the mean that `average` names, 'tasks': {name: score}, 'categories': {name:
  mean}, 'interval': of 'all' if instances are drawn again (None: no instance has this score),
  'interval_of_tasks': if whole tasks, or categories, are}}.

  A metric is told of the tasks that have it. Where tasks differ in their main metric, 'score' comes
  first: that of each. By categories, 'medians' and 'all_of_medians' are told too.
  """
  if average not in AVERAGES:
    raise errors.InputError(f'average is {average!r}; give one of {", ".join(AVERAGES)}')
  answered = _answered(tasks, predictions)
  main = {name: task.metrics[0] for name, task in answered.items()}
  names = dict.fromkeys(metric for task in answered.values() for metric in task.metrics)
  result = {}
  if len(set(main.values())) > 1:
    result['score'] = _scores(answered, main, average)
  for metric in names:
    having = {name: metric for name, task in answered.items() if metric in task.metrics}
    result[metric] = _scores(answered, having, average)
  return result


def _answered(
  tasks: Sequence[EvaluationTask], predictions: Sequence[Sequence[str]]
) -> dict[str, _Answered]:
  result: dict[str, _Answered] = {}
  for task, answers in zip(tasks, predictions, strict=True):
    own = result.setdefault(task.name, _Answered(task.category or '', task.metrics, [], []))
    own.predictions.extend(answers)
    own.references.extend(task.references)
  return result


def _scores(
  answered: dict[str, _Answered], metrics: Mapping[str, str], average: str
) -> dict[str, Any]:
  """Of the tasks that `metrics` names, by the metric that it gives to each."""
  each = {name: answered[name].each(metric) for name, metric in metrics.items()}
  whole = not WHOLE.keys().isdisjoint(metrics.values())
  average = 'tasks' if whole and average == 'instances' else average
  scores = {name: float(np.mean(own)) for name, own in each.items()}
  groups: dict[str, list[str]] = {}
  for name in metrics:
    groups.setdefault(answered[name].category, []).append(name)
  result: dict[str, Any] = {'tasks': scores}
  if average == 'instances':
    flat = np.concatenate(list(each.values()))
    of = [name for name, own in each.items() for _ in own]
    categories = [answered[name].category for name in of]
    return {
      'all': float(np.mean(flat)),
      'interval': interval(flat),
      'interval_of_tasks': interval(flat, of),
      **result,
      'categories': means(flat, categories),
    }
  result['categories'] = {
    group: float(np.mean([scores[name] for name in names])) for group, names in groups.items()
  }
  units = result['categories'] if average == 'categories' else scores
  share = {
    name: 1 / len(scores) if average == 'tasks' else 1 / (len(groups) * len(names))
    for names in groups.values()
    for name in names
  }
  result = {
    'all': float(np.mean(list(units.values()))),
    'interval': None if whole else _interval_within(each, share),
    'interval_of_tasks': interval(np.array(list(units.values()))),
    **result,
  }
  if average == 'categories':
    result['medians'] = {
      group: float(np.median([scores[name] for name in names])) for group, names in groups.items()
    }
    result['all_of_medians'] = float(np.mean(list(result['medians'].values())))
  return result


def _interval_within(
  each: Mapping[str, np.ndarray], share: Mapping[str, float], samples: int = 2_000, seed: int = 0
) -> tuple[float, float]:
  """Bootstrap interval of sum(share * mean): the instances of each task are drawn again."""
  rng = np.random.default_rng(seed)
  totals = np.zeros(samples)
  for name, scores in each.items():
    values, counts = np.unique(scores, return_counts=True)  # few: answers are right or wrong
    drawn = rng.multinomial(len(scores), counts / len(scores), size=samples)
    totals += share[name] * (drawn @ values) / len(scores)
  low, high = np.quantile(totals, [0.025, 0.975])
  return float(low), float(high)

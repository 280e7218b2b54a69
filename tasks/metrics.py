"""The scores of hyperjax.metrics as seqio metric functions of (targets, predictions)."""

from collections.abc import Sequence

import numpy as np

from hyperjax import metrics


def references(target_or_prediction, example=None, is_target=False):
  """Postprocessing: all references of a target; a prediction as it is."""
  if not is_target:
    return target_or_prediction
  return [answer.decode() for answer in example['references']] or [target_or_prediction]


def rouge_l(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Stemmed ROUGE-L, best reference, mean over instances."""
  return {'rouge_l': metrics.rouge_l(predictions, targets)}


def exact_match(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Exact match but for case, punctuation and white space, best reference."""
  return {'exact_match': metrics.exact_match(predictions, targets)}


def accuracy(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Exact equality but for white space at the ends."""
  return {'accuracy': float(np.mean(metrics.accuracy_each(predictions, targets)))}


def choice(target_or_prediction, example=None, is_target=False):
  """Postprocessing of a `…_score_eval` row: its example, and whether its choice is right."""
  if not is_target:
    return target_or_prediction
  return int(example['idx'][0]), bool(example['is_correct'])


def rank_classification(
  targets: Sequence[tuple[int, bool]], scores: Sequence[float]
) -> dict[str, float]:
  """Accuracy in percent of the choice with the largest log-probability of each example (T0)."""
  best: dict[int, tuple[float, bool]] = {}
  for (example, right), score in zip(targets, scores, strict=True):
    if example not in best or score > best[example][0]:
      best[example] = (float(score), right)
  return {'accuracy': 100 * float(np.mean([right for _, right in best.values()]))}

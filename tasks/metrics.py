"""The scores of hyperjax.metrics as seqio metric functions of (targets, predictions)."""

from collections.abc import Sequence

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

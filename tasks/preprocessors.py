"""CACLM and CLM on a stream of tokenised documents, by the numpy code that the assembler uses."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from hyperjax import data, episodes
from hyperjax.sources import c4
from tasks import assembled


def windows(dataset: tf.data.Dataset, length: int, shortest: int) -> tf.data.Dataset:
  """Every non-overlapping window of feature `targets`; a last one of `shortest` tokens counts."""

  def cut(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
    tokens = example['targets']
    starts = tf.data.Dataset.range(0, tf.size(tokens, tf.int64), length)
    pieces = starts.map(lambda start: tokens[start : start + length])
    return pieces.filter(lambda piece: tf.size(piece) >= shortest)

  return dataset.flat_map(cut)


def caclm(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  mixture: c4.Caclm,
) -> tf.data.Dataset:
  """Windows -> hyper_inputs `A <extra_id_0> <extra_id_1> D`, inputs B, targets C."""
  vocabulary = assembled.vocabulary_of(output_features['hyper_inputs'].vocabulary)
  sizes = mixture.b_length, mixture.c_lengths, mixture.min_segment
  shortest = mixture.b_length + mixture.c_lengths[0] + 2 * mixture.min_segment

  def cut(rng: np.random.Generator, window: np.ndarray) -> list[np.ndarray]:
    a, b, c, d = episodes.segments(rng, window, *sizes)
    return [episodes.marked(vocabulary, a, d), b, c]

  dataset = windows(dataset, mixture.window, shortest)
  return _segmented(dataset, cut, ('hyper_inputs', 'inputs', 'targets'))


def clm(
  dataset: tf.data.Dataset,
  mixture: c4.Clm,
  sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
  """Windows -> inputs: a prefix, targets: its continuation."""
  lengths = dict(data.LENGTHS) | dict(sequence_length or {})

  def cut(rng: np.random.Generator, window: np.ndarray) -> list[np.ndarray]:
    return np.split(window, [episodes.prefix(rng, len(window), lengths, mixture.min_segment)])

  dataset = windows(dataset, mixture.window, 2 * mixture.min_segment)
  return _segmented(dataset, cut, ('inputs', 'targets'))


def _segmented(
  dataset: tf.data.Dataset,
  cut: Callable[[np.random.Generator, np.ndarray], list[np.ndarray]],
  names: Sequence[str],
) -> tf.data.Dataset:
  def row(seed: np.ndarray, window: np.ndarray) -> list[np.ndarray]:
    return cut(np.random.default_rng(seed.astype(np.uint32)), window.astype(np.int32))

  @seqio.map_over_dataset(num_seeds=1)
  def to_features(window: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
    values = tf.numpy_function(row, [seed, window], [tf.int32] * len(names))
    for value in values:
      value.set_shape([None])
    return dict(zip(names, values))

  return to_features(dataset)

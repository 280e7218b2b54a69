"""P3 as seqio tasks: each prompt by T0's name, and few-shot mixtures such as `p3_t0_short`.

A prompt's task has features inputs and targets, as P3 itself; `…_score_eval` has a row for each
choice, with `idx` and `is_correct`. Inputs have no EOS, targets have one (T0). The mixtures
`t0_train` and `t0_eval_score_eval` are T0's, the latter without StoryCloze (HyperTuning, 5.1).
"""

import functools
from collections.abc import Iterator
from typing import Any

import seqio
import tensorflow as tf

from hyperjax import mixtures
from hyperjax.sources import p3
from tasks import assembled, metrics

TEXTS = {
  'inputs_pretokenized': tf.TensorSpec([], tf.string),
  'targets_pretokenized': tf.TensorSpec([], tf.string),
}
CHOICES = {
  'idx': tf.TensorSpec([2], tf.int32),
  'is_correct': tf.TensorSpec([], tf.bool),
}


def rows(name: str, split: str) -> Iterator[dict[str, Any]]:
  """The rows of a prompt that say something, as P3 has them."""
  for each in p3.find(None).instances(name, split):
    if not each.empty:
      yield dict(zip(TEXTS, (each.input, each.outputs[0])))


def choices(name: str, split: str) -> Iterator[dict[str, Any]]:
  """A row for each choice of each example of a prompt."""
  for i, each in enumerate(p3.find(None).questions(name, split)):
    for j, option in enumerate(each.options if each.input else ()):
      texts = dict(zip(TEXTS, (each.input, option)))
      yield texts | {'idx': [i, j], 'is_correct': option in each.outputs}


def dataset(
  read: Any, signature: Any, name: str, split: str, shuffle_files: bool = False, seed: Any = None
) -> tf.data.Dataset:
  """The rows of a split as a tf.data.Dataset."""
  return tf.data.Dataset.from_generator(
    functools.partial(read, name, split), output_signature=signature
  )


PREPROCESSORS = [
  functools.partial(
    seqio.preprocessors.rekey,
    key_map={
      'inputs': 'inputs_pretokenized',
      'targets': 'targets_pretokenized',
    },
  ),
  seqio.preprocessors.tokenize,
  seqio.preprocessors.append_eos,
]
KEEPING = [
  functools.partial(
    seqio.preprocessors.rekey,
    key_map={
      'inputs': 'inputs_pretokenized',
      'targets': 'targets_pretokenized',
      'idx': 'idx',
      'is_correct': 'is_correct',
    },
  ),
  *PREPROCESSORS[1:],
]
FEATURES = {
  'inputs': seqio.Feature(assembled.EnvironmentVocabulary(), add_eos=False),
  'targets': seqio.Feature(assembled.EnvironmentVocabulary(), add_eos=True),
}

for prompt in p3.prompts().values():
  seqio.TaskRegistry.add(
    prompt.name,
    source=seqio.FunctionDataSource(
      functools.partial(dataset, rows, TEXTS, prompt.name), splits=('train', 'validation')
    ),
    preprocessors=PREPROCESSORS,
    output_features=FEATURES,
  )
  if prompt.evaluated == 'BASE' or prompt.choices:
    seqio.TaskRegistry.add(
      prompt.name + p3.SCORE_EVAL,
      source=seqio.FunctionDataSource(
        functools.partial(dataset, choices, TEXTS | CHOICES, prompt.name), splits=('validation',)
      ),
      preprocessors=KEEPING,
      postprocess_fn=metrics.choice,
      metric_fns=[metrics.rank_classification],
      output_features=FEATURES,
    )

seqio.MixtureRegistry.add('t0_train', list(zip(p3.t0_train(), p3.rates(p3.t0_train()))))
seqio.MixtureRegistry.add(
  't0_eval_score_eval', [name + p3.SCORE_EVAL for name in p3.held_out()], default_rate=1
)

for name, mixture in mixtures.MIXTURES.items():
  if isinstance(mixture, p3.P3):
    assembled.register(
      name,
      splits=('train', 'validation'),
      postprocess_fn=metrics.references,
      metric_fns=[metrics.accuracy],
    )

"""The real data packs, every file of them: read, looked at, stored, trained on and evaluated."""

import pathlib

import jax
import numpy as np
import pytest
import tiny_runs

from hyperjax import data, evaluate, inspect, optim, peft, stored, trainer
from hyperjax.hypermodels import hypert5
from hyperjax.models import t5
from hyperjax.vocabulary import Vocabulary

LENGTHS = {'hyper_inputs': 90, 'inputs': 40, 'targets': 24}
TEXT = {'window': 80, 'b_length': 8, 'c_lengths': (9, 20), 'min_segment': 5}
STEPS = 20

MIXTURES = {
  'c4_caclm': (TEXT, ['validation']),
  'c4_reconstruction': ({**TEXT, 'min_segment': None, 'max_documents': 99}, ['validation']),
  'sni_def_2pos': ({}, ['test', 'excluded', 'validation']),
  'p3': ({'shots': 2, 'answer': 'generate'}, ['validation']),
  'p3_held_out': ({'shots': 2, 'missing': 'skip', 'contexts': 'per_example'}, ['validation']),
  'metaicl': ({'shots': 3}, ['test']),
  'symbol_tuning': ({'shots': 3}, ['test']),
}
"""Mixtures that read all files between them, and the splits that they are evaluated on."""


@pytest.fixture(scope='module')
def vocabulary(shared_data) -> Vocabulary:
  return Vocabulary(str(shared_data / 'vocab' / 'hyperjax_unigram_8000.model'))


@pytest.fixture(scope='module')
def config(vocabulary) -> t5.T5Config:
  return t5.T5Config(vocabulary.size + 4, 12, 2, 1, 2, 5, 14)


@pytest.fixture(scope='module', autouse=True)
def quick(tmp_path_factory):
  with tiny_runs.quick(tmp_path_factory.getbasetemp()):
    yield


def live(shared_data: pathlib.Path, vocabulary: Vocabulary, mixture: str, **changes) -> data.Live:
  arguments = {key: value for key, value in MIXTURES.get(mixture, ({},))[0].items() if value}
  if mixture == 'c4_clm':
    arguments = {'window': 60, 'min_segment': 5, 'files': 'c4_sample/*{split}*.json*'}
  return data.Live(
    mixture,
    lengths=LENGTHS,
    batch_size=4,
    vocabulary=vocabulary,
    data_dir=shared_data,
    arguments=arguments,
    **changes,
  )


@pytest.fixture(scope='module')
def backbone(shared_data, vocabulary, config, tmp_path_factory) -> str:
  """A language model of the C4 sample, barely trained."""
  model_dir = str(tmp_path_factory.mktemp('packs') / 'backbone')
  text = live(shared_data, vocabulary, 'c4_clm')
  trainer.train(model_dir, text, t5.T5(config), STEPS, trainable=('downstream',))
  return model_dir


@pytest.mark.parametrize('mixture', MIXTURES)
@pytest.mark.filterwarnings('ignore::hyperjax.errors.Note')
def test_a_pack_goes_all_the_way(shared_data, vocabulary, config, backbone, mixture, tmp_path):
  arguments, splits = MIXTURES[mixture]
  made = live(shared_data, vocabulary, mixture)
  told = inspect.told(made, examples=2, episodes=50, tasks=3)
  assert sum(line.startswith('episode ') for line in told) == 2
  stored.write(made, tmp_path / 'episodes', 4 * STEPS, 33)
  read = stored.Stored(str(tmp_path / 'episodes'), made)
  jax.tree.map(np.testing.assert_array_equal, next(read.starting_at(7)), next(made.starting_at(7)))
  model_dir = str(tmp_path / 'run')
  last = trainer.train(
    model_dir,
    read,
    t5.T5(config),
    STEPS,
    hypert5.HyperT5(config, config, peft.PrefixTuning(3)),
    downstream_checkpoint=backbone,
    optimizer=optim.AdamW(optim.LinearDecay(1e-3)),
  )
  assert 0 < last['loss'] < 20
  for split in splits:
    if mixture.startswith('c4_'):
      held_out = live(shared_data, vocabulary, mixture, split=split)
      assert inspect.told(held_out, examples=1, episodes=20, tasks=3)
      continue
    report = evaluate.evaluate(
      model_dir,
      mixture,
      split,
      arguments=arguments,
      data_dir=str(shared_data),
      limit=1,
      max_length=4,
      seed=13,
    )
    for scores in report['scores'].values():
      assert 0 <= scores['all'] <= 100
      assert set(scores['tasks']) <= set(report['tasks'])

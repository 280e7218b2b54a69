"""A run that is killed at random moments is, in the end, the run that nobody touched.

`python -m scripts.chaos --kills=20 …` is the long version of it.
"""

import dataclasses
import random

import pytest
import tiny_runs

from scripts import chaos


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.getbasetemp()


def runs(root, folder, steps: int, period: int = 50) -> list[chaos.Run]:
  flags = tiny_runs.flags(root, TRAIN_STEPS=steps, SAVE_PERIOD=period)
  environment = tiny_runs.environment(root)
  return [chaos.Run(flags, folder / name, 1, environment) for name in ('whole', 'killed')]


def test_no_bit_differs_after_kills_at_random_moments(root, tmp_path):
  report = chaos.chaos(*runs(root, tmp_path, 2_000), kills=3, seed=3, window=0.5)
  assert report['differ'] == [] and report['steps'] == 2_000
  assert [one['moment'] for one in report['kills']] == ['start', 'step', 'save']
  assert report['in_a_save'] >= 1


def test_a_difference_is_found(root, tmp_path):
  whole, killed = runs(root, tmp_path, 10, 5)
  other = dataclasses.replace(killed, arguments=[*killed.arguments, '--gin.RANDOM_SEED=8'])
  assert chaos.chaos(whole, other, kills=0, seed=0)['differ'] == ['checkpoints', 'metrics']


def test_a_run_that_ends_before_it_is_killed_is_no_proof(root, tmp_path):
  run = runs(root, tmp_path, 10, 5)[0]
  run.finish()
  assert run.steps() == 10
  with pytest.raises(
    chaos.Failure, match='ended before it was killed; give more TRAIN_STEPS.*is at'
  ):
    chaos.kill(run, 'step', random.Random(0))

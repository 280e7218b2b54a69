"""The evaluate verb in one process: what is checked before hours of answers, and what is told."""

import pathlib

import numpy as np
import pytest
import saved_runs
import tiny_data

from hyperjax import data, decoding, evaluate, metrics, records
from hyperjax.episodes import EvaluationTask
from hyperjax.errors import InputError


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.getbasetemp()


def head(**changes) -> dict:
  none = {'arguments': {}, 'limit': None, 'max_length': None}
  return none | {'strategy': records.to_json(decoding.GREEDY)} | changes


def test_choices_that_change_the_scores_change_the_name_of_the_report():
  assert evaluate._varied(head()) == ''
  varied = [
    evaluate._varied(head(**change))
    for change in (
      {'arguments': {'answer': 'rank'}},
      {'arguments': {'answer': 'rank_mean'}},
      {'limit': 3},
      {'max_length': 3},
      {'strategy': records.to_json(decoding.Beam(2))},
      {'arguments': {'answer': 'rank'}, 'limit': 3},
    )
  ]
  assert all(varied) and len(set(varied)) == len(varied)


def test_a_seed_without_the_files_of_a_task_is_told_before_anything_is_answered(root, tmp_path):
  tiny_data.metaicl_files(tmp_path / 'metaicl')
  live = data.Live(
    'metaicl',
    lengths=saved_runs.LENGTHS,
    vocabulary=saved_runs.vocabulary(root),
    data_dir=tmp_path,
  )
  all_tasks = list(evaluate._all_tasks(live, 'test', (13, 21), 2))
  assert [len(tasks) for tasks in all_tasks] == [5, 5]
  (tmp_path / 'metaicl' / 'subj' / 'subj_16_21_test.jsonl').unlink()
  with pytest.raises(InputError, match='seed 21 are not those for seed 13: subj is there for one'):
    next(evaluate._all_tasks(live, 'test', (13, 21), 2))


def report(seed: int, right: dict[str, int]) -> dict:
  """Of each template so many of four answers are right; its data set is its first letter."""
  tasks = [
    EvaluationTask(name, name[0], np.zeros(0, np.int32), [], [('a',)] * 4, metrics=('accuracy',))
    for name in right
  ]
  answers = [['a'] * n + ['b'] * (4 - n) for n in right.values()]
  about = {name: {'category': name[0], 'answers': 'rank', 'instances': 4} for name in right}
  scores = metrics.table(tasks, answers, 'categories')
  instances = 4 * len(right)
  return {'seed': seed, 'instances': instances, 'scores': scores, 'tasks': about}


def test_over_seeds_data_sets_keep_their_means_and_medians():
  reports = [
    report(0, {'c1': 4, 'c2': 4, 'c3': 1, 'r1': 2}),
    report(1, {'c1': 4, 'c2': 2, 'c3': 1, 'r1': 0}),
  ]
  both = {'average': 'categories', **evaluate.over_seeds(reports)}
  own = both['scores']['accuracy']
  assert own['tasks']['c2'] | {'std': 0} == {
    **{'mean': 75, 'worst': 50, 'std': 0},
    'seeds': {'0': 100, '1': 50},
  }
  assert own['categories']['c']['mean'] == pytest.approx((75 + 175 / 3) / 2)
  assert own['medians']['c'] | {'std': 0} == {
    **{'mean': 75, 'worst': 50, 'std': 0},
    'seeds': {'0': 100, '1': 50},
  }
  assert own['all_of_medians']['mean'] == pytest.approx((75 + 25) / 2)
  assert own['mean'] == pytest.approx((62.5 + 175 / 6) / 2) and own['worst'] == 175 / 6
  rows = {row[0]: row[3:5] for row in evaluate.table_over_seeds(both)}
  assert rows['c: median'] == ['75.00', '50.00'] and rows['r: mean'] == ['25.00', '0.00']
  assert rows['mean of medians'][0] == '50.00' and 'mean of 2 means' in rows

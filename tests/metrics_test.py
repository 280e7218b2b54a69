"""Scores equal the public formulas, and intervals cover what they claim."""

import numpy as np
import pytest
import sklearn.metrics
from rouge_score import rouge_scorer

from hyperjax import errors, metrics
from hyperjax.episodes import NOTHING, EvaluationTask

PREDICTIONS = ['The cats are sleeping.', 'yes', 'a red  House!', '', 'nothing alike', 'Yes.']
REFERENCES = [
  ('the cat sleeps', 'cats are asleep'),
  ('no', 'yes'),
  ('A red house',),
  ('',),
  ('x', 'y'),
  ('yes', 'sure'),
]


def test_rouge_l_is_the_best_stemmed_f_measure_of_an_instance():
  scorer = rouge_scorer.RougeScorer(['rougeL'], use_stemmer=True)
  expected = [
    100 * max(scorer.score(target=y, prediction=prediction)['rougeL'].fmeasure for y in answers)
    for prediction, answers in zip(PREDICTIONS, REFERENCES)
  ]
  each = metrics.rouge_l_each(PREDICTIONS, REFERENCES)
  np.testing.assert_allclose(each, expected)
  assert each[1] == each[5] == 100 and each[4] == 0
  assert metrics.rouge_l(PREDICTIONS, REFERENCES) == pytest.approx(np.mean(expected))
  assert metrics.rouge_l(['cat'], [['cats']]) == 100  # stemmed


def test_exact_match_ignores_case_punctuation_and_space_but_not_articles():
  each = metrics.exact_match_each(PREDICTIONS, REFERENCES)
  assert each.tolist() == [0, 100, 100, 100, 0, 100]
  assert metrics.exact_match(['the cat'], [['cat']]) == 0
  assert metrics.normal(' An e-mail,\n  twice ') == 'an email twice'


def test_instances_are_weighed_alike_and_groups_apart():
  tasks = [
    EvaluationTask(name, category, NOTHING, [NOTHING] * len(ys), list(ys))
    for name, category, ys in (
      ('a', 'x', REFERENCES[:1]),
      ('b', 'x', REFERENCES[1:2]),
      ('c', 'y', REFERENCES[2:]),
    )
  ]
  table = metrics.table(tasks, [PREDICTIONS[:1], PREDICTIONS[1:2], PREDICTIONS[2:]])
  assert table['exact_match']['tasks'] == {'a': 0, 'b': 100, 'c': 75}
  assert table['exact_match']['categories'] == {'x': 50, 'y': 75}
  assert table['exact_match']['all'] == pytest.approx(400 / 6)
  assert table['rouge_l']['all'] == pytest.approx(metrics.rouge_l(PREDICTIONS, REFERENCES))
  low, high = table['rouge_l']['interval']
  assert low < table['rouge_l']['all'] < high
  scores, names = metrics.exact_match_each(PREDICTIONS, REFERENCES), list('abcccc')
  assert table['exact_match']['interval_of_tasks'] == metrics.interval(scores, names)
  assert table['exact_match']['interval'] != table['exact_match']['interval_of_tasks']


def test_an_interval_is_that_of_the_mean():
  scores = np.random.default_rng(1).normal(50, 20, size=400)
  low, high = metrics.interval(scores)
  half = 1.96 * scores.std() / np.sqrt(400)
  assert low == pytest.approx(scores.mean() - half, abs=0.2)
  assert high == pytest.approx(scores.mean() + half, abs=0.2)
  assert metrics.interval(scores) == (low, high)  # seeded
  assert metrics.interval(np.full(7, 3.0)) == (3, 3)


def test_an_interval_by_task_is_wider_when_instances_of_a_task_are_alike():
  scores = np.repeat(np.random.default_rng(2).normal(50, 20, size=20), 30)
  tasks = np.repeat(np.arange(20), 30).tolist()
  by_instance, by_task = metrics.interval(scores), metrics.interval(scores, tasks)
  widths = [high - low for low, high in (by_instance, by_task)]
  assert widths[1] / widths[0] == pytest.approx(np.sqrt(30), rel=0.15)


def test_missing_predictions_are_refused():
  with pytest.raises(errors.InputError, match='5 predictions for 6 instances'):
    metrics.rouge_l(PREDICTIONS[:5], REFERENCES)
  with pytest.raises(errors.InputError, match='0 predictions for 0 instances'):
    metrics.exact_match([], [])


@pytest.mark.parametrize(
  'said,labels',
  [
    ('aabbcc', 'abcabc'),
    ('aaaaaa', 'abcabc'),
    ('xyxyab', 'ababab'),  # labels that nobody asked for are wrong, and no classes of their own
    ('bbbbbb', 'aaaaaa'),
    ('abcabc', 'abcabc'),
  ],
)
def test_macro_f1_is_scikit_learn_s_over_the_labels_that_occur(said, labels):
  expected = sklearn.metrics.f1_score(
    list(labels), list(said), labels=sorted(set(labels)), average='macro', zero_division=0
  )
  found = metrics.macro_f1([f' {y} ' for y in said], [(f'{y}\n',) for y in labels])
  assert found == pytest.approx(100 * expected)


def answered(name: str, category: str, answers: str, *metric: str) -> tuple[EvaluationTask, list]:
  """A task whose references are all `a`."""
  references = [('a',)] * len(answers)
  inputs = [NOTHING] * len(answers)
  return EvaluationTask(name, category, NOTHING, inputs, references, metrics=metric), list(answers)


def test_templates_are_averaged_by_data_set_and_data_sets_alike():
  """P3's number: of each data set the mean, or median, over its templates; then over data sets."""
  tasks, answers = zip(
    answered('r1', 'rte', 'aaaa', 'accuracy'),
    answered('r2', 'rte', 'ab', 'accuracy'),
    answered('r3', 'rte', 'aaab', 'accuracy'),
    answered('c1', 'cb', 'bbbba', 'accuracy'),
  )
  table = metrics.table(tasks, answers, 'categories')['accuracy']
  assert table['tasks'] == {'r1': 100, 'r2': 50, 'r3': 75, 'c1': 20}
  assert table['categories'] == {'rte': 75, 'cb': 20} == table['medians']
  assert table['all'] == table['all_of_medians'] == 47.5
  low, high = table['interval']
  assert low < 47.5 < high and high - low < 60
  assert metrics.table(tasks, answers)['accuracy']['all'] == pytest.approx(100 * 9 / 15)
  more, said = answered('r1', 'rte', 'b' * 12, 'accuracy')  # questions with contexts of their own
  tasks, answers = (*tasks[:2], tasks[3], more), (*answers[:2], answers[3], said)
  table = metrics.table(tasks, answers, 'categories')['accuracy']
  assert table['tasks']['r1'] == 25 and table['medians']['rte'] == 37.5


def test_tasks_with_scores_of_their_own_are_averaged_by_task():
  """MetaICL's number: Macro-F1 of classification tasks, another score of the others."""
  tasks, answers = zip(
    answered('x', 'c', 'aaab', 'macro_f1', 'accuracy'), answered('y', 'g', 'ab', 'rouge_l')
  )
  table = metrics.table(tasks, answers, 'tasks')
  f1 = 100 * 2 * 3 / 7
  assert list(table) == ['score', 'macro_f1', 'accuracy', 'rouge_l']
  assert table['score']['tasks'] == {'x': pytest.approx(f1), 'y': 50}
  assert table['score']['all'] == pytest.approx((f1 + 50) / 2)
  assert table['macro_f1']['all'] == pytest.approx(f1) and table['accuracy']['all'] == 75
  assert table['score']['interval'] is None and table['accuracy']['interval'] is not None
  assert set(table['rouge_l']['tasks']) == {'y'}
  with pytest.raises(errors.InputError, match="average is 'all'"):
    metrics.table(tasks, answers, 'all')

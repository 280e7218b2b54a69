"""Evaluation: phi once a task, its answers scored, and controls that differ in one argument."""

import collections
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved_runs
import tiny_data

import hyperjax
from hyperjax import data, decoding, evaluation, metrics, runs
from hyperjax.episodes import NOTHING, EvaluationTask
from hyperjax.errors import InputError
from hyperjax.sources import c4


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.getbasetemp()


@pytest.fixture(scope='module')
def run(root):
  return runs.load(saved_runs.hyper(root))


def task(root, name: str, category: str, shown: tuple[str, str], inputs: list[str]):
  """A task whose context is one example."""
  vocabulary = saved_runs.vocabulary(root)
  x, y = (vocabulary.encode(text) for text in shown)
  context = [[vocabulary.x_id], x, [vocabulary.y_id], y]
  return EvaluationTask(
    name,
    category,
    np.concatenate(context).astype(np.int32),
    [vocabulary.encode(text) for text in inputs],
    [(text, 'the dog') for text in inputs],
    context_outputs=(shown[1],),
  )


@pytest.fixture(scope='module')
def tasks(root):
  return [
    task(root, 'first', 'A', ('red apple', 'green'), ['a big cat', 'plum', 'bird in']),
    task(
      root, 'second', 'B', ('one two', 'three four'), ['melon', 'the horse', 'new', 'on', 'old']
    ),
    task(root, 'third', 'B', ('dog', 'eats'), ['four five', 'white horse reads']),
  ]


SHOWN = {
  'first': ('red apple', 'green'),
  'second': ('one two', 'three four'),
  'third': ('dog', 'eats'),
}


def test_each_task_is_answered_under_its_own_context(root, run, tasks):
  """As adapting to its examples and predicting does."""
  model = hyperjax.load(saved_runs.hyper(root))
  result = evaluation.evaluate(run, tasks, batch_size=4)
  assert [len(each) for each in result.predictions] == [3, 5, 2]
  for own, answers in zip(tasks, result.predictions):
    adapter = model.adapt([SHOWN[own.name]])
    inputs = [run.vocabulary.decode(tokens) for tokens in own.inputs]
    assert model.predict(inputs, adapter) == answers
  assert len({answer for each in result.predictions for answer in each}) > 2


def test_controls_differ_in_whose_context_is_read(run, tasks):
  own = evaluation.evaluate(run, tasks).predictions
  wrong = evaluation.evaluate(run, tasks, evaluation.others).predictions
  none = evaluation.evaluate(run, tasks, evaluation.nobody).predictions
  assert own != wrong and own != none and wrong != none
  shapes = decoding.Shapes.up_to(8, 9)
  alone = [evaluation.answer(run, each.inputs, None, shapes) for each in tasks]
  assert none == alone


def test_the_wrong_context_is_another_tasks_and_of_another_category_where_there_is_one(tasks):
  for seed in range(9):
    first, second, third = evaluation.others(tasks, seed)
    assert first is tasks[1].context or first is tasks[2].context
    assert second is tasks[0].context and third is tasks[0].context
  one, other = evaluation.others(tasks[1:])
  assert one is tasks[2].context and other is tasks[1].context
  with pytest.raises(InputError, match='second task'):
    evaluation.others(tasks[:1])


def test_the_seed_decides_whose_context_is_the_wrong_one(root, tasks):
  run, seen = runs.load(saved_runs.hyper(root, 'shared')), []

  def contexts(tasks, seed):
    seen.append(seed)
    return evaluation.others(tasks, seed)

  evaluation.evaluate(run, tasks, contexts, seed=7)
  assert seen == [7]


def test_a_shared_phi_does_not_mind_a_wrong_context(root, tasks):
  run = runs.load(saved_runs.hyper(root, 'shared'))
  own, wrong, none = (
    evaluation.evaluate(run, tasks, contexts).predictions
    for contexts in (evaluation.own, evaluation.others, evaluation.nobody)
  )
  assert own == wrong != none


def test_a_run_without_a_hypermodel_has_one_answer_for_all_controls(root, tasks):
  run = runs.load(saved_runs.backbone(root))
  own, none = (
    evaluation.evaluate(run, tasks, contexts).predictions
    for contexts in (evaluation.own, evaluation.nobody)
  )
  assert own == none


def test_tasks_of_all_sizes_compile_once(root, run, tasks):
  strategy = decoding.Sampling(0.5, top_k=1)  # that no other test has compiled
  before = decoding.decode._cache_size()
  rng = np.random.default_rng(0)
  words = lambda n: ' '.join(rng.choice(tiny_data.WORDS, n))
  odd = [
    task(root, str(i), 'C', ('dog', 'eats'), [words(n) for n in rng.integers(1, 5, i)])
    for i in range(1, 9)
  ]
  shapes = evaluation.one_shape(odd, 4, 9)
  for own in odd:
    evaluation.answer(run, own.inputs, None, shapes, strategy, rng=jax.random.key(0))
  assert decoding.decode._cache_size() == before + 1


@pytest.mark.parametrize(
  'counts,batch_size,rows', [((42, 7), 32, 21), ((64,), 32, 32), ((65,), 32, 22), ((3, 5), 32, 5)]
)
def test_rows_fill_the_batches_of_the_largest_task(root, counts, batch_size, rows):
  tasks = [task(root, 'x', 'C', ('dog', 'eats'), ['plum'] * n) for n in counts]
  assert evaluation.one_shape(tasks, batch_size, 9).rows == (rows,)


def test_scores_are_those_of_the_predictions(run, tasks):
  result = evaluation.evaluate(run, tasks)
  answers = [y for each in result.predictions for y in each]
  references = [ys for each in tasks for ys in each.references]
  scores = result.scores['rouge_l']
  assert scores['all'] == pytest.approx(metrics.rouge_l(answers, references))
  low, high = scores['interval']
  assert low <= scores['all'] <= high
  assert set(scores['tasks']) == {'first', 'second', 'third'}
  assert set(scores['categories']) == {'A', 'B'}
  perfect = metrics.table(tasks, [[ys[0] for ys in each.references] for each in tasks])
  assert perfect['rouge_l']['all'] == perfect['exact_match']['all'] == 100


def test_beams_and_lengths_reach_the_decoder(run, tasks):
  beams = evaluation.evaluate(run, tasks, strategy=decoding.Beam(3)).predictions
  phi = evaluation.writer(run)(tasks[0].context)
  shapes = decoding.Shapes.up_to(8, 9)
  assert beams[0] == evaluation.answer(run, tasks[0].inputs, phi, shapes, decoding.Beam(3))
  short = evaluation.evaluate(run, tasks, max_length=1).predictions
  full = evaluation.evaluate(run, tasks).predictions
  assert short != full
  assert all(y.startswith(s) for a, b in zip(short, full) for s, y in zip(a, b))
  draw = lambda seed: (
    evaluation.evaluate(run, tasks, strategy=decoding.Sampling(2.0), seed=seed).predictions
  )
  assert draw(1) == draw(1) != draw(2)


# -- Options ---------------------------------------------------------------------------------------


OPTIONS = [('the dog', 'dog'), ('white horse', 'plum', 'eats'), ('new', 'the old bird reads')]


def expected_choices(run, task, mean: bool) -> list[str]:
  """One option at a time, straight from the logits."""
  phi = evaluation.writer(run)(task.context)
  chosen = []
  for x, options in zip(task.inputs, task.options):
    scores = []
    for option in options:
      target = np.append(run.vocabulary.encode(option), 1)[None]
      batch = {
        'encoder_input_tokens': x[None],
        'decoder_input_tokens': np.pad(target, [(0, 0), (1, 0)])[:, :-1],
      }
      logits = run.model.logits(run.params, jax.tree.map(jnp.asarray, batch), phi)
      each = np.take_along_axis(jax.nn.log_softmax(logits)[0], target[0][:, None], axis=1)
      scores.append(each.mean() if mean else each.sum())
    chosen.append(options[int(np.argmax(scores))])
  return chosen


@pytest.mark.parametrize('mean', [False, True])
def test_the_option_of_the_largest_log_probability_is_chosen(run, tasks, mean):
  """The sum with EOS, as T0 does; or the mean. Numbers of options may differ."""
  made = [
    dataclasses.replace(
      each,
      options=[OPTIONS[(i + j) % 3] for j in range(len(each.inputs))],
      normalize_by_target_length=mean,
      metrics=('accuracy',),
    )
    for i, each in enumerate(tasks)
  ]
  for batch_size in (2, 7):
    found = evaluation.evaluate(run, made, batch_size=batch_size).predictions
    assert found == [expected_choices(run, each, mean) for each in made]
  unlike = evaluation.evaluate(
    run, [dataclasses.replace(each, normalize_by_target_length=not mean) for each in made]
  )
  assert unlike.predictions != found


@pytest.mark.parametrize('options', [None, OPTIONS[1]])
def test_questions_with_contexts_of_their_own_are_answered_side_by_side(root, run, tasks, options):
  """As each of them alone; they are one task in the table."""
  shown = [('red apple', 'green'), ('one two', 'three four'), ('dog', 'eats'), ('plum', 'new')]
  made = [
    dataclasses.replace(
      task(root, 'first', 'A', pair, [x]), options=None if options is None else [options]
    )
    for pair, x in zip(shown, ['a big cat', 'plum', 'bird in', 'melon'])
  ]
  result = evaluation.evaluate(run, [*made, tasks[1]], batch_size=9 if options else 3)
  alone = [evaluation.evaluate(run, [each]).predictions[0] for each in [*made, tasks[1]]]
  assert result.predictions == alone
  phi = evaluation.writer(run)(made[0].context)
  with pytest.raises(InputError, match='2 contexts for 3 inputs'):
    phi = evaluation.writer(run)(made[0].context, made[1].context)
    evaluation.answer(run, tasks[0].inputs, phi, decoding.Shapes.up_to(8, 9))
  assert set(result.scores['rouge_l']['tasks']) == {'first', 'second'}
  if options is None:
    assert len({each[0] for each in alone}) > 1


def test_tasks_of_many_kinds_keep_their_order(root, run):
  """They are gathered by kind, and the last of a kind filled up."""
  made = [
    dataclasses.replace(
      task(root, f'{i}', 'A', ('red apple', 'green'), [x]),
      options=[OPTIONS[i % 3]] if i % 2 else None,
    )
    for i, x in enumerate(['a big cat', 'plum', 'bird in', 'melon', 'dog', 'horse', 'new'])
  ]
  found = evaluation.evaluate(run, made, batch_size=4).predictions
  assert found == [evaluation.evaluate(run, [each]).predictions[0] for each in made]
  groups = list(evaluation._side_by_side([(each, each.context) for each in made], 6))
  assert groups == [[0, 2, 4, 6], [1, 3], [5, 1]]


def test_a_hypermodel_that_reads_is_not_given_nothing_to_read(root, run, tasks):
  made = [tasks[0], dataclasses.replace(tasks[1], context=NOTHING)]
  with pytest.raises(InputError, match='reads contexts, and that of second is empty'):
    evaluation.evaluate(run, made)
  assert evaluation.evaluate(run, made, evaluation.nobody)
  assert evaluation.evaluate(runs.load(saved_runs.hyper(root, 'shared')), made)  # it reads none


@pytest.mark.parametrize(
  'change,word',
  [
    ({'tasks': []}, 'no tasks'),
    ({'batch_size': 0}, 'batch_size is 0'),
    ({'max_length': 0}, 'max_length is 0'),
  ],
)
def test_bad_calls_are_refused(run, tasks, change, word):
  with pytest.raises(InputError, match=word):
    evaluation.evaluate(**({'run': run, 'tasks': tasks} | change))


def test_a_context_that_is_longer_than_the_run_reads_is_refused(run):
  with pytest.raises(InputError, match='22 tokens, the run 21'):
    evaluation.writer(run)(np.ones(22, np.int32))


# -- Baselines -------------------------------------------------------------------------------------


def shown(*outputs: str) -> EvaluationTask:
  return EvaluationTask('t', None, NOTHING, [NOTHING] * 40, [('a',)] * 40, context_outputs=outputs)


def test_the_majority_label_is_the_most_frequent_output_of_the_context():
  answers = evaluation.majority_label([shown('no', 'yes', 'no'), shown('b', 'a'), shown()])
  assert [set(each) for each in answers] == [{'no'}, {'b'}, {''}]
  assert [len(each) for each in answers] == [40] * 3


def test_copies_are_outputs_of_the_context_and_repeatable():
  tasks = [shown('no', 'yes', 'no'), shown()]
  answers = evaluation.copy_from_context(tasks)
  counts = collections.Counter(answers[0])
  assert set(counts) == {'no', 'yes'} and counts['no'] > counts['yes']
  assert set(answers[1]) == {''}
  assert evaluation.copy_from_context(tasks) == answers


# -- Losses ----------------------------------------------------------------------------------------


def test_losses_with_the_right_the_wrong_and_no_context(root, run):
  folder = tiny_data.text(root / 'losses' / 'text').parent

  def live(wrong: bool) -> data.Live:
    return data.Live(
      c4.Caclm(window=24, b_length=4, c_lengths=(4, 5), min_segment=5),
      'train',
      saved_runs.LENGTHS | {'hyper_inputs': 18},
      batch_size=6,
      targets_per_context=1,
      seed=3,
      vocabulary=run.vocabulary,
      data_dir=str(folder),
      wrong_context=wrong,
    )

  right, wrong = (evaluation.losses(run, live(each), 2) for each in (False, True))
  none = evaluation.losses(run, live(False), 2, with_phi=False)
  assert right.shape == (12, 2)
  np.testing.assert_array_equal(right[:, 1], wrong[:, 1])  # the same targets
  assert len({round(evaluation.mean_loss(each), 5) for each in (right, wrong, none)}) == 3

  batch = jax.tree.map(jnp.asarray, next(live(False).starting_at(0)))
  phi = run.model.generate(run.params, batch)
  for own, given in ((right, phi), (none, None)):
    logits = np.asarray(run.model.logits(run.params, batch, given), np.float64)
    log_z = np.log(np.exp(logits).sum(axis=-1))
    picked = np.take_along_axis(logits, batch['decoder_target_tokens'][..., None], -1)[..., 0]
    wanted = ((log_z - picked) * batch['decoder_loss_weights']).sum(axis=1)
    np.testing.assert_allclose(own[:6, 0], wanted, rtol=1e-4)
  assert evaluation.mean_loss(np.array([[2.0, 1.0], [4.0, 5.0]])) == 1.0

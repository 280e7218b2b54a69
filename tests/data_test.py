"""Batch k is a function of (seed, k), whoever asks for it, in however many parts."""

import gc
import itertools
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tiny_data

from hyperjax import data, errors, mixtures

ROOT = pathlib.Path(__file__).parent.parent
LENGTHS = {'hyper_inputs': 33, 'inputs': 7, 'targets': 5}


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return tiny_data.vocabulary(tmp_path_factory.mktemp('vocabulary'))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  tiny_data.repository(folder / 'sni')
  tiny_data.text(folder / 'text')
  return folder


@pytest.fixture
def live(vocabulary, data_dir):
  def make(mixture='sni_def_2pos', **options):
    defaults = {'lengths': LENGTHS, 'batch_size': 6, 'vocabulary': vocabulary, 'data_dir': data_dir}
    return data.Live(mixture, **(defaults | options))

  return make


def ids(*values):
  return np.array(values, np.int32)


def episode(n=0, hyper_inputs=(8,), inputs=((9,),), targets=((7,),)):
  return {
    'task_id': n,
    'hyper_inputs': ids(*hyper_inputs),
    'inputs': tuple(ids(*x) for x in inputs),
    'targets': tuple(ids(*y) for y in targets),
    'cut': 0,
  }


def same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


def take(iterator, count):
  return list(itertools.islice(iterator, count))


# --- Batches --------------------------------------------------------------------------------------


def test_a_batch_pads_on_the_right_and_shifts_the_target():
  batch = data.batch(
    [
      episode(3, (8, 9), ((11, 12), (13,)), ((5, 6, 1), (4, 1))),
      episode(2, (), ((14, 15, 16), (17,)), ((2, 3, 4, 5, 1), (1,))),
    ],
    {'hyper_inputs': 3, 'inputs': 4, 'targets': 5},
  )
  expected = {
    'task_id': [3, 2],
    'hyper_input_tokens': [[8, 9, 0], [0, 0, 0]],
    'encoder_input_tokens': [[11, 12, 0, 0], [13, 0, 0, 0], [14, 15, 16, 0], [17, 0, 0, 0]],
    'decoder_input_tokens': [[0, 5, 6, 1, 0], [0, 4, 1, 0, 0], [0, 2, 3, 4, 5], [0, 1, 0, 0, 0]],
    'decoder_target_tokens': [[5, 6, 1, 0, 0], [4, 1, 0, 0, 0], [2, 3, 4, 5, 1], [1, 0, 0, 0, 0]],
    'decoder_loss_weights': [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
  }
  assert batch.keys() == expected.keys()
  for key, value in expected.items():
    np.testing.assert_array_equal(batch[key], value)
    assert batch[key].dtype == (np.float32 if key == 'decoder_loss_weights' else np.int32)


def test_long_inputs_keep_their_tail_and_long_targets_their_head():
  long = tuple(range(10, 20))
  batch = data.batch(
    [episode(0, long, (long,), (long,))], {'hyper_inputs': 3, 'inputs': 4, 'targets': 5}
  )
  assert batch['hyper_input_tokens'].tolist() == [[10, 11, 12]]
  assert batch['encoder_input_tokens'].tolist() == [[16, 17, 18, 19]]
  assert batch['decoder_target_tokens'].tolist() == [[10, 11, 12, 13, 14]]


@pytest.mark.parametrize(
  'lengths', [{'inputs': 4, 'targets': 5}, {'hyper_inputs': 0, 'inputs': 4, 'targets': 5}]
)
def test_no_hyper_inputs_where_they_have_no_length(lengths):
  assert 'hyper_input_tokens' not in data.batch([episode()], lengths)


def test_batch_k_holds_its_own_episodes():
  asked = []
  made = data.Batches(lambda seed, n: asked.append((seed, n)) or episode(n), LENGTHS, 6, 2, seed=5)
  assert made.at(4)['task_id'].tolist() == [12, 13, 14]
  assert asked == [(5, 12), (5, 13), (5, 14)]


def test_starting_anywhere_equals_having_started_before(live):
  for mixture, options in (('sni_def_fewshot', {'targets_per_context': 2}), ('sni', {'seed': 3})):
    from_zero = take(live(mixture, **options).starting_at(0), 9)
    for step in (0, 4, 8):
      (batch,) = take(live(mixture, **options).starting_at(step), 1)
      same(batch, from_zero[step])


def test_seeds_differ(live):
  a, b = (next(live(seed=seed).starting_at(0)) for seed in (0, 1))
  assert (a['encoder_input_tokens'] != b['encoder_input_tokens']).any()


def test_the_parts_of_the_processes_are_the_batch(live):
  whole = next(live(batch_size=12, targets_per_context=2).starting_at(3))
  for count in (2, 3):
    parts = [
      next(live(batch_size=12, targets_per_context=2).starting_at(3, index, count))
      for index in range(count)
    ]
    same({key: np.concatenate([part[key] for part in parts]) for key in whole}, whole)


def test_sizes_that_cannot_be_shared_are_refused(live):
  with pytest.raises(errors.InputError, match=r'batch_size 6 is not a multiple of .* 4'):
    live(targets_per_context=4)
  with pytest.raises(errors.InputError, match='3 contexts, which 2 processes cannot share'):
    live(targets_per_context=2).starting_at(0, 0, 2)
  with pytest.raises(errors.InputError, match='seed is -1'):
    live(seed=-1)
  with pytest.raises(errors.InputError, match='must give a length to targets'):
    live(lengths={'inputs': 4})
  with pytest.raises(errors.InputError, match="names 'hyper_input'; .* hyper_inputs, inputs, targ"):
    live(lengths={'hyper_input': 9, 'inputs': 4, 'targets': 5})
  with pytest.raises(errors.InputError, match='length to hyper_inputs, 0 or more, got -1'):
    live(lengths={'hyper_inputs': -1, 'inputs': 4, 'targets': 5})


# --- Prefetching ----------------------------------------------------------------------------------


def test_an_error_in_the_thread_is_raised_in_its_place():
  def source():
    yield 1
    yield 2
    raise errors.InputError('line 3 is bad')

  made = data.Prefetched(source())
  assert (next(made), next(made)) == (1, 2)
  for _ in range(2):
    with pytest.raises(errors.InputError, match='line 3 is bad'):
      next(made)


def test_a_finite_source_ends():
  made = data.Prefetched(iter(range(5)))
  assert list(made) == [0, 1, 2, 3, 4]
  assert list(made) == []


def test_the_thread_runs_ahead_but_not_far_and_ends_with_its_iterator():
  made_so_far = []
  source = (made_so_far.append(n) or n for n in itertools.count())
  made = data.Prefetched(source, ahead=3)
  assert next(made) == 0
  time.sleep(0.1)
  assert 2 <= len(made_so_far) <= 5
  threads = [thread for thread in threading.enumerate() if thread.name == 'hyperjax-data']
  del made
  gc.collect()
  for thread in threads:
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_a_process_ends_while_its_thread_works_and_never_imports_tensorflow(vocabulary, data_dir):
  program = f"""
import sys
from hyperjax import data, vocabulary
for mixture in ('sni_def_2pos', 'c4_clm'):
  live = data.Live(
    mixture, lengths={LENGTHS | {'targets': 9}}, data_dir={str(data_dir)!r}, arguments=
    {{'window': 12, 'min_segment': 3}} if mixture == 'c4_clm' else None,
    vocabulary=vocabulary.Vocabulary({vocabulary.path!r}, 11))
  batches = live.starting_at(7)
  next(batches)
for name in ('tensorflow', 'seqio', 'gin', 'absl'):
  assert name not in sys.modules, name
print('done')
"""
  ended = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, timeout=60, cwd=ROOT
  )
  assert (ended.stdout, ended.stderr, ended.returncode) == ('done\n', '', 0)


# --- Mixtures -------------------------------------------------------------------------------------


def test_nothing_is_opened_before_use(tmp_path):
  from hyperjax.vocabulary import Vocabulary

  made = data.Live('sni_def', vocabulary=Vocabulary('nowhere.model'), data_dir=tmp_path / 'nowhere')
  with pytest.raises(errors.InputError, match='nowhere'):
    next(made.starting_at(0))


def test_the_vocabulary_may_come_from_the_environment(live, vocabulary, monkeypatch):
  monkeypatch.setenv('HYPERJAX_VOCABULARY', vocabulary.path)
  assert live(vocabulary=None).vocabulary.path == vocabulary.path
  monkeypatch.delenv('HYPERJAX_VOCABULARY')
  with pytest.raises(errors.InputError, match=r'set VOCABULARY .* or HYPERJAX_VOCABULARY'):
    _ = live(vocabulary=None).vocabulary


def test_arguments_and_mixtures_of_one_s_own(live):
  named = live('sni_def', arguments={'shots': 2, 'positives': 1})
  own = live(mixtures.get('sni_def', {'shots': 2, 'positives': 1}))
  same(next(named.starting_at(2)), next(own.starting_at(2)))
  with pytest.raises(errors.InputError, match="no argument 'shot'"):
    next(live('sni_def', arguments={'shot': 2}).starting_at(0))


@pytest.mark.parametrize(
  ('mixture', 'arguments', 'message'),
  [
    ('sni_def', {'shots': '3'}, "mixture sni_def: shots is '3'; it takes int"),
    ('sni_def', {'definition': 'no'}, "definition is 'no'; it takes bool"),
    ('sni_def', {'folder': 3}, 'folder is 3; it takes str | None'),
    ('sni_def', {'positives': -1}, 'NaturalInstructions.positives is -1; give 0 or more'),
    ('sni_def', {'instances': 0}, 'NaturalInstructions.instances is 0; give 1 or more'),
    ('c4_clm', {'files': 3}, 'files is 3; it takes str'),
    ('c4_clm', {'max_documents': -1}, 'max_documents is -1; give 1 or more'),
    ('c4_clm', {'window': 9, 'min_segment': -2}, 'min_segment is -2; give 1 or more'),
    ('c4_caclm', {'c_lengths': 5}, 'c_lengths is 5; it takes tuple'),
    ('c4_caclm', {'c_lengths': (5, 'x')}, 'c_lengths is .5, .x..; it takes tuple'),
    ('c4_caclm', {'c_lengths': (5,)}, 'c_lengths is .5,.; it takes tuple'),
  ],
)
def test_arguments_of_a_wrong_type_or_size_are_named(live, mixture, arguments, message):
  with pytest.raises(errors.InputError, match=message):
    next(live(mixture, arguments=arguments).starting_at(0))


def test_what_was_used_is_counted_by_task(live):
  made = live('sni_def_fewshot')
  batches = made.starting_at(0)
  used = np.concatenate([next(batches)['task_id'] for _ in range(5)])
  statistics = made.statistics()
  assert list(statistics) == list(tiny_data.TRAIN)
  for i, counts in enumerate(statistics.values()):
    assert counts['episodes'] >= np.sum(used == i)
    assert counts['contexts_cut'] == counts['episodes']  # 9 shots never fit 33 tokens
    assert counts['shots_missing'] == 8
  assert 30 <= sum(counts['episodes'] for counts in statistics.values()) <= 60


def test_tasks_of_the_same_name_are_counted_apart(live):
  from hyperjax.sources import mixed

  mixture = mixtures.get('sni')
  made = live(mixed.Mixed(((mixture, 1), (mixture, 2))))
  used = np.concatenate([each['task_id'] for each in take(made.starting_at(0), 9)])
  statistics = made.statistics()
  assert list(statistics) == [*tiny_data.TRAIN, *(f'{name} (1)' for name in tiny_data.TRAIN)]
  for i, counts in enumerate(statistics.values()):
    assert np.sum(used == i) <= counts['episodes'] <= np.sum(used == i) + 18  # made ahead


def test_wrong_contexts_change_only_what_the_hypermodel_reads(live):
  small = {'arguments': {'window': 23, 'b_length': 5, 'c_lengths': (3, 5), 'min_segment': 3}}
  for mixture, options in (('sni_def_2pos', {}), ('c4_caclm', small)):
    right, wrong = (
      next(live(mixture, wrong_context=wrong, **options).starting_at(1)) for wrong in (False, True)
    )
    assert (right['hyper_input_tokens'] != wrong['hyper_input_tokens']).any(axis=1).all()
    for key in right.keys() - {'hyper_input_tokens'}:
      np.testing.assert_array_equal(right[key], wrong[key])


def test_text_asks_no_questions(live):
  with pytest.raises(errors.InputError, match='c4_caclm is scored by its loss'):
    live('c4_caclm').evaluation_tasks()
  (task,) = live('sni_def').evaluation_tasks('test', seed=1, limit=3)
  assert len(task.inputs) == 3
  for options, message in (({'limit': 0}, 'limit is 0'), ({'seed': -1}, 'seed is -1')):
    with pytest.raises(errors.InputError, match=message):
      live('sni_def').evaluation_tasks('test', **options)

"""Our mixtures are usable from any seqio program, and any seqio task from our trainer."""

import dataclasses
import importlib
import itertools
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_data

from hyperjax import data, episodes, errors, inspect, mixtures
from hyperjax.sources import metaicl, p3

seqio = pytest.importorskip('seqio')  # not on Python 3.14
tf = pytest.importorskip('tensorflow')

importlib.import_module('tasks')  # registers
assembled = importlib.import_module('tasks.assembled')
preprocessors = importlib.import_module('tasks.preprocessors')

LENGTHS = {'hyper_inputs': 40, 'inputs': 6, 'targets': 5}


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return tiny_data.vocabulary(tmp_path_factory.mktemp('vocabulary'))


@pytest.fixture
def data_dir(tmp_path, vocabulary, monkeypatch):
  tiny_data.repository(tmp_path / 'sni')
  tiny_data.text(tmp_path / 'text')
  tiny_data.p3(tmp_path / 'p3')
  tiny_data.metaicl_pack(tmp_path / 'metaicl')
  shutil.rmtree(
    tmp_path / 'metaicl' / 'superglue-copa'
  )  # its letters A, B are not in the vocabulary
  monkeypatch.setenv('HYPERJAX_DATA', str(tmp_path))
  monkeypatch.setattr(data, 'from_environment', lambda: vocabulary)  # 11 extra ids, not 100
  return tmp_path


def rows(name, split='train', count=None, **options):
  task = seqio.get_mixture_or_task(name)
  dataset = task.get_dataset(LENGTHS, split, **options)
  return list(itertools.islice(dataset.as_numpy_iterator(), count))


def test_importing_tasks_registers_everything_before_any_file_is_known(tmp_path):
  names = [*mixtures.MIXTURES, 'c4_v310_caclm', 'c4_v310_clm', *p3.prompts()]
  names += [name + '_score_eval' for name in p3.held_out()] + ['t0_train', 't0_eval_score_eval']
  asked_for = {'c4_caclm', 'c4_clm', 'sni_def', 'sni_def_2pos', 'p3_t0_short', 'p3_held_out'}
  asked_for |= {f'metaicl_{setting}' for setting in metaicl.settings()} | {'symbol_tuning'}
  assert asked_for < set(names)
  program = f'import seqio, tasks\nfor name in {names}: seqio.get_mixture_or_task(name)'
  environment = {k: v for k, v in os.environ.items() if not k.startswith('HYPERJAX_')}
  environment['PYTHONPATH'] = str(pathlib.Path(__file__).parent.parent)
  command = [sys.executable, '-W', 'ignore', '-c', program]
  done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.filterwarnings('ignore::hyperjax.errors.Note')  # what is no classification
@pytest.mark.parametrize(
  'name',
  [
    'sni_def',
    'sni_def_2pos',
    'sni_def_2pos_in_context',
    'sni_fewshot',
    'p3',
    'p3_in_context',
    'p3_zero_shot',
    'metaicl',
    'symbol_tuning',
  ],
)
def test_training_rows_are_the_assembler_s_episodes(vocabulary, data_dir, name):
  made = mixtures.get(name).episodes(data_dir, vocabulary, LENGTHS)
  for n, row in enumerate(rows(name, count=12, seed=3)):
    expected = made(3, n)
    assert row['task_id'] == expected['task_id']
    np.testing.assert_array_equal(row.get('hyper_inputs', []), expected['hyper_inputs'])
    np.testing.assert_array_equal(row['inputs'], expected['inputs'][0][-6:])
    np.testing.assert_array_equal(row['targets'], expected['targets'][0][:5])


def test_evaluation_rows_are_the_evaluation_tasks(vocabulary, data_dir):
  (task,) = mixtures.get('sni_def_2pos').evaluation_tasks(data_dir, vocabulary, LENGTHS)
  found = rows('sni_def_2pos', 'test', shuffle=False)
  assert len(found) == len(task.inputs) == 9
  for row, tokens, answers in zip(found, task.inputs, task.references):
    np.testing.assert_array_equal(row['hyper_inputs'], task.context)
    np.testing.assert_array_equal(row['inputs'], tokens[-6:])
    assert vocabulary.decode(row['targets']) == answers[0]
    assert [answer.decode() for answer in row['references']] == list(answers)


def test_seqio_s_metrics_see_all_references(data_dir):
  task = seqio.get_mixture_or_task('sni_def')
  found = rows('sni_def', 'test', shuffle=False)
  targets = [task.postprocess_fn('first', example=row, is_target=True) for row in found]
  assert targets[1] == ['green', 'blue']
  predictions = [task.postprocess_fn('Green.', example=row, is_target=False) for row in found]
  scores = [metric(targets, predictions) for metric in task.metric_fns]
  assert scores[1]['exact_match'] == pytest.approx(100 * 1 / 9)  # 'green' answers one of nine
  assert scores[0]['rouge_l'] >= scores[1]['exact_match']


@pytest.mark.filterwarnings('ignore::hyperjax.errors.Note')
@pytest.mark.parametrize(
  'name,split', [('p3', 'validation'), ('metaicl', 'test'), ('symbol_tuning', 'test')]
)
def test_questions_of_all_tasks_are_rows(vocabulary, data_dir, name, split):
  mixture = mixtures.get(name)
  seed = getattr(mixture, 'seeds', (0,))[0]
  tasks = mixture.evaluation_tasks(data_dir, vocabulary, LENGTHS, split, seed)
  found = rows(name, split, shuffle=False)
  expected = [(i, own, y) for i, own in enumerate(tasks) for y in own.references]
  assert len(found) == len(expected) > 4
  for row, (i, own, answers) in zip(found, expected):
    assert row['task_id'] == i and [y.decode() for y in row['references']] == list(answers)
    np.testing.assert_array_equal(row['hyper_inputs'], own.context)


def test_prompts_are_t0_s_tasks(vocabulary, data_dir):
  made = list(
    seqio.get_mixture_or_task(tiny_data.RTE)
    .get_dataset({'inputs': 30, 'targets': 9}, 'train', shuffle=False)
    .as_numpy_iterator()
  )
  for row, line in zip(made, tiny_data.prompted(tiny_data.RTE, 11), strict=True):
    x, y = line['inputs_pretokenized'], line['targets_pretokenized'].strip()
    assert row['inputs'].tolist() == vocabulary.encode(x).tolist()  # no EOS
    assert row['targets'].tolist() == [*vocabulary.encode(y).tolist(), vocabulary.eos_id]
    assert row['inputs_pretokenized'].decode() == x
  assert len(rows(tiny_data.COPA, 'train', shuffle=False)) == 8  # empty rows are left out
  with pytest.raises(tf.errors.OpError, match='wiki_bio_who has no train file'):
    rows('wiki_bio_who', 'train', shuffle=False)


def test_choices_are_scored_as_t0_does(vocabulary, data_dir):
  task = seqio.get_mixture_or_task(tiny_data.COPA + '_score_eval')
  lengths = {'inputs': 30, 'targets': 9}
  found = list(task.get_dataset(lengths, 'validation', shuffle=False).as_numpy_iterator())
  lines = tiny_data.score_eval(tiny_data.prompted(tiny_data.COPA, 7, first=11))
  assert [bool(row['is_correct']) for row in found] == [line['is_correct'] for line in lines]
  assert [row['idx'].tolist() for row in found] == [[i // 2, i % 2] for i in range(8)]
  for row, line in zip(found, lines, strict=True):
    assert vocabulary.decode(row['inputs']) == line['inputs_pretokenized']
    assert vocabulary.decode(row['targets']) == line['targets_pretokenized']
    assert row['targets'][-1] == vocabulary.eos_id
  targets = [task.postprocess_fn(None, example=row, is_target=True) for row in found]
  (metric,) = task.score_metric_fns or task.metric_fns
  right = np.array([float(row['is_correct']) for row in found])
  assert metric(targets, list(right)) == {'accuracy': 100}
  assert metric(targets, list(-right)) == {'accuracy': 0}
  assert metric(targets, list(right * [1, 1, 1, 1, -1, -1, -1, -1])) == {'accuracy': 50}
  assert lines[0]['is_correct']
  assert metric(targets[:2], [0.0, 0.0]) == {'accuracy': 100}  # of equals the first


def test_t0_s_mixture_has_t0_s_rates():
  mixture = seqio.MixtureRegistry.get('t0_train')
  made = {task.name: mixture.get_rate(task) for task in mixture.tasks}
  assert made == dict(zip(p3.t0_train(), p3.rates(p3.t0_train()))) and len(made) == 313
  assert len(seqio.MixtureRegistry.get('t0_eval_score_eval').tasks) == 111


def test_text_that_fits_in_memory(vocabulary, data_dir, monkeypatch):
  small = dataclasses.replace(
    mixtures.MIXTURES['c4_caclm'], window=31, b_length=5, c_lengths=(3, 5), min_segment=3
  )
  monkeypatch.setitem(mixtures.MIXTURES, 'c4_tiny_caclm', small)
  assembled.register('c4_tiny_caclm', ('train', 'validation'))
  monkeypatch.setattr(data, 'LENGTHS', LENGTHS)
  made = small.episodes(data_dir, vocabulary, LENGTHS, 'validation')
  found = rows('c4_tiny_caclm', 'validation', shuffle=False)
  assert len(found) == made.windows.count > 1
  for n, row in enumerate(found):
    np.testing.assert_array_equal(row['hyper_inputs'], made(0, n)['hyper_inputs'])
    np.testing.assert_array_equal(row['targets'], made(0, n)['targets'][0])


def documents(*lengths):
  return [
    np.arange(100 * i, 100 * i + length, dtype=np.int32) for i, length in enumerate(lengths, 1)
  ]


def test_streamed_text_has_the_assembler_s_windows_and_segments(vocabulary):
  pieces = documents(40, 33, 9, 0, 61)
  dataset = tf.data.Dataset.from_generator(
    lambda: ({'targets': piece} for piece in pieces),
    output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )
  mixture = mixtures.get(
    'c4_caclm', {'window': 20, 'b_length': 4, 'c_lengths': (3, 5), 'min_segment': 3}
  )
  features = {'hyper_inputs': seqio.Feature(assembled.seqio_vocabulary(vocabulary))}
  with seqio.utils.map_seed_manager(0):
    found = list(preprocessors.caclm(dataset, features, mixture).as_numpy_iterator())
  windows = []
  for row in found:
    first = int(np.flatnonzero(row['hyper_inputs'] == vocabulary.sentinel(0))[0])
    a, d = row['hyper_inputs'][:first], row['hyper_inputs'][first + 2 :]
    windows.append(np.concatenate([a, row['inputs'], row['targets'], d]).tolist())
    assert len(row['inputs']) == 4 and 3 <= len(row['targets']) <= 5 and min(len(a), len(d)) >= 3
  starts = [(100, 20), (120, 20), (200, 20), (220, 13), (500, 20), (520, 20), (540, 20)]
  assert windows == [list(range(start, start + length)) for start, length in starts]
  clm = mixtures.get('c4_clm', {'window': 9, 'min_segment': 3})
  with seqio.utils.map_seed_manager(0):
    found = list(preprocessors.clm(dataset, clm, LENGTHS).as_numpy_iterator())
  text = np.concatenate([np.append(row['inputs'], row['targets']) for row in found])
  assert text.tolist() == [*range(100, 136), *range(200, 233), *range(300, 309), *range(500, 561)]


# --- seqio's tasks in our trainer -----------------------------------------------------------------


@pytest.fixture(scope='module')
def foreign(vocabulary):
  """A task and a mixture that somebody else registered."""

  def source(split, shuffle_files=False, seed=None):
    del split, shuffle_files, seed
    words = tiny_data.WORDS
    texts = [(f'{words[i]} {words[i + 1]}', words[i + 2]) for i in range(30)]
    return tf.data.Dataset.from_tensor_slices(
      {'inputs': [x for x, _ in texts], 'targets': [y for _, y in texts]}
    )

  wrapped = assembled.seqio_vocabulary(vocabulary)
  features = {
    'inputs': seqio.Feature(wrapped, add_eos=False),
    'targets': seqio.Feature(wrapped, add_eos=True),
  }
  seqio.TaskRegistry.add(
    'foreign_task',
    source=seqio.FunctionDataSource(source, splits=['train']),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features=features,
    shuffle_buffer_size=17,
  )
  seqio.MixtureRegistry.add('foreign_mixture', [('foreign_task', 1)])
  return vocabulary


@pytest.mark.parametrize('name', ['foreign_task', 'foreign_mixture'])
def test_a_foreign_task_resumes_where_it_was(foreign, name):
  def live():
    return data.Live(name, lengths=LENGTHS, batch_size=4, seed=7)

  from_zero = list(itertools.islice(live().starting_at(0), 12))
  for step in (1, 9):  # in the first epoch and in the second
    batch = next(live().starting_at(step))
    assert batch.keys() == from_zero[step].keys()
    for key in batch:
      np.testing.assert_array_equal(batch[key], from_zero[step][key])
  assert 'hyper_input_tokens' not in from_zero[0]
  vocabulary = live().vocabulary
  assert (vocabulary.path, vocabulary.size) == (foreign.path, foreign.size)
  for row in from_zero[0]['decoder_target_tokens']:
    assert foreign.decode(row) in tiny_data.WORDS
    assert foreign.eos_id in row
  parts = [next(live().starting_at(1, i, 2))['encoder_input_tokens'] for i in (0, 1)]
  np.testing.assert_array_equal(np.concatenate(parts), from_zero[1]['encoder_input_tokens'])


def test_rows_of_a_foreign_task_are_told_as_text(foreign):
  live = data.Live('foreign_task', lengths=LENGTHS, batch_size=4, seed=7)
  lines = inspect.told(live, examples=5, episodes=9, tasks=3)
  batches = list(itertools.islice(live.starting_at(0), 2))
  for key, word in (('encoder_input_tokens', 'inputs'), ('decoder_target_tokens', 'targets')):
    texts = [foreign.decode(row) for batch in batches for row in batch[key]][:5]
    said = [line.split('] ')[1].removesuffix(' </s>') for line in lines if f'  {word} [' in line]
    assert said == texts
  assert 'episode 4: foreign_task' in lines and not any('rate %' in line for line in lines)


def test_a_foreign_task_can_be_read_with_another_vocabulary(foreign, tmp_path):
  path = tiny_data.train_vocabulary(tmp_path / 'other.model', vocab_size=50)
  other = type(foreign)(str(path), 9)
  lengths = LENGTHS | {'inputs': 30}
  batch = next(data.Live('foreign_task', lengths=lengths, vocabulary=other).starting_at(0))
  for row in batch['encoder_input_tokens']:
    assert all(word in tiny_data.WORDS for word in other.decode(row).split())
  with pytest.raises(errors.InputError, match='foreign_mixture has a vocabulary of'):
    next(data.Live('foreign_mixture', lengths=LENGTHS, vocabulary=other).starting_at(0))


def test_what_a_foreign_task_cannot_do_is_said(foreign):
  with pytest.raises(
    errors.InputError, match=r'no mixture .foreign_tusk. .did you mean foreign_task'
  ):
    next(data.Live('foreign_tusk').starting_at(0))
  for ask in (lambda live: next(live.starting_at(0)), lambda live: live.evaluation_tasks()):
    with pytest.raises(errors.InputError, match=r'no mixture .sni_deff. .did you mean sni_def'):
      ask(data.Live('sni_deff', arguments={'shots': 1}))
  with pytest.raises(errors.InputError, match="has no split 'tset', but"):
    next(data.Live('foreign_task', split='tset').starting_at(0))
  with pytest.raises(errors.InputError, match='do not apply to seqio tasks'):
    next(data.Live('foreign_task', arguments={'shots': 1}).starting_at(0))
  with pytest.raises(errors.InputError, match='asks no questions'):
    data.Live('foreign_task').evaluation_tasks()


def test_c4_of_tfds_streams(vocabulary, tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  texts = [each['text'] for each in tiny_data.DOCUMENTS]
  tfds.dataset_builders.TfDataBuilder(
    name='c4',
    config='en',
    version='3.1.0',
    data_dir=tmp_path,
    split_datasets={'train': tf.data.Dataset.from_tensor_slices({'text': texts})},
    features=tfds.features.FeaturesDict({'text': tfds.features.Text()}),
  ).download_and_prepare()
  task = seqio.get_mixture_or_task('c4_v310_clm')
  monkeypatch.setattr(seqio.utils, '_TFDS_DATA_DIR_OVERRIDE', str(tmp_path))
  monkeypatch.setattr(type(task.source.tfds_dataset), '_MEMOIZED_BUILDERS', {})
  lengths = {'inputs': 384, 'targets': 128}
  live = data.Live('c4_v310_clm', lengths=lengths, batch_size=3, vocabulary=vocabulary)
  batch = next(live.starting_at(0))
  for x, y in zip(batch['encoder_input_tokens'], batch['decoder_target_tokens']):
    read = vocabulary.decode([*x, *y])
    assert len(read.split()) > 60 and any(read in text for text in texts)


def test_data_that_are_not_there_are_named(vocabulary, tmp_path, monkeypatch):
  monkeypatch.setattr(seqio.utils, '_TFDS_DATA_DIR_OVERRIDE', str(tmp_path))
  live = data.Live('c4_v310_caclm', vocabulary=vocabulary)
  with pytest.raises(errors.InputError, match='c4_v310_caclm cannot be read'):
    next(live.starting_at(0))


def test_the_environment_s_vocabulary_is_seqio_s(vocabulary, monkeypatch):
  monkeypatch.setattr(data, 'from_environment', lambda: vocabulary)
  ours, theirs = assembled.EnvironmentVocabulary(), assembled.seqio_vocabulary(vocabulary)
  assert ours.vocab_size == theirs.vocab_size == vocabulary.size
  assert ours.encode('red cat') == theirs.encode('red cat') == vocabulary.encode('red cat').tolist()
  assert ours.encode_tf('red cat').numpy().tolist() == ours.encode('red cat')
  assert ours.decode(ours.encode('red cat')) == 'red cat'
  assert (ours.eos_id, ours.pad_id, ours.unk_id) == (theirs.eos_id, theirs.pad_id, theirs.unk_id)
  assert episodes.NOTHING.size == 0


@pytest.mark.parametrize('name', ['sni', 'sni_def_in_context', 'sni_def_2pos_in_context', 'c4_clm'])
def test_what_has_no_context_goes_through_t5x_s_converter(data_dir, name):
  task = seqio.get_mixture_or_task(name)
  assert set(task.output_features) == {'inputs', 'targets'}
  if name == 'c4_clm':
    return  # its windows are longer than these documents
  lengths = {'inputs': 30, 'targets': 5}
  converter = seqio.EncDecFeatureConverter(pack=False)
  dataset = seqio.get_dataset(name, lengths, dataset_split='test', feature_converter=converter)
  (row,) = itertools.islice(dataset.as_numpy_iterator(), 1)
  assert row['encoder_input_tokens'].shape == (30,) and row['encoder_input_tokens'].any()
  assert row['decoder_target_tokens'].shape == (5,)

"""MetaICL: its settings, its five sets of 16 examples, and both protocols of its evaluation."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_data
from tiny_data import LABELS, SEEDS

from hyperjax import errors, metrics, mixtures
from hyperjax.sources import metaicl
from hyperjax.sources.cards import Instance
from hyperjax.vocabulary import Vocabulary

LENGTHS = {'hyper_inputs': 200, 'inputs': 15, 'targets': 9}
TASKS = set(tiny_data.METAICL)
FOUND = metaicl.MetaICL('found')


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return tiny_data.vocabulary(tmp_path_factory.mktemp('vocabulary'))


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  return tiny_data.metaicl_files(tmp_path_factory.mktemp('own') / 'MetaICL' / 'data').parents[1]


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  return tiny_data.metaicl_pack(tmp_path_factory.mktemp('plain') / 'metaicl').parent


def shown(vocabulary, context):
  text = vocabulary.decode(context)
  parts = [part.partition('<extra_id_9>') for part in text.split('<extra_id_10>')[1:]]
  return [(x.strip(), y.strip()) for x, _, y in parts]


def pairs(lines):
  return [(line['input'], line['output']) for line in lines]


# --- The table ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'setting,train,test',
  [
    ('hr_to_lr', 61, 26),
    ('non_nli_to_nli', 55, 8),
    ('non_class_to_class', 37, 20),
    ('class_to_class', 43, 20),
    ('qa_to_qa', 37, 22),
    ('non_qa_to_qa', 33, 22),
    ('non_paraphrase_to_paraphrase', 59, 4),
  ],
)
def test_settings_have_metaicl_s_tasks_and_test_on_others_but_for_sick(setting, train, test):
  """SICK is in both lists of that setting as MetaICL publishes them."""
  trained, tested = (metaicl.tasks_of(setting, split) for split in ('train', 'test'))
  assert (len(set(trained)), len(set(tested))) == (len(trained), len(tested)) == (train, test)
  assert set(trained) & set(tested) == ({'sick'} if setting == 'non_nli_to_nli' else set())
  assert metaicl.tasks_of(setting, 'validation') == trained
  assert setting in metaicl.settings() and f'metaicl_{setting}' in mixtures.MIXTURES
  assert mixtures.get(f'metaicl_{setting}').seeds == SEEDS


def test_kinds_are_metaicl_s_where_the_options_agree():
  same = [Instance(str(i), ('a',), ('a', 'b')) for i in range(3)]
  turned = [*same, Instance('x', ('b',), ('b', 'a'))]  # as good: in another order
  other = [*same, Instance('x', ('c',), ('c', 'b'))]
  assert metaicl.kind_of('glue-rte', turned) == 'classification'
  assert metaicl.kind_of('glue-rte', other) == metaicl.kind_of('piqa', other) == 'multi-choice'
  assert metaicl.kind_of('superglue-copa', same) == 'multi-choice'  # as MetaICL says
  assert metaicl.kind_of('my-own', same) == 'classification'
  free = dataclasses.replace(same[0], options=())
  assert metaicl.kind_of('glue-rte', [*same, free]) == 'free-form'
  assert metaicl.kind_of('glue-rte', []) == 'free-form'


# --- Files ----------------------------------------------------------------------------------------


def test_metaicl_s_own_files_are_its_splits_and_seeds(own):
  folder = metaicl.find(own)
  assert set(folder.found) == TASKS
  assert {len(kinds) for kinds in folder.found.values()} == {1 + 3 * 5}
  lines = tiny_data.answered('poem_sentiment', 16, 2)
  read = folder.instances('poem_sentiment', '16_21_train')
  assert [(each.input, each.outputs[0]) for each in read] == pairs(lines)
  assert {each.options for each in read} == {('one', 'two', 'three')}
  every = {card.name: len(card.instances) for card in FOUND.cards(own, 'train')}
  assert every == dict.fromkeys(TASKS, 23)


def test_a_folder_of_another_name_is_no_task(tmp_path):
  tiny_data.metaicl_pack(tmp_path / 'metaicl')
  (tmp_path / 'metaicl' / 'glue-mrpc').rename(tmp_path / 'metaicl' / 'old-mrpc')
  tiny_data.write_lines(tmp_path / 'metaicl' / 'stray.train.jsonl', [{}])
  assert set(metaicl.find(tmp_path).found) == TASKS - {'glue-mrpc'}
  assert metaicl.find(tmp_path / 'metaicl').path == tmp_path / 'metaicl'  # the folder itself
  with pytest.raises(errors.InputError, match=r'no MetaICL files found: set DATA_DIR .*/mine$'):
    metaicl.find(tmp_path, 'mine')


LINE = {'task': 'glue-mrpc', 'input': 'x', 'output': 'cat', 'options': ['cat', 'dog']}


@pytest.mark.parametrize(
  'change,message',
  [
    ({'task': 'glue-rte'}, "field \"task\" is 'glue-rte', expected 'glue-mrpc', the file's"),
    ({'task': None}, 'field "task" is null, expected a string'),
    ({'output': 'bird'}, r"output 'bird' is not among the options \['cat', 'dog'\]"),
    ({'output': []}, 'field "output" is an empty list'),
    ({'output': 3}, 'field "output" is a number'),
    ({'input': ['x']}, 'field "input" is a list, expected a string'),
    ({'options': [1, 2]}, 'field "options" has a number in its list'),
  ],
)
def test_faults_of_a_line_are_named(tmp_path, change, message):
  (tmp_path / 'glue-mrpc').mkdir()
  path = tmp_path / 'glue-mrpc' / 'glue-mrpc.train.jsonl'
  tiny_data.write_lines(path, [LINE, LINE, {**LINE, **change}])
  with pytest.raises(errors.InputError, match=rf'glue-mrpc\.train\.jsonl line 3: {message}'):
    list(FOUND.cards(tmp_path))


def test_text_is_stripped_and_the_task_s_name_may_be_left_out(tmp_path):
  (tmp_path / 'mine').mkdir()
  line = {'input': ' x\n', 'output': ' a', 'options': ['a ', ' b']}
  tiny_data.write_lines(tmp_path / 'mine' / 'mine.test.jsonl', [line])
  assert metaicl.find(tmp_path).instances('mine', 'test') == [Instance('x', ('a',), ('a', 'b'))]


def test_missing_tasks_and_files_are_an_error_or_told(vocabulary, own, plain):
  setting = metaicl.MetaICL('hr_to_lr', shots=2)
  message = r'23 of 26 tasks have no 16_100_test or test file in .*: quarel'
  with pytest.raises(errors.InputError, match=message):
    setting.asked(plain)
  with pytest.warns(errors.Note, match=message):
    asked = dataclasses.replace(setting, missing='skip').asked(plain)
  assert {each.card.name for each in asked} == {'poem_sentiment', 'glue-mrpc', 'superglue-copa'}
  with pytest.raises(errors.InputError, match='61 of 61 tasks have no 16384_100_train or train'):
    dataclasses.replace(setting, missing='skip').episodes(own, vocabulary, LENGTHS)
  with pytest.raises(errors.InputError, match='no task has a 16_7_test or test file'):
    FOUND.asked(own, seed=7)
  with pytest.raises(
    errors.InputError, match="no split 'dev': MetaICL has train, validation, test"
  ):
    FOUND.asked(own, 'dev')
  with pytest.raises(errors.InputError, match="no split 'dev'"):
    list(FOUND.cards(own, 'dev'))


def test_a_test_task_without_examples_to_show_is_refused(tmp_path):
  tiny_data.metaicl_pack(tmp_path)
  (tmp_path / 'subj' / 'subj.train.jsonl.gz').unlink()
  with pytest.raises(
    errors.InputError, match=r'subj has no file subj_16_13_train\.jsonl or subj\.train'
  ):
    FOUND.asked(tmp_path, seed=13)
  assert len(metaicl.MetaICL('found', shots=0).asked(tmp_path)) == 5


def test_tasks_without_questions_are_told(tmp_path):
  (tmp_path / 'subj').mkdir()
  path = tmp_path / 'subj' / 'subj.test.jsonl'
  tiny_data.write_lines(path, [{'task': 'subj', 'input': '', 'output': 'a'}])
  with pytest.raises(errors.InputError, match='split test has no questions in'):
    metaicl.MetaICL('found', shots=0).asked(tmp_path)
  (tmp_path / 'mine').mkdir()
  tiny_data.write_lines(tmp_path / 'mine' / 'mine.test.jsonl', [{'input': 'x', 'output': 'a'}])
  with pytest.warns(errors.Note, match='which have only empty examples in test: subj'):
    assert len(metaicl.MetaICL('found', shots=0).asked(tmp_path)) == 1


@pytest.mark.parametrize(
  'arguments,message',
  [
    ({'setting': 'hr'}, "MetaICL.setting is 'hr'; give one of hr_to_lr, .*, found"),
    ({'shots': -1}, 'MetaICL.shots is -1; give 0 or more'),
    ({'missing': 'no'}, "missing is 'no'"),
    ({'answer': 'f1'}, "answer is 'f1'; give one of generate, rank, rank_mean"),
  ],
)
def test_bad_choices_are_refused(arguments, message):
  with pytest.raises(errors.InputError, match=message):
    metaicl.MetaICL(**arguments)


# --- Evaluation -----------------------------------------------------------------------------------


def tasks(vocabulary, data_dir, seed=100, mixture=FOUND, split='test', limit=None):
  made = mixture.evaluation_tasks(data_dir, vocabulary, LENGTHS, split, seed, limit)
  return {task.name: task for task in made}


def test_a_context_shows_the_16_examples_of_its_seed(vocabulary, own):
  for i, seed in enumerate(SEEDS):
    for name, task in tasks(vocabulary, own, seed).items():
      read = shown(vocabulary, task.context)
      lines = pairs(tiny_data.answered(name, 16, i))
      assert sorted(read) == sorted(lines) and read != lines  # all of them, in random order
      asked = pairs(tiny_data.answered(name, 5, 50))
      assert [vocabulary.decode(x) for x in task.inputs] == [x for x, _ in asked]
      assert task.references == [(y,) for _, y in asked]
      assert (task.shots_missing, task.cut) == (0, 0)


def test_plain_files_give_each_seed_16_of_the_training_examples(vocabulary, plain):
  drawn = {name: set() for name in TASKS}
  for seed in SEEDS:
    made = tasks(vocabulary, plain, seed)
    for name, task in made.items():
      read = shown(vocabulary, task.context)
      assert len(set(read)) == 16 and set(read) < set(pairs(tiny_data.answered(name, 23)))
      np.testing.assert_array_equal(task.context, tasks(vocabulary, plain, seed)[name].context)
      drawn[name].add(tuple(read))
  assert {len(different) for different in drawn.values()} == {5}


def test_examples_are_those_of_the_task_and_seed_whatever_else_is_there(
  vocabulary, plain, tmp_path
):
  tiny_data.metaicl_pack(tmp_path)
  for name in TASKS - {'glue-mrpc'}:
    for path in (tmp_path / name).iterdir():
      path.unlink()
  alone = tasks(vocabulary, tmp_path, 21)
  assert set(alone) == {'glue-mrpc'}
  every = tasks(vocabulary, plain, 21)
  np.testing.assert_array_equal(alone['glue-mrpc'].context, every['glue-mrpc'].context)
  few = tasks(vocabulary, plain, 21, limit=2)
  assert {len(task.inputs) for task in few.values()} == {2}
  for name in TASKS:  # no question is among the training examples here
    np.testing.assert_array_equal(few[name].context, every[name].context)


def test_a_question_that_is_also_an_example_is_not_shown(vocabulary, tmp_path):
  tiny_data.metaicl_pack(tmp_path)
  lines = tiny_data.answered('subj', 4)
  tiny_data.write_lines(tmp_path / 'subj' / 'subj.test.jsonl.gz', lines[:3])
  tiny_data.write_lines(tmp_path / 'subj' / 'subj.train.jsonl.gz', lines)
  task = tasks(vocabulary, tmp_path)['subj']
  assert shown(vocabulary, task.context) == pairs(lines[3:]) and task.shots_missing == 15


def test_validation_is_the_training_tasks_other_examples(vocabulary, own, tmp_path):
  for name, task in tasks(vocabulary, own, 42, split='validation').items():
    asked = pairs(tiny_data.answered(name, 3, 43))
    assert [vocabulary.decode(x) for x in task.inputs] == [x for x, _ in asked]
  (tmp_path / 'subj').mkdir()
  for kind in ('train', 'dev'):
    tiny_data.write_lines(
      tmp_path / 'subj' / f'subj_16384_100_{kind}.jsonl',
      tiny_data.answered('subj', 19, 30 * (kind == 'dev')),
    )
  task = tasks(vocabulary, tmp_path, split='validation')['subj']
  assert len(task.inputs) == 19 and len(shown(vocabulary, task.context)) == 16
  (card,) = FOUND.cards(tmp_path, 'validation')
  assert len(card.instances) == 19


def test_the_paper_s_protocol_writes_answers(vocabulary, plain):
  """Macro-F1 for classification, ROUGE-L for all others (HyperTuning, section 5.2)."""
  for name, task in tasks(vocabulary, plain).items():
    assert task.options is None
    kind = 'macro_f1' if name in LABELS else 'rouge_l'
    assert task.metrics[0] == kind


def test_metaicl_s_own_protocol_ranks_options_by_their_mean(vocabulary, plain):
  mixture = metaicl.MetaICL('found', answer='rank_mean')
  made = tasks(vocabulary, plain, mixture=mixture)
  assert all(task.normalize_by_target_length for task in made.values())
  for name, labels in LABELS.items():
    assert made[name].options == [labels] * 5 and made[name].metrics[0] == 'macro_f1'
  copa = [tuple(line['options']) for line in tiny_data.answered('superglue-copa', 5, 50)]
  assert made['superglue-copa'].options == copa and made['superglue-copa'].metrics == ('accuracy',)
  assert made['common_gen'].options is None and made['common_gen'].metrics[0] == 'rouge_l'


def test_the_number_is_the_mean_of_the_tasks_own_scores(vocabulary, plain):
  made = FOUND.evaluation_tasks(plain, vocabulary, LENGTHS)
  answers = [[y[0] for y in task.references] for task in made]
  assert metrics.table(made, answers, FOUND.average)['score']['all'] == pytest.approx(100)
  assert FOUND.average == 'tasks'
  names = [task.name for task in made]
  answers[names.index('glue-mrpc')] = ['cat'] * 5  # cat dog cat dog cat
  answers[names.index('common_gen')] = [''] * 5
  table = metrics.table(made, answers, FOUND.average)
  f1 = 100 * (2 * 3 / (3 + 5)) / 2
  assert table['score']['tasks']['glue-mrpc'] == pytest.approx(f1)
  assert table['score']['all'] == pytest.approx((f1 + 0 + 300) / 5)


# --- Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize('form', ['own', 'plain'])
def test_episodes_show_other_examples_of_the_target_s_task(vocabulary, own, plain, form):
  made = FOUND.episodes(own if form == 'own' else plain, vocabulary, LENGTHS)
  assert set(made.task_names) == TASKS
  drawn = set()
  for n in range(100):
    episode = made(3, n)
    name = made.task_names[episode['task_id']]
    lines = dict(pairs(tiny_data.answered(name, 23)))
    read = shown(vocabulary, episode['hyper_inputs'])
    asked, answer = (vocabulary.decode(episode[key][0]) for key in ('inputs', 'targets'))
    assert len(dict(read)) == 16 and all(lines[x] == y for x, y in read)
    assert asked not in dict(read) and lines[asked] == answer
    drawn.add(name)
  assert drawn == TASKS


# --- The real pack --------------------------------------------------------------------------------


def test_every_task_of_the_pack_is_read(shared_data):
  tasks = json.loads((shared_data / 'metaicl' / 'manifest.json').read_text())['tasks']
  says = {'classification': 'macro_f1', 'multi-choice': 'accuracy', 'generation': 'rouge_l'}
  ranked = metaicl.MetaICL('found', answer='rank_mean')
  for split in ('train', 'test'):
    found = {card.name: card for card in ranked.cards(shared_data, split)}
    assert found.keys() == {each['task'] for each in tasks}
    for each in tasks:
      card = found[each['task']]
      assert len(card.instances) == each[split] and card.metrics[0] == says[each['kind']]
      options = {len(instance.options) for instance in card.instances}
      assert max(options) == each['n_options'] or (card.name, max(options)) == ('ai2_arc', 5)


def test_the_pack_s_questions_are_made(shared_data, tmp_path):
  for name in ('superglue-cb', 'superglue-copa', 'common_gen', 'hellaswag'):
    (tmp_path / name).symlink_to(shared_data / 'metaicl' / name)
  t5 = Vocabulary(str(shared_data / 'vocab' / 't5_cc_all.32000.sentencepiece.model'))
  lengths = {'hyper_inputs': 1024, 'inputs': 384, 'targets': 128}
  mixture = mixtures.get('metaicl', {'answer': 'rank_mean'})
  made = mixture.evaluation_tasks(tmp_path, t5, lengths, seed=87, limit=9)
  for task in made:
    assert len(task.inputs) == 9 and task.shots_missing == 0 and 0 < len(task.context) <= 1024
    assert (task.options is None) == (task.name == 'common_gen')


def test_the_pack_has_some_tasks_of_the_settings(shared_data):
  manifest = json.loads((shared_data / 'metaicl' / 'manifest.json').read_text())
  for setting, there in manifest['available'].items():
    mixture = metaicl.MetaICL(setting, shots=0, missing='skip')
    with pytest.warns(errors.Note, match=f'of {there["published_test"]} tasks have no'):
      asked = mixture.asked(shared_data, limit=1)
    assert sorted(each.card.name for each in asked) == sorted(there['test'])
    with pytest.raises(errors.InputError, match=f'of {there["published_train"]} tasks have no'):
      list(metaicl.MetaICL(setting).cards(shared_data))

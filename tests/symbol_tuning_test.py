"""Symbol tuning: labels are symbols, alike in context and targets, and never tell what they mean."""

import dataclasses
import re

import numpy as np
import pytest
import tiny_data
from tiny_data import LABELS

from hyperjax import errors, mixtures
from hyperjax.sources import metaicl, p3, symbol_tuning
from hyperjax.sources import natural_instructions as sni
from hyperjax.sources.cards import Card, Instance
from hyperjax.vocabulary import Vocabulary

LENGTHS = {'hyper_inputs': 200, 'inputs': 15, 'targets': 9}
SOURCE = metaicl.MetaICL('found')
TUNING = symbol_tuning.SymbolTuning(SOURCE, held_out=('subj',), shots=6)
TRAINED = {'poem_sentiment', 'glue-mrpc', 'superglue-copa'}


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  path = tmp_path_factory.mktemp('vocabulary') / 'tiny.model'
  tiny_data.train_vocabulary(path, vocab_size=70, user_defined_symbols=['A', 'B'])
  return Vocabulary(str(path), extra_ids=11)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return tiny_data.metaicl_pack(tmp_path_factory.mktemp('data') / 'metaicl').parent


def shown(vocabulary, context):
  text = vocabulary.decode(context)
  parts = [part.partition('<extra_id_9>') for part in text.split('<extra_id_10>')[1:]]
  return [(x.strip(), y.strip()) for x, _, y in parts]


def natural(vocabulary, name, split='train'):
  """Input -> label of a task's lines; the letters of superglue-copa's choices."""
  lines = tiny_data.answered(name, 23) if split == 'train' else tiny_data.answered(name, 5, 50)
  if name in LABELS:
    return {line['input']: line['output'] for line in lines}
  listed = lambda x, a, b: vocabulary.decode(vocabulary.encode(f'{x} (A) {a} (B) {b}'))
  return {
    listed(line['input'], *line['options']): 'AB'[line['options'].index(line['output'])]
    for line in lines
  }


def quietly(make):
  """What is made; that common_gen is no classification is told."""
  with pytest.warns(errors.Note, match='are no classification: common_gen'):
    return make()


# --- Symbols --------------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 2, 5])
def test_symbols_are_different_readable_and_no_labels(vocabulary, count):
  labels = ('one', 'no_impact', 'the big', 'seven', 'Three')[:count]
  for seed in range(50):
    drawn = symbol_tuning.symbols(np.random.default_rng(seed), labels, seed % 2 == 0, vocabulary)
    assert len(set(drawn)) == count == len(drawn)
    words = {word.lower() for label in labels for word in re.split(r'[ _]', label)}
    assert not set(drawn) & (words | {label.lower() for label in labels})
    for symbol in drawn:
      assert vocabulary.decode(vocabulary.encode(symbol)) == symbol  # no unknown pieces


def test_symbols_of_training_are_none_of_evaluation(vocabulary):
  def drawn(training):
    rngs = (np.random.default_rng(seed) for seed in range(300))
    return {s for rng in rngs for s in symbol_tuning.symbols(rng, ('a', 'b'), training, vocabulary)}

  training, evaluation = drawn(True), drawn(False)
  assert min(len(training), len(evaluation)) > 20 and not training & evaluation


def test_symbols_are_integers_letters_and_words(shared_data):
  t5 = Vocabulary(str(shared_data / 'vocab' / 't5_cc_all.32000.sentencepiece.model'))
  words = set(symbol_tuning.words(t5))
  assert len(words) > 5_000
  rng, labels = np.random.default_rng(0), ('a', 'b', 'c')
  drawn = [s for _ in range(300) for s in symbol_tuning.symbols(rng, labels, True, t5)]
  kinds = [sum(map(kind, drawn)) / 900 for kind in (str.isdigit, words.__contains__)]
  assert all(abs(share - 1 / 3) < 0.07 for share in kinds)
  assert all(re.fullmatch(r'\d{1,5}|[a-z]+', s) for s in drawn)
  assert len(set(drawn)) > 850


def test_a_vocabulary_without_symbols_is_refused(tmp_path, vocabulary):
  taken = tuple(symbol_tuning.words(vocabulary))

  class Mute(Vocabulary):
    def encode(self, text):
      return np.array([self.unk_id], np.int32)

  mute = Mute(vocabulary.path, vocabulary.extra_ids)
  with pytest.raises(
    errors.InputError, match=r'tiny\.model can write 0 symbols, a task has 2 labels'
  ):
    symbol_tuning.symbols(np.random.default_rng(0), ('a', 'b'), True, mute)
  assert taken and symbol_tuning.symbols(np.random.default_rng(0), taken[:3], True, vocabulary)


# --- What has labels ------------------------------------------------------------------------------


def card(*rows):
  return Card('t', [Instance(x, tuple(ys), tuple(options)) for x, ys, options in rows])


def test_a_task_of_few_answers_has_labels():
  few = card(*[(str(i), ['a' if i % 3 else 'b'], ()) for i in range(7)], ('', ['z'], ()))
  made = symbol_tuning.labelled(few, 16)
  assert {each.options for each in made.instances} == {('a', 'b')} and len(made.instances) == 7
  assert symbol_tuning.labelled(few, 2) is not None
  three = card(*[(str(i), ['abc'[i % 3]], ()) for i in range(7)])
  assert symbol_tuning.labelled(three, 2) is None
  assert symbol_tuning.labelled(card(*[(str(i), [str(i // 2)], ()) for i in range(7)]), 16) is None
  assert symbol_tuning.labelled(card(*[(str(i), ['a'], ()) for i in range(7)]), 16) is None
  assert symbol_tuning.labelled(card(*[(str(i), ['a', 'b'], ()) for i in range(7)]), 16) is None
  assert symbol_tuning.labelled(card(), 16) is None


def test_choices_of_a_line_are_listed_and_their_letters_chosen():
  made = symbol_tuning.labelled(card(('x', ['c'], 'bc'), ('y', ['d'], 'de'), ('', [''], '')), 16)
  first, second = made.instances
  assert first == Instance('x\n(A) b\n(B) c', ('B',), ('A', 'B'))
  assert second == Instance('y\n(A) d\n(B) e', ('A',), ('A', 'B'))
  more = symbol_tuning.labelled(card(('x', ['c'], 'bc'), ('y', ['f'], 'def')), 16)
  assert [each.options for each in more.instances] == [('A', 'B'), ('A', 'B', 'C')]
  assert symbol_tuning.labels_of(more) == ('A', 'B', 'C')  # a line may have fewer choices
  assert symbol_tuning.labelled(card(('x', ['c'], 'bc'), ('y', ['d'], '')), 16) is None
  many = [[f'{i} {j}' for j in range(27)] for i in range(2)]
  assert symbol_tuning.labelled(card(('x', ['0 1'], many[0]), ('y', ['1 1'], many[1])), 16) is None
  turned = symbol_tuning.labelled(card(('x', ['a'], 'ab'), ('y', ['a'], 'ba')), 16)
  assert {each.options for each in turned.instances} == {('a', 'b')}


def test_labels_that_the_vocabulary_cannot_tell_apart_are_refused(tmp_path, vocabulary):
  (tmp_path / 'mine').mkdir()
  lines = [{'input': f'x {i}', 'output': '#%'[i % 2], 'options': ['#', '%']} for i in range(4)]
  tiny_data.write_lines(tmp_path / 'mine' / 'mine.train.jsonl', lines)
  mixture = dataclasses.replace(TUNING, held_out=())
  with pytest.raises(errors.InputError, match=r'cannot tell some of the labels #, % apart'):
    mixture.episodes(tmp_path, vocabulary, LENGTHS)


# --- Episodes -------------------------------------------------------------------------------------


def test_labels_are_the_same_symbols_in_context_and_targets(vocabulary, data_dir):
  made = quietly(lambda: TUNING.episodes(data_dir, vocabulary, LENGTHS, targets_per_context=3))
  assert set(made.task_names) == TRAINED
  tables = {name: set() for name in TRAINED}
  for n in range(300):
    episode = made(5, n)
    name = made.task_names[episode['task_id']]
    labels = natural(vocabulary, name)
    context = shown(vocabulary, episode['hyper_inputs'])
    asked = [
      (vocabulary.decode(x), vocabulary.decode(y))
      for x, y in zip(episode['inputs'], episode['targets'])
    ]
    assert len({x for x, _ in context + asked}) == 9  # no input twice
    pairs = {(labels[x], symbol) for x, symbol in context + asked}
    table = dict(pairs)
    assert len(pairs) == len(table) == len(set(table.values()))  # one to one
    assert not set(table.values()) & set(labels.values())
    assert all(map(symbol_tuning.is_for_training, table.values()))
    tables[name].add(tuple(sorted(table.items())))
    again = made(5, n)
    assert again['hyper_inputs'].tolist() == episode['hyper_inputs'].tolist()
  assert all(len(different) > 25 for different in tables.values())  # drawn anew for each episode


def test_natural_labels_stay(vocabulary, data_dir):
  mixture = dataclasses.replace(TUNING, labels='natural')
  made = quietly(lambda: mixture.episodes(data_dir, vocabulary, LENGTHS))
  for n in range(40):
    episode = made(5, n)
    labels = natural(vocabulary, made.task_names[episode['task_id']])
    assert all(labels[x] == y for x, y in shown(vocabulary, episode['hyper_inputs']))
    x, y = (vocabulary.decode(episode[key][0]) for key in ('inputs', 'targets'))
    assert labels[x] == y


def test_held_out_tasks_are_not_trained_on_and_have_symbols_of_their_own(vocabulary, data_dir):
  made = TUNING.episodes(data_dir, vocabulary, LENGTHS, 'test')
  assert made.task_names == ('subj',)
  for n in range(30):
    outputs = {y for _, y in shown(vocabulary, made(1, n)['hyper_inputs'])}
    assert not any(map(symbol_tuning.is_for_training, outputs))


def test_a_wrong_context_has_symbols_of_its_own(vocabulary, data_dir):
  made = quietly(lambda: TUNING.episodes(data_dir, vocabulary, LENGTHS))
  for n in range(20):
    own, wrong = made(2, n), made.wrong_context(2, n)
    assert own['task_id'] == wrong['task_id']
    theirs = {x for x, _ in shown(vocabulary, wrong['hyper_inputs'])}
    assert not theirs & set(natural(vocabulary, made.task_names[own['task_id']]))
    np.testing.assert_array_equal(own['inputs'][0], wrong['inputs'][0])


# --- Evaluation -----------------------------------------------------------------------------------

EVERY = dataclasses.replace(TUNING, held_out=())


def evaluated(vocabulary, data_dir, mixture=EVERY, seed=13, limit=None, **options):
  make = lambda: mixture.evaluation_tasks(
    data_dir, vocabulary, LENGTHS, 'test', seed, limit, **options
  )
  return {task.name: task for task in (make() if mixture.held_out else quietly(make))}


def test_questions_and_context_have_one_table_of_symbols(vocabulary, data_dir):
  tables = {}
  for seed in SOURCE.seeds:
    for name, task in evaluated(vocabulary, data_dir, seed=seed).items():
      labels = natural(vocabulary, name) | natural(vocabulary, name, 'test')
      context = shown(vocabulary, task.context)
      asked = zip(map(vocabulary.decode, task.inputs), (y[0] for y in task.references))
      pairs = {(labels[x], symbol) for x, symbol in [*context, *asked]}
      table = dict(pairs)
      assert len(pairs) == len(table) == len(set(table.values()))
      assert not any(map(symbol_tuning.is_for_training, table.values()))
      assert not set(table.values()) & set(labels.values())
      every = set(task.options[0])
      assert set(table.values()) <= every and set(task.options) == {task.options[0]}
      assert len(every) == (3 if name == 'poem_sentiment' else 2)
      assert task.metrics == ('accuracy',) and not task.normalize_by_target_length  # ranked
      assert len({x for x, _ in context}) == 6 and task.shots_missing == 0
      tables.setdefault(name, set()).add(task.options[0])
  assert set(tables) == TRAINED | {'subj'}
  assert all(len(different) > 2 for different in tables.values())


def test_symbols_belong_to_task_and_seed(vocabulary, data_dir):
  every, few = evaluated(vocabulary, data_dir), evaluated(vocabulary, data_dir, limit=2)
  for name, task in every.items():
    assert few[name].options == task.options[:2] and few[name].references == task.references[:2]
    np.testing.assert_array_equal(few[name].context, task.context)
  held_out = evaluated(vocabulary, data_dir, TUNING)
  assert set(held_out) == {'subj'} and held_out['subj'].options == every['subj'].options
  np.testing.assert_array_equal(held_out['subj'].context, every['subj'].context)


def test_natural_labels_are_asked_for_as_they_are(vocabulary, data_dir):
  mixture = dataclasses.replace(EVERY, labels='natural')
  made = evaluated(vocabulary, data_dir, mixture)
  symbols = evaluated(vocabulary, data_dir)
  for name, labels in LABELS.items():
    task = made[name]
    assert task.options == [labels] * 5
    assert task.references == [(y,) for y in natural(vocabulary, name, 'test').values()]
    inputs = [[x for x, _ in shown(vocabulary, each[name].context)] for each in (made, symbols)]
    assert inputs[0] == inputs[1]  # the labels are all that differs
  assert mixtures.get('symbol_tuning_natural').labels == 'natural'


def test_all_five_seeds_of_the_source_are_evaluated(tmp_path):
  assert TUNING.seeds == (100, 13, 21, 42, 87) and TUNING.average == 'tasks' and TUNING.has_context
  assert symbol_tuning.SymbolTuning(sni.NaturalInstructions()).seeds == (0,)


# --- Other sources --------------------------------------------------------------------------------


def labels_repository(folder):
  tiny_data.repository(folder)
  for name in tiny_data.CATEGORIES:
    task = tiny_data.card(name, 12)
    for i, each in enumerate(task['Instances'] + task['Positive Examples']):
      each['output'] = ['cat' if i % 2 else 'dog'] if name != 'colour' else [tiny_data.WORDS[i]]
    tiny_data.write_json(folder / 'tasks' / f'{name}.json', task)
  return folder.parent


def test_instructions_are_shown_where_they_are_asked_for(vocabulary, tmp_path, data_dir):
  root = labels_repository(tmp_path / 'sni')
  mixture = symbol_tuning.SymbolTuning(sni.NaturalInstructions(), held_out=(), shots=4)
  for instruction in (True, False):
    told = dataclasses.replace(mixture, instruction=instruction)
    with pytest.warns(
      errors.Note, match='1 tasks are left out, which are no classification: colour'
    ):
      made = told.episodes(root, vocabulary, LENGTHS)
    assert made.task_names == ('upper', 'first')
    context = vocabulary.decode(made(0, 0)['hyper_inputs'])
    assert (f'the {made.task_names[made(0, 0)["task_id"]]} task' in context) == instruction
    (task,) = told.evaluation_tasks(root, vocabulary, LENGTHS, limit=3)
    assert ('the reverse task' in vocabulary.decode(task.context)) == instruction
    assert len(task.inputs) == 3 and len(set(task.options[0])) == 2
  with pytest.warns(errors.Note):
    with pytest.raises(
      errors.InputError, match='3 of 4 tasks have no definition to show: .*instruction=False'
    ):
      dataclasses.replace(TUNING, instruction=True).episodes(data_dir, vocabulary, LENGTHS)


def test_p3_s_prompts_can_be_the_source(vocabulary, tmp_path):
  tiny_data.p3(tmp_path)
  source = p3.P3([tiny_data.RTE, tiny_data.COPA])
  mixture = symbol_tuning.SymbolTuning(source, held_out=(), shots=3)
  made = mixture.episodes(tmp_path, vocabulary, LENGTHS)
  assert set(made.task_names) == {tiny_data.RTE, tiny_data.COPA}  # the latter by letters
  tasks = mixture.evaluation_tasks(tmp_path, vocabulary, LENGTHS, 'validation')
  assert [len(task.inputs) for task in tasks] == [7, 4]
  per_example = dataclasses.replace(
    mixture, source=dataclasses.replace(source, contexts='per_example')
  )
  made = per_example.evaluation_tasks(tmp_path, vocabulary, LENGTHS, 'validation')
  assert [len(task.inputs) for task in made] == [1] * 11
  assert {task.options[0] for task in made if task.name == tiny_data.RTE} == {tasks[0].options[0]}


# --- What is told and refused ---------------------------------------------------------------------


@pytest.mark.filterwarnings('ignore::hyperjax.errors.Note')  # others are told, too
def test_wrong_names_of_held_out_tasks_are_told(vocabulary, data_dir):
  wrong = dataclasses.replace(TUNING, held_out=('subj', 'subjj'))
  for make in (wrong.episodes, wrong.evaluation_tasks):
    with pytest.warns(
      errors.Note, match='which are held out, but which the source does not have .*: subjj'
    ):
      make(data_dir, vocabulary, LENGTHS)
  nobody = dataclasses.replace(TUNING, held_out=('nobody',))
  with (
    pytest.warns(errors.Note),
    pytest.raises(errors.InputError, match='leaves none of the 5 tasks of the source to evaluate'),
  ):
    nobody.evaluation_tasks(data_dir, vocabulary, LENGTHS)


def test_how_many_answers_make_labels_can_be_said(vocabulary, tmp_path):
  (tmp_path / 'mine').mkdir()
  lines = [{'input': f'red {i}', 'output': ['one', 'two', 'six'][i % 3]} for i in range(9)]
  tiny_data.write_lines(tmp_path / 'mine' / 'mine.train.jsonl', lines)
  three = dataclasses.replace(TUNING, held_out=(), max_labels=3)
  assert three.episodes(tmp_path, vocabulary, LENGTHS).task_names == ('mine',)
  two = dataclasses.replace(three, max_labels=2)
  with (
    pytest.warns(errors.Note),
    pytest.raises(errors.InputError, match='none of 1 tasks is a class'),
  ):
    two.episodes(tmp_path, vocabulary, LENGTHS)


def test_a_task_is_told_once_however_many_contexts_it_has(vocabulary, tmp_path):
  tiny_data.p3(tmp_path)
  source = p3.P3([tiny_data.RTE, tiny_data.COMMON_GEN], contexts='per_example')
  mixture = symbol_tuning.SymbolTuning(source, held_out=(), shots=3)
  with pytest.warns(errors.Note, match=f'1 tasks are left out, .*: {tiny_data.COMMON_GEN}$'):
    mixture.evaluation_tasks(tmp_path, vocabulary, LENGTHS, 'validation')


def test_tasks_without_labels_are_refused(vocabulary, data_dir):
  only = dataclasses.replace(TUNING, held_out=('common_gen',))
  with (
    pytest.warns(errors.Note),
    pytest.raises(errors.InputError, match='none of 1 tasks is a class'),
  ):
    only.evaluation_tasks(data_dir, vocabulary, LENGTHS)


@pytest.mark.parametrize(
  'arguments,message',
  [
    ({'labels': 'letters'}, "labels is 'letters'; give one of symbols, natural"),
    ({'shots': 0}, 'SymbolTuning.shots is 0; give 1 or more'),
    ({'max_labels': 1}, 'SymbolTuning.max_labels is 1; give 2 or more'),
    ({'source': 'metaicl'}, "SymbolTuning.source is 'metaicl'; give a mixture of tasks"),
    ({'source': mixtures.MIXTURES['c4_caclm']}, 'SymbolTuning.source is Caclm'),
  ],
)
def test_bad_choices_are_refused(arguments, message):
  with pytest.raises(errors.InputError, match=message):
    symbol_tuning.SymbolTuning(**({'source': SOURCE} | arguments))


# --- The real pack --------------------------------------------------------------------------------


def test_the_pack_s_tasks_with_labels(shared_data):
  made = {card.name: symbol_tuning.labelled(card, 16) for card in SOURCE.cards(shared_data, 'test')}
  bare = {name for name, card in made.items() if card is None}
  assert len(made) == 27 and bare == {'common_gen', 'cos_e', 'kilt_hotpotqa'}
  counts = {name: len(symbol_tuning.labels_of(card)) for name, card in made.items() if card}
  assert counts['dbpedia_14'] == 14 and counts['qasc'] == 8 and counts['subj'] == 2
  assert counts['ai2_arc'] == 5  # most of its questions have four choices


def test_the_pack_s_mixture_is_made(shared_data, tmp_path):
  t5 = Vocabulary(str(shared_data / 'vocab' / 't5_cc_all.32000.sentencepiece.model'))
  lengths = {'hyper_inputs': 1024, 'inputs': 384, 'targets': 128}
  for name in ('ai2_arc', 'cos_e', 'subj', 'superglue-cb', 'hellaswag'):
    (tmp_path / name).symlink_to(shared_data / 'metaicl' / name)
  mixture = mixtures.get('symbol_tuning')
  with pytest.warns(errors.Note) as notes:
    made = mixture.episodes(tmp_path, t5, lengths)
    (task,) = mixture.evaluation_tasks(tmp_path, t5, lengths, limit=7)
  said = [str(note.message) for note in notes]
  assert any(
    each.endswith('1 tasks are left out, which are no classification: cos_e') for each in said
  )
  assert any('6 tasks are left out, which are held out, but' in each for each in said)
  assert set(made.task_names) == {'ai2_arc', 'superglue-cb', 'hellaswag'}
  for n in range(40):
    assert symbol_tuning.is_for_training(t5.decode(made(0, n)['targets'][0]))
  assert task.name == 'subj' and len(task.inputs) == 7 and task.shots_missing == 0
  assert not any(map(symbol_tuning.is_for_training, task.options[0]))


def test_prompts_of_p3_are_held_out_whatever_their_split_is_called(vocabulary, tmp_path):
  tiny_data.p3(tmp_path / 'p3')
  rte, copa = tiny_data.RTE, tiny_data.COPA
  source = p3.P3((rte, copa), contexts='per_example')
  mixture = symbol_tuning.SymbolTuning(source, held_out=(rte,), shots=2)
  assert mixture.eval_split == 'validation'
  assert mixture.episodes(tmp_path, vocabulary, LENGTHS).task_names == (copa,)
  tasks = mixture.evaluation_tasks(tmp_path, vocabulary, LENGTHS, 'validation', limit=3)
  assert [(task.name, len(task.inputs)) for task in tasks] == [(rte, 1)] * 3
  held_out = mixture.episodes(tmp_path, vocabulary, LENGTHS, 'validation')
  assert held_out.task_names == (rte,)

"""P3: T0's tables, rates and questions, and contexts that never hold what is asked."""

import collections
import dataclasses
import json
import re

import numpy as np
import pytest
import tiny_data
from tiny_data import COMMON_GEN, COPA, ROTTEN, RTE

from hyperjax import errors, metrics, mixtures
from hyperjax.sources import p3
from hyperjax.sources.cards import Instance
from hyperjax.vocabulary import Vocabulary

LENGTHS = {'hyper_inputs': 120, 'inputs': 15, 'targets': 9}
NAMES = tuple(tiny_data.PROMPTS)
X, Y = '<extra_id_10>', '<extra_id_9>'


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return tiny_data.vocabulary(tmp_path_factory.mktemp('vocabulary'))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return tiny_data.p3(tmp_path_factory.mktemp('data') / 'p3').parent


def shown(vocabulary, context):
  """The (input, output) pairs of a context."""
  text = vocabulary.decode(context)
  parts = [part.partition(Y) for part in text.split(X)[1:]]
  return [(x.strip(), y.strip()) for x, _, y in parts]


def texts(vocabulary, tokens):
  return [vocabulary.decode(each) for each in tokens]


# --- The table ------------------------------------------------------------------------------------


def test_t0_trains_on_313_prompts_of_38_data_sets():
  table = p3.prompts()
  assert len(p3.t0_train()) == 313 == len(set(p3.t0_train()))
  assert len({table[name].dataset for name in p3.t0_train()}) == 38
  assert not set(p3.t0_train()) & set(p3.held_out())


def test_the_held_out_data_sets_have_t0_s_templates():
  counts = collections.Counter(p3.prompts()[name].dataset for name in p3.held_out())
  assert counts == {
    'anli': 45,  # 15 for each of three rounds
    'hellaswag': 4,
    'super_glue/cb': 15,
    'super_glue/copa': 12,
    'super_glue/rte': 10,
    'super_glue/wic': 10,
    'super_glue/wsc.fixed': 10,
    'winogrande/winogrande_xl': 5,
  }
  rounds = collections.Counter(name[-3:] for name in p3.held_out() if name.startswith('anli'))
  assert rounds == {'_r1': 15, '_r2': 15, '_r3': 15}


def test_the_eight_prompts_of_section_6_ask_for_held_out_data():
  table = p3.prompts()
  assert len(set(p3.SECTION_6)) == 8
  kinds = {table[name].dataset.partition('/')[0] for name in p3.SECTION_6}
  assert kinds == {'anli', 'hellaswag', 'super_glue', 'winogrande'}
  assert all(table[name].train != 'BASE' for name in p3.SECTION_6)
  assert len(set(p3.SECTION_6) & set(p3.held_out())) == 7  # WinoGrande's train set is another


def test_names_are_t0_s():
  """Data set and template, all that is no letter, digit, dot or underscore as an underscore."""
  for name, prompt in p3.prompts().items():
    assert name.startswith(re.sub(r'[^\w.]+', '_', prompt.dataset) + '_')
    assert not re.search(r'[^\w.]', name)


@pytest.mark.parametrize(
  'name,rate',
  [
    ('amazon_polarity_Is_this_review', 500_000 / 9),  # 3.6 million examples, nine prompts
    ('gigaword_TLDR', 500_000 / 9),
    ('yelp_review_full_format_star', 500_000 / 7),
    ('wiki_bio_who', 500_000 / 5),
    ('dbpedia_14_pick_one_category_for_the_following_text', 500_000 / 4),
    (COMMON_GEN, 67_389),  # under the cap: the data set's own size for each prompt
    ('anli_GPT_3_style_r2', 45_460),
    ('my_own_prompt', 77),
  ],
)
def test_rates_are_t0_s(name, rate):
  counts = {name: 77}  # what is held locally counts for tasks that T0 does not know, and no others
  assert p3.rates([name], counts) == [rate]


def test_no_data_set_counts_for_more_than_the_cap_if_it_has_more_examples():
  sums, sizes = collections.Counter(), {}
  for name, rate in zip(p3.t0_train(), p3.rates(p3.t0_train())):
    sums[p3.prompts()[name].dataset] += rate
    sizes[p3.prompts()[name].dataset] = p3.prompts()[name].size
  large = {dataset for dataset, size in sizes.items() if size > 500_000}
  assert len(large) == 5 and all(sums[each] == pytest.approx(500_000) for each in large)


# --- Files ----------------------------------------------------------------------------------------


def jsonl(path, rows):
  tiny_data.write_lines(path, rows)


def parquet(path, rows):
  pyarrow = pytest.importorskip('pyarrow')
  from pyarrow import parquet as writer

  tokens = [{'inputs': [3, 1], 'targets': [4]} for _ in rows]
  table = pyarrow.Table.from_pylist([{**row, **own} for row, own in zip(rows, tokens)])
  writer.write_table(table, path)


def tfrecord(path, rows):
  tf = pytest.importorskip('tensorflow')

  def feature(value):
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], str):
      values = [each.encode() for each in values]
      return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
      return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=map(int, values)))

  with tf.io.TFRecordWriter(str(path)) as file:
    for row in rows:
      own = {**row, 'inputs': [3, 1], 'targets': [4]}
      features = tf.train.Features(feature={key: feature(value) for key, value in own.items()})
      file.write(tf.train.Example(features=features).SerializeToString())


FORMS = [
  (jsonl, ['{name}.{split}.jsonl']),
  (
    jsonl,
    [
      'rendered/{name}.{split}-00000-of-00002.jsonl.gz',
      'rendered/{name}.{split}-00001-of-00002.jsonl.gz',
    ],
  ),
  (jsonl, ['{name}/{split}.jsonl']),
  (parquet, ['{name}.{split}.parquet']),
  (parquet, ['{name}/{split}/0000.parquet', '{name}/{split}/0001.parquet']),
  (parquet, ['{name}/p3-{split}.parquet']),
  (parquet, ['{name}/{split}-00000-of-00001.parquet']),
  (tfrecord, ['data/{name}/{split}.tfrecord-00000-of-00001']),
  (tfrecord, ['{name}.{split}.tfrecord']),
]


@pytest.mark.parametrize('write,patterns', FORMS, ids=[patterns[0] for _, patterns in FORMS])
def test_every_form_of_files_holds_the_same_rows(tmp_path, write, patterns):
  rows = tiny_data.prompted(RTE, 5)
  choices = tiny_data.score_eval(rows)
  for name, split, every in ((RTE, 'train', rows), (RTE + p3.SCORE_EVAL, 'validation', choices)):
    for i, pattern in enumerate(patterns):
      path = tmp_path / 'P3' / pattern.format(name=name, split=split)
      path.parent.mkdir(parents=True, exist_ok=True)
      part = len(every) // len(patterns)
      write(path, every[i * part : None if i == len(patterns) - 1 else (i + 1) * part])
  folder = p3.find(tmp_path)
  assert folder.names('train') == [RTE] and folder.names('validation') == []
  found = list(folder.instances(RTE, 'train'))
  assert [each.input for each in found] == [row['inputs_pretokenized'] for row in rows]
  assert [each.outputs for each in found] == [('one',), ('two',), ('one',), ('two',), ('one',)]
  assert {each.options for each in found} == {('one', 'two')}
  assert folder.questions(RTE, 'validation') == found
  assert list(folder.instances(RTE, 'validation')) == found  # where there are but the choices


def test_fixed_choices_come_from_the_table_and_the_row_s_own_go_before(tmp_path):
  rows = tiny_data.prompted(ROTTEN, 2)
  rows.append({**rows[0], 'answer_choices': [' negative', 'odd ']})
  rows.append({**rows[0], 'answer_choices': None})
  rows.append({**rows[0], 'targets_pretokenized': 'negative review.'})  # a quirk of some prompts
  tiny_data.write_lines(tmp_path / f'{ROTTEN}.train.jsonl', rows)
  found = p3.find(tmp_path).instances(ROTTEN, 'train')
  table = ('negative', 'positive')
  assert [each.options for each in found] == [table, table, ('negative', 'odd'), table, ()]


def test_choices_belong_to_their_example_in_any_order_of_rows(tmp_path):
  rows = tiny_data.prompted(COPA, 7)
  choices = tiny_data.score_eval(rows)
  tiny_data.write_lines(
    tmp_path / f'{COPA}_score_eval.validation.jsonl', choices[::2] + choices[1::2]
  )
  for row, each in zip(
    [r for r in rows if r['inputs_pretokenized']],
    p3.find(tmp_path).questions(COPA, 'validation'),
    strict=True,
  ):
    assert each.input == row['inputs_pretokenized'] and each.options == tuple(row['answer_choices'])
    assert each.outputs == (row['targets_pretokenized'].strip(),)


def test_where_files_are_looked_for(tmp_path):
  tiny_data.metaicl_pack(tmp_path / 'metaicl')
  tiny_data.pack(tmp_path / 'sni')
  with pytest.raises(errors.InputError, match=r'no P3 files found: set DATA_DIR .*looked for'):
    p3.find(tmp_path)  # other data that have TASK.train.jsonl.gz are none of P3
  tiny_data.p3(tmp_path / 'p3' / 'rendered')
  (tmp_path / 'p3' / 'raw').mkdir()
  tiny_data.write_lines(tmp_path / 'p3' / 'raw' / 'trec.train.jsonl.gz', [{'text': 'x'}])
  (tmp_path / 'p3' / 'again').symlink_to(tmp_path / 'p3')  # a loop
  assert p3.find(tmp_path).names('train') == sorted(NAMES)
  assert len(list(p3.find(tmp_path).instances(RTE, 'train'))) == 11
  assert p3.find(tmp_path / 'p3').names('train') == sorted(NAMES)  # the folder itself
  tiny_data.write_lines(tmp_path / 'mine.train.jsonl', tiny_data.prompted(RTE, 3))
  assert 'mine' in p3.find(tmp_path, '.').names('train')
  with pytest.raises(errors.InputError, match=r'no P3 files found.*/elsewhere$'):
    p3.find(tmp_path, 'elsewhere')


def test_half_a_copy_and_two_copies_are_refused(tmp_path):
  rows = tiny_data.prompted(RTE, 4)
  (tmp_path / RTE).mkdir()
  jsonl(tmp_path / RTE / 'train-00000-of-00002.jsonl', rows[:2])
  with pytest.raises(
    errors.InputError, match=rf'{RTE} has 1 of the 2 train files of .*fetch the others'
  ):
    list(p3.find(tmp_path).instances(RTE, 'train'))
  jsonl(tmp_path / RTE / 'train-00001-of-00002.jsonl', rows[2:])
  assert len(list(p3.find(tmp_path).instances(RTE, 'train'))) == 4
  jsonl(tmp_path / f'{RTE}.train.jsonl', rows)
  with pytest.raises(
    errors.InputError, match=rf'{RTE} has its train rows twice, in .* and .*keep one'
  ):
    list(p3.find(tmp_path).instances(RTE, 'train'))


GOOD = {
  'idx': [4, 0],
  'inputs_pretokenized': 'red',
  'targets_pretokenized': 'one',
  'is_correct': True,
}


@pytest.mark.parametrize(
  'change,message',
  [
    (
      {'inputs_pretokenized': None},
      'line 2: field "inputs_pretokenized" is null, expected a string',
    ),
    ({'targets_pretokenized': 3}, 'line 2: field "targets_pretokenized" is a number'),
    ({'answer_choices': ['a', None]}, 'line 2: field "answer_choices" has null in its list'),
    ({'answer_choices': 4}, 'line 2: field "answer_choices" is a number'),
  ],
)
def test_faults_of_a_row_are_named(tmp_path, change, message):
  tiny_data.write_lines(tmp_path / f'{RTE}.train.jsonl', [GOOD, {**GOOD, **change}])
  with pytest.raises(errors.InputError, match=rf'{RTE}\.train\.jsonl {message}'):
    list(p3.find(tmp_path).instances(RTE, 'train'))


@pytest.mark.parametrize(
  'rows,message',
  [
    (
      [GOOD, {**GOOD, 'inputs_pretokenized': ['a']}],
      'line 2: field "inputs_pretokenized" is a list',
    ),
    ([{**GOOD, 'idx': None}], r'line 1: field "idx" is None, expected \[example, choice\]'),
    ([{**GOOD, 'idx': []}], r'line 1: field "idx" is \[\], expected'),
    ([{**GOOD, 'idx': 'x'}], r"line 1: field \"idx\" is 'x', expected"),
    ([{**GOOD, 'idx': [True, 0]}], r'line 1: field "idx" is \[True, 0\], expected'),
    (
      [GOOD, {**GOOD, 'is_correct': 'no'}],
      'line 2: field "is_correct" is \'no\', expected true or false',
    ),
    ([{**GOOD, 'is_correct': False}], 'line 1: 0 of the 1 choices of this example are correct'),
    (
      [GOOD, {**GOOD, 'idx': [4, 1], 'targets_pretokenized': 'two'}],
      'line 1: 2 of the 2 choices of this example are correct, expected one',
    ),
  ],
)
def test_faults_of_choices_are_named(tmp_path, rows, message):
  path = tmp_path / f'{RTE}_score_eval.validation.jsonl'
  tiny_data.write_lines(path, rows)
  with pytest.raises(errors.InputError, match=rf'{re.escape(path.name)} {message}'):
    p3.find(tmp_path).questions(RTE, 'validation')


def test_missing_tasks_are_an_error_or_told(vocabulary, data_dir):
  mixture = p3.P3([RTE, 'super_glue_rte_can_we_infer', 'anli_GPT_3_style_r1'])
  message = r'2 of 3 tasks have no validation file in .*p3: super_glue_rte_can_we_infer, anli_GPT_3_style_r1'
  with pytest.raises(
    errors.InputError, match=message + r"; put the files there, or set missing='skip'"
  ):
    mixture.asked(data_dir)
  with pytest.warns(errors.Note, match=message + '; they are left out'):
    assert len(dataclasses.replace(mixture, missing='skip').asked(data_dir)) == 1
  with pytest.raises(errors.InputError, match='109 of 111 tasks'):
    p3.P3('held_out').asked(data_dir)
  with pytest.raises(errors.InputError, match='1 of 1 tasks'):
    p3.P3(['wiki_bio_who'], missing='skip').asked(data_dir)
  with pytest.raises(errors.InputError, match=rf'{RTE} has no test file in .*: put it there'):
    p3.find(data_dir).questions(RTE, 'test')
  with pytest.raises(errors.InputError, match="no split 'dev': P3 has train, validation, test"):
    mixture.asked(data_dir, 'dev')


@pytest.mark.parametrize(
  'arguments,message',
  [
    ({'prompts': 't0'}, "P3.prompts is 't0'; give one of t0_train, held_out, section_6, found"),
    ({'prompts': [RTE, RTE]}, 'each of them once'),
    ({'prompts': []}, r'P3.prompts is \[\]; give names'),
    ({'shots': -1}, 'P3.shots is -1; give 0 or more'),
    ({'max_examples': 0}, 'P3.max_examples is 0; give 1 or more'),
    ({'max_mean_input': 0}, 'P3.max_mean_input is 0'),
    ({'contexts': 'all'}, "contexts is 'all'; give one of task, per_example, eval_split"),
    ({'missing': 'ok'}, "missing is 'ok'; give one of error, skip"),
    ({'answer': 'guess'}, "answer is 'guess'; give one of generate, rank, rank_mean"),
  ],
)
def test_bad_choices_are_refused_before_any_file_is_read(arguments, message):
  with pytest.raises(errors.InputError, match=message):
    p3.P3(**arguments)


# --- Training -------------------------------------------------------------------------------------


def test_golden_episode(vocabulary, data_dir):
  episode = p3.P3([RTE], shots=2).episodes(data_dir, vocabulary, LENGTHS)(0, 0)
  rows = {
    row['inputs_pretokenized']: row['targets_pretokenized'].strip()
    for row in tiny_data.prompted(RTE, 11)
  }
  (x,), (y,) = episode['inputs'], episode['targets']
  pairs = shown(vocabulary, episode['hyper_inputs'])
  asked = vocabulary.decode(x)
  assert len(pairs) == 2 and all(rows[x] == y for x, y in pairs)
  assert asked in rows and asked not in dict(pairs)
  assert vocabulary.decode(y) == rows[asked] and y[-1] == vocabulary.eos_id
  assert vocabulary.eos_id not in x  # T0's inputs have none


def test_no_episode_repeats_an_input_or_shows_its_target(vocabulary, data_dir):
  made = p3.P3('found', shots=4).episodes(data_dir, vocabulary, LENGTHS, targets_per_context=2)
  tasks = collections.Counter()
  for n in range(300):
    episode = made(7, n)
    name = made.task_names[episode['task_id']]
    inputs = [x for x, _ in shown(vocabulary, episode['hyper_inputs'])]
    inputs += texts(vocabulary, episode['inputs'])
    assert len(inputs) == len(set(inputs)) == 6
    assert all(x.startswith(tiny_data.PROMPTS[name]) for x in inputs)  # empty rows are never drawn
    tasks[name] += 1
  assert set(tasks) == set(NAMES)
  assert made.statistics[COPA]['empty'] == 3 and made.statistics[RTE]['empty'] == 0


def test_tasks_are_drawn_at_t0_s_rates_whatever_is_held(vocabulary, data_dir):
  made = p3.P3('found', shots=1).episodes(data_dir, vocabulary, LENGTHS)
  count = 3000
  drawn = collections.Counter(made.task_names[made(1, n)['task_id']] for n in range(count))
  sizes = {RTE: 2490, COPA: 400, COMMON_GEN: 67389, ROTTEN: 8530}
  for name, size in sizes.items():
    share = size / sum(sizes.values())
    assert abs(drawn[name] / count - share) < 4 * np.sqrt(share * (1 - share) / count)


def test_long_prompts_are_left_out_and_named(vocabulary, tmp_path):
  tiny_data.p3(tmp_path)
  rows = [
    {**row, 'inputs_pretokenized': ' '.join(tiny_data.WORDS * 2)}
    for row in tiny_data.prompted(ROTTEN, 4)
  ]
  tiny_data.write_lines(tmp_path / f'{ROTTEN}.train.jsonl.gz', rows)
  found = p3.P3('found')
  every = found.episodes(tmp_path, vocabulary, LENGTHS)
  means = {
    task.name: np.mean([len(x.input) for x in task.examples if len(x.input)])
    for task in every.tasks
  }
  limit = int(np.ceil(max(mean for name, mean in means.items() if name != ROTTEN))) + 1
  with pytest.warns(
    errors.Note,
    match=f'1 tasks are left out, which have inputs of {limit} tokens or more in the mean: {ROTTEN}',
  ):
    kept = dataclasses.replace(found, max_mean_input=limit).episodes(tmp_path, vocabulary, LENGTHS)
  assert set(kept.task_names) == set(NAMES) - {ROTTEN}
  exactly = dataclasses.replace(found, prompts=[ROTTEN], max_mean_input=int(means[ROTTEN]))
  with (
    pytest.warns(errors.Note),
    pytest.raises(errors.InputError, match='split train has no tasks'),
  ):
    exactly.episodes(tmp_path, vocabulary, LENGTHS)  # under the limit, not at it
  assert mixtures.get('p3_t0_short').max_mean_input == 320
  assert mixtures.get('p3_held_out').max_mean_input is None


def test_few_of_many_examples_are_held_each_as_likely(data_dir):
  counts = collections.Counter()
  mixture = p3.P3('found', max_examples=4)
  for card in mixture.cards(data_dir):
    assert len(card.instances) == 4
    again = next(c for c in p3.P3([card.name], max_examples=4).cards(data_dir))
    assert again.instances == card.instances
  every = [Instance(str(i), ('x',)) for i in range(37)]
  for i in range(600):
    held = [int(each.input) for each in mixture._held(str(i), iter(every))]
    assert held == sorted(set(held)) and len(held) == 4
    counts.update(held)
  share = 4 / 37
  assert all(
    abs(counts[i] / 600 - share) < 4.5 * np.sqrt(share * (1 - share) / 600) for i in range(37)
  )
  assert mixture._held('x', iter(every[:2])) == every[:2]


# --- Evaluation -----------------------------------------------------------------------------------


def test_golden_question(vocabulary, data_dir):
  (task,) = p3.P3([RTE], shots=2).evaluation_tasks(data_dir, vocabulary, LENGTHS)
  rows = tiny_data.prompted(RTE, 7, first=11)
  assert (task.name, task.category, task.metrics) == (RTE, 'super_glue/rte', ('accuracy',))
  assert texts(vocabulary, task.inputs) == [row['inputs_pretokenized'] for row in rows]
  assert task.references == [(row['targets_pretokenized'].strip(),) for row in rows]
  assert task.options == [('one', 'two')] * 7  # one context and one phi for all of them
  assert not task.normalize_by_target_length
  train = {
    (row['inputs_pretokenized'], row['targets_pretokenized'].strip())
    for row in tiny_data.prompted(RTE, 11)
  }
  pairs = shown(vocabulary, task.context)
  assert len(pairs) == 2 and set(pairs) < train
  assert task.context_outputs == tuple(y for _, y in pairs) and task.shots_missing == 0


def test_how_answers_are_chosen(vocabulary, data_dir):
  def tasks(answer):
    made = p3.P3('found', answer=answer).evaluation_tasks(data_dir, vocabulary, LENGTHS)
    return {task.name: task for task in made}

  summed, mean, written = (tasks(answer) for answer in ('rank', 'rank_mean', 'generate'))
  assert mean[RTE].normalize_by_target_length and mean[RTE].options == summed[RTE].options
  assert all(task.options is None for task in written.values())
  assert summed[COMMON_GEN].options is None and summed[COMMON_GEN].metrics[0] == 'rouge_l'
  assert set(summed[ROTTEN].options) == {('negative', 'positive')}
  copa = [row for row in tiny_data.prompted(COPA, 7, first=11) if row['inputs_pretokenized']]
  assert summed[COPA].options == [tuple(row['answer_choices']) for row in copa]


def test_answers_that_are_not_among_the_choices_are_written(vocabulary, tmp_path):
  rows = tiny_data.prompted(ROTTEN, 3)
  rows[1]['targets_pretokenized'] = 'negative one'
  tiny_data.write_lines(tmp_path / f'{ROTTEN}.validation.jsonl', rows)
  (task,) = p3.P3([ROTTEN], shots=0).evaluation_tasks(tmp_path, vocabulary, LENGTHS)
  assert task.options is None and task.metrics == ('rouge_l', 'exact_match')


def test_an_evaluated_prompt_does_not_answer_what_is_not_among_its_choices(vocabulary, tmp_path):
  rows = tiny_data.prompted(tiny_data.RTE, 5)
  rows[3]['targets_pretokenized'] = 'perhaps'
  mixture = p3.P3((tiny_data.RTE,), contexts='eval_split', folder='.')
  tiny_data.write_lines(tmp_path / f'{tiny_data.RTE}.validation.jsonl', rows)
  message = r"line 4: field \"targets_pretokenized\" is 'perhaps', which is none of the choices"
  with pytest.raises(errors.InputError, match=message):
    mixture.evaluation_tasks(tmp_path, vocabulary, LENGTHS, limit=2)


def test_a_choice_that_is_missing_is_noticed(vocabulary, tmp_path):
  rows = tiny_data.score_eval(tiny_data.prompted(tiny_data.RTE, 3))
  path = tmp_path / f'{tiny_data.RTE}_score_eval.validation.jsonl'
  wrong = next(i for i, row in enumerate(rows) if row['idx'][1] == 0 and not row['is_correct'])
  tiny_data.write_lines(path, rows[:wrong] + rows[wrong + 1 :])
  with pytest.raises(errors.InputError, match=r'has the choices \[1\], expected 0, 1, … without'):
    p3.find(tmp_path, '.').questions(tiny_data.RTE, 'validation')


def test_prompts_are_as_long_on_other_splits_as_in_training(vocabulary, tmp_path):
  for split, word in (('train', 'red ' * 9), ('validation', 'red')):
    for name, text in ((tiny_data.RTE, word), (tiny_data.ROTTEN, 'plum')):
      rows = [
        {**row, 'inputs_pretokenized': f'{text} {i}'}
        for i, row in enumerate(tiny_data.prompted(name, 4))
      ]
      tiny_data.write_lines(tmp_path / f'{name}.{split}.jsonl', rows)
  mixture = p3.P3('found', shots=1, max_mean_input=7, folder='.')
  with pytest.warns(errors.Note, match=tiny_data.RTE):
    made = mixture.episodes(tmp_path, vocabulary, LENGTHS, 'validation')
  assert made.task_names == (tiny_data.ROTTEN,)


def contexts(vocabulary, data_dir, seed=0, limit=None, **arguments):
  mixture = p3.P3(**({'prompts': 'found', 'shots': 3} | arguments))
  made = mixture.evaluation_tasks(data_dir, vocabulary, LENGTHS, seed=seed, limit=limit)
  grouped = collections.defaultdict(list)
  for task in made:
    grouped[task.name].append(task)
  return grouped


def test_a_context_belongs_to_task_and_seed_whatever_else_is_listed(vocabulary, data_dir):
  every, different = contexts(vocabulary, data_dir), set()
  for name in NAMES:
    (task,) = every[name]
    (alone,) = contexts(vocabulary, data_dir, prompts=[name])[name]
    (turned,) = contexts(vocabulary, data_dir, prompts=NAMES[::-1])[name]
    for other in (alone, turned):
      np.testing.assert_array_equal(task.context, other.context)
    different |= {
      contexts(vocabulary, data_dir, seed)[name][0].context.tobytes() for seed in range(3)
    }
  assert len(different) == 3 * len(NAMES)


def test_questions_of_the_split_that_contexts_are_drawn_from_are_not_shown(vocabulary, data_dir):
  mixture = p3.P3('found', shots=5)
  for seed in range(5):
    for task in mixture.evaluation_tasks(data_dir, vocabulary, LENGTHS, 'train', seed, limit=3):
      inputs = [x for x, _ in shown(vocabulary, task.context)]
      assert not set(inputs) & set(texts(vocabulary, task.inputs))
      assert len(set(inputs)) == len(inputs) == 5


@pytest.mark.parametrize('rule', ['per_example', 'eval_split'])
def test_a_question_of_its_own_context_is_not_in_it(vocabulary, data_dir, rule):
  for seed in range(3):
    for name, tasks in contexts(vocabulary, data_dir, seed, contexts=rule).items():
      questions = [vocabulary.decode(task.inputs[0]) for task in tasks]
      assert len(tasks) == (4 if name == COPA else 7) == len(set(questions))
      seen = set()
      for task, question in zip(tasks, questions):
        inputs = [x for x, _ in shown(vocabulary, task.context)]
        assert len(task.inputs) == 1 and len(set(inputs)) == 3 and question not in inputs
        seen |= {*inputs}
      assert seen <= set(questions) if rule == 'eval_split' else not seen & set(questions)
      assert len({task.context.tobytes() for task in tasks}) > 2


def test_a_limit_takes_away_questions_and_no_examples(vocabulary, data_dir):
  for rule in ('task', 'per_example', 'eval_split'):
    few = contexts(vocabulary, data_dir, limit=2, contexts=rule)
    every = contexts(vocabulary, data_dir, contexts=rule)
    for name in NAMES:
      assert sum(len(task.inputs) for task in few[name]) == 2
      for a, b in zip(few[name], every[name]):
        np.testing.assert_array_equal(a.context, b.context)


def test_a_pool_that_is_too_small_is_reported(vocabulary, data_dir):
  every = contexts(vocabulary, data_dir, shots=16)
  assert {name: tasks[0].shots_missing for name, tasks in every.items()} == {
    RTE: 5, COMMON_GEN: 5, ROTTEN: 5, COPA: 8
  }  # fmt: skip
  assert len(shown(vocabulary, every[COPA][0].context)) == 8  # COPA's empty rows show nothing


def test_an_example_that_comes_twice_is_shown_once(vocabulary, tmp_path):
  rows = tiny_data.prompted(RTE, 4)
  tiny_data.write_lines(tmp_path / f'{RTE}.train.jsonl', rows * 3)
  tiny_data.write_lines(tmp_path / f'{RTE}.validation.jsonl', tiny_data.prompted(RTE, 3, first=9))
  for rule in ('task', 'per_example'):
    for task in contexts(vocabulary, tmp_path, prompts=[RTE], shots=7, contexts=rule)[RTE]:
      inputs = [x for x, _ in shown(vocabulary, task.context)]
      assert sorted(inputs) == sorted(row['inputs_pretokenized'] for row in rows)
      assert task.shots_missing == 3


def test_a_context_that_is_too_long_is_cut_in_its_last_example(vocabulary, data_dir):
  lengths = LENGTHS | {'hyper_inputs': 20}
  (task,) = p3.P3([RTE], shots=6).evaluation_tasks(data_dir, vocabulary, lengths)
  (whole,) = p3.P3([RTE], shots=6).evaluation_tasks(data_dir, vocabulary, LENGTHS)
  np.testing.assert_array_equal(task.context, whole.context[:20])
  assert task.cut == 6 - len(task.context_outputs) > 0
  assert task.context_outputs == whole.context_outputs[: len(task.context_outputs)]


def test_contexts_need_a_train_file_unless_they_come_from_the_questions(vocabulary, tmp_path):
  rows = tiny_data.prompted(RTE, 6)
  tiny_data.write_lines(tmp_path / f'{RTE}.validation.jsonl', rows)
  with pytest.raises(
    errors.InputError, match=rf"{RTE} has no train file in .*set contexts='eval_split'"
  ):
    p3.P3([RTE]).asked(tmp_path)
  assert len(p3.P3([RTE], shots=2, contexts='eval_split').asked(tmp_path)) == 6
  (asked,) = p3.P3([RTE], shots=0).asked(tmp_path)
  assert asked.shots == () and not p3.P3([RTE], shots=0).has_context


def test_tasks_without_questions_are_told(tmp_path):
  empty = [{'idx': [0], 'inputs_pretokenized': '', 'targets_pretokenized': ''}]
  tiny_data.write_lines(tmp_path / f'{COPA}.validation.jsonl', empty)
  with pytest.raises(errors.InputError, match='split validation has no questions in'):
    p3.P3([COPA], shots=0).asked(tmp_path)
  tiny_data.write_lines(tmp_path / f'{RTE}.validation.jsonl', tiny_data.prompted(RTE, 2))
  with pytest.warns(errors.Note, match=f'which have only empty rows in validation: {COPA}'):
    assert len(p3.P3([COPA, RTE], shots=0).asked(tmp_path)) == 1


def test_a_perfect_answer_has_the_perfect_score_averaged_by_data_set(vocabulary, data_dir):
  mixture = p3.P3([RTE, COPA])
  tasks = mixture.evaluation_tasks(data_dir, vocabulary, LENGTHS)
  right = [[own[0] for own in task.references] for task in tasks]
  wrong = [['?'] * len(task.inputs) for task in tasks]
  table = metrics.table(tasks, [right[0], wrong[1]], mixture.average)['accuracy']
  assert table['categories'] == {'super_glue/rte': 100, 'super_glue/copa': 0} == table['medians']
  assert table['all'] == 50
  assert (mixture.average, mixture.eval_split) == ('categories', 'validation')


def test_a_wrong_context_is_that_of_another_prompt(vocabulary, data_dir):
  mixture = p3.P3('found', shots=2)
  for task in mixture.evaluation_tasks(data_dir, vocabulary, LENGTHS, wrong_context=True):
    own = tiny_data.PROMPTS[task.name]
    assert all(vocabulary.decode(x).startswith(own) for x in task.inputs)
    assert not any(x.startswith(own) for x, _ in shown(vocabulary, task.context))


# --- The real packs -------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def pack(shared_data):
  return json.loads((shared_data / 'p3' / 'task_manifest.json').read_text())


def test_every_file_of_the_pack_has_the_rows_of_its_manifest(shared_data, pack):
  folder = p3.find(shared_data)
  names = {each['task_name'] for each in pack}
  assert (
    set(folder.names('train')) == set(folder.names('validation')) == names and len(names) == 213
  )
  rows = collections.Counter()
  for each in pack:
    name = each['task_name']
    if name in p3.prompts() and each['t0_train_size']:
      assert p3.prompts()[name].size == each['t0_train_size']
    for split, own in each['splits'].items():
      found = list(folder.instances(name, split))
      assert len(found) == own['rows'], name
      rows[split] += len(found)
    if (name + p3.SCORE_EVAL, 'validation') in folder.found:
      questions = folder.questions(name, 'validation')
      assert len(questions) == each['splits']['validation']['rows'], name
      assert all(len(set(one.outputs) & set(one.options)) == 1 for one in questions)
      rows['choices'] += sum(len(one.options) for one in questions)
  assert rows == {'train': 109_045, 'validation': 44_034, 'choices': 40_810}


def test_the_pack_s_mixtures_are_made(shared_data, tmp_path):
  for path in (shared_data / 'p3').glob('*/*'):
    if path.name.startswith(('imdb', 'rotten_tomatoes_M', 'super_glue_cb', 'hellaswag')):
      (tmp_path / path.name).symlink_to(path)
  t5 = Vocabulary(str(shared_data / 'vocab' / 't5_cc_all.32000.sentencepiece.model'))
  lengths = {'hyper_inputs': 1024, 'inputs': 384, 'targets': 128}
  arguments = {'max_examples': 90, 'missing': 'skip'}
  with pytest.warns(errors.Note) as notes:
    made = mixtures.get('p3_t0_short', arguments).episodes(tmp_path, t5, lengths)
  said = ' '.join(str(note.message) for note in notes)
  assert '300 of 313 tasks have no train file' in said
  long = re.search(r'(\d+) tasks are left out, which have inputs of 320 tokens', said)
  assert long and 0 < int(long[1]) == 13 - len(made.task_names) < 11  # IMDB's have 315 to 328
  assert all(len(made(0, n)['hyper_inputs']) <= 1024 for n in range(50))
  with pytest.warns(errors.Note, match='92 of 111 tasks have no validation file'):
    held_out = mixtures.get('p3_held_out', {'missing': 'skip'})
    tasks = held_out.evaluation_tasks(tmp_path, t5, lengths, limit=5)
  assert len(tasks) == 15 + 4 == len({task.name for task in tasks})
  assert all(len(task.inputs) == 5 and task.options and not task.shots_missing for task in tasks)
  assert {task.category for task in tasks} == {'super_glue/cb', 'hellaswag'}

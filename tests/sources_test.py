"""Data sets are read in each of their forms, and every fault is named with file and line."""

import dataclasses
import gzip
import json
import sys

import numpy as np
import pytest
import tiny_data

from hyperjax import errors, mixtures
from hyperjax.sources import c4, files, mixed
from hyperjax.sources import natural_instructions as sni

LENGTHS = {'hyper_inputs': 90, 'inputs': 20, 'targets': 9}


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return tiny_data.vocabulary(tmp_path_factory.mktemp('vocabulary'))


@pytest.fixture
def repository(tmp_path):
  tiny_data.repository(tmp_path / 'sni')
  return tmp_path


def text(vocabulary, tokens):
  return vocabulary.decode(tokens)


# --- Where data are found -------------------------------------------------------------------------


def test_the_argument_wins_over_the_environment(tmp_path, monkeypatch):
  monkeypatch.setenv(files.VARIABLE, str(tmp_path))
  (tmp_path / 'other').mkdir()
  assert files.root(None) == tmp_path
  assert files.root(tmp_path / 'other') == tmp_path / 'other'


def test_what_is_missing_is_named(tmp_path, monkeypatch):
  monkeypatch.delenv(files.VARIABLE, raising=False)
  with pytest.raises(errors.InputError, match=r'set DATA_DIR \(gin\) or HYPERJAX_DATA'):
    files.root(None)
  with pytest.raises(errors.InputError, match=r'DATA_DIR names .*gone, which is not a folder'):
    files.root(str(tmp_path / 'gone'))
  monkeypatch.setenv(files.VARIABLE, str(tmp_path / 'gone'))
  with pytest.raises(errors.InputError, match=r'HYPERJAX_DATA names .*gone'):
    files.root(None)
  with pytest.raises(errors.InputError, match=r'no file matches .*/text/\*train\*\.json\*'):
    next(c4.texts(tmp_path, c4.FILES, 'train'))
  with pytest.raises(errors.InputError, match=r'looked for .*sni/splits/default/train_tasks\.txt'):
    sni.find(tmp_path)
  with pytest.raises(errors.InputError, match=r'looked for .*/mine/train_tasks\.txt$'):
    sni.find(tmp_path, 'mine')


# --- Running text ---------------------------------------------------------------------------------


def test_shards_plain_and_compressed_are_read_in_order(tmp_path):
  tiny_data.text(tmp_path / 'text')
  read = list(c4.texts(tmp_path, c4.FILES, 'train'))
  assert read == [(each['text'], each['source']) for each in tiny_data.DOCUMENTS]
  (only,) = c4.texts(None, str(tmp_path / 'text' / '{split}-0.jsonl'), 'validation')
  assert only == read[2]


def test_c4_s_own_files_are_found_and_come_second(tmp_path):
  (tmp_path / 'c4' / 'en').mkdir(parents=True)
  path = tmp_path / 'c4' / 'en' / 'c4-train.00000-of-01024.json.gz'
  tiny_data.write_lines(path, [{'text': 'a cat', 'url': 'u', 'timestamp': 't'}])
  assert list(c4.texts(tmp_path, c4.FILES, 'train')) == [('a cat', 'c4')]
  tiny_data.text(tmp_path / 'text')
  assert len(list(c4.texts(tmp_path, c4.FILES, 'train'))) == len(tiny_data.DOCUMENTS)


def test_documents_can_be_limited(vocabulary, tmp_path):
  tiny_data.text(tmp_path / 'text')
  made = c4.Clm(window=16, min_segment=3, max_documents=2).episodes(tmp_path, vocabulary, LENGTHS)
  assert sum(counts['documents'] for counts in made.statistics.values()) == 2


def test_a_window_is_text_of_a_document(vocabulary, tmp_path):
  tiny_data.text(tmp_path / 'text')
  mixture = c4.Caclm(window=40, b_length=5, c_lengths=(4, 9), min_segment=4)
  made = mixture.episodes(tmp_path, vocabulary, LENGTHS, 'validation')
  (document,) = [each['text'] for each in tiny_data.DOCUMENTS[2:3]]
  for n in range(10):
    episode = made(0, n)
    (b,), (c,) = episode['inputs'], episode['targets']
    assert text(vocabulary, [*b, *c]) in document
  with pytest.raises(errors.InputError, match='targets_per_context is 2'):
    c4.Clm().episodes(tmp_path, vocabulary, LENGTHS, 'train', 2)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'{"text": "a"}\n{"text": "b"\n', r'line 2: not JSON \(Expecting'),
    (b'{"text": "a"}\n' + b'[' * 100_000, r'line 2: not JSON \(.*recursion'),
    (b'{"text": "a", "n": ' + b'9' * 5000 + b'}\n', r'line 1: not JSON \(.*digits'),
    (b'{"text": "a \\uD83D\\uDE00"}\n{"text": "b \\uD83D"}\n', r'line 2: .*half a character'),
    (b'{"text": "a"}\n\n["b"]\n', 'line 3: expected a JSON object, got a list'),
    (b'{"text": "a"}\n{"txt": "b"}\n', 'line 2: no field "text", expected a string'),
    (b'{"text": 3}\n', 'line 1: field "text" is a number, expected a string'),
    (b'{"text": null}\n', 'line 1: field "text" is null'),
    (b'{"text": "a", "source": ["b"]}\n', 'line 1: field "source" is a list'),
    (b'{"text": "a"}\n{"text": "caf\xe9"}\n', 'line 2: not UTF-8'),
    ('{"text": "a"}\n'.encode('utf-16'), 'line 1: not UTF-8'),
    (b'', 'is empty'),
    (b'\n \n', 'is empty'),
  ],
)
def test_faults_of_a_line_are_named(tmp_path, content, message):
  for name, data in (('train.jsonl', content), ('train.jsonl.gz', gzip.compress(content))):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(errors.InputError, match=rf'{name}.*{message}'):
      list(c4.texts(None, str(tmp_path / name), 'train'))


def test_damaged_gzip_is_named(tmp_path):
  lines = ''.join(json.dumps({'text': f'{i} {i * 7919 % 1013}'}) + '\n' for i in range(2000))
  whole = gzip.compress(lines.encode())
  path = tmp_path / 'train.jsonl.gz'
  for data in (whole[:-9], whole[: len(whole) // 2], b'not gzip'):
    path.write_bytes(data)
    with pytest.raises(errors.InputError, match=r'train\.jsonl\.gz: damaged or truncated gzip'):
      list(c4.texts(None, str(path), 'train'))


def test_a_byte_order_mark_is_not_text(tmp_path):
  (tmp_path / 'train.jsonl').write_bytes('{"text": "a"}\n'.encode('utf-8-sig'))
  assert list(c4.texts(None, str(tmp_path / 'train.jsonl'), 'train')) == [('a', 'c4')]


# --- Parquet and TFRecord -------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path):
  pyarrow = pytest.importorskip('pyarrow')
  writer = pytest.importorskip('pyarrow.parquet')

  def write(columns):
    writer.write_table(pyarrow.table(columns), tmp_path / 'a.parquet', row_group_size=2)
    return tmp_path / 'a.parquet'

  return write


@pytest.fixture
def tfrecord(tmp_path):
  tf = pytest.importorskip('tensorflow')  # not on Python 3.14

  def write(*records):
    with tf.io.TFRecordWriter(str(tmp_path / 'a.tfrecord-00000-of-00001')) as file:
      for record in records:
        if isinstance(record, dict):
          lists = {k: tf.train.BytesList(value=v) for k, v in record.items()}
          features = {k: tf.train.Feature(bytes_list=v) for k, v in lists.items()}
          record = tf.train.Example(features=tf.train.Features(feature=features))
          record = record.SerializeToString()
        file.write(record)
    return tmp_path / 'a.tfrecord-00000-of-00001'

  return write


def test_rows_of_parquet_are_records_with_their_place(parquet):
  path = parquet({'text': ['a', 'b', 'c'], 'idx': [[1, 0], [2], None], 'n': [1, 2, 3]})
  rows = [{'text': 'a', 'idx': [1, 0], 'n': 1}, {'text': 'b', 'idx': [2], 'n': 2}]
  rows.append({'text': 'c', 'idx': None, 'n': 3})
  assert list(files.records(path)) == [(f'{path} row {i}', row) for i, row in enumerate(rows, 1)]
  some = [record for _, record in files.records(path, ('n', 'absent'))]
  assert some == [{'n': 1}, {'n': 2}, {'n': 3}]
  assert [record for _, record in files.records(path, ('absent',))] == [{}] * 3


def test_faults_of_parquet_are_named(parquet):
  path = parquet({'text': ['a', 'b'] * 50, 'odd': [b'x', b'y'] * 50, 'n': [1.5, None] * 50})
  rows = list(files.records(path))
  for (where, row), field, said in (
    (rows[1], 'absent', 'row 2: no field "absent", expected a string'),
    (rows[0], 'odd', 'row 1: field "odd" is of type bytes, expected a string'),
    (rows[0], 'n', 'row 1: field "n" is a number, expected a string'),
    (rows[1], 'n', 'row 2: field "n" is null, expected a string'),
  ):
    with pytest.raises(errors.InputError, match=rf'a\.parquet {said}$'):
      files.text(row, field, where)
  whole = path.read_bytes()
  middle = len(whole) // 3
  damaged = whole[:4] + bytes(255 - byte for byte in whole[4:middle]) + whole[middle:]
  for content in (whole[:-9], whole[: len(whole) // 2], b'not parquet', damaged):
    path.write_bytes(content)
    with pytest.raises(
      errors.InputError, match=r'a\.parquet: damaged after row 0 .*; fetch the file'
    ):
      list(files.records(path))
  path.write_bytes(b'')
  with pytest.raises(errors.InputError, match=r'a\.parquet: damaged after row 0'):
    list(files.records(path))
  path.unlink()
  with pytest.raises(errors.InputError, match=r'a\.parquet: .*(No such file|does not exist)'):
    list(files.records(path))


def test_parquet_without_rows_or_utf_8_is_named(parquet):
  pyarrow = pytest.importorskip('pyarrow')
  with pytest.raises(errors.InputError, match=r'a\.parquet is empty'):
    list(files.records(parquet({'text': pyarrow.array([], pyarrow.string())})))
  binary = pyarrow.array([b'good', b'caf\xe9'], pyarrow.binary())
  broken = pyarrow.Array.from_buffers(pyarrow.string(), 2, binary.buffers())
  with pytest.raises(errors.InputError, match=r'a\.parquet after row 0: not UTF-8 .*; convert'):
    list(files.records(parquet({'text': broken})))


def test_records_of_tfrecord_are_text_with_their_place(tfrecord):
  path = tfrecord({'text': [b'a'], 'answer_choices': [b'x', b'y']}, {'text': [], 'b': [b'd']})
  rows = [{'text': 'a', 'answer_choices': ['x', 'y']}, {'text': [], 'b': 'd'}]
  expected = [(f'{path} record {i}', row) for i, row in enumerate(rows, 1)]
  assert list(files.records(path)) == expected
  assert [row for _, row in files.records(path, ('b',))] == [{}, {'b': 'd'}]
  path = tfrecord({'answer_choices': [b'x']})
  assert next(files.records(path))[1] == {'answer_choices': ['x']}  # a list, of one too


def test_faults_of_tfrecord_are_named(tfrecord):
  good = {'text': [b'a' * 50]}
  path = tfrecord(good, {'text': [b'caf\xe9']})
  with pytest.raises(errors.InputError, match='record 2: field "text" is not UTF-8'):
    list(files.records(path))
  path = tfrecord(good, b'no example')
  with pytest.raises(
    errors.InputError, match=r'-of-00001: damaged after record 1 .*; fetch the file'
  ):
    list(files.records(path))
  path = tfrecord(*[good] * 5)
  whole = path.read_bytes()
  for content, place in (
    (whole[:-9], 'truncated record at 328'),
    (whole[:-200] + b'x' + whole[-199:], 'corrupted record at 176'),
  ):
    path.write_bytes(content)
    with pytest.raises(
      errors.InputError, match=rf'damaged after record 0 \({place}[^{{\[]*\); fetch'
    ):
      list(files.records(path))
  path.write_bytes(b'not records, but more than sixteen bytes of text')
  with pytest.raises(errors.InputError, match='damaged after record 0 '):
    list(files.records(path))
  path.write_bytes(b'')
  with pytest.raises(errors.InputError, match='is empty'):
    list(files.records(path))
  path.unlink()
  with pytest.raises(errors.InputError, match='a.tfrecord-00000-of-00001: .*No such file'):
    list(files.records(path))


@pytest.mark.parametrize(
  'name,module,said',
  [
    ('a.parquet', 'pyarrow', r'needs pyarrow to be read: pip install "hyperjax\[parquet\]"'),
    ('a.tfrecord', 'tensorflow', r'needs TensorFlow to be read: pip install "hyperjax\[seqio\]"'),
  ],
)
def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch, name, module, said):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(errors.InputError, match=said):
    next(files.records(tmp_path / name))


# --- Super-NaturalInstructions --------------------------------------------------------------------


def test_both_forms_hold_the_same_tasks(vocabulary, tmp_path):
  tiny_data.repository(tmp_path / 'a' / 'natural-instructions')
  tiny_data.pack(tmp_path / 'b' / 'sni' / 'sni_style')
  mixture = sni.NaturalInstructions(positives=1, shots=2, instances=7)
  for split in ('train', 'validation', 'test'):
    one, other = (
      mixture.episodes(tmp_path / form, vocabulary, LENGTHS, split) for form in ('a', 'b')
    )
    assert one.task_names == other.task_names
    for n in range(8):
      a, b = one(1, n), other(1, n)
      np.testing.assert_array_equal(a['hyper_inputs'], b['hyper_inputs'])
      np.testing.assert_array_equal(a['inputs'][0], b['inputs'][0])
      np.testing.assert_array_equal(a['targets'][0], b['targets'][0])
  assert sni.find(tmp_path / 'a').is_repository and not sni.find(tmp_path / 'b').is_repository


def test_the_named_folder_wins(tmp_path):
  tiny_data.repository(tmp_path / 'sni')
  tiny_data.pack(tmp_path / 'mine')
  assert sni.find(tmp_path, 'mine').path == tmp_path / 'mine'
  assert sni.find(tmp_path).path == tmp_path / 'sni'
  assert sni.find(tmp_path / 'mine').path == tmp_path / 'mine'  # the data folder itself


def test_training_and_validation_instances_are_apart_and_fixed(vocabulary, repository):
  mixture = sni.NaturalInstructions(instances=5)
  examples = {
    split: {
      (task.name, text(vocabulary, example.input))
      for task in mixture.episodes(repository, vocabulary, LENGTHS, split).tasks
      for example in task.examples
    }
    for split in ('train', 'validation')
  }
  assert [len(examples[split]) for split in ('train', 'validation')] == [15, 12]
  assert not examples['train'] & examples['validation']
  again = mixture.episodes(repository, vocabulary, LENGTHS, 'train')
  assert examples['train'] == {
    (task.name, text(vocabulary, example.input))
    for task in again.tasks
    for example in task.examples
  }
  with pytest.raises(errors.InputError, match=r'lower NaturalInstructions\.instances'):
    sni.NaturalInstructions().episodes(repository, vocabulary, LENGTHS, 'validation')


def test_evaluation_asks_the_first_instances_with_all_references(vocabulary, repository):
  mixture = mixtures.get('sni_def_2pos')
  (task,) = mixture.evaluation_tasks(repository, vocabulary, LENGTHS, 'test', limit=4)
  card = tiny_data.card('reverse')
  assert (task.name, task.category) == ('reverse', 'Order')
  assert [text(vocabulary, x) for x in task.inputs] == [x['input'] for x in card['Instances'][:4]]
  assert task.references == [tuple(x['output']) for x in card['Instances'][:4]]
  first, second = card['Positive Examples'][:2]
  x, y = '<extra_id_10>', '<extra_id_9>'
  assert text(vocabulary, task.context) == (
    f'{x} the reverse task {x} {first["input"]} {y} {first["output"]}'
    f' {x} {second["input"]} {y} {second["output"]}'
  )
  assert task.context_outputs == (first['output'], second['output'])
  (everything,) = mixture.evaluation_tasks(repository, vocabulary, LENGTHS, 'test')
  assert len(everything.inputs) == 9
  (few,) = dataclasses.replace(mixture, evaluated=3).evaluation_tasks(
    repository, vocabulary, LENGTHS, 'test', limit=100
  )
  assert len(few.inputs) == 3
  few = dataclasses.replace(mixture, evaluated=3).evaluation_tasks(
    repository, vocabulary, LENGTHS, 'train', limit=7
  )
  assert [len(task.inputs) for task in few] == [3, 3, 3]


def shown(vocabulary, task):
  starts = np.flatnonzero(task.context == vocabulary.x_id)
  parts = np.split(task.context, starts)[1:]
  return [
    text(vocabulary, part[1 : 1 + np.argmax(part[1:] == vocabulary.y_id)])
    for part in parts
    if vocabulary.y_id in part
  ]


def test_shots_of_an_evaluation_are_never_asked_and_belong_to_the_seed(vocabulary, repository):
  mixture = sni.NaturalInstructions(definition=False, shots=4)
  for split in ('train', 'test'):
    where = repository, vocabulary, LENGTHS, split
    contexts = set()
    for seed in range(6):
      for task in mixture.evaluation_tasks(*where, seed, limit=3):
        inputs = shown(vocabulary, task)
        assert len(set(inputs)) == 4
        assert not set(inputs) & {text(vocabulary, x) for x in task.inputs}
        assert all(x.startswith(task.name) for x in inputs)
        contexts.add(tuple(inputs))
      twice = [mixture.evaluation_tasks(*where, seed, limit=3) for _ in range(2)]
      for a, b in zip(*twice):
        np.testing.assert_array_equal(a.context, b.context)
    assert len(contexts) > 4
  (task,) = mixture.evaluation_tasks(repository, vocabulary, LENGTHS, 'test')  # all 9 are asked
  assert shown(vocabulary, task) == [
    x['input'] for x in tiny_data.card('reverse')['Positive Examples']
  ]


def test_shots_never_repeat_a_question_or_a_positive_example(vocabulary, repository):
  card = tiny_data.card('reverse')
  asked, positive = card['Instances'][0], card['Positive Examples'][0]
  spare = {'id': 'x', 'input': 'red dog', 'output': ['cat']}
  card['Instances'] = [asked, asked, positive, spare, asked, spare, {**spare, 'input': ''}]
  tiny_data.write_json(repository / 'sni' / 'tasks' / 'reverse.json', card)
  mixture = sni.NaturalInstructions(definition=False, positives=1, shots=1)
  for seed in range(8):
    (task,) = mixture.evaluation_tasks(repository, vocabulary, LENGTHS, 'test', seed, limit=1)
    assert shown(vocabulary, task) == [positive['input'], 'red dog']


def test_what_an_evaluation_cuts_is_counted_and_not_said_to_be_shown(vocabulary, repository):
  mixture = mixtures.get('sni_def_2pos')
  (whole,) = mixture.evaluation_tasks(repository, vocabulary, LENGTHS, 'test')
  assert (whole.cut, whole.inputs_truncated, len(whole.context_outputs)) == (0, 0, 2)
  longest = max(map(len, whole.inputs))
  counts = sum(len(tokens) == longest for tokens in whole.inputs)
  for short, seen in ((1, 1), (len(whole.context) - 1, 0)):  # a token less; all but the first
    lengths = {**LENGTHS, 'hyper_inputs': len(whole.context) - short, 'inputs': longest - 1}
    (task,) = mixture.evaluation_tasks(repository, vocabulary, lengths, 'test')
    assert task.context_outputs == whole.context_outputs[:seen]
    assert (task.cut, task.inputs_truncated) == (1 if seen else 3, counts)
  joined = dataclasses.replace(mixture, join_context=True)
  lengths = {'inputs': longest + 1, 'targets': 9}  # markers take two
  (task,) = joined.evaluation_tasks(repository, vocabulary, lengths, 'test')
  assert (task.context_outputs, task.inputs_truncated) == ((), counts)


def test_a_run_that_reads_no_context_is_asked_without_one(vocabulary, repository):
  lengths = {'inputs': 20, 'targets': 9}
  (task,) = mixtures.get('sni_def').evaluation_tasks(repository, vocabulary, lengths, 'test')
  assert len(task.context) == 0 and task.cut == 1 and len(task.inputs) == 9


def test_a_wrong_context_is_that_of_another_task(vocabulary, repository):
  for mixture in (sni.NaturalInstructions(), sni.NaturalInstructions(join_context=True)):
    right = mixture.evaluation_tasks(repository, vocabulary, LENGTHS, 'train')
    wrong = mixture.evaluation_tasks(repository, vocabulary, LENGTHS, 'train', wrong_context=True)
    named = [text(vocabulary, [*task.context, *task.inputs[0]]).split()[2] for task in wrong]
    assert sorted(named) == sorted(tiny_data.TRAIN)
    for a, b, name in zip(right, wrong, named):
      assert name != a.name == b.name
      assert a.references == b.references
  with pytest.raises(errors.InputError, match='second task'):
    mixture.evaluation_tasks(repository, vocabulary, LENGTHS, 'test', wrong_context=True)


def test_an_evaluation_in_context_joins_it_to_each_input(vocabulary, repository):
  lengths = LENGTHS | {'inputs': 90}
  apart, together = (
    mixtures.get(name).evaluation_tasks(repository, vocabulary, lengths, 'test')[0]
    for name in ('sni_def_2pos', 'sni_def_2pos_in_context')
  )
  assert len(together.context) == 0
  for a, b in zip(apart.inputs, together.inputs, strict=True):
    expected = [*apart.context, vocabulary.x_id, *a, vocabulary.y_id]
    np.testing.assert_array_equal(b, expected)


def damaged(repository, change):
  path = repository / 'sni' / 'tasks' / 'first.json'
  task = json.loads(path.read_text())
  change(task)
  tiny_data.write_json(path, task)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda task: task.pop('Definition'), 'no field "Definition"'),
    (lambda task: task.update(Definition=[]), 'field "Definition" is an empty list'),
    (lambda task: task.update(Instances=[]), 'has no instances'),
    (lambda task: task.update(Instances='none'), 'field "Instances" is a string'),
    (lambda task: task['Instances'][2].update(output=4), 'entry 2: field "output" is a number'),
    (lambda task: task['Instances'][2].update(output=[4]), 'entry 2: .* has a number in its list'),
    (
      lambda task: task['Instances'][2].update(output=[]),
      'entry 2: field "output" is an empty list',
    ),
    (lambda task: task['Instances'][1].pop('input'), 'entry 1: no field "input"'),
    (lambda task: task['Positive Examples'].append('x'), 'entry 3: expected a JSON object'),
  ],
)
def test_faults_of_a_card_are_named(vocabulary, repository, change, message):
  damaged(repository, change)
  with pytest.raises(errors.InputError, match=rf'first\.json.*{message}'):
    sni.NaturalInstructions().episodes(repository, vocabulary, LENGTHS)


def test_faults_of_files_and_lists_are_named(vocabulary, repository):
  def load(split='train'):
    return sni.NaturalInstructions().episodes(repository, vocabulary, LENGTHS, split)

  with pytest.raises(errors.InputError, match="no split 'tset'"):
    load('tset')
  path = repository / 'sni' / 'tasks' / 'first.json'
  path.write_text(path.read_text()[:300])
  with pytest.raises(errors.InputError, match=r'first\.json line \d+: not JSON'):
    load()
  path.write_bytes(b'{\n"Definition": "caf\xe9"}')
  with pytest.raises(errors.InputError, match=r'first\.json line 2: not UTF-8'):
    load()
  path.write_bytes(b'')
  with pytest.raises(errors.InputError, match=r'first\.json is empty'):
    load()
  path.unlink()
  with pytest.raises(errors.InputError, match=r'train_tasks\.txt lists first, but .*first\.json'):
    load()
  lists = repository / 'sni' / 'splits' / 'default'
  (lists / 'train_tasks.txt').write_text('\n')
  with pytest.raises(errors.InputError, match=r'train_tasks\.txt is empty'):
    load()
  (lists / 'test_tasks.txt').unlink()
  with pytest.raises(errors.InputError, match=r'no list of tasks .*test_tasks\.txt'):
    load('test')


def test_faults_of_a_pack_are_named(vocabulary, tmp_path):
  tiny_data.pack(tmp_path)
  tiny_data.write_lines(tmp_path / 'train' / 'first.jsonl.gz', [tiny_data.card('first')])
  with pytest.raises(errors.InputError, match=r'first\.jsonl\.gz has no instances'):
    sni.NaturalInstructions().episodes(tmp_path, vocabulary, LENGTHS)


# --- Mixtures of mixtures -------------------------------------------------------------------------


def test_parts_come_by_their_rates_and_are_what_they_are_alone(vocabulary, repository):
  tiny_data.text(repository / 'text')
  lengths = LENGTHS | {'targets': 20}
  text, tasks = c4.Clm(window=18, min_segment=3), sni.NaturalInstructions(positives=1)
  made = mixed.Mixed(((text, 1.0), (tasks, 3.0))).episodes(repository, vocabulary, lengths)
  parts = [part.episodes(repository, vocabulary, lengths) for part in (text, tasks)]
  sources = len(parts[0].task_names)
  assert made.task_names == parts[0].task_names + parts[1].task_names
  assert made.statistics == parts[0].statistics | parts[1].statistics
  second = 0
  for n in range(400):
    episode = made(5, n)
    part = int(episode['task_id'] >= sources)
    alone = parts[part](5, n)
    assert episode['task_id'] == alone['task_id'] + sources * part
    np.testing.assert_array_equal(episode['inputs'][0], alone['inputs'][0])
    np.testing.assert_array_equal(episode['hyper_inputs'], alone['hyper_inputs'])
    second += part
  assert abs(second / 400 - 3 / 4) < 4 * np.sqrt(3 / 16 / 400)
  for parts in ((), ((text, 0.0),)):
    with pytest.raises(errors.InputError, match=r'Mixed\.parts is'):
      mixed.Mixed(parts)


# --- The table ------------------------------------------------------------------------------------


def test_an_unknown_mixture_or_argument_gets_close_names():
  with pytest.raises(errors.InputError, match='did you mean sni_def_2pos'):
    mixtures.get('sni_def_2poss')
  with pytest.raises(errors.InputError, match=r"no argument 'windw'.*did you mean window"):
    mixtures.get('c4_caclm', {'windw': 160})
  assert mixtures.get('c4_caclm', {'window': 160}).window == 160
  assert mixtures.MIXTURES['c4_caclm'].window == 512


# --- The real packs -------------------------------------------------------------------------------


def test_every_task_of_the_pack_is_read(shared_data):
  from hyperjax.vocabulary import Vocabulary

  t5 = Vocabulary(str(shared_data / 'vocab' / 't5_cc_all.32000.sentencepiece.model'))
  lengths = {'hyper_inputs': 1024, 'inputs': 384, 'targets': 128}
  made = mixtures.get('sni_def_2pos').episodes(shared_data, t5, lengths)
  assert len(made.task_names) == 95
  assert all(made(0, n)['cut'] in (0, 1, 2, 3) for n in range(200))
  tasks = mixtures.get('sni_def_2pos').evaluation_tasks(shared_data, t5, lengths)
  assert len(tasks) == 18 and sum(len(task.inputs) for task in tasks) == 1800


def test_the_text_pack_is_read(shared_data):
  from hyperjax.vocabulary import Vocabulary

  t5 = Vocabulary(str(shared_data / 'vocab' / 't5_cc_all.32000.sentencepiece.model'))
  lengths = {'hyper_inputs': 1024, 'inputs': 384, 'targets': 128}
  for pattern in (c4.FILES, 'c4_sample/*{split}*.json*'):  # the first of several, or one
    made = c4.Caclm(files=pattern).episodes(shared_data, t5, lengths, 'validation')
    assert made.windows.count > 100
    assert t5.decode(made(0, 0)['targets'][0])

"""The demo's vocabulary: T5's ids, no unknown ASCII, the same bytes every time."""

import json
import random

import pytest
import sentencepiece

from hyperjax.errors import InputError
from scripts.demo import train_vocabulary

SIZE = 107


def texts(n: int = 400) -> list[str]:
  rng = random.Random(7)
  words = [
    'value',
    'sum',
    'rows',
    'table',
    'the',
    'of',
    'is',
    'in',
    'reverse',
    'list',
    '42',
    '1999',
  ]
  return [' '.join(rng.choices(words, k=9)) + '.' for _ in range(n)]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return train_vocabulary.train(texts(), tmp_path_factory.mktemp('vocabulary') / 'a.model', SIZE)


@pytest.fixture(scope='module')
def processor(model):
  return sentencepiece.SentencePieceProcessor(model_file=str(model))


def test_ids_are_those_of_t5(processor):
  assert processor.get_piece_size() == SIZE
  assert (processor.pad_id(), processor.eos_id(), processor.unk_id()) == (0, 1, 2)
  assert processor.bos_id() == -1


def test_every_printable_ascii_character_is_known_and_comes_back(processor):
  ids = processor.encode(train_vocabulary.ASCII)
  assert processor.unk_id() not in ids
  assert processor.decode(ids) == train_vocabulary.ASCII


def test_digits_stay_single(processor):
  assert [p.strip('▁') for p in processor.encode('1999', out_type=str) if p != '▁'] == list('1999')


def test_the_same_texts_give_the_same_bytes(model, tmp_path):
  again = train_vocabulary.train(texts(), tmp_path / 'new' / 'b.model', SIZE)
  assert again.read_bytes() == model.read_bytes()
  other = train_vocabulary.train(texts()[:200], tmp_path / 'c.model', SIZE)
  assert other.read_bytes() != model.read_bytes()


@pytest.mark.parametrize(
  ('some', 'size', 'sentence'),
  [
    (texts(), 4000, 'a vocabulary of 4000 pieces .* <= '),
    (texts(), 20, 'a vocabulary of 20 pieces .* required_chars'),
    ([], SIZE, 'they are empty'),
  ],
)
def test_a_size_that_does_not_fit_is_one_sentence_and_writes_nothing(
  tmp_path, some, size, sentence
):
  with pytest.raises(InputError, match=sentence):
    train_vocabulary.train(some, tmp_path / 'x.model', size)
  assert list(tmp_path.iterdir()) == []


def test_reads_documents_up_to_the_sample(tmp_path):
  file = tmp_path / 'a.jsonl'
  file.write_text(''.join(json.dumps({'text': text, 'source': 's'}) + '\n' for text in texts(9)))
  assert list(train_vocabulary.jsonl_texts(file)) == texts(9)
  assert list(train_vocabulary.jsonl_texts(file, sample=1)) == texts(9)[:1]


TASK = {
  'Definition': ['Say it.'],
  'Positive Examples': [{'input': 'a', 'output': 'b', 'explanation': 'unread'}],
  'Instances': [{'input': 'c', 'output': ['d', 'e']}],
}


def test_reads_all_that_a_task_says(tmp_path):
  (tmp_path / 'task.json').write_text(json.dumps(TASK))
  assert list(train_vocabulary.task_texts(tmp_path)) == ['Say it.', 'a', 'b', 'c', 'd', 'e']


@pytest.mark.parametrize('content', ['{"text": 3}', 'text', '[]', '{}'])
def test_a_malformed_line_is_named(tmp_path, content):
  file = tmp_path / 'a.jsonl'
  file.write_text('{"text": "fine"}\n' + content + '\n')
  with pytest.raises(InputError, match=r'a\.jsonl, line 2: expected'):
    list(train_vocabulary.jsonl_texts(file))


@pytest.mark.parametrize('content', ['{', '{}', '[]', '{"Definition": 3}'])
def test_a_malformed_task_is_named(tmp_path, content):
  (tmp_path / 'task7.json').write_text(content)
  with pytest.raises(InputError, match=r'task7\.json'):
    list(train_vocabulary.task_texts(tmp_path))


def test_missing_files_are_named(tmp_path):
  with pytest.raises(InputError, match='no task files'):
    list(train_vocabulary.task_texts(tmp_path))
  with pytest.raises(InputError, match=r'absent\.jsonl cannot be read'):
    list(train_vocabulary.jsonl_texts(tmp_path / 'absent.jsonl'))

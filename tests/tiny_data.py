"""Tiny data sets in the public formats, made anew for each test that asks."""

import gzip
import json
import pathlib

import sentencepiece

from hyperjax.vocabulary import Vocabulary

WORDS = (
  'red green blue white black apple pear plum grape melon cat dog bird fish horse reads writes eats'
  ' sees hears the a big small old new in on under near one two three four five six seven'
).split()
DOCUMENTS = [
  {'text': ' '.join(WORDS[(i * j + j * j) % len(WORDS)] for j in range(20 + 13 * i)), 'source': s}
  for i, s in enumerate(['novel', 'news', 'novel', 'news', 'manual', 'novel'], start=1)
]
CATEGORIES = {'upper': 'Text Case', 'first': 'Selection', 'colour': 'Question', 'reverse': 'Order'}
TRAIN, TEST = ('upper', 'first', 'colour'), ('reverse',)


def train_vocabulary(path: pathlib.Path, **options) -> pathlib.Path:
  """A sentencepiece model over WORDS, with T5's special ids unless told otherwise."""
  path.parent.mkdir(parents=True, exist_ok=True)
  texts = path.with_suffix('.txt')
  texts.write_text('\n'.join(' '.join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))))
  defaults = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1, 'vocab_size': 67}
  sentencepiece.SentencePieceTrainer.train(
    input=str(texts),
    model_prefix=str(path.with_suffix('')),
    hard_vocab_limit=False,
    minloglevel=2,
    **(defaults | options),
  )
  return path


def vocabulary(folder: pathlib.Path) -> Vocabulary:
  """A vocabulary of under 67 pieces and 11 extra ids."""
  return Vocabulary(str(train_vocabulary(folder / 'tiny.model')), extra_ids=11)


def card(name: str, instances: int = 9) -> dict:
  """A task in S-NI's own form; its answers are functions of its inputs, some have two."""
  return {
    'Categories': [CATEGORIES[name]],
    'Definition': [f'the {name} task'],
    'Positive Examples': [
      {'input': f'{name} example {WORDS[i]}', 'output': WORDS[i], 'explanation': ''}
      for i in range(3)
    ],
    'Negative Examples': [],
    'Instances': [
      {
        'id': f'{name}-{i}',
        'input': f'{name} {WORDS[i]} {WORDS[i + 3]}',
        'output': [WORDS[i], WORDS[i + 1]] if i % 2 else [WORDS[i]],
      }
      for i in range(instances)
    ],
  }


def repository(folder: pathlib.Path, instances: int = 9) -> pathlib.Path:
  """S-NI as its repository has it: tasks/*.json and splits/default/*_tasks.txt."""
  (folder / 'tasks').mkdir(parents=True)
  (folder / 'splits' / 'default').mkdir(parents=True)
  for name in CATEGORIES:
    write_json(folder / 'tasks' / f'{name}.json', card(name, instances))
  for split, names in (('train', TRAIN), ('test', TEST), ('excluded', ('first',))):
    (folder / 'splits' / 'default' / f'{split}_tasks.txt').write_text('\n'.join(names) + '\n')
  return folder


def pack(folder: pathlib.Path, instances: int = 9) -> pathlib.Path:
  """The same tasks in the compact form: SPLIT/NAME.jsonl.gz and SPLIT_tasks.txt."""
  for split, names in (('train', TRAIN), ('test', TEST)):
    (folder / split).mkdir(parents=True)
    (folder / f'{split}_tasks.txt').write_text('\n'.join(names) + '\n')
    for name in names:
      task = card(name, instances)
      write_lines(folder / split / f'{name}.jsonl.gz', [task, *task.pop('Instances')])
  return folder


def text(folder: pathlib.Path) -> pathlib.Path:
  """Documents in C4's form: a plain train shard, a compressed one, and validation."""
  folder.mkdir(parents=True, exist_ok=True)
  write_lines(folder / 'train-0.jsonl', DOCUMENTS[:4])
  write_lines(folder / 'train-1.jsonl.gz', DOCUMENTS[4:])
  write_lines(folder / 'validation-0.jsonl', DOCUMENTS[2:3])
  return folder


def write_json(path: pathlib.Path, value: dict) -> pathlib.Path:
  path.write_text(json.dumps(value, indent=1))
  return path


def write_lines(path: pathlib.Path, records: list) -> pathlib.Path:
  data = ''.join(json.dumps(record) + '\n' for record in records).encode()
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return path

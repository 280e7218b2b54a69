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


# --- P3 -------------------------------------------------------------------------------------------

RTE, COPA = 'super_glue_rte_GPT_3_style', 'super_glue_copa_C1_or_C2_premise_so_because_'
COMMON_GEN, ROTTEN = 'common_gen_Example_prompt', 'rotten_tomatoes_Movie_Expressed_Sentiment'
PROMPTS = {RTE: 'red', COPA: 'green', COMMON_GEN: 'blue', ROTTEN: 'white'}
"""Prompts of T0, and the word that begins all inputs of each here."""


def prompted(name: str, count: int, first: int = 0) -> list[dict]:
  """Rows of a prompt in P3's fields. COPA's choices differ, every third row of it says nothing."""
  rows = []
  for i in range(first, first + count):
    a, b = WORDS[i % len(WORDS)], WORDS[(i + 5) % len(WORDS)]
    row = {'idx': [i], 'inputs_pretokenized': f'{PROMPTS[name]} {a} {b}'}
    choices = {RTE: ['one', 'two'], COPA: [a, b], COMMON_GEN: None, ROTTEN: None}[name]
    target = (choices or (['negative', 'positive'] if name == ROTTEN else [f'the {b}', 'a']))[i % 2]
    if name == COPA and i % 3 == 2:
      row, target = {'idx': [i], 'inputs_pretokenized': ''}, ''
    row['targets_pretokenized'] = f' {target}\n'  # as P3's old caches have it
    rows.append(row if choices is None else {**row, 'answer_choices': choices})
  return rows


def score_eval(rows: list[dict]) -> list[dict]:
  """A row for each choice of each row that says something."""
  return [
    {
      'idx': [i, j],
      'inputs_pretokenized': row['inputs_pretokenized'],
      'targets_pretokenized': choice,
      'is_correct': choice == row['targets_pretokenized'].strip(),
      'weight': 1.0,
    }
    for i, row in enumerate(rows)
    if row['inputs_pretokenized']
    for j, choice in enumerate(row['answer_choices'])
  ]


def p3(folder: pathlib.Path, train: int = 11, validation: int = 7) -> pathlib.Path:
  """All prompts, TASK.SPLIT.jsonl.gz, and the choices of the held-out ones."""
  folder.mkdir(parents=True, exist_ok=True)
  for name in PROMPTS:
    write_lines(folder / f'{name}.train.jsonl.gz', prompted(name, train))
    held_out = prompted(name, validation, first=train)
    write_lines(folder / f'{name}.validation.jsonl.gz', held_out)
    if name in (RTE, COPA):
      write_lines(folder / f'{name}_score_eval.validation.jsonl.gz', score_eval(held_out))
  return folder


# --- MetaICL --------------------------------------------------------------------------------------

SEEDS = (100, 13, 21, 42, 87)
LABELS = {
  'poem_sentiment': ('one', 'two', 'three'),
  'glue-mrpc': ('cat', 'dog'),
  'subj': ('a', 'b'),
}
"""Classification tasks here; superglue-copa has two choices a line, common_gen none."""

METAICL = {
  **dict(zip(LABELS, ('red', 'green', 'blue'))),
  'superglue-copa': 'white',
  'common_gen': 'on',
}
"""MetaICL's tasks, and the word that begins all inputs of each here."""


def answered(task: str, count: int, first: int = 0) -> list[dict]:
  """Lines of a task in MetaICL's form."""
  lines = []
  for i in range(first, first + count):
    a, b = WORDS[i % len(WORDS)], WORDS[(i + 7) % len(WORDS)]
    options = LABELS.get(task) or {'superglue-copa': (a, b), 'common_gen': ()}[task]
    output = options[i % len(options)] if options else f'the {b}'
    begins = METAICL[task] + ' again' * (i >= len(WORDS))
    text = f'{begins} {a} {b}'
    lines.append({'task': task, 'input': text, 'output': output, 'options': list(options)})
  return lines


def metaicl_files(folder: pathlib.Path) -> pathlib.Path:
  """MetaICL's own: many training examples, and for each seed 16 and the test examples."""
  for task in METAICL:
    (folder / task).mkdir(parents=True)
    write_lines(folder / task / f'{task}_16384_100_train.jsonl', answered(task, 23))
    for i, seed in enumerate(SEEDS):
      write_lines(folder / task / f'{task}_16_{seed}_train.jsonl', answered(task, 16, i))
      write_lines(folder / task / f'{task}_16_{seed}_dev.jsonl', answered(task, 3, 40 + i))
      write_lines(folder / task / f'{task}_16_{seed}_test.jsonl', answered(task, 5, 50))
  return folder


def metaicl_pack(folder: pathlib.Path, train: int = 23, test: int = 5) -> pathlib.Path:
  """Plain files: TASK/TASK.{train,test}.jsonl.gz."""
  for task in METAICL:
    (folder / task).mkdir(parents=True)
    write_lines(folder / task / f'{task}.train.jsonl.gz', answered(task, train))
    write_lines(folder / task / f'{task}.test.jsonl.gz', answered(task, test, 50))
  return folder

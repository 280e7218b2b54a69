"""Truths about the demo's own tasks: the files are what the script makes, the split fair."""

import collections
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DEMO = ROOT / 'tasks' / 'demo'
FIELDS = {
  'Contributors': list,
  'Source': list,
  'URL': list,
  'Categories': list,
  'Reasoning': list,
  'Definition': list,
  'Input_language': list,
  'Output_language': list,
  'Instruction_language': list,
  'Domains': list,
  'Positive Examples': list,
  'Negative Examples': list,
  'Instances': list,
}


def names(split: str) -> list[str]:
  return (DEMO / 'splits' / 'default' / f'{split}_tasks.txt').read_text().split()


def read(name: str) -> dict:
  return json.loads((DEMO / 'tasks' / f'{name}.json').read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def tasks() -> dict[str, dict]:
  return {name: read(name) for split in ('train', 'test') for name in names(split)}


def normalized(text: str) -> str:
  """Words and numbers in lower case; of a line of signs alone, the signs."""
  return ' '.join(re.findall(r'[^\W_]+', text.lower())) or text


def labels(task: dict) -> set[str]:
  """The outputs of a classification task: a handful, each many times."""
  counts = collections.Counter(instance['output'][0] for instance in task['Instances'])
  return set(counts) if len(counts) <= 5 and min(counts.values()) >= 10 else set()


def inputs(task: dict) -> list[str]:
  return [row['input'] for row in task['Positive Examples'] + task['Instances']]


def test_the_script_makes_the_committed_files_again(tmp_path):
  script = ROOT / 'scripts' / 'demo' / 'make_tasks.py'
  subprocess.run([sys.executable, script, f'--output={tmp_path}'], check=True)
  made = {path.relative_to(tmp_path) for path in tmp_path.rglob('*') if path.is_file()}
  committed = {path.relative_to(DEMO) for path in DEMO.rglob('*') if path.is_file()}
  assert made == committed
  for path in made:
    assert (tmp_path / path).read_bytes() == (DEMO / path).read_bytes(), path


def test_there_are_many_tasks_and_a_dozen_held_out_in_small_files(tasks):
  assert len(names('train')) >= 60 and len(names('test')) >= 14
  assert not set(names('train')) & set(names('test'))
  assert {path.stem for path in DEMO.glob('tasks/*.json')} == set(tasks)
  assert sum(path.stat().st_size for path in DEMO.rglob('*') if path.is_file()) < 5_000_000


def test_every_file_has_the_fields_of_super_natural_instructions(tasks):
  for name, task in tasks.items():
    assert {key: type(value) for key, value in task.items()} == FIELDS, name
    assert re.fullmatch(r'hjd\d{3}_[a-z0-9_]+', name)
    assert len(task['Definition']) == 1 and task['Definition'][0].strip(), name
    assert len(task['Categories']) == 1 and task['Input_language'] == ['English']
    assert len(task['Positive Examples']) == 2 and task['Negative Examples'] == []
    for example in task['Positive Examples']:
      assert {key: type(value) for key, value in example.items()} == {
        'input': str,
        'output': str,
        'explanation': str,
      }
    for i, instance in enumerate(task['Instances']):
      assert instance['id'] == f'{name[:6]}-{i:03d}'
      assert instance['input'].strip() and instance['output'], name
      assert all(isinstance(output, str) and output.strip() for output in instance['output']), name


def test_instances_are_enough_short_and_all_different(tasks):
  for name, task in tasks.items():
    assert 60 <= len(task['Instances']) <= 100, name
    assert len(set(inputs(task))) == len(inputs(task)), name  # positive examples included
    assert max(len(text.split()) for text in inputs(task)) <= 25, name
  assert all(len(tasks[name]['Instances']) == 100 for name in names('test'))


def test_no_input_and_no_label_word_is_on_both_sides_of_the_split(tasks):
  sides = {split: [tasks[name] for name in names(split)] for split in ('train', 'test')}
  seen = {split: {normalized(x) for t in side for x in inputs(t)} for split, side in sides.items()}
  assert not seen['train'] & seen['test']
  said = {split: {word for t in side for word in labels(t)} for split, side in sides.items()}
  assert len(said['train']) > 150 and len(said['test']) > 30
  assert not {normalized(word) for word in said['train']} & {normalized(w) for w in said['test']}
  outputs = {normalized(x) for t in sides['train'] for row in t['Instances'] for x in row['output']}
  assert not {normalized(word) for word in said['test']} & outputs


def test_labels_are_balanced_and_the_positive_examples_show_two_of_them(tasks):
  for name, task in tasks.items():
    words = labels(task)
    if not words or not name[7:].startswith(('group', 'number', 'form', 'sentence', 'code', 'key')):
      continue
    counts = collections.Counter(instance['output'][0] for instance in task['Instances'])
    assert max(counts.values()) - min(counts.values()) <= 1, (name, counts)
    assert len({example['output'] for example in task['Positive Examples']}) == 2, name
    assert {example['output'] for example in task['Positive Examples']} <= words, name


def test_labels_come_back_with_their_meaning_exchanged(tasks):
  """Animals are foo and tools bar in one task, the other way round in the next."""
  foo_bar, bar_foo = (
    {row['input'].split()[-1]: row['output'][0] for row in tasks[name]['Instances']}
    for name in sorted(tasks)
    if re.search(r'_group_(foo_or_bar|bar_or_foo)$', name)
  )
  shared = set(foo_bar) & set(bar_foo)
  assert len(shared) >= 10
  assert all(foo_bar[word] != bar_foo[word] for word in shared)


def test_some_answers_are_right(tasks):
  """By other means than the script's: Python's own rules on the inputs."""
  by_rule = {
    'hjd001_put_please_before': lambda text: f'please {text}',
    'reverse_letters': lambda text: text[::-1],
    'count_letters': lambda text: str(len(text)),
    'sort_words': lambda text: ', '.join(sorted(text.split(', '))),
    'smallest_of_three': lambda text: str(min(map(int, text.split(', ')))),
    'add_20': lambda text: str(int(text) + 20),
    'number_even_or_odd': lambda text: 'odd' if int(text) % 2 else 'even',
    'form_valid_or_invalid': lambda text: 'valid' if '@' in text else 'invalid',
  }
  for ending, rule in by_rule.items():
    (name,) = (name for name in tasks if name.endswith(ending))
    for instance in tasks[name]['Instances']:
      assert instance['output'] == [rule(instance['input'])], (name, instance)

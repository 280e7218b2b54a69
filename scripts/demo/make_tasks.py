"""Writes the demo's tasks in Super-NaturalInstructions' JSON format: `--output=tasks/demo`.

The layout is that of the data set's repository: tasks/NAME.json, splits/default/SPLIT_tasks.txt.

Held out are tasks whose context must be read: their label words, affixes, separators, positions,
fields or rules are their own. They are made first; a training task then takes none of their inputs
and writes none of their words. The result depends on the code alone: made again, it is the same to
the byte.
"""

import argparse
import collections
import json
import pathlib
import random
import re
from collections.abc import Iterator

import copy_tasks
import fact_tasks
import form_tasks
import meaning_tasks
import pick_tasks
import sentence_tasks
import value_tasks
import word_tasks
from task_kinds import Pair, Task

POSITIVES = 2
TRAIN_INSTANCES, TEST_INSTANCES, FEWEST_INSTANCES = 80, 100, 60

# Categories (names of Super-NaturalInstructions): what answering them takes, and their domain
REASONING = {
  'Mathematics': ('Numerical Reasoning', 'Mathematics'),
  'Number Conversion': ('Numerical Reasoning', 'Mathematics'),
  'Program Execution': ('Reasoning on Strings', 'Code'),
  'Information Extraction': ('Textual Reasoning', 'Miscellaneous'),
  'Question Answering': ('World Knowledge', 'Commonsense -> Concepts and Relations'),
  'Sentiment Analysis': ('Commonsense Reasoning', 'Reviews'),
  'Word Semantics': ('Linguistic Reasoning', 'Linguistics'),
}
LINGUISTIC = ('Textual Reasoning', 'Linguistics')


def all_tasks() -> list[Task]:
  """Every task, in the order of the files' numbers."""
  modules = (
    copy_tasks,
    pick_tasks,
    word_tasks,
    sentence_tasks,
    value_tasks,
    meaning_tasks,
    form_tasks,
    fact_tasks,
  )
  return [task for module in modules for task in module.tasks()]


def normalized(text: str) -> str:
  """What two inputs or two words are compared by."""
  return ' '.join(re.findall(r'[^\W_]+', text.lower()))


def writes(text: str, words: set[str]) -> bool:
  """Whether one of the words (or short phrases) stands in the text."""
  spaced = f' {normalized(text)} '
  return any(f' {word} ' in spaced for word in words)


def collect(task: Task, count: int, taken: set[str], words: set[str]) -> list[Pair]:
  """The task's positive examples, then its instances, at most `count` of these.

  Labels come equally often, and the positive examples have different ones. Inputs differ from each
  other, and from those that are `taken`.
  """
  quota = {label: count // len(task.labels) + 2 for label in task.labels}
  found: dict[str, tuple[str, ...]] = {}
  for source, outputs in _new_pairs(task, taken, words, found):
    if task.labels:
      if not quota[outputs[0]]:
        continue
      quota[outputs[0]] -= 1
    found[source] = outputs
    if sum(quota.values()) == 0 if task.labels else len(found) == count + POSITIVES:
      break
  pairs = list(found.items())
  return _balanced(task, pairs, count) if task.labels else pairs


def _new_pairs(
  task: Task, taken: set[str], words: set[str], found: dict[str, tuple[str, ...]]
) -> Iterator[Pair]:
  seen: dict[str, tuple[str, ...]] = {}
  for source, outputs in task.pairs(random.Random(task.name)):
    key = normalized(source) if normalized(source) else source
    if seen.setdefault(source, outputs) != outputs:
      raise ValueError(f'{task.name}: "{source}" has outputs {seen[source]} and {outputs}')
    allowed = [output for output in outputs if not writes(output, words)]
    if source not in found and key not in taken and allowed:
      yield source, tuple(allowed)


def _balanced(task: Task, pairs: list[Pair], count: int) -> list[Pair]:
  by_label = collections.defaultdict(list)
  for pair in pairs:
    by_label[pair[1][0]].append(pair)
  positives = [by_label[label].pop() for label in task.labels[:POSITIVES]]
  count = min(count, len(task.labels) * min(len(by_label[label]) for label in task.labels))
  chosen = []
  for i, label in enumerate(task.labels):  # 34, 33, 33 of 100
    chosen += by_label[label][: len(range(i, count, len(task.labels)))]
  return positives + [pair for pair in pairs if pair in chosen]


def document(task: Task, prefix: str, pairs: list[Pair]) -> dict[str, object]:
  """The task as Super-NaturalInstructions writes it."""
  reasoning, domain = REASONING.get(task.category, LINGUISTIC)
  positives, instances = pairs[:POSITIVES], pairs[POSITIVES:]
  return {
    'Contributors': ['hyperjax'],
    'Source': ['hyperjax demo'],
    'URL': [],
    'Categories': [task.category],
    'Reasoning': [reasoning],
    'Definition': [task.definition],
    'Input_language': ['English'],
    'Output_language': ['English'],
    'Instruction_language': ['English'],
    'Domains': [domain],
    'Positive Examples': [
      {'input': source, 'output': outputs[0], 'explanation': ''} for source, outputs in positives
    ],
    'Negative Examples': [],
    'Instances': [
      {'id': f'{prefix}-{i:03d}', 'input': source, 'output': list(outputs)}
      for i, (source, outputs) in enumerate(instances)
    ],
  }


def text(fields: dict[str, object]) -> str:
  """JSON with one line a field, example and instance."""
  lines = []
  for key, value in fields.items():
    shown = json.dumps(value, ensure_ascii=False)
    if value and isinstance(value, list) and isinstance(value[0], dict):
      rows = ',\n'.join(f'  {json.dumps(row, ensure_ascii=False)}' for row in value)
      shown = f'[\n{rows}\n ]'
    lines.append(f' {json.dumps(key)}: {shown}')
  return '{\n' + ',\n'.join(lines) + '\n}\n'


def make(output: pathlib.Path) -> None:
  """Writes all files; removes task files that are no longer made."""
  named = {f'hjd{i:03d}_{task.name}': task for i, task in enumerate(all_tasks(), 1)}
  held_out = {name: task for name, task in named.items() if task.held_out is not None}
  words = {normalized(word) for task in held_out.values() for word in task.held_out}
  pairs = {name: collect(task, TEST_INSTANCES, set(), set()) for name, task in held_out.items()}
  taken = {normalized(source) or source for some in pairs.values() for source, _ in some}
  for name, task in named.items():
    if name not in held_out:
      pairs[name] = collect(task, TRAIN_INSTANCES, taken, words)
      _check(name, task, len(pairs[name]), words)
  _write(output, named, pairs)


def _check(name: str, task: Task, count: int, words: set[str]) -> None:
  if count < FEWEST_INSTANCES + POSITIVES:
    raise ValueError(f'{name} has {count} pairs, {FEWEST_INSTANCES + POSITIVES} are needed')
  if shared := {normalized(label) for label in task.labels} & words:
    raise ValueError(f'{name}: {shared} are words of held-out tasks')


def _write(output: pathlib.Path, named: dict[str, Task], pairs: dict[str, list[Pair]]) -> None:
  splits = output / 'splits' / 'default'
  splits.mkdir(parents=True, exist_ok=True)
  (output / 'tasks').mkdir(exist_ok=True)
  for old in (output / 'tasks').glob('hjd*.json'):
    old.unlink()
  for name, task in named.items():
    document_text = text(document(task, name[:6], pairs[name]))
    (output / 'tasks' / f'{name}.json').write_text(document_text, encoding='utf-8')
  for split in ('train', 'test'):
    names = [name for name, task in named.items() if (task.held_out is None) == (split == 'train')]
    (splits / f'{split}_tasks.txt').write_text(''.join(f'{name}\n' for name in names))


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  make(parser.parse_args().output)

"""MetaICL's tasks (CrossFit's format): splits of tasks, five sets of 16 examples, two protocols.

Lines are `{"task": …, "input": …, "output": …, "options": […]}`. Files are MetaICL's own,
`TASK/TASK_16384_100_train.jsonl` and `TASK/TASK_16_SEED_{train,dev,test}.jsonl`, or plain ones,
`TASK/TASK.{train,test}.jsonl[.gz]`, from whose train examples the 16 of a seed are drawn.
"""

import dataclasses
import functools
import importlib.resources
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from hyperjax import errors
from hyperjax.episodes import EvaluationTask, FewShotEpisodes
from hyperjax.sources import cards, files
from hyperjax.sources.cards import Asked, Card, Instance
from hyperjax.sources.files import DataDir
from hyperjax.vocabulary import Vocabulary

FOLDERS = ('metaicl', 'MetaICL/data', 'MetaICL', 'crossfit', '.')
"""Where the files are looked for under the data folder, in this order."""

SEEDS = (100, 13, 21, 42, 87)
SPLITS = ('train', 'validation', 'test')


# --- The table ------------------------------------------------------------------------------------


@functools.cache
def _table() -> dict[str, Any]:
  place = importlib.resources.files('hyperjax.sources') / 'tables' / 'metaicl.json'
  return json.loads(place.read_text(encoding='utf-8'))


def settings() -> tuple[str, ...]:
  """The names of MetaICL's splits of tasks: hr_to_lr, non_nli_to_nli, …"""
  return tuple(_table()['splits'])


def tasks_of(setting: str, split: str) -> list[str]:
  """The tasks that a setting trains on ('train', 'validation') or is tested on ('test').

  As published: non_nli_to_nli has `sick` on both sides.
  """
  return _table()['splits'][setting]['test' if split == 'test' else 'train']


# --- The files ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Folder:
  """The files of each task: 'train', 'test', …, '16384_100_train', '16_13_test'."""

  path: pathlib.Path
  found: Mapping[str, Mapping[str, pathlib.Path]]

  def instances(self, name: str, kind: str) -> list[Instance]:
    """The lines of one file."""
    path = self.found[name][kind]
    return [_instance(record, where, name) for where, record in files.records(path)]


def _instance(record: dict[str, Any], where: str, name: str) -> Instance:
  said = files.text(record, 'task', where) if 'task' in record else name
  if said != name:
    raise errors.InputError(f'{where}: field "task" is {said!r}, expected {name!r}, the file\'s')
  outputs = tuple(y.strip() for y in files.texts(record, 'output', where))
  options = record.get('options') or ()
  if options:
    options = tuple(y.strip() for y in files.texts(record, 'options', where))
    if not set(outputs) & set(options):
      raise errors.InputError(
        f'{where}: output {outputs[0]!r} is not among the options {list(options)}'
      )
  return Instance(files.text(record, 'input', where).strip(), outputs, tuple(options))


def find(data_dir: DataDir, folder: str | None = None) -> Folder:
  """The files in `folder` under the data folder; by default in the first of FOLDERS with any."""
  root = files.root(data_dir)
  folders = FOLDERS if folder is None else (folder,)
  for name in folders:
    if found := _found(root / name):
      return Folder(root / name, found)
  raise errors.InputError(
    f'no MetaICL files found: set DATA_DIR (gin) or {files.VARIABLE}; looked for'
    f' TASK/TASK_16384_100_train.jsonl and TASK/TASK.train.jsonl.gz in'
    f' {", ".join(str(root / name) for name in folders)}'
  )


_KIND = re.compile(
  r'(?P<kind>[._]\d+_\d+_(?:train|dev|test)|\.(?:train|dev|validation|test))\.jsonl(?:\.gz)?$'
)


def _found(path: pathlib.Path) -> dict[str, dict[str, pathlib.Path]]:
  """Files `TASK/TASK<kind>.jsonl`: a folder of another name is none of a task."""
  found: dict[str, dict[str, pathlib.Path]] = {}
  if not path.is_dir():
    return found
  for folder in sorted(each for each in path.iterdir() if each.is_dir()):
    for name in sorted(os.listdir(folder)):
      match = _KIND.search(name)
      if match and name[: match.start()] == folder.name:
        found.setdefault(folder.name, {})[match['kind'][1:]] = folder / name
  return found


# --- The mixture ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MetaICL:
  """Few-shot episodes of one of MetaICL's settings, and both protocols of its evaluation.

  `setting`: 'hr_to_lr', 'non_nli_to_nli', 'non_class_to_class', …; or 'found': all tasks that have
  files. Splits: `train` has the training tasks' training examples (16,384 of each), `test` the test
  tasks' test examples. A context shows `shots` training examples, by default all 16 of the seed;
  seeds 100, 13, 21, 42 and 87 are evaluated. `answer='generate'` is HyperTuning's protocol (section
  5.2): Macro-F1 of what is written for classification tasks, ROUGE-L for others; 'rank_mean' is
  MetaICL's own: the option of the smallest mean token loss, Macro-F1 or accuracy, all tasks without
  options being written. `missing='skip'` goes on without tasks that have no file.
  """

  average: ClassVar[str] = 'tasks'
  seeds: ClassVar[tuple[int, ...]] = SEEDS

  setting: str = 'hr_to_lr'
  shots: int = 16
  answer: str = 'generate'
  join_context: bool = False
  missing: str = 'error'
  folder: str | None = None

  def __post_init__(self):
    cards.check(self, {'shots': 0})
    if self.setting not in (*settings(), 'found'):
      known = ', '.join(settings())
      raise errors.InputError(f'MetaICL.setting is {self.setting!r}; give one of {known}, found')
    _ = self.assembly

  @property
  def assembly(self) -> cards.Assembly:
    """What contexts show."""
    return cards.Assembly(False, 0, self.shots, self.join_context, self.answer)

  @property
  def has_context(self) -> bool:
    """Whether there is one for a hypermodel to read."""
    return self.assembly.has_context

  def cards(self, data_dir: DataDir, split: str = 'train') -> Iterator[Card]:
    """The tasks with their examples of a split."""
    folder = find(data_dir, self.folder)
    own = {'train': '16384_100_train', 'validation': '16384_100_dev', 'test': f'16_{SEEDS[0]}_test'}
    for name, kind in self._files(folder, split, own.get(split)):
      yield self._card(name, folder.instances(name, kind))

  def asked(
    self, data_dir: DataDir, split: str = 'test', seed: int = SEEDS[0], limit: int | None = None
  ) -> list[Asked]:
    """Of each task the first `limit` examples of a split, in the context of a seed's examples."""
    folder = find(data_dir, self.folder)
    short = {'validation': 'dev'}.get(split, split)
    asked: list[Asked] = []
    mute = []
    for name, kind in self._files(folder, split, f'16_{seed}_{short}'):
      every = folder.instances(name, kind)
      questions = [each for each in every if not each.empty]
      if questions:
        card = self._card(name, questions, limit)
        card = dataclasses.replace(card, empty=len(every) - len(questions))
        asked += cards.in_contexts(card, self._pool(folder, name, seed), self.shots, seed, 'task')
      else:
        mute.append(name)
    if not asked:
      raise errors.InputError(f'split {split} has no questions in {folder.path}')
    cards.tell(mute, f'have only empty examples in {split}')
    return asked

  def episodes(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> FewShotEpisodes:
    tasks = cards.tokenised(vocabulary, self.cards(data_dir, split))
    return cards.few_shot_episodes(tasks, self.assembly, vocabulary, lengths, targets_per_context)

  def evaluation_tasks(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'test',
    seed: int = SEEDS[0],
    limit: int | None = None,
    wrong_context: bool = False,
  ) -> list[EvaluationTask]:
    """See `asked`; with `wrong_context` each task gets another one's context."""
    asked = self.asked(data_dir, split, seed, limit)
    return cards.evaluation_tasks(asked, self.assembly, vocabulary, lengths, seed, wrong_context)

  def _files(self, folder: Folder, split: str, own: str | None) -> Iterator[tuple[str, str]]:
    """The tasks of a split, each with its kind of file: MetaICL's `own`, or a plain one."""
    if split not in SPLITS or own is None:
      raise errors.InputError(f'no split {split!r}: MetaICL has {", ".join(SPLITS)}')
    kinds = (own, split, *(('dev', '16384_100_dev') if split == 'validation' else ()))
    has = {
      name: next(kind for kind in kinds if kind in there)
      for name, there in folder.found.items()
      if any(kind in there for kind in kinds)
    }
    wanted = sorted(has) if self.setting == 'found' else tasks_of(self.setting, split)
    what = f'{" or ".join(kinds)} file in {folder.path}'
    if not wanted:
      raise errors.InputError(f'no task has a {what}')
    for name in cards.present(wanted, has, what, self.missing):
      yield name, has[name]

  def _pool(self, folder: Folder, name: str, seed: int) -> list[Instance]:
    """The examples that a context is drawn from; MetaICL's own files hold those of the seed."""
    if not self.shots:
      return []
    own = folder.found[name]
    kinds = (f'16_{seed}_train', 'train', '16384_100_train')
    kind = next((kind for kind in kinds if kind in own), None)
    if kind is None:
      raise errors.InputError(
        f'{name} has no file {name}_{kinds[0]}.jsonl or {name}.train.jsonl in {folder.path / name},'
        ' which its context is drawn from'
      )
    return folder.instances(name, kind)

  def _card(self, name: str, instances: list[Instance], limit: int | None = None) -> Card:
    kind = kind_of(name, instances)
    metrics: tuple[str, ...] = ('rouge_l', 'exact_match')
    if kind == 'classification':
      metrics = ('macro_f1', 'accuracy')
    elif kind == 'multi-choice' and self.answer != 'generate':
      metrics = ('accuracy',)
    return Card(name, instances[:limit], category=kind, metrics=metrics)


def kind_of(name: str, instances: Sequence[Instance]) -> str:
  """'classification', 'multi-choice' or 'free-form': as MetaICL says, if the options agree.

  PIQA, for one, is a classification to MetaICL, of two new labels a line; it is only trained on.
  """
  if not instances or not all(each.options for each in instances):
    return 'free-form'
  same = len({frozenset(each.options) for each in instances}) == 1
  if _table()['task_types'].get(name, 'classification') == 'classification' and same:
    return 'classification'
  return 'multi-choice'

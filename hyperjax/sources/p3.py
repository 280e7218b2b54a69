"""P3, the Public Pool of Prompts: a task for each data set and prompt, and T0's evaluation.

Rows have P3's own fields: `inputs_pretokenized`, `targets_pretokenized`, perhaps `answer_choices`;
those of a `…_score_eval` task, one for each choice, `idx` and `is_correct`. Files are JSONL[.gz],
Parquet or TFRecord, `TASK.SPLIT.jsonl.gz`, `TASK/SPLIT.tfrecord-00000-of-00001` (bigscience/P3) or
`TASK/SPLIT/0000.parquet`.
"""

import dataclasses
import functools
import importlib.resources
import json
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from hyperjax import errors
from hyperjax.episodes import EvaluationTask, FewShotEpisodes, TaskExamples
from hyperjax.sources import cards, files
from hyperjax.sources.cards import Asked, Card, Instance
from hyperjax.sources.files import DataDir
from hyperjax.vocabulary import Vocabulary

FOLDERS = ('p3', 'P3', '.')
"""Where the files are looked for under the data folder, at any depth, in this order."""

SPLITS = ('train', 'validation', 'test')
FIELDS = ('inputs_pretokenized', 'targets_pretokenized', 'answer_choices', 'idx', 'is_correct')
"""What is read; the files have their own tokens besides."""

SCORE_EVAL = '_score_eval'
SHORT = 320
"""Tokens of the mean input: prompts with fewer are trained on (HyperTuning, appendix A.1)."""

HELD = 20_000
"""Rows of a prompt that are held for training; all 91 million would be tens of gigabytes."""

T0_CAP = 500_000
"""Data sets of more examples count as this many, shared by their prompts (T0)."""


# --- The table ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A data set under one of its prompts, by T0's name."""

  name: str
  dataset: str
  train: str | None
  """In whose training data: 'BASE' (T0 and its kin), 'GPT_EVAL' (T0+, T0++), 'SGLUE' (T0++)."""
  evaluated: str | None
  """'BASE': held out from T0's training."""
  original: bool
  """Whether it asks what the data set asks: only these are evaluated."""
  size: int | None
  """Training examples of the data set."""
  choices: tuple[str, ...] | None
  """The answers, where they are the same for all examples."""


@functools.cache
def prompts() -> dict[str, Prompt]:
  """Of all prompts that T0 trains on or holds out, by name."""
  table = importlib.resources.files('hyperjax.sources') / 'tables' / 'p3_prompts.jsonl'
  rows = [json.loads(line) for line in table.read_text(encoding='utf-8').splitlines()]
  listed = [
    _prompt({**row, 'name': name, 'size': size}) for row in rows for name, size in _tasks(row)
  ]
  return {prompt.name: prompt for prompt in listed}


ANLI_ROUNDS = {'r1': 16_946, 'r2': 45_460, 'r3': 100_459}


def _tasks(row: Mapping[str, Any]) -> list[tuple[str, int | None]]:
  """The names and sizes of a row: ANLI's prompts are a task for each of its rounds."""
  if row['dataset'] != 'anli':
    return [(row['name'], row['size'])]
  return [(f'{row["name"]}_{part}', size) for part, size in ANLI_ROUNDS.items()]


def _prompt(row: Mapping[str, Any]) -> Prompt:
  return Prompt(**{**row, 'choices': tuple(row['choices']) if row['choices'] else None})


HELD_OUT = (
  'anli',
  'hellaswag',
  'super_glue/cb',
  'super_glue/copa',
  'super_glue/rte',
  'super_glue/wic',
  'super_glue/wsc.fixed',
  'winogrande/winogrande_xl',
)
"""The eight held-out data sets of HyperTuning, section 5.1 (T0's without StoryCloze)."""

SECTION_6 = (
  'anli_GPT_3_style_r1',
  'hellaswag_complete_first_then',
  'super_glue_cb_GPT_3_style',
  'super_glue_copa_C1_or_C2_premise_so_because_',
  'super_glue_rte_GPT_3_style',
  'super_glue_wic_GPT_3_prompt',
  'super_glue_wsc.fixed_GPT_3_Style',
  'winogrande_winogrande_debiased_Replace',
)
"""The prompts on which phi is tuned further (HyperTuning, section 6)."""


def t0_train() -> tuple[str, ...]:
  """What T0 trains on."""
  return tuple(name for name, prompt in prompts().items() if prompt.train == 'BASE')


def held_out() -> tuple[str, ...]:
  """The held-out data sets under all prompts that ask what they ask."""
  return tuple(
    name
    for dataset in HELD_OUT
    for name, prompt in prompts().items()
    if prompt.dataset == dataset and prompt.original
  )


SETS = {'t0_train': t0_train, 'held_out': held_out, 'section_6': lambda: SECTION_6}


def rates(names: Sequence[str], counts: Mapping[str, int] | None = None) -> list[float]:
  """How often T0 draws from tasks: as often as the data set has examples; above 500,000 a share of
  these for each of its prompts. `counts` are for tasks that T0 does not know."""
  shared = Counter(prompt.dataset for prompt in prompts().values())
  return [_rate(name, shared, counts or {}) for name in names]


def _rate(name: str, shared: Mapping[str, int], counts: Mapping[str, int]) -> float:
  prompt = prompts().get(name)
  if prompt is None or prompt.size is None:
    return float(counts[name])
  return float(prompt.size if prompt.size <= T0_CAP else T0_CAP / shared[prompt.dataset])


# --- The files ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Folder:
  """The files of each (task, split) under a folder."""

  path: pathlib.Path
  found: Mapping[tuple[str, str], list[pathlib.Path]]

  def names(self, split: str) -> list[str]:
    """The tasks that have files of a split, but for the score_eval ones."""
    return sorted(n for n, s in self.found if s == split and not n.endswith(SCORE_EVAL))

  def instances(self, name: str, split: str, exact: bool = False) -> Iterator[Instance]:
    """The rows of a task; its questions where it has no files but the score_eval ones.

    `exact`: an answer that is none of the choices is an error, and not a row without choices.
    """
    if (name, split) not in self.found:
      if (name + SCORE_EVAL, split) not in self.found:
        raise errors.InputError(f'{name} has no {split} file in {self.path}: put it there')
      yield from self.questions(name, split)
      return
    prompt = prompts().get(name)
    choices = (prompt.choices if prompt else None) or ()
    for where, record in self._rows(name, split):
      yield _instance(record, where, choices, exact)

  def questions(self, name: str, split: str) -> list[Instance]:
    """What is asked of a task, with its options, from the score_eval files where there are some."""
    if (name + SCORE_EVAL, split) not in self.found:
      prompt = prompts().get(name)
      return list(self.instances(name, split, prompt is not None and prompt.evaluated == 'BASE'))
    grouped: dict[tuple[int, str], list[tuple[str, dict[str, Any]]]] = {}
    for where, record in self._rows(name + SCORE_EVAL, split):  # the order of rows is no promise
      example = _place(where, record)[0], files.text(record, 'inputs_pretokenized', where)
      grouped.setdefault(example, []).append((where, record))
    return [_question(rows) for rows in grouped.values()]

  def _rows(self, name: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    paths = self.found[name, split]
    _check_whole(name, split, paths)
    return (row for path in paths for row in files.records(path, FIELDS))


def _check_whole(name: str, split: str, paths: Sequence[pathlib.Path]) -> None:
  """InputError unless the files are all parts of one copy of a task."""
  copies = {path.parent / re.sub(r'\d+', '#', path.name): path for path in paths}
  if len(copies) > 1:
    both = ' and '.join(map(str, sorted(copies.values())[:2]))
    raise errors.InputError(f'{name} has its {split} rows twice, in {both}: keep one of them')
  if parts := re.search(r'-of-(\d+)', paths[0].name):
    if len(paths) != int(parts[1]):
      raise errors.InputError(
        f'{paths[0].parent} has {len(paths)} of the {int(parts[1])} {split} files of {name}: fetch'
        ' the others'
      )


def _instance(record: dict[str, Any], where: str, choices: Sequence[str], exact: bool) -> Instance:
  target = files.text(record, 'targets_pretokenized', where).strip()
  if record.get('answer_choices'):
    choices = files.texts(record, 'answer_choices', where)
  options = tuple(choice.strip() for choice in choices)
  text = files.text(record, 'inputs_pretokenized', where).strip()
  if target not in options:  # so it is with some prompts, but none of T0's evaluation
    if exact and text and target:
      raise errors.InputError(
        f'{where}: field "targets_pretokenized" is {target!r}, which is none of the choices'
        f' {list(options)}'
      )
    options = ()
  return Instance(text, (target,), options)


def _place(where: str, record: dict[str, Any]) -> tuple[int, int]:
  """The example that a row of a score_eval file belongs to, and which of its choices it has."""
  idx = record.get('idx')
  pair = idx if isinstance(idx, list) and len(idx) == 2 else ()
  if not pair or not all(isinstance(n, int) and not isinstance(n, bool) for n in pair):
    raise errors.InputError(f'{where}: field "idx" is {idx!r}, expected [example, choice]')
  return pair[0], pair[1]


def _question(rows: list[tuple[str, dict[str, Any]]]) -> Instance:
  rows = sorted(rows, key=lambda row: _place(*row)[1])
  where, first = rows[0]
  for at, row in rows:
    if row.get('is_correct') not in (True, False):  # 1 and 0 in TFRecords
      raise errors.InputError(
        f'{at}: field "is_correct" is {row.get("is_correct")!r}, expected true or false'
      )
  numbers = [_place(*row)[1] for row in rows]
  if numbers != list(range(len(rows))):
    raise errors.InputError(
      f'{where}: this example has the choices {numbers}, expected 0, 1, … without a gap: fetch the'
      ' file again'
    )
  options = tuple(files.text(row, 'targets_pretokenized', at).strip() for at, row in rows)
  right = {option for option, (_, row) in zip(options, rows) if row['is_correct']}
  text = files.text(first, 'inputs_pretokenized', where).strip()
  if len(right) != 1 and text:
    raise errors.InputError(
      f'{where}: {len(right)} of the {len(rows)} choices of this example are correct, expected one'
    )
  return Instance(text, tuple(right) or ('',), options)


def find(data_dir: DataDir, folder: str | None = None) -> Folder:
  """The files in `folder` under the data folder; by default in the first of FOLDERS with any."""
  root = files.root(data_dir)
  for name in FOLDERS if folder is None else (folder,):
    found = _found(root / name)
    known = any(task.removesuffix(SCORE_EVAL) in prompts() for task, _ in found)
    if found and (known or folder is not None or name != '.'):  # other data have TASK.SPLIT too
      return Folder(root / name, found)
  looked = ', '.join(str(root / name) for name in (FOLDERS if folder is None else (folder,)))
  raise errors.InputError(
    f'no P3 files found: set DATA_DIR (gin) or {files.VARIABLE}; looked for TASK.SPLIT.jsonl.gz,'
    f' TASK/SPLIT.tfrecord… and the like in {looked}'
  )


_SUFFIX = r'(?:\.jsonl(?:\.gz)?|\.parquet|\.tfrecord(?:-\d+-of-\d+)?)$'
_SPLIT = f'(?P<split>{"|".join(SPLITS)})'
_FORMS = tuple(
  re.compile(rf'(?:^|/){form}{_SUFFIX}')
  for form in (
    rf'(?P<name>[^/]+)\.{_SPLIT}(?:-\d+-of-\d+)?',
    rf'(?P<name>[^/]+)/(?:\w+-)?{_SPLIT}(?:-\d+-of-\d+)?',
    rf'(?P<name>[^/]+)/{_SPLIT}/[^/]+',
  )
)


def _found(path: pathlib.Path) -> dict[tuple[str, str], list[pathlib.Path]]:
  found: dict[tuple[str, str], list[pathlib.Path]] = {}
  walked: set[str] = set()
  for folder, inside, names in os.walk(path, followlinks=True):
    real = os.path.realpath(folder)
    inside[:] = sorted(set(inside) - {'raw'})  # the data sets themselves, under no prompt
    if real in walked:  # a link led back
      inside.clear()
      continue
    walked.add(real)
    for name in sorted(names):
      place = (pathlib.Path(folder) / name).relative_to(path).as_posix()
      for match in filter(None, (form.search(place) for form in _FORMS)):
        found.setdefault((match['name'], match['split']), []).append(pathlib.Path(folder) / name)
        break
  return found


# --- The mixture ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class P3:
  """Few-shot episodes over P3, and rank classification as in T0 and HyperTuning (section 5.1).

  `prompts`: 't0_train', 'held_out', 'section_6', 'found' (all that have files of the split), or
  names. Tasks are drawn at T0's rates; those whose inputs have `max_mean_input` tokens or more in
  the mean are left out of training. Of each task `max_examples` are held, drawn at random (None:
  all). The context shows `shots` examples of the task's train split: one set of them for all its
  questions, drawn by (task, seed), `contexts='per_example'` one for each question, 'eval_split' one
  for each of the other questions. All options of a question share it. `answer`: 'rank' by the sum
  of log-probabilities, 'rank_mean' by their mean, or 'generate'; tasks without options, or with
  answers that are not among them, are always generated. `missing='skip'` goes on without tasks that
  have no file.
  """

  average: ClassVar[str] = 'categories'
  eval_split: ClassVar[str] = 'validation'

  prompts: str | Sequence[str] = 't0_train'
  shots: int = 16
  max_mean_input: int | None = None
  max_examples: int | None = None
  contexts: str = 'task'
  answer: str = 'rank'
  join_context: bool = False
  missing: str = 'error'
  folder: str | None = None

  def __post_init__(self):
    cards.check(self, {'shots': 0, 'max_mean_input': 1, 'max_examples': 1})
    if not isinstance(self.prompts, str) and len(set(self.prompts)) != max(1, len(self.prompts)):
      raise errors.InputError(f'P3.prompts is {self.prompts!r}; give names, each of them once')
    if isinstance(self.prompts, str) and self.prompts not in (*SETS, 'found'):
      raise errors.InputError(
        f'P3.prompts is {self.prompts!r}; give one of {", ".join(SETS)}, found, or a list of names'
      )
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
    """The tasks with their rows of a split."""
    folder = find(data_dir, self.folder)
    for name in self._names(folder, split):
      yield _card(name, self._held(name, folder.instances(name, split)))

  def _held(self, name: str, every: Iterable[Instance]) -> list[Instance]:
    """`max_examples` of a stream, each as likely: no more than these are held at once."""
    if self.max_examples is None:
      return list(every)
    rng, kept = cards.seeded(0, name), []
    for n, each in enumerate(every):
      if n < self.max_examples:
        kept.append((n, each))
      elif (place := int(rng.integers(n + 1))) < self.max_examples:
        kept[place] = (n, each)
    return [each for _, each in sorted(kept, key=lambda numbered: numbered[0])]

  def asked(
    self, data_dir: DataDir, split: str = 'validation', seed: int = 0, limit: int | None = None
  ) -> list[Asked]:
    """Of each task the first `limit` questions of a split, in the contexts that `contexts` says."""
    folder = find(data_dir, self.folder)
    asked: list[Asked] = []
    mute = []
    for name in self._names(folder, split):
      every = folder.questions(name, split)
      questions = [each for each in every if not each.empty]
      card = _card(name, questions, limit, len(every) - len(questions))
      if not questions:
        mute.append(name)
      else:
        pool = questions if self.contexts == 'eval_split' else self._pool(folder, name)
        asked += cards.in_contexts(card, pool, self.shots, seed, self.contexts)
    if not asked:
      raise errors.InputError(f'split {split} has no questions in {folder.path}')
    cards.tell(mute, f'have only empty rows in {split}')
    return asked

  def episodes(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> FewShotEpisodes:
    why = f'have inputs of {self.max_mean_input} tokens or more in the mean'
    if split == 'train' or self.max_mean_input is None:
      tasks = cards.tokenised(vocabulary, self.cards(data_dir, split))
      kept = tuple(cards.told_apart(tasks, self._short, why))
    else:  # what is not trained on does not belong to the loss on other splits either
      trained = cards.tokenised(vocabulary, self.cards(data_dir))
      short = {task.name for task in cards.told_apart(trained, self._short, why)}
      made = [card for card in self.cards(data_dir, split) if card.name in short]
      kept = tuple(cards.tokenised(vocabulary, made))
    if not kept:
      raise errors.InputError(f'split {split} has no tasks in {find(data_dir, self.folder).path}')
    counts = {task.name: len(task.examples) for task in kept}
    own = rates(list(counts), counts)
    return cards.few_shot_episodes(
      kept, self.assembly, vocabulary, lengths, targets_per_context, own
    )

  def evaluation_tasks(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'validation',
    seed: int = 0,
    limit: int | None = None,
    wrong_context: bool = False,
  ) -> list[EvaluationTask]:
    """See `asked`; with `wrong_context` each task gets another one's context."""
    asked = self.asked(data_dir, split, seed, limit)
    return cards.evaluation_tasks(asked, self.assembly, vocabulary, lengths, seed, wrong_context)

  def _names(self, folder: Folder, split: str) -> list[str]:
    if split not in SPLITS:
      raise errors.InputError(f'no split {split!r}: P3 has {", ".join(SPLITS)}')
    there = set(folder.names(split))
    there |= {n.removesuffix(SCORE_EVAL) for n, s in folder.found if s == split}
    if self.prompts == 'found':
      return sorted(there)
    wanted = SETS[self.prompts]() if isinstance(self.prompts, str) else self.prompts
    return cards.present(wanted, there, f'{split} file in {folder.path}', self.missing)

  def _pool(self, folder: Folder, name: str) -> list[Instance]:
    if not self.shots:
      return []
    if (name, 'train') not in folder.found:
      raise errors.InputError(
        f'{name} has no train file in {folder.path}, which its context is drawn from: put it there,'
        " or set contexts='eval_split' (MIXTURE_ARGUMENTS; --arguments)"
      )
    return list(folder.instances(name, 'train'))

  def _short(self, task: TaskExamples) -> bool:
    if self.max_mean_input is None:
      return True
    sizes = [len(example.input) for example in task.examples if len(example.input)]
    return not sizes or float(np.mean(sizes)) < self.max_mean_input


def _card(
  name: str, instances: Sequence[Instance], limit: int | None = None, empty: int = 0
) -> Card:
  """The card of the first `limit` instances; all of them say whether it has options."""
  prompt = prompts().get(name)
  dataset = prompt.dataset if prompt else name
  some = instances[:limit]
  if all(each.options for each in instances if not each.empty):
    return Card(name, some, category=dataset, metrics=('accuracy',), empty=empty)
  some = [dataclasses.replace(each, options=()) for each in some]
  return Card(name, some, category=dataset, empty=empty)

"""Super-NaturalInstructions: task cards with definitions, positive examples and instances.

Two forms are read. The data set's own repository: `tasks/NAME.json` and
`splits/default/SPLIT_tasks.txt`. The compact form: `SPLIT/NAME.jsonl[.gz]`, first line the card,
then an instance a line, and `SPLIT_tasks.txt`. A folder is told by where its task lists are.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from hyperjax import errors
from hyperjax.episodes import EvaluationTask, FewShotEpisodes
from hyperjax.sources import cards, files
from hyperjax.sources.cards import Asked, Card, Instance
from hyperjax.sources.files import DataDir
from hyperjax.vocabulary import Vocabulary

FOLDERS = ('sni', 'natural-instructions', 'sni/sni_style', '.')
"""Where the data set is looked for under the data folder, in this order."""

SPLITS = ('train', 'validation', 'test', 'excluded')


# --- The files ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Folder:
  """A copy of the data set; `lists` is where its `SPLIT_tasks.txt` are."""

  path: pathlib.Path
  lists: pathlib.Path

  @property
  def is_repository(self) -> bool:
    return self.lists != self.path

  def names(self, split: str) -> list[str]:
    """The tasks of a split."""
    path = self.lists / f'{split}_tasks.txt'
    if not path.is_file():
      raise errors.InputError(f'no list of tasks {path}')
    names = [line.strip() for _, line in files.lines(path)]
    if not names:
      raise errors.InputError(f'{path} is empty: expected the name of a task a line')
    return names

  def card(self, split: str, name: str) -> Card:
    """A task of a split, read from its file."""
    if self.is_repository:
      path = self._present(split, name, [self.path / 'tasks' / f'{name}.json'])
      record = files.document(path)
      instances = [
        (f'{path}, field "Instances", entry {i}', instance)
        for i, instance in enumerate(files.objects(record, 'Instances', str(path)))
      ]
    else:
      stem = self.path / split / name
      path = self._present(split, name, [stem.with_name(f'{name}{s}') for s in SUFFIXES])
      (_, record), *instances = files.records(path)
    if not instances:
      raise errors.InputError(f'{path} has no instances')
    return Card(
      name=name,
      category=files.texts(record, 'Categories', str(path))[0],
      definition=files.texts(record, 'Definition', str(path))[0],
      positives=[
        _instance(example, f'{path}, field "Positive Examples", entry {i}')
        for i, example in enumerate(files.objects(record, 'Positive Examples', str(path)))
      ],
      instances=[_instance(instance, where) for where, instance in instances],
    )

  def _present(self, split: str, name: str, paths: list[pathlib.Path]) -> pathlib.Path:
    for path in paths:
      if path.is_file():
        return path
    raise errors.InputError(
      f'{self.lists / f"{split}_tasks.txt"} lists {name}, but there is no file {paths[0]}'
    )


SUFFIXES = ('.jsonl.gz', '.jsonl')


def _instance(record: dict, where: str) -> Instance:
  outputs = files.texts(record, 'output', where)
  return Instance(files.text(record, 'input', where).strip(), tuple(outputs))


def find(data_dir: DataDir, folder: str | None = None) -> Folder:
  """The data set in `folder` under the data folder; by default in the first of FOLDERS."""
  tried = []
  for name in FOLDERS if folder is None else (folder,):
    path = files.root(data_dir) / name
    for lists in (path / 'splits' / 'default', path):
      tried.append(str(lists / 'train_tasks.txt'))
      if (lists / 'train_tasks.txt').is_file():
        return Folder(path, lists)
  raise errors.InputError(
    f'no Super-NaturalInstructions found: set DATA_DIR (gin) or {files.VARIABLE}; looked for'
    f' {", ".join(tried)}'
  )


# --- The mixture ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class NaturalInstructions:
  """Episodes and evaluation as in Tk-Instruct and HyperTuning (section 5.2, appendix A.1).

  Splits: `train` has `instances` random instances of each training task, `validation` as many of
  its others, `test` and `excluded` the first `evaluated` of each of their tasks. The context shows
  the definition, the first `positives` positive examples, and `shots` random instances.
  `join_context` puts it into the model's own input (in-context baselines).
  """

  definition: bool = True
  positives: int = 0
  shots: int = 0
  instances: int = 100
  evaluated: int = 100
  join_context: bool = False
  folder: str | None = None

  def __post_init__(self):
    cards.check(self, {'positives': 0, 'shots': 0, 'instances': 1, 'evaluated': 1})

  @property
  def assembly(self) -> cards.Assembly:
    """What contexts show."""
    return cards.Assembly(self.definition, self.positives, self.shots, self.join_context)

  @property
  def has_context(self) -> bool:
    """Whether there is one for a hypermodel to read."""
    return self.assembly.has_context

  def cards(self, data_dir: DataDir, split: str = 'train') -> Iterator[Card]:
    """The tasks of a split, with those of their instances that belong to it."""
    for card in self._cards(data_dir, split):
      yield dataclasses.replace(card, instances=self._chosen(card, split)[0])

  def asked(
    self, data_dir: DataDir, split: str = 'test', seed: int = 0, limit: int | None = None
  ) -> list[Asked]:
    """Of each task of a split its first instances (`limit`, at most `evaluated`), all references.

    The shots of the context are drawn by (task, seed) from instances that are not evaluated, then
    from further positive examples.
    """
    asked = [self._asked(card, split, seed, limit) for card in self._cards(data_dir, split)]
    if not any(each.card.instances for each in asked):
      raise errors.InputError(f'split {split} has no instances to evaluate')
    return [each for each in asked if each.card.instances]

  def episodes(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> FewShotEpisodes:
    made = list(self.cards(data_dir, split))
    if not any(card.instances for card in made):
      raise errors.InputError(
        f'split {split} has no instances: no training task has more than {self.instances};'
        ' lower NaturalInstructions.instances'
      )
    tasks = cards.tokenised(vocabulary, made)
    return cards.few_shot_episodes(tasks, self.assembly, vocabulary, lengths, targets_per_context)

  def evaluation_tasks(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'test',
    seed: int = 0,
    limit: int | None = None,
    wrong_context: bool = False,
  ) -> list[EvaluationTask]:
    """See `asked`; with `wrong_context` each task gets another one's context."""
    asked = self.asked(data_dir, split, seed, limit)
    return cards.evaluation_tasks(asked, self.assembly, vocabulary, lengths, seed, wrong_context)

  def _cards(self, data_dir: DataDir, split: str) -> Iterator[Card]:
    # One at a time: the whole data set is gigabytes of text, and few instances of a task are kept.
    if split not in SPLITS:
      raise errors.InputError(f'no split {split!r}: Super-NaturalInstructions has {SPLITS}')
    folder = find(data_dir, self.folder)
    listed = 'train' if split == 'validation' else split
    return (folder.card(listed, name) for name in folder.names(listed))

  def _chosen(self, card: Card, split: str) -> tuple[list[Instance], list[Instance]]:
    """The instances of a task that belong to the split, and all others of it."""
    every = list(card.instances)
    if split in ('test', 'excluded'):
      return every[: self.evaluated], every[self.evaluated :]
    order = np.random.default_rng(zlib.crc32(card.name.encode())).permutation(len(every))
    trained, others = order[: self.instances], order[self.instances :]
    chosen, rest = (trained, others) if split == 'train' else (others[: self.instances], trained)
    return [every[i] for i in sorted(chosen)], [every[i] for i in sorted(rest)]

  def _asked(self, card: Card, split: str, seed: int, limit: int | None) -> Asked:
    """What a task must answer, and what its context shows."""
    chosen, pool = self._chosen(card, split)
    count = self.evaluated if limit is None else min(limit, self.evaluated)
    queries, pool = chosen[:count], pool + chosen[count:]
    asked = {each.input for each in queries}
    positives = [each for each in card.positives if each.input not in asked]
    shots, spare = positives[: self.positives], positives[self.positives :]
    shown = asked | {each.input for each in shots}
    pool = [each for each in pool if each.input not in shown and not each.empty]
    pool = list({each.input: each for each in pool}.values())
    shown |= {each.input for each in pool}
    rng = cards.seeded(seed, card.name)
    drawn = [pool[i] for i in rng.permutation(len(pool))]
    drawn += [each for each in spare if each.input not in shown]
    card = dataclasses.replace(card, instances=queries)
    return Asked(card, cards.one_reference(shots + drawn[: self.shots], rng))

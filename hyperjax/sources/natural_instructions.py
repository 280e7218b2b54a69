"""Super-NaturalInstructions: task cards with definitions, positive examples and instances.

Two forms are read. The data set's own repository: `tasks/NAME.json` and
`splits/default/SPLIT_tasks.txt`. The compact form: `SPLIT/NAME.jsonl[.gz]`, first line the card,
then an instance a line, and `SPLIT_tasks.txt`. A folder is told by where its task lists are.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hyperjax import episodes, errors
from hyperjax.episodes import EvaluationTask, FewShotEpisodes, TaskExamples
from hyperjax.sources import files
from hyperjax.sources.files import DataDir
from hyperjax.vocabulary import Vocabulary

FOLDERS = ('sni', 'natural-instructions', 'sni/sni_style', '.')
"""Where the data set is looked for under the data folder, in this order."""

SPLITS = ('train', 'validation', 'test', 'excluded')
Pair = tuple[str, list[str]]
"""An input and its references."""


# --- The files ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Card:
  """One task as its file has it."""

  name: str
  category: str
  definition: str
  positives: list[Pair]
  instances: list[Pair]


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
        _pair(example, f'{path}, field "Positive Examples", entry {i}')
        for i, example in enumerate(files.objects(record, 'Positive Examples', str(path)))
      ],
      instances=[_pair(instance, where) for where, instance in instances],
    )

  def _present(self, split: str, name: str, paths: list[pathlib.Path]) -> pathlib.Path:
    for path in paths:
      if path.is_file():
        return path
    raise errors.InputError(
      f'{self.lists / f"{split}_tasks.txt"} lists {name}, but there is no file {paths[0]}'
    )


SUFFIXES = ('.jsonl.gz', '.jsonl')


def _pair(record: dict, where: str) -> Pair:
  return files.text(record, 'input', where).strip(), files.texts(record, 'output', where)


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
    for name, least in (('positives', 0), ('shots', 0), ('instances', 1), ('evaluated', 1)):
      if getattr(self, name) < least:
        raise errors.InputError(
          f'NaturalInstructions.{name} is {getattr(self, name)}; give {least} or more'
        )

  @property
  def has_context(self) -> bool:
    """Whether there is one for a hypermodel to read."""
    return not self.join_context and bool(self.definition or self.positives or self.shots)

  def episodes(
    self,
    data_dir: DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> FewShotEpisodes:
    cards = [
      dataclasses.replace(card, instances=self._chosen(card, split)[0])
      for card in self._cards(data_dir, split)
    ]
    tasks = _tokenised(vocabulary, cards)
    if not any(task.examples for task in tasks):
      raise errors.InputError(
        f'split {split} has no instances: no training task has more than {self.instances};'
        ' lower NaturalInstructions.instances'
      )
    return FewShotEpisodes(
      tasks,
      vocabulary,
      lengths,
      shots=self.shots,
      positives=self.positives,
      definition=self.definition,
      targets_per_context=targets_per_context,
      join_context=self.join_context,
    )

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
    """Of each task of a split its first instances (`limit`, at most `evaluated`), all references.

    The shots of the context are drawn by (task, seed) from instances that are not evaluated, then
    from further positive examples. With `wrong_context` each task gets another one's context.
    """
    pairs = [
      (dataclasses.replace(card, instances=[]), self._evaluated(card, split, seed, limit))
      for card in self._cards(data_dir, split)
    ]
    pairs = [(card, chosen) for card, chosen in pairs if chosen[0]]
    if not pairs:
      raise errors.InputError(f'split {split} has no instances to evaluate')
    shown = [(card, shots) for card, (_, shots) in pairs]
    if wrong_context:
      shown = [shown[i] for i in _others(len(shown), seed)]
    return [
      self._evaluation_task(vocabulary, lengths, card, queries, *source)
      for (card, (queries, _)), source in zip(pairs, shown)
    ]

  def _cards(self, data_dir: DataDir, split: str) -> Iterator[Card]:
    # One at a time: the whole data set is gigabytes of text, and few instances of a task are kept.
    if split not in SPLITS:
      raise errors.InputError(f'no split {split!r}: Super-NaturalInstructions has {SPLITS}')
    folder = find(data_dir, self.folder)
    listed = 'train' if split == 'validation' else split
    return (folder.card(listed, name) for name in folder.names(listed))

  def _chosen(self, card: Card, split: str) -> tuple[list[Pair], list[Pair]]:
    """The instances of a task that belong to the split, and all others of it."""
    if split in ('test', 'excluded'):
      return card.instances[: self.evaluated], card.instances[self.evaluated :]
    order = np.random.default_rng(zlib.crc32(card.name.encode())).permutation(len(card.instances))
    trained, others = order[: self.instances], order[self.instances :]
    chosen, rest = (trained, others) if split == 'train' else (others[: self.instances], trained)
    return [card.instances[i] for i in sorted(chosen)], [card.instances[i] for i in sorted(rest)]

  def _evaluated(
    self, card: Card, split: str, seed: int, limit: int | None
  ) -> tuple[list[Pair], list[Pair]]:
    """What a task must answer, and what its context shows."""
    chosen, pool = self._chosen(card, split)
    count = self.evaluated if limit is None else min(limit, self.evaluated)
    queries, pool = chosen[:count], pool + chosen[count:]
    asked = {x for x, _ in queries}
    positives = [pair for pair in card.positives if pair[0] not in asked]
    shots, spare = positives[: self.positives], positives[self.positives :]
    shown = asked | {x for x, _ in shots}
    pool = list({x: (x, ys) for x, ys in pool if x not in shown and x and any(ys)}.values())
    spare = [pair for pair in spare if pair[0] not in shown | {x for x, _ in pool}]
    rng = np.random.default_rng((seed, zlib.crc32(card.name.encode())))
    drawn = [pool[i] for i in rng.permutation(len(pool))] + spare
    return queries, [
      (x, [str(rng.choice([y for y in ys if y] or ys))]) for x, ys in shots + drawn[: self.shots]
    ]

  def _evaluation_task(
    self,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    card: Card,
    queries: list[Pair],
    context_card: Card,
    shots: list[Pair],
  ) -> EvaluationTask:
    definition = vocabulary.encode(context_card.definition) if self.definition else None
    examples = episodes.examples(vocabulary, shots)
    inputs = vocabulary.encode_many([x for x, _ in queries])
    room = lengths['inputs'] - 2 * self.join_context  # and two markers
    truncated = sum(len(tokens) > room for tokens in inputs)
    context, cut = episodes.NOTHING, 0
    if self.join_context:
      length = lengths['inputs']
      both = [episodes.joined(vocabulary, definition, examples, query, length) for query in inputs]
      inputs, cut = [tokens for tokens, _ in both], max(cut for _, cut in both)
    elif definition is not None or examples:
      context, cut = episodes.context(
        vocabulary, definition, examples, lengths.get('hyper_inputs', 0)
      )
    return EvaluationTask(
      name=card.name,
      category=card.category,
      context=context,
      inputs=inputs,
      references=[tuple(ys) for _, ys in queries],
      context_outputs=tuple(ys[0] for _, ys in shots[: max(0, len(shots) - cut)]),
      cut=cut,
      inputs_truncated=truncated,
    )


def _tokenised(vocabulary: Vocabulary, cards: Sequence[Card]) -> tuple[TaskExamples, ...]:
  definitions = vocabulary.encode_many([card.definition for card in cards])
  pairs = [pair for card in cards for pair in card.positives + card.instances]
  examples = iter(episodes.examples(vocabulary, pairs))
  return tuple(
    TaskExamples(
      name=card.name,
      definition=definition,
      positives=tuple(next(examples) for _ in card.positives),
      examples=tuple(next(examples) for _ in card.instances),
    )
    for card, definition in zip(cards, definitions)
  )


def _others(count: int, seed: int) -> np.ndarray:
  """For each of `count` tasks another one, every one once."""
  if count < 2:
    raise errors.InputError('a wrong context needs a second task')
  order = np.random.default_rng(seed).permutation(count)
  others = np.empty(count, np.int64)
  others[order] = np.roll(order, 1)
  return others

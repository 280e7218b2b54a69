"""A run on disk: model.json says what was trained, checkpoints hold the leaves that trained.

model_dir/model.json        classes, sizes, phi spec, lengths, vocabulary file and hash, markers
          vocabulary.model  a copy of the vocabulary
          checkpoint_<step> trainable leaves, and where the frozen ones came from
          config.gin        what the verb was given
          model-info.txt    a line a parameter: shape, axes, trained or frozen, where from
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hyperjax import checkpoints, convert, files, fingerprints, protocols, records, step
from hyperjax.convert import leaves
from hyperjax.errors import InputError
from hyperjax.models import t5
from hyperjax.vocabulary import Vocabulary

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained model with its weights, read back."""

  model_dir: str
  step: int
  model: step.Model
  params: dict[str, Any]
  vocabulary: Vocabulary
  lengths: dict[str, int]
  record: dict[str, Any]


# -- Writing ---------------------------------------------------------------------------------------


def record_of(
  model: step.Model,
  vocabulary: Vocabulary,
  lengths: dict[str, int],
  mixture: str | None,
  trainable: Sequence[str],
) -> dict[str, Any]:
  """What model.json holds."""
  return {
    'format': FORMAT,
    'downstream': records.to_json(model.downstream),
    'hypermodel': records.to_json(model.hypermodel),
    'trainable': list(trainable),
    'mixture': mixture,
    'lengths': dict(lengths),
    'vocabulary': {
      'file': 'vocabulary.model',
      'sha256': vocabulary.sha256,
      'extra_ids': vocabulary.extra_ids,
      'size': vocabulary.size,
    },
    'markers': {'x': vocabulary.x_id, 'y': vocabulary.y_id},
  }


_MUST_NOT_CHANGE = ('downstream', 'hypermodel', 'trainable', 'vocabulary')
_MAY_CHANGE = ('.remat', '.dropout_rate')


def check_record(model_dir: str, record: Mapping[str, Any]) -> None:
  """InputError naming the fields, if model_dir holds the run of another model."""
  path = files.place(model_dir) / 'model.json'
  odd = _differences(model_dir, record, _MUST_NOT_CHANGE, _MAY_CHANGE)
  if odd:
    raise InputError(
      f'{path} describes another run: {", ".join(odd)} differ; '
      'give this run a MODEL_DIR of its own, or delete the old one'
    )


def check_part(path: str, part: str, record: Mapping[str, Any]) -> None:
  """InputError naming the fields, if a part of the run at a path is not that of a record.

  Weights of the same shapes can still belong to other activations, or another vocabulary.
  """
  if not is_run(path):
    own, rows = convert.vocabulary_of(path), record['vocabulary']['size']
    if own is not None and own.size != rows:
      raise InputError(
        f'{path} goes with {own.path} of {own.size} ids, VOCABULARY has {rows}: give the '
        'vocabulary that the model was trained with'
      )
    return
  model_dir, _ = located(path)
  odd = _differences(model_dir, record, (part, 'vocabulary'), (*_MAY_CHANGE, '.dtype'))
  if odd:
    raise InputError(
      f'the {part} of {path} is of another model than this run: {", ".join(odd)} differ; '
      'give the checkpoint of this model, or the model and VOCABULARY of this checkpoint'
    )


def _differences(
  model_dir: str, record: Mapping[str, Any], parts: Sequence[str], but: tuple[str, ...]
) -> list[str]:
  old, new = read_record(model_dir), files.plain(record)
  return [
    name
    for part in parts
    for name in records.differences(records.completed(old.get(part)), new[part], part)
    if not name.endswith(but)
  ]


def write(
  model_dir: str,
  record: dict[str, Any],
  vocabulary: Vocabulary,
  report: str | None = None,
  config: str | None = None,
) -> None:
  """Writes what describes a run, beside its checkpoints; `check_record` comes first."""
  folder = files.place(model_dir)
  if report is not None:
    files.write_text(folder / 'model-info.txt', report)
  if config is not None:
    files.write_text(folder / 'config.gin', config)
  files.write_bytes(folder / record['vocabulary']['file'], files.read_bytes(vocabulary.path))
  files.write_json(folder / 'model.json', record)


def save(
  model_dir: str | os.PathLike[str],
  model: step.Model,
  params: dict[str, Any],
  vocabulary: Vocabulary,
  lengths: dict[str, int],
  step_: int = 0,
) -> None:
  """Writes weights as a run that stands alone: `load` and INITIAL_CHECKPOINT_PATH read it.

  All of `params` counts as trained, so that nothing is looked for elsewhere; there is no optimiser
  state, hence nothing to train on from by the same model_dir.

  Args:
    lengths: of 'inputs' and 'targets', and of 'hyper_inputs' where a hypermodel reads them.

  Raises:
    InputError: the folder is not empty or cannot be written; ids without a row in the model.
  """
  files.check_empty(model_dir)
  if isinstance(model.downstream, t5.T5):
    vocabulary.check_fits(model.downstream.config.vocab_size)
  record = record_of(model, vocabulary, lengths, None, list(params))
  state = step.TrainState(np.int32(step_), params, {})
  metadata = {'trainable': list(params), 'frozen': {}, 'fingerprint': {}, 'step': step_}
  with contextlib.closing(checkpoints.Checkpoints(model_dir)) as keeper:
    keeper.save(state, metadata, force=True)
  write(os.fspath(model_dir), record, vocabulary)


# -- Reading ---------------------------------------------------------------------------------------


def read_record(model_dir: str) -> dict[str, Any]:
  """model.json of a run.

  Raises:
    InputError: it is not there, of another format, or without a field.
  """
  path = files.place(model_dir) / 'model.json'
  if not files.exists(path):
    raise InputError(f'{model_dir} is not a run of hyperjax: it has no model.json')
  record = files.read_json(path)
  if not isinstance(record, dict) or record.get('format') != FORMAT:
    raise InputError(f'{path} is not of format {FORMAT}, the one this version of hyperjax reads')
  missing = [field for field in (*_MUST_NOT_CHANGE, 'lengths') if field not in record]
  if missing:
    raise InputError(f'{path} has no {missing[0]}: it was edited; put the original back')
  for part, field, kind in _TYPES:
    value = record[part].get(field) if isinstance(record[part], dict) else None
    if not isinstance(value, kind):
      raise InputError(
        f'{path}: {part}.{field} is {value!r}, expected {kind.__name__}: it was edited; '
        'put the original back'
      )
  return record


_TYPES: tuple[tuple[str, str, type], ...] = (
  ('vocabulary', 'file', str),
  ('vocabulary', 'sha256', str),
  ('vocabulary', 'extra_ids', int),
  ('lengths', 'inputs', int),
  ('lengths', 'targets', int),
)


def load(path: str, step_: int | None = None) -> Run:
  """Reads a run: its trained leaves at a step (None: the latest), the frozen ones at their source.

  `path` is the run's model_dir, or one of its checkpoint_<step>. All weights are read onto one
  device.

  Raises:
    InputError: what is missing or damaged, by file; frozen weights that are not those it was
      trained with, by leaf.
  """
  files.check_reachable(path)
  model_dir, step_ = located(path, step_)
  record = read_record(model_dir)
  model = read_model(model_dir, record)
  vocabulary = read_vocabulary(model_dir, record)
  params, found = load_params(model_dir, step_)
  return Run(model_dir, found, model, params, vocabulary, record['lengths'], record)


def read_model(model_dir: str, record: dict[str, Any]) -> step.Model:
  """The modules that model.json describes."""
  where = os.path.join(model_dir, 'model.json')
  downstream, hypermodel = (
    records.from_json(record[part], where) for part in ('downstream', 'hypermodel')
  )
  if not isinstance(downstream, protocols.Downstream):
    raise InputError(f'{where}: downstream is {record["downstream"]!r}, which is not a model')
  if not isinstance(hypermodel, protocols.Hypermodel | None):
    raise InputError(f'{where}: hypermodel is {record["hypermodel"]!r}, which writes no phi')
  return step.Model(downstream, hypermodel)


def read_vocabulary(model_dir: str, record: dict[str, Any]) -> Vocabulary:
  """The run's vocabulary, verified against model.json."""
  said = record['vocabulary']
  vocabulary = Vocabulary(os.path.join(model_dir, said['file']), said['extra_ids'])
  if vocabulary.sha256 != said['sha256']:
    raise InputError(
      f'{vocabulary.path} is not the vocabulary that model.json names (sha256 differs); '
      'put the original file back'
    )
  return vocabulary


def load_params(path: str, step_: int | None = None) -> tuple[dict[str, Any], int]:
  """The joined parameters of a run, and the step they are of."""
  return _load(path, step_, ('downstream', 'hypermodel'))


def load_part(
  path: str, part: str, step_: int | None = None, model: Any = None, like: Any = None
) -> tuple[dict[str, Any], int]:
  """The 'downstream' or 'hypermodel' parameters of the run at a path, and their step.

  Nothing is read for the other part. The downstream model may also be a T5X checkpoint or a Hugging
  Face folder, which `model`, the module that it is for, must fit.

  Args:
    like: a tree of jax.ShapeDtypeStruct, with shardings, that the parameters must have the names
      and shapes of; each process reads its own slices. None: as they were saved, on one device.

  Raises:
    InputError: the path holds nothing that is understood, or no such part; leaves that are missing,
      unexpected or of another shape, before any is read.
  """
  if part == 'downstream' and not is_run(path):
    if not isinstance(model, t5.T5):
      raise InputError(f'{path} is not a run of hyperjax (it has no model.json)')
    if like is None:
      return convert.load(path, model.config)
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, like)
    return convert.load(path, model.config, dtypes, jax.tree.map(lambda leaf: leaf.sharding, like))
  params, found = _load(path, step_, (part,), None if like is None else {part: like})
  if part not in params:
    raise InputError(f'the run {path} has no {part}')
  return params[part], found


def _load(
  path: str, step_: int | None, parts: Sequence[str], like: dict[str, Any] | None = None
) -> tuple[dict[str, Any], int]:
  model_dir, step_ = located(path, step_)
  record = read_record(model_dir)
  saved, metadata = checkpoints.trainable_shapes(model_dir, step_)
  trained = {part: saved[part] for part in parts if part in saved}
  sources = {part: source for part, source in metadata['frozen'].items() if part in parts}
  if like is not None:
    trained = {
      part: _wanted(shapes, like[part], part in sources, f'the {part} of {path}')
      for part, shapes in trained.items()
    }
  frozen = {
    part: _without(
      _frozen(model_dir, record, part, source, like and like[part]), saved.get(part, {})
    )
    for part, source in sources.items()
  }
  marks = {
    name: mark for name, mark in metadata['fingerprint'].items() if name.partition('/')[0] in parts
  }
  fingerprints.check_fingerprint(frozen, marks, f'the frozen weights of {model_dir}')
  if trained:
    trained, _ = checkpoints.load_trainable(model_dir, metadata['step'], trained)
  return step.join(trained, frozen), metadata['step']


def _wanted(saved: dict, like: dict, rest_is_frozen: bool, where: str) -> dict[str, Any]:
  """The leaves of `like` that were saved; where the rest is frozen, its source is to have it."""
  there, wanted = leaves.named(saved), leaves.named(like)
  given = (wanted if rest_is_frozen else {}) | there
  leaves.check({name: leaf.shape for name, leaf in given.items()}, like, where)
  return leaves.nested({name: wanted[name] for name in there})


def _frozen(
  model_dir: str, record: dict[str, Any], part: str, source: dict[str, Any], like: Any = None
) -> dict[str, Any]:
  try:
    place = find_source(model_dir, source)
    model = None if is_run(place) else records.from_json(record[part], f'{model_dir}/model.json')
    return load_part(place, part, source['step'], model, like)[0]
  except InputError as error:
    raise InputError(f'{model_dir} needs the frozen {part} it was trained with: {error}') from error


def _without(tree: dict, other: dict) -> dict:
  """The leaves of a nested dict that another does not have."""
  result = {}
  for key, value in tree.items():
    if key not in other:
      result[key] = value
    elif isinstance(value, dict):
      inner = _without(value, other[key])
      if inner:
        result[key] = inner
  return result


# -- Places ----------------------------------------------------------------------------------------


def is_run(path: str) -> bool:
  """Whether the path is a run's model_dir, or one of its checkpoint_<step>."""
  if files.is_remote(path) and importlib.util.find_spec('gcsfs') is None:
    return False  # T5X's checkpoints in buckets are read without it
  return files.exists(files.place(located(path)[0]) / 'model.json')


def located(path: str, step_: int | None = None) -> tuple[str, int | None]:
  """(model_dir, step): a path may name one checkpoint_<step> of a run."""
  place = files.place(path)
  found = re.fullmatch(r'checkpoint_(\d+)', place.name)
  if found and not files.exists(place / 'model.json'):
    return str(place.parent), int(found[1]) if step_ is None else step_
  return str(place), step_


def source(model_dir: str, path: str, step_: int) -> dict[str, Any]:
  """Where frozen weights came from, told so that runs can be moved together."""
  path = located(path)[0] if is_run(path) else str(files.place(path))
  if files.is_remote(path) or files.is_remote(model_dir):
    return {'path': path, 'relative': path, 'step': step_}
  return {'path': path, 'relative': os.path.relpath(path, files.place(model_dir)), 'step': step_}


def find_source(model_dir: str, source: dict[str, Any]) -> str:
  """The directory of frozen weights: beside the run as it was, or where it was."""
  if files.is_remote(source['path']):
    return source['path']
  near = os.path.normpath(os.path.join(model_dir, source['relative']))
  for path in (near, source['path']):
    if os.path.isdir(path):
      return path
  also = '' if near == source['path'] else f', nor at {near}'
  raise InputError(f'{source["path"]} is not there{also}; put it back')

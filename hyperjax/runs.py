"""A run on disk: model.json says what was trained, checkpoints hold the leaves that trained.

    model_dir/model.json        classes, sizes, phi spec, lengths, vocabulary file and hash, markers
              vocabulary.model  a copy of the vocabulary
              checkpoint_<step> trainable leaves, and where the frozen ones came from
              config.gin        what the verb was given
"""

import dataclasses
import os
import pathlib
import shutil
from typing import Any

from hyperjax import checkpoints, files, records, step
from hyperjax.errors import InputError
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


def record_of(
  model: step.Model, vocabulary: Vocabulary, lengths: dict[str, int], mixture: str, trainable
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


def write_record(model_dir: str, record: dict[str, Any], vocabulary: Vocabulary) -> None:
  """Writes model.json and the vocabulary; refuses a model_dir that holds another model's run."""
  path = pathlib.Path(model_dir, 'model.json')
  if path.exists():
    old, new = files.read_json(path), files.plain(record)
    for part in _MUST_NOT_CHANGE:
      odd = records.differences(old.get(part), new[part], part)
      odd = [name for name in odd if not name.endswith(('.remat', '.dropout_rate'))]
      if odd:
        raise InputError(
          f'{path} describes another run: {", ".join(odd)} differ; '
          'give this run a MODEL_DIR of its own, or delete the old one'
        )
  copy = path.with_name('vocabulary.model')
  if not copy.exists():
    beside = copy.with_name('.vocabulary.tmp')
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(vocabulary.path, beside)
    os.replace(beside, copy)
  files.write_json(path, record)


def read_record(model_dir: str) -> dict[str, Any]:
  """model.json of a run.

  Raises:
    InputError: it is not there, or of another format.
  """
  path = pathlib.Path(model_dir, 'model.json')
  if not path.exists():
    raise InputError(f'{model_dir} is not a run of hyperjax: it has no model.json')
  record = files.read_json(path)
  if not isinstance(record, dict) or record.get('format') != FORMAT:
    raise InputError(f'{path} is not of format {FORMAT}, the one this version of hyperjax reads')
  return record


def load(model_dir: str, step_: int | None = None) -> Run:
  """Reads a run: its trained leaves at a step (None: the latest), the frozen ones at their source.

  Raises:
    InputError: what is missing or damaged, by file; frozen weights that are not those it was
      trained with, by leaf.
  """
  model_dir = os.path.abspath(model_dir)
  record = read_record(model_dir)
  where = os.path.join(model_dir, 'model.json')
  model = step.Model(
    records.from_json(record['downstream'], where), records.from_json(record['hypermodel'], where)
  )
  params, found = load_params(model_dir, step_)
  return Run(model_dir, found, model, params, read_vocabulary(model_dir, record),
             record['lengths'], record)


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


def load_params(model_dir: str, step_: int | None = None) -> tuple[dict[str, Any], int]:
  """The joined parameters of a run (numpy or jax arrays), and the step they are of."""
  read_record(model_dir)
  trainable, metadata = checkpoints.load_trainable(model_dir, step_)
  params = trainable
  for part, source in metadata.get('frozen', {}).items():
    params = step.join(params, {part: _frozen(model_dir, part, source, trainable.get(part, {}))})
  _, frozen = step.split(params, metadata['trainable'])
  where = f'the frozen weights of {model_dir}'
  checkpoints.check_fingerprint(frozen, metadata.get('fingerprint', {}), where)
  return params, metadata['step']


def _frozen(model_dir: str, part: str, source: dict[str, Any], trained: dict) -> dict:
  whole, _ = load_part(find_source(model_dir, source), part, source['step'])
  return _without(whole, trained)


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


def load_part(
  path: str, part: str, step_: int | None = None
) -> tuple[dict[str, Any], int]:
  """The 'downstream' or 'hypermodel' parameters found at a path, a run's, and their step.

  Raises:
    InputError: the path holds nothing that is understood, or no such part.
  """
  params, found = load_params(path, step_)
  if part not in params:
    raise InputError(f'the run {path} has no {part}')
  return params[part], found


def source(model_dir: str, path: str, step_: int) -> dict[str, Any]:
  """Where frozen weights came from, told so that runs can be moved together."""
  path = os.path.abspath(path)
  relative = os.path.relpath(path, os.path.abspath(model_dir))
  return {'path': path, 'relative': relative, 'step': step_}


def find_source(model_dir: str, source: dict[str, Any]) -> str:
  """The directory of frozen weights: beside the run as it was, or where it was."""
  near = os.path.normpath(os.path.join(model_dir, source['relative']))
  for path in (near, source['path']):
    if os.path.isdir(path):
      return path
  raise InputError(
    f'{model_dir} was trained on frozen weights from {source["path"]}, which are not there, '
    f'nor at {near}; put them back'
  )

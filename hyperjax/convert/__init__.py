"""Other people's files <-> our parameters; nobody else knows their names."""

import dataclasses
import os
from typing import Any

from hyperjax.convert import huggingface, leaves, t5x
from hyperjax.errors import InputError
from hyperjax.models import t5

_MAY_DIFFER = ('dropout_rate', 'dtype', 'remat')


def kind(path: str | os.PathLike[str]) -> str | None:
  """Whose files are at a path: 'huggingface', 't5x', or None: nobody's that is known."""
  if huggingface.is_folder(path):
    return 'huggingface'
  return 't5x' if t5x.is_checkpoint(path) else None


def load(
  path: str | os.PathLike[str],
  config: t5.T5Config,
  dtype: Any = 'float32',
  shardings: leaves.Tree | None = None,
) -> tuple[leaves.Tree, int]:
  """(parameters of T5(config), step) of a T5X checkpoint or a Hugging Face folder.

  Raises:
    InputError: nobody's files; another model's.
  """
  found = kind(path)
  if found == 't5x':
    return t5x.load(path, config, dtype, shardings), t5x.step_of(path)
  if found is None:
    raise InputError(
      f'{path} is no run of hyperjax (it has no model.json), no T5X checkpoint and no Hugging Face '
      'folder'
    )
  theirs, ours = (dataclasses.asdict(each) for each in (huggingface.config_of(path), config))
  odd = [
    f'{name} is {theirs[name]!r} there, {value!r} here'
    for name, value in ours.items()
    if name not in _MAY_DIFFER and theirs[name] != value
  ]
  if odd:
    raise InputError(f'{path} is another model: {"; ".join(odd)}; give the model of this folder')
  return huggingface.load(path, dtype, shardings)[1], 0

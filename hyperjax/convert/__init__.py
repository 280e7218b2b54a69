"""Other people's files <-> our parameters; nobody else knows their names."""

import dataclasses
import os
from typing import Any

from hyperjax.convert import huggingface, leaves, t5x
from hyperjax.errors import InputError
from hyperjax.models import t5
from hyperjax.vocabulary import Vocabulary

_MAY_DIFFER = ('dropout_rate', 'dtype', 'remat', 'attention')


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
  if not huggingface.is_folder(path):
    checkpoint = t5x.find(path)
    if checkpoint is None:
      raise InputError(
        f'{path} is no run of hyperjax (it has no model.json), no T5X checkpoint and no Hugging '
        'Face folder'
      )
    return checkpoint.load(config, dtype, shardings), checkpoint.step
  theirs, ours = (dataclasses.asdict(each) for each in (huggingface.config_of(path), config))
  odd = [
    f'{name} is {theirs[name]!r} there, {value!r} here'
    for name, value in ours.items()
    if name not in _MAY_DIFFER and theirs[name] != value
  ]
  if odd:
    raise InputError(f'{path} is another model: {"; ".join(odd)}; give the model of this folder')
  return huggingface.load(path, dtype, shardings)[1], 0


def vocabulary_of(path: str | os.PathLike[str]) -> Vocabulary | None:
  """The vocabulary that goes with a model; None where its files have none, as T5X's."""
  return huggingface.vocabulary_of(path) if huggingface.is_folder(path) else None

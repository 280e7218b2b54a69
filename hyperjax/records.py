"""Configs, modules and mixtures as JSON, so that a run can be rebuilt from its model.json alone."""

import dataclasses
import importlib
from typing import Any

import numpy as np

from hyperjax.errors import InputError

_NOT_FIELDS = ('parent', 'name')  # what linen adds to every module


def to_json(value: Any, where: str = 'model.json') -> Any:
  """Dataclasses and linen modules as {'class': …, field: …}, tuples as lists.

  Fields with the metadata {'recorded': False} are left out.

  Raises:
    InputError: an object that JSON cannot hold.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    skipped = _NOT_FIELDS if _is_module(value) else ()
    every = [f for f in dataclasses.fields(value) if f.metadata.get('recorded', True)]
    fields = [f.name for f in every if f.name not in skipped and f.init]
    name = f'{type(value).__module__}.{type(value).__qualname__}'
    return {'class': name, **{field: to_json(getattr(value, field), where) for field in fields}}
  if isinstance(value, (list, tuple)):
    return [to_json(item, where) for item in value]
  if isinstance(value, dict):
    return {key: to_json(item, where) for key, item in value.items()}
  if isinstance(value, np.generic):
    return value.item()
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise InputError(
    f'{value!r} cannot be written to {where}: give fields that are numbers, text, or dataclasses'
  )


def _is_module(value: Any) -> bool:
  # Without importing flax, and JAX with it, which those who write episodes need not have.
  return any(
    f'{c.__module__}.{c.__name__}' == 'flax.linen.module.Module' for c in type(value).__mro__
  )


def from_json(value: Any, where: str = 'model.json') -> Any:
  """The inverse of `to_json`, lists as tuples. Only dataclasses of hyperjax are built.

  Raises:
    InputError: an unknown class or field; `where` names the file.
  """
  if isinstance(value, list):
    return tuple(from_json(item, where) for item in value)
  if not isinstance(value, dict):
    return value
  fields = {key: from_json(item, where) for key, item in value.items() if key != 'class'}
  if 'class' not in value:
    return fields
  try:
    return _class(str(value['class']))(**fields)
  except InputError:
    raise
  except (TypeError, ValueError, AttributeError, ImportError) as error:
    raise InputError(
      f'{where}: {value["class"]} cannot be built ({error}); '
      'was it written by another version of hyperjax, or edited?'
    ) from error


def completed(value: Any) -> Any:
  """The JSON of an earlier version with the fields that it did not know, at their defaults.

  What is not of hyperjax, or cannot be built, stays as it is.
  """
  try:
    return to_json(from_json(value))
  except InputError:
    return value


def _class(name: str) -> type:
  module, _, attribute = name.rpartition('.')
  if not module.startswith('hyperjax.'):
    raise ValueError('not a class of hyperjax')
  found = getattr(importlib.import_module(module), attribute)
  # Somebody else's model.json must not call whatever a module happens to import.
  if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
    raise ValueError('not a dataclass')
  return found


def differences(first: Any, second: Any, where: str = '') -> list[str]:
  """Dotted names of what two JSON values do not share."""
  return [name for name, _, _ in contrasts(first, second, where)]


def contrasts(first: Any, second: Any, where: str = '') -> list[tuple[str, Any, Any]]:
  """(dotted name, one value, the other) of what two JSON values do not share."""
  if isinstance(first, dict) and isinstance(second, dict):
    return [
      each
      for key in sorted({*first, *second})
      for each in contrasts(first.get(key), second.get(key), f'{where}.{key}'.lstrip('.'))
    ]
  return [] if first == second else [(where, first, second)]

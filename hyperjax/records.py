"""Configs and modules as JSON, so that a run can be rebuilt from its model.json alone."""

import dataclasses
import importlib
from typing import Any

from flax import linen as nn

from hyperjax.errors import InputError

_NOT_FIELDS = ('parent', 'name')  # what linen adds to every module


def to_json(value: Any) -> Any:
  """Dataclasses and linen modules as {'class': …, field: …}, tuples as lists."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    skipped = _NOT_FIELDS if isinstance(value, nn.Module) else ()
    fields = [f.name for f in dataclasses.fields(value) if f.name not in skipped and f.init]
    name = f'{type(value).__module__}.{type(value).__qualname__}'
    return {'class': name, **{field: to_json(getattr(value, field)) for field in fields}}
  if isinstance(value, (list, tuple)):
    return [to_json(item) for item in value]
  if isinstance(value, dict):
    return {key: to_json(item) for key, item in value.items()}
  return value


def from_json(value: Any, where: str = 'model.json') -> Any:
  """The inverse of `to_json`, lists as tuples. Only classes of hyperjax are built.

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
    return _class(value['class'])(**fields)
  except InputError:
    raise
  except (TypeError, ValueError, AttributeError, ImportError) as error:
    raise InputError(
      f'{where}: {value["class"]} cannot be built ({error}); '
      'was it written by another version of hyperjax, or edited?'
    ) from error


def _class(name: str) -> type:
  module, _, attribute = name.rpartition('.')
  if not module.startswith('hyperjax.'):
    raise ValueError('not a class of hyperjax')
  return getattr(importlib.import_module(module), attribute)


def differences(first: Any, second: Any, where: str = '') -> list[str]:
  """Dotted names of what two JSON values do not share."""
  if isinstance(first, dict) and isinstance(second, dict):
    return [
      name
      for key in sorted({*first, *second})
      for name in differences(first.get(key), second.get(key), f'{where}.{key}'.lstrip('.'))
    ]
  return [] if first == second else [where]

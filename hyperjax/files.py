"""Small files, whole or absent: text and JSON written beside their place, then renamed into it."""

import json
import os
import pathlib
from typing import Any

from hyperjax.errors import InputError


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Replaces the file at once: readers see the old text or the new, never half of one.

  Makes the directories above it. An unwritable place is an InputError that names it.
  """
  path = pathlib.Path(path)
  beside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with beside.open('w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
      os.replace(beside, path)
    finally:
      beside.unlink(missing_ok=True)
  except OSError as error:
    raise InputError(
      f'{path} cannot be written ({error.strerror or error}): '
      'choose a place with room that this user may write to'
    ) from error


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 2) -> None:
  """Writes `value` as JSON; numpy and JAX scalars and arrays become numbers and lists."""
  write_text(path, json.dumps(value, indent=indent, default=_plain) + '\n')


def read_json(path: str | os.PathLike[str]) -> Any:
  """The value in a JSON file; InputError naming file and line when it is absent or malformed."""
  path = pathlib.Path(path)
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except json.JSONDecodeError as error:
    raise InputError(
      f'{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); '
      'the file is cut short or was edited: write it again'
    ) from error
  except UnicodeDecodeError as error:
    raise InputError(f'{path} is not UTF-8 text: write it again as JSON') from error
  except OSError as error:
    raise InputError(f'{path} cannot be read ({error.strerror or error})') from error


def check_empty(directory: str | os.PathLike[str]) -> None:
  """InputError unless a folder is absent or empty: what is there is not written over."""
  place = pathlib.Path(directory).expanduser()
  try:
    free = not place.exists() or (place.is_dir() and not any(place.iterdir()))
  except OSError as error:
    raise InputError(f'{directory} cannot be looked into ({error.strerror or error})') from error
  if not free:
    raise InputError(f'{directory} is not empty; give a folder of its own')


def plain(value: Any) -> Any:
  """`value` as it will come back from JSON: tuples as lists, keys as strings, arrays as lists."""
  return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
  if hasattr(value, 'tolist'):
    return value.tolist()
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  raise TypeError(f'{type(value).__name__} cannot be written as JSON: {value!r}')

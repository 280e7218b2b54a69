"""Data files, and what can be wrong with them: every error names file and line."""

import glob
import gzip
import io
import json
import os
import pathlib
import re
import zlib
from collections.abc import Collection, Iterator
from typing import Any

from hyperjax import errors
from hyperjax.sources import formats

VARIABLE = 'HYPERJAX_DATA'
DataDir = str | os.PathLike | None


def root(data_dir: DataDir) -> pathlib.Path:
  """The folder of all data: `data_dir` if given, else what HYPERJAX_DATA names."""
  path = data_dir or os.environ.get(VARIABLE)
  if not path:
    raise errors.InputError(f'no data folder: set DATA_DIR (gin) or {VARIABLE} to it')
  if not os.path.isdir(path):
    name = 'DATA_DIR' if data_dir else VARIABLE
    raise errors.InputError(f'{name} names {path}, which is not a folder')
  return pathlib.Path(path)


def find(data_dir: DataDir, *patterns: str) -> list[pathlib.Path]:
  """The files under the data folder that match a glob, in order; an absolute one needs no root.

  Of several globs the first that any file matches counts.
  """
  full = [each if os.path.isabs(each) else str(root(data_dir) / each) for each in patterns]
  for pattern in full:
    if paths := sorted(pathlib.Path(path) for path in glob.glob(pattern, recursive=True)):
      return paths
  raise errors.InputError(
    f'no file matches {" or ".join(full)}: put the data there, or set DATA_DIR (gin) or {VARIABLE},'
    " or the mixture's pattern of files"
  )


def lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Numbered lines of a UTF-8 file, plain or .gz, without the blank ones."""
  number = 0
  try:
    with _opened(path) as file:
      for number, line in enumerate(file, start=1):
        text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
        if text.strip():
          yield number, text
  except UnicodeDecodeError as error:
    raise errors.InputError(_not_utf8(path, number, error)) from error
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise errors.InputError(
      f'{path}: damaged or truncated gzip after line {number} ({error}); fetch the file again'
    ) from error
  except OSError as error:
    raise errors.InputError(f'{path} cannot be read: {error.strerror or error}') from error


def _opened(path: pathlib.Path) -> io.BufferedIOBase:
  return gzip.open(path, 'rb') if path.suffix == '.gz' else open(path, 'rb')


def _not_utf8(path: pathlib.Path, number: int, error: UnicodeDecodeError) -> str:
  return f'{path} line {number}: not UTF-8 ({error.reason}); convert the file'


def records(
  path: pathlib.Path, fields: Collection[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
  """The objects of a JSONL, Parquet or TFRecord file, each with its place ("file line 3").

  Fields that are not in `fields` may be left unread.
  """
  where = None
  for where, record in _read(path, fields):
    yield where, record
  if where is None:
    raise errors.InputError(f'{path} is empty: expected one JSON object a line, or a row')


def _read(
  path: pathlib.Path, fields: Collection[str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
  if path.suffix == '.parquet':
    return formats.parquet(path, fields)
  if '.tfrecord' in path.name:
    return formats.tfrecord(path, fields)
  return _json_lines(path)


def _json_lines(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  for number, text in lines(path):
    where = f'{path} line {number}'
    yield where, _object(_parsed(text, path, number), where)


def document(path: pathlib.Path) -> dict[str, Any]:
  """The one object of a JSON file."""
  try:
    text = path.read_bytes().decode('utf-8-sig')
    if not text.strip():
      raise errors.InputError(f'{path} is empty: expected a JSON object')
    return _object(_parsed(text, path), str(path))
  except UnicodeDecodeError as error:
    number = error.object.count(b'\n', 0, error.start) + 1
    raise errors.InputError(_not_utf8(path, number, error)) from error
  except OSError as error:
    raise errors.InputError(f'{path} cannot be read: {error.strerror or error}') from error


def _parsed(text: str, path: pathlib.Path, number: int | None = None) -> Any:
  """The value of a JSON text, which is one line or a whole file."""
  where = f'{path} line {number}' if number else str(path)
  try:
    value = json.loads(text)
    if re.search(r'\\u[dD][89a-fA-F]', text):  # an escaped character of two halves: are both there?
      json.dumps(value, ensure_ascii=False).encode()
    return value
  except json.JSONDecodeError as error:
    where = f'{path} line {number or error.lineno}'
    raise errors.InputError(f'{where}: not JSON ({error.msg}, column {error.colno})') from error
  except UnicodeEncodeError as error:
    half = f'\\u{ord(error.object[error.start]):x}'
    raise errors.InputError(f'{where}: {half} is half a character; leave it out') from error
  except (ValueError, RecursionError) as error:  # numbers or brackets by the thousand
    said = str(error).partition(';')[0]
    raise errors.InputError(f'{where}: not JSON ({said})') from error


def _object(value: Any, where: str) -> dict[str, Any]:
  if not isinstance(value, dict):
    raise errors.InputError(f'{where}: expected a JSON object, got {_named(value)}')
  return value


def text(record: dict[str, Any], field: str, where: str) -> str:
  """A field that must hold a string."""
  return _typed(record, field, where, (str,), 'a string')


def texts(record: dict[str, Any], field: str, where: str) -> list[str]:
  """A field that must hold strings: one, or a list of at least one."""
  value = _typed(record, field, where, (str, list), 'a string or a list of strings')
  value = [value] if isinstance(value, str) else value
  if not value:
    raise errors.InputError(f'{where}: field "{field}" is an empty list')
  for each in value:
    if not isinstance(each, str):
      raise errors.InputError(
        f'{where}: field "{field}" has {_named(each)} in its list, expected strings'
      )
  return value


def objects(record: dict[str, Any], field: str, where: str) -> list[dict[str, Any]]:
  """A field that must hold a list of objects."""
  value = _typed(record, field, where, (list,), 'a list of objects')
  return [_object(each, f'{where}, field "{field}", entry {i}') for i, each in enumerate(value)]


def _typed(record: dict[str, Any], field: str, where: str, types: tuple, expected: str) -> Any:
  if field not in record:
    raise errors.InputError(f'{where}: no field "{field}", expected {expected}')
  if not isinstance(record[field], types):
    raise errors.InputError(
      f'{where}: field "{field}" is {_named(record[field])}, expected {expected}'
    )
  return record[field]


def _named(value: Any) -> str:
  names = {dict: 'an object', list: 'a list', str: 'a string', bool: 'a boolean'}
  names |= {int: 'a number', float: 'a number', type(None): 'null'}
  return names.get(type(value), f'of type {type(value).__name__}')  # of Parquet: bytes, dates, …

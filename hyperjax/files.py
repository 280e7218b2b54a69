"""Small files, whole or absent: text and JSON written beside their place, then renamed into it."""

import contextlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import fsspec
from etils import epath

from hyperjax.errors import InputError

# Other processes write to a bucket: what was in it a moment ago is not what is there.
for _protocol in ('gs', 'gcs'):
  fsspec.config.conf.setdefault(_protocol, {}).setdefault('use_listings_cache', False)
if importlib.util.find_spec('gcsfs'):  # else epath asks TensorFlow, which takes seconds to import
  os.environ.setdefault('EPATH_USE_TF', '0')


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Whether a path names its storage: gs://bucket/…."""
  return '://' in os.fspath(path)


def place(path: str | os.PathLike[str]) -> epath.Path:
  """A path that stays what it is when the working directory changes; remote ones as they are."""
  text = os.fspath(path)
  if is_remote(text):
    return epath.Path(text)
  return epath.Path(os.path.abspath(os.path.expanduser(text)))


def check_reachable(path: str | os.PathLike[str]) -> None:
  """InputError where a remote path is of a storage that is not known, or cannot be asked."""
  if is_remote(path):
    if not os.fspath(path).startswith('gs://'):
      raise InputError(f'{path} is neither here nor in a bucket: give a path, or gs://…')
    exists(path)


def exists(path: str | os.PathLike[str]) -> bool:
  """Whether something is there; InputError where its storage cannot be asked."""
  with reaching(path):
    return place(path).exists()


@contextlib.contextmanager
def reaching(path: str | os.PathLike[str]) -> Iterator[None]:
  """What goes wrong with a remote path inside is an InputError that names it."""
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    if not is_remote(path):
      raise
    raise InputError(
      f'{path} cannot be reached ({_words(error)}): install "hyperjax[gcs]" for gs://, look at the '
      'name, and log in (gcloud auth application-default login)'
    ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Replaces the file at once: readers see the old text or the new, never half of one.

  Makes the directories above it. An unwritable place is an InputError that names it.
  """
  write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
  """As write_text."""
  with writing(path):
    if is_remote(path):
      epath.Path(path).write_bytes(content)  # an object is there when it is whole
    else:
      _write_beside(pathlib.Path(path), content)


def _write_beside(path: pathlib.Path, content: bytes) -> None:
  beside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    with beside.open('wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
  """What goes wrong with the file inside is an InputError that names it."""
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    if not (isinstance(error, OSError) or is_remote(path)):  # storages have errors of their own
      raise
    raise InputError(
      f'{path} cannot be written ({_words(error)}): '
      'choose a place with room that this user may write to'
    ) from error


def _words(error: Exception) -> str:
  text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
  return text.splitlines()[0][:200]


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 2) -> None:
  """Writes `value` as JSON; numpy and JAX scalars and arrays become numbers and lists."""
  write_text(path, json.dumps(value, indent=indent, default=_plain) + '\n')


def read_json(path: str | os.PathLike[str]) -> Any:
  """The value in a JSON file; InputError naming file and line when it is absent or malformed."""
  try:
    return json.loads(read_bytes(path).decode())
  except json.JSONDecodeError as error:
    raise InputError(
      f'{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); '
      'the file is cut short or was edited: write it again'
    ) from error
  except UnicodeDecodeError as error:
    raise InputError(f'{path} is not UTF-8 text: write it again as JSON') from error


def read_bytes(path: str | os.PathLike[str]) -> bytes:
  """What a file holds; InputError naming it when it cannot be read."""
  try:
    return place(path).read_bytes()
  except Exception as error:
    if not (isinstance(error, OSError) or is_remote(path)):
      raise
    raise InputError(f'{path} cannot be read ({_words(error)})') from error


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

"""Folders of files that TensorStore reads and writes: local ones, and gs:// ones."""

import dataclasses
import os
import re
from typing import Any

import tensorstore as ts

from hyperjax import files
from hyperjax.convert import leaves
from hyperjax.errors import InputError

RETRIES = 3
"""Of a request to a bucket; TensorStore's own number goes on for many minutes."""


@dataclasses.dataclass(frozen=True)
class Place:
  """A folder by its path, which is what messages and Orbax call it."""

  path: str

  def __truediv__(self, name: str) -> 'Place':
    return Place(f'{self.path}/{name}')

  def spec(self) -> dict[str, Any]:
    """TensorStore's own."""
    if not self.path.startswith('gs://'):
      return {'driver': 'file', 'path': f'{self.path}/'}
    bucket, _, path = self.path.removeprefix('gs://').partition('/')
    retries = {'max_retries': RETRIES}
    inside = f'{path}/' if path else ''
    return {'driver': 'gcs', 'bucket': bucket, 'path': inside, 'gcs_request_retries': retries}

  def read(self, name: str) -> bytes | None:
    """The content of a file; None: there is none."""
    try:
      found = self._opened().read(name).result()
    except ValueError as error:
      if re.search('directory', str(error), re.I):  # a directory has no bytes
        return None
      raise InputError(f'{self.path}/{name} cannot be read ({leaves.reason(error)})') from error
    return found.value if found.state == 'value' else None

  def write(self, name: str, content: bytes) -> None:
    """Writes a file; ValueError as TensorStore has it."""
    self._opened().write(name, content).result()

  def names(self, prefix: str) -> set[str]:
    """Of the files and folders in it, those with a prefix."""
    if self.path.startswith('gs://'):
      last = prefix[:-1] + chr(ord(prefix[-1]) + 1)
      keys = self._listed(ts.KvStore.KeyRange(prefix, last))
      return {key.partition('/')[0] for key in keys}
    try:
      return {name for name in os.listdir(self.path) if name.startswith(prefix)}
    except (FileNotFoundError, NotADirectoryError):
      return set()
    except OSError as error:
      raise InputError(f'{self.path} cannot be listed ({error.strerror or error})') from error

  def check_empty(self) -> None:
    """InputError where something is."""
    if not self.path.startswith('gs://'):
      files.check_empty(self.path)
    elif self._listed(ts.KvStore.KeyRange()):
      raise InputError(f'{self.path} is not empty; give a folder of its own')

  def _opened(self) -> ts.KvStore:
    try:
      return ts.KvStore.open(self.spec()).result()
    except ValueError as error:
      raise InputError(f'{self.path} cannot be opened ({leaves.reason(error)})') from error

  def _listed(self, keys: ts.KvStore.KeyRange) -> list[str]:
    try:
      return [key.decode() for key in self._opened().list(keys).result()]
    except ValueError as error:
      raise InputError(f'{self.path} cannot be listed ({leaves.reason(error)})') from error


def place(path: str | os.PathLike[str]) -> Place:
  """The folder at a path.

  Raises:
    InputError: a scheme other than gs:// and file://.
  """
  text = os.fspath(path)
  scheme, found, rest = text.partition('://')
  if found and scheme not in ('gs', 'file'):
    raise InputError(f'{text}: {scheme}:// is not read; give a local path or gs://bucket/path')
  if not found or scheme == 'file':
    text = os.path.abspath(os.path.expanduser(rest if found else text))
  elif not rest.partition('/')[0]:
    raise InputError(f'{text} names no bucket; give gs://bucket/path')
  return Place(text.rstrip('/'))

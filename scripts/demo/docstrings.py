"""Several megabytes of technical English: the docstrings of the Python packages installed here.

Nothing is imported, nothing is fetched: the sources are parsed where pip put them. The documents
come out in C4's format, one JSON object a line: {"text": …, "source": package, "id": file:line}.
"""

import argparse
import ast
import collections
import contextlib
import gc
import hashlib
import importlib.metadata
import inspect
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from packaging import requirements

from hyperjax import errors, files

# What `make demo` and `make test` both install, so that both see the same text.
ROOTS = (
  'flax',
  'jax',
  'matplotlib',
  'numpy',
  'optax',
  'orbax-checkpoint',
  'rouge-score',
  'scipy',
  'seqio',
  'tensorboard',
  'tensorflow',
  'tensorflow-datasets',
)
MIN_CHARACTERS = 400
HELD_OUT = 0.03  # of the source files
SHARED = 0.3  # a held-out document may share this part of its 8-word runs with the others

# The commonest words of English: every tenth word of a text in English is one of them (in running
# prose every third); tables, code and other languages have fewer.
COMMON = frozenset(
  'a and are as be by for from if in is it not of on or that the this to with'.split()
)
COMMON_SHARE = 0.1


class Document(NamedTuple):
  """One docstring: its text, the top-level package it is from, and the file and line."""

  text: str
  source: str
  id: str


class SourceFile(NamedTuple):
  """One Python file of an installed package: its name there, and where it lies."""

  name: str
  path: pathlib.Path


def documents(limit: int | None = None, roots: Iterable[str] = ROOTS) -> list[Document]:
  """All English docstrings of `roots` and of what they require, or the first `limit` bytes of them.

  Files come in the order of a hash of their names, so that a limit takes some of every package;
  the same installed versions give the same list. Raises InputError when none of `roots` is here.
  """
  found: dict[str, Document] = {}
  size = 0
  with _no_garbage_collection():  # syntax trees are many small objects without cycles: 2x faster
    for file in sorted(source_files(distributions(roots)), key=lambda file: _hash(file.name)):
      for document in file_documents(file):
        if limit is not None and size >= limit:
          return list(found.values())
        key = ' '.join(document.text.split())
        if key not in found:
          found[key] = document
          size += len(document.text.encode())
  return list(found.values())


def distributions(roots: Iterable[str]) -> list[importlib.metadata.Distribution]:
  """The installed distributions among `roots` and, over all levels, what these require."""
  found: dict[str, importlib.metadata.Distribution | None] = {}
  extras: dict[str, set[str]] = collections.defaultdict(lambda: {''})
  todo = [requirements.Requirement(root) for root in roots]
  while todo:
    wanted = todo.pop()
    name = re.sub('[-_.]+', '-', wanted.name).lower()
    if name in found and wanted.extras <= extras[name]:
      continue
    extras[name] |= wanted.extras
    found[name] = _distribution(wanted.name)
    for line in (found[name] and found[name].requires) or ():
      inner = requirements.Requirement(line)
      if not inner.marker or any(inner.marker.evaluate({'extra': e}) for e in extras[name]):
        todo.append(inner)
  installed = [found[name] for name in sorted(found)]
  installed = [distribution for distribution in installed if distribution is not None]
  if not installed:
    raise errors.InputError(
      f'none of the packages {", ".join(roots)} is installed in this Python: run `make demo`,'
      ' or start the script with the Python of .venv'
    )
  return installed


def source_files(installed: Iterable[importlib.metadata.Distribution]) -> Iterator[SourceFile]:
  """The Python files of these distributions, but for their tests."""
  for distribution in installed:
    for file in distribution.files or ():
      directories = file.parts[:-1]
      if file.suffix == '.py' and not any(d.startswith(('test', '..')) for d in directories):
        yield SourceFile(str(file), pathlib.Path(str(file.locate())))


def file_documents(file: SourceFile) -> Iterator[Document]:
  """The English docstrings of one file; none if it cannot be read or is not valid Python."""
  try:
    content = file.path.read_bytes()
    if not _has_long_string(content):
      return
    tree = ast.parse(content)
  except (OSError, SyntaxError, ValueError):
    return
  source = file.name.split('/')[0].removesuffix('.py')
  for line, docstring in _docstrings(tree):
    text = tidy(docstring)
    if len(text) >= MIN_CHARACTERS and is_english(text):
      yield Document(text, source, f'{file.name}:{line}')


def tidy(docstring: str) -> str:
  """The docstring without its indentation, trailing blanks and runs of empty lines."""
  text = docstring.encode(errors='ignore').decode()  # no file can hold a lone surrogate
  lines = (line.rstrip() for line in inspect.cleandoc(text).splitlines())
  return re.sub('\n{3,}', '\n\n', '\n'.join(lines)).strip()


def is_english(text: str) -> bool:
  """Whether at least every tenth word is one of the commonest words of English."""
  words = re.findall(r'[^\W\d_]+', text.lower())
  return sum(word in COMMON for word in words) >= COMMON_SHARE * max(len(words), 1)


def split(found: Iterable[Document]) -> tuple[list[Document], list[Document]]:
  """Training and validation documents; 3 % of the files are held out, by a hash of their names.

  Packages repeat themselves from file to file: a held-out document that shares more than 30 % of
  its 8-word runs with training text is dropped.
  """
  training, held_out = [], []
  for document in found:
    file = document.id.rsplit(':', 1)[0]
    (held_out if _hash(f'held out? {file}') < HELD_OUT * 2**64 else training).append(document)
  seen = {run for document in training for run in _runs(document.text)}
  return training, [document for document in held_out if _shared(document, seen) <= SHARED]


def write(directory: str | pathlib.Path, limit: int | None = None) -> dict[str, object]:
  """Writes docstrings.{train,validation}.jsonl and .manifest.json; returns the manifest."""
  directory = pathlib.Path(directory)
  training, validation = split(documents(limit))
  manifest: dict[str, object] = {
    'what': 'English docstrings of the installed Python packages, by scripts/demo/docstrings.py',
    'packages': {d.metadata['Name']: d.version for d in distributions(ROOTS)},
  }
  for name, part in (('train', training), ('validation', validation)):
    file = directory / f'docstrings.{name}.jsonl'
    lines = (json.dumps(document._asdict(), ensure_ascii=False) + '\n' for document in part)
    files.write_text(file, ''.join(lines))
    manifest[name] = {
      'file': file.name,
      'documents': len(part),
      'bytes_of_text': sum(len(document.text.encode()) for document in part),
      'sha256': hashlib.sha256(file.read_bytes()).hexdigest(),
    }
  files.write_json(directory / 'docstrings.manifest.json', manifest)
  return manifest


def _distribution(name: str) -> importlib.metadata.Distribution | None:
  try:
    return importlib.metadata.distribution(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _has_long_string(content: bytes) -> bool:
  """A cheap look that spares parsing most files: is there a triple-quoted string long enough?"""
  parts = re.split(rb'"""|\'\'\'', content)
  return any(len(part) >= MIN_CHARACTERS for part in parts[1::2])


def _docstrings(node: ast.AST) -> Iterator[tuple[int, str]]:
  """Line and docstring of a module and of the classes and functions in it, at any depth."""
  body = getattr(node, 'body', [])
  first = body[0] if body and not isinstance(node, ast.If | ast.Try) else None
  if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
    if isinstance(first.value.value, str):
      yield first.lineno, first.value.value
  for inner in body:
    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If | ast.Try):
      yield from _docstrings(inner)


def _runs(text: str) -> set[int]:
  words = text.split()
  return {hash(tuple(words[i : i + 8])) for i in range(len(words) - 7)}


def _shared(document: Document, seen: set[int]) -> float:
  runs = _runs(document.text)
  return len(runs & seen) / max(len(runs), 1)


def _hash(text: str) -> int:
  """64 bits that are the same in every process, unlike `hash`."""
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
  was_on = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was_on:
      gc.enable()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', required=True, help='directory for the files')
  parser.add_argument('--limit', type=int, help='bytes of text to stop at (default: all)')
  arguments = parser.parse_args()
  try:
    manifest = write(arguments.output, arguments.limit)
  except errors.InputError as error:
    raise SystemExit(f'error: {error}') from None
  print(json.dumps({name: manifest[name] for name in ('train', 'validation')}, indent=2))


if __name__ == '__main__':
  main()

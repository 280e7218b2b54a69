"""The demo's data folder: docstrings of installed packages, the project's tasks, a vocabulary."""

import hashlib
import json
import pathlib
import shutil

from hyperjax import files
from hyperjax.errors import InputError
from hyperjax.sources import natural_instructions
from scripts.demo import docstrings, train_vocabulary

HERE = pathlib.Path(__file__).parent
TASKS = HERE.parents[1] / 'tasks' / 'demo'
SHIPPED_VOCABULARY = HERE / 'checkpoint' / 'joint' / 'vocabulary.model'
PIECES = 4000
VOCABULARIES = ('vocabulary.model', 'spiece.model', 'vocab/t5_cc_all.32000.sentencepiece.model')
"""Where a pack's vocabulary is looked for, in this order."""


def folder(output: pathlib.Path, pack: str | None) -> pathlib.Path:
  """The demo's own data, or links to a pack: apart, so that nothing is written through a link."""
  return prepare(output / 'data') if pack is None else of_pack(pack, output / 'pack')


def prepare(folder: pathlib.Path) -> pathlib.Path:
  """Makes text/, sni/ and vocabulary.model, and manifest.json that says what they hold.

  The vocabulary is the shipped checkpoint's where there is one, else trained on the docstrings and
  the training tasks. Tasks and vocabulary of an older checkout are replaced.
  """
  manifest, vocabulary = folder / 'manifest.json', folder / 'vocabulary.model'
  said = files.read_json(manifest) if manifest.exists() else {}
  if not said:
    docstrings.write(folder / 'text')
  elif said.get('sni/tasks') == _of_tasks(TASKS) and (
    not SHIPPED_VOCABULARY.exists()
    or said['vocabulary.model']['sha256'] == _sha256(SHIPPED_VOCABULARY.read_bytes())
  ):
    return folder
  shutil.rmtree(folder / 'sni', ignore_errors=True)
  shutil.copytree(TASKS, folder / 'sni')
  if SHIPPED_VOCABULARY.exists():
    shutil.copyfile(SHIPPED_VOCABULARY, vocabulary)
  else:
    train_vocabulary.train(_texts(folder), vocabulary, PIECES)
  files.write_json(folder / 'manifest.json', _manifest(folder))
  return folder


def _texts(folder: pathlib.Path) -> list[str]:
  names = (folder / 'sni/splits/default/train_tasks.txt').read_text().split()
  texts = []
  for name in names:
    card = json.loads((folder / 'sni/tasks' / f'{name}.json').read_text())
    texts += card['Definition']
    texts += [f'{pair["input"]} {pair["output"][0]}' for pair in card['Instances']]
  return texts + list(train_vocabulary.jsonl_texts(folder / 'text/docstrings.train.jsonl'))


def _manifest(folder: pathlib.Path) -> dict:
  """Name, bytes and sha256 of every file; for the tasks, of their folder's concatenation."""
  result = {}
  for path in [*sorted((folder / 'text').glob('*.json*')), folder / 'vocabulary.model']:
    content = path.read_bytes()
    name = str(path.relative_to(folder))
    result[name] = {'bytes': len(content), 'sha256': _sha256(content)}
  return result | {'sni/tasks': _of_tasks(folder / 'sni')}


def _of_tasks(folder: pathlib.Path) -> dict:
  tasks = sorted((folder / 'tasks').glob('*.json'))
  content = b''.join(path.read_bytes() for path in tasks)
  return {'files': len(tasks), 'bytes': len(content), 'sha256': _sha256(content)}


def _sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


def of_pack(pack: str, folder: pathlib.Path) -> pathlib.Path:
  """A folder of links to data in the formats of README.md: text/, sni/ and vocabulary.model.

  Raises:
    InputError: what the pack lacks, and where it was looked for.
  """
  source = pathlib.Path(pack).expanduser().resolve()
  if not source.is_dir():
    raise InputError(f'--data={pack}: there is no folder {source}')
  try:
    tasks = natural_instructions.find(source).path
  except InputError as error:
    raise InputError(f'--data={pack}: {error}') from error
  places = {'text': [source / 'text'], 'sni': [tasks]}
  places['vocabulary.model'] = [source / name for name in VOCABULARIES]
  folder.mkdir(parents=True, exist_ok=True)
  for name, tried in places.items():
    place = next((path for path in tried if path.exists()), None)
    if place is None:
      raise InputError(f'--data={pack}: there is no {" and no ".join(map(str, tried))}')
    link = folder / name
    link.unlink(missing_ok=True)
    link.symlink_to(place)
  return folder

"""Adapters: one phi on disk with its provenance, and a loaded run that writes and applies them.

model = hyperjax.load(model_dir)
adapter = model.adapt([('a great film', 'positive'), ('dull', 'negative')])
model.predict(['what a bore'], adapter)
adapter.save('sentiment/')

sentiment/adapter.safetensors   phi's leaves ('decoder.attention.prefix.key', …), and in its
                                metadata the record: all that reading it needs
          adapter.json          the record, for people
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

import hyperjax
from hyperjax import decoding, episodes, evaluation, files, fingerprints, peft, runs
from hyperjax.errors import InputError
from hyperjax.hypermodels import learned

FORMAT = 1
WEIGHTS, RECORD = 'adapter.safetensors', 'adapter.json'


@dataclasses.dataclass(frozen=True)
class Adapter:
  """phi of one context, and where it came from."""

  phi: peft.Phi
  provenance: dict[str, Any]

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes adapter.safetensors and adapter.json.

    An adapter that was there is replaced at once: a reader finds the old one or the new one.

    Raises:
      InputError: the directory holds something else, or cannot be written.
    """
    place = check_place(directory)
    leaves = {
      name.replace('/', '.'): np.asarray(leaf)
      for name, leaf in zip(peft.leaf_names(self.phi), jax.tree.leaves(self.phi), strict=True)
    }
    record = {
      'format': FORMAT,
      'hyperjax': hyperjax.__version__,
      'leaves': _structure(leaves),
      'sha256': _digest(leaves),
      'provenance': self.provenance,
    }
    metadata = {'hyperjax': json.dumps(record, ensure_ascii=False)}
    text = json.dumps(record, indent=2, ensure_ascii=False) + '\n'
    _write(place, {WEIGHTS: safetensors.numpy.save(leaves, metadata), RECORD: text.encode()})


def load_adapter(directory: str | os.PathLike[str]) -> Adapter:
  """Reads an adapter and verifies it against its record.

  Raises:
    InputError: names the file that is missing, damaged or of another format.
  """
  place = pathlib.Path(directory)
  if not (place / RECORD).is_file():
    raise InputError(f'{place} is no adapter: it has no {RECORD}; `hyperjax.adapt` makes one')
  where = place / WEIGHTS
  leaves, record = _read(where)
  if not isinstance(record, dict) or record.get('format') != FORMAT:
    raise InputError(f'{where} is not of format {FORMAT}; adapt again with this version')
  if record.get('leaves') != _structure(leaves) or record.get('sha256') != _digest(leaves):
    raise InputError(f'{where} does not hold what was saved; adapt again')
  if files.read_json(place / RECORD) != record:
    warnings.warn(
      f'{place / RECORD} does not tell what {where} holds, which is used as it is', stacklevel=2
    )
  try:
    phi = peft.from_leaves({name.replace('.', '/'): leaf for name, leaf in leaves.items()})
  except InputError as error:
    raise InputError(f'{where} holds no phi: {error}') from error
  return Adapter(phi, record.get('provenance', {}))


def check_place(directory: str | os.PathLike[str]) -> pathlib.Path:
  """The directory, if an adapter may be written there: an empty one, a new one, an adapter's.

  Raises:
    InputError: it holds something else.
  """
  place = pathlib.Path(directory)
  if place.exists() and not (place.is_dir() and _is_free(place)):
    raise InputError(f'{place} is there and is no adapter; give another place')
  return place


def _is_free(place: pathlib.Path) -> bool:
  """Whether a directory is empty, or an adapter's."""
  return (place / RECORD).exists() or not any(place.iterdir())


def _structure(leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
  return {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in sorted(leaves.items())}


def _digest(leaves: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for _, leaf in sorted(leaves.items()):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
  """The leaves and the record of a safetensors file."""
  try:
    content = path.read_bytes()
    parts = safetensors.deserialize(content)
    header = content[8 : 8 + int.from_bytes(content[:8], 'little')]
    record = json.loads(json.loads(header)['__metadata__']['hyperjax'])
    return {name: _leaf(part) for name, part in parts}, record
  except OSError as error:
    raise InputError(f'{path} cannot be read ({error.strerror or error})') from error
  except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'{path} is damaged, cut short or no adapter of hyperjax ({error}); adapt again'
    ) from error


# safetensors.numpy reads no bfloat16.
_DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'BOOL': 'bool'}


def _leaf(part: Mapping[str, Any]) -> np.ndarray:
  return np.frombuffer(part['data'], jnp.dtype(_DTYPES[part['dtype']])).reshape(part['shape'])


def _write(place: pathlib.Path, contents: dict[str, bytes]) -> None:
  """Writes all files beside their places, then moves them there, the first one first."""
  beside = {name: place / f'.{name}.{os.getpid()}.tmp' for name in contents}
  made = not place.exists()
  try:
    place.mkdir(parents=True, exist_ok=True)
    try:
      for name, content in contents.items():
        with open(beside[name], 'wb') as file:
          file.write(content)
          file.flush()
          os.fsync(file.fileno())
      for name, path in beside.items():
        os.replace(path, place / name)
    finally:
      for path in beside.values():
        path.unlink(missing_ok=True)
      if made and not any(place.iterdir()):
        place.rmdir()
  except OSError as error:
    raise InputError(
      f'{place} cannot be written ({error.strerror or error}): '
      'choose a place with room that this user may write to'
    ) from error


# -- A loaded run ---------------------------------------------------------------------------------


def load(model_dir: str | os.PathLike[str], step: int | None = None) -> 'LoadedModel':
  """A run, ready to adapt and predict; reads model.json and checkpoints only.

  Raises:
    InputError: what is missing, damaged or not the weights that it was trained with.
  """
  return LoadedModel(runs.load(os.fspath(model_dir), step))


class LoadedModel:
  """A run that writes adapters from examples, and answers under them."""

  def __init__(self, run: runs.Run):
    self.run = run
    self._write = evaluation.writer(run)

  def adapt(self, examples: Iterable[Any] = (), definition: str | None = None) -> Adapter:
    """Writes phi from (input, output) pairs of text and a definition, in one forward pass.

    The context holds the definition and then whole examples as far as they fit; what is cut is
    warned of.

    Raises:
      InputError: neither examples nor a definition; an example that is no pair of texts; the run
        writes no phi.
    """
    if isinstance(self.run.model.hypermodel, learned.LearnedPhi):
      warnings.warn(
        'phi of this run is learned, one for all tasks: examples and definition change nothing',
        stacklevel=2,
      )
    examples = list(examples)
    context, parts, cut = self._context(examples, definition)
    if cut:
      warnings.warn(
        f'{cut} of the {parts} parts of the context (definition, examples) do not fit into '
        f'{self.run.lengths["hyper_inputs"]} tokens: the first is cut, others are left out',
        stacklevel=2,
      )
    phi = self._write(context)
    assert phi is not None  # _context refuses runs that write none
    return Adapter(phi, self._provenance(examples, definition, cut))

  def predict(
    self,
    inputs: Sequence[Any],
    adapter: Adapter | None = None,
    strategy: decoding.Strategy = decoding.GREEDY,
    batch_size: int = 32,
    max_length: int | None = None,
    seed: int = 0,
  ) -> list[str]:
    """Answers to inputs under an adapter; None: the downstream model alone.

    Inputs that are too long keep their tail, and are warned of.

    Args:
      max_length: of answers, in tokens; None: the run's length of targets.
      seed: of sampling.

    Raises:
      InputError: an input that is empty or no text; an adapter of another backbone, vocabulary or
        structure.
    """
    phi = None
    if adapter is not None:
      self._check(adapter)
      phi = jax.tree.map(jnp.asarray, adapter.phi)
    if isinstance(inputs, str):
      raise InputError(f'inputs is the text {inputs!r}, give a list of texts')
    for i, each in enumerate(inputs):
      if not _is_text(each):
        raise InputError(f'input {i + 1} of {len(inputs)} is {each!r}; give a text')
    tokens = self.run.vocabulary.encode_many(list(inputs))
    self._check_inputs(tokens)
    shapes = decoding.Shapes.up_to(batch_size, self.run.lengths['inputs'])
    return evaluation.answer(
      self.run, tokens, phi, shapes, strategy, max_length, jax.random.key(seed)
    )

  @functools.cached_property
  def backbone(self) -> str:
    """A digest of the downstream weights' fingerprints."""
    marks = fingerprints.fingerprint(self.run.params['downstream'])
    return hashlib.sha256(json.dumps(marks, sort_keys=True).encode()).hexdigest()[:16]

  def _context(
    self, examples: Sequence[Any], definition: str | None
  ) -> tuple[np.ndarray, int, int]:
    """The tokens of a context, its parts, and how many of them did not fit whole."""
    where = f'the run {self.run.model_dir}'
    if self.run.model.hypermodel is None:
      raise InputError(f'{where} has no hypermodel to write an adapter with')
    if not self.run.lengths.get('hyper_inputs', 0):
      raise InputError(f'{where} was trained without contexts, so it cannot adapt to one')
    definition = '' if definition is None else definition
    if not _is_text(definition):
      raise InputError(f'the definition is {definition!r}; give a text')
    definition = definition.strip()
    if not examples and not definition:
      raise InputError('there is nothing to adapt to: give examples, a definition or both')
    for i, pair in enumerate(examples):
      _check_pair(pair, f'example {i + 1} of {len(examples)}')
    vocabulary = self.run.vocabulary
    shots = episodes.examples(vocabulary, [(x, [y]) for x, y in examples])
    meaning = vocabulary.encode(definition) if definition else None
    context, cut = episodes.context(vocabulary, meaning, shots, self.run.lengths['hyper_inputs'])
    return context, len(shots) + (meaning is not None), cut

  def _check_inputs(self, tokens: Sequence[np.ndarray]) -> None:
    room = self.run.lengths['inputs']
    for i, each in enumerate(tokens):
      if not len(each):
        raise InputError(f'input {i + 1} of {len(tokens)} is empty; give some text')
    if long := sum(len(each) > room for each in tokens):
      warnings.warn(
        f'{long} of {len(tokens)} inputs have more than {room} tokens and keep their tail',
        stacklevel=3,
      )

  def _check(self, adapter: Adapter) -> None:
    said = adapter.provenance
    own = {'backbone': self.backbone, 'vocabulary_sha256': self.run.vocabulary.sha256}
    for name, value in own.items():
      if said.get(name) != value:
        raise InputError(
          f'the adapter is of another backbone: the run {said.get("run")}, step '
          f'{said.get("step")}, wrote it with {name} {said.get(name)}, the run '
          f'{self.run.model_dir} has {value}; predict with the run that wrote it'
        )
    peft.check(adapter.phi, self.run.model.downstream.config, 1)

  def _provenance(
    self, examples: Sequence[Any], definition: str | None, cut: int
  ) -> dict[str, Any]:
    content = json.dumps([list(map(list, examples)), definition])
    return {
      'run': os.path.basename(self.run.model_dir),
      'model_dir': self.run.model_dir,
      'step': self.run.step,
      'backbone': self.backbone,
      'vocabulary_sha256': self.run.vocabulary.sha256,
      'hypermodel': self.run.record['hypermodel'],
      'examples': len(examples),
      'examples_sha256': hashlib.sha256(content.encode()).hexdigest(),
      'definition': definition,
      'parts_cut': cut,
    }


def _is_text(value: Any) -> bool:
  """Whether it is a string without halves of characters, which no vocabulary knows."""
  try:
    return isinstance(value, str) and value.encode() is not None
  except UnicodeEncodeError:
    return False


def _check_pair(pair: Any, where: str) -> None:
  texts = isinstance(pair, (tuple, list)) and all(map(_is_text, pair))
  if not texts or len(pair) != 2:
    raise InputError(f'{where} is {pair!r}; give a pair of texts (input, output)')
  if not all(text.strip() for text in pair):
    raise InputError(f'{where} has an empty input or output: {pair!r}')

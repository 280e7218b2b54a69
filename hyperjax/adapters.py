"""Adapters: one phi on disk with its provenance, and a loaded run that writes and applies them.

    model = hyperjax.load(model_dir)
    adapter = model.adapt([('a great film', 'positive'), ('dull', 'negative')])
    model.predict(['what a bore'], adapter)
    adapter.save('sentiment/')      # adapter.safetensors and adapter.json
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

import hyperjax
from hyperjax import decoding, episodes, evaluation, files, fingerprints, peft, runs
from hyperjax.errors import InputError

FORMAT = 1
WEIGHTS, RECORD = 'adapter.safetensors', 'adapter.json'


@dataclasses.dataclass(frozen=True)
class Adapter:
  """phi of one context, and where it came from."""

  phi: peft.Phi
  provenance: dict[str, Any]

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes adapter.safetensors and adapter.json; an adapter that was there is replaced whole.

    Raises:
      InputError: the directory holds something else, or cannot be written.
    """
    place = pathlib.Path(directory).absolute()
    if place.exists() and not (place / RECORD).exists() and (
      not place.is_dir() or any(place.iterdir())
    ):
      raise InputError(f'{place} is there and is no adapter; give another place')
    leaves = {
      name: np.asarray(leaf)
      for name, leaf in zip(peft.leaf_names(self.phi), jax.tree.leaves(self.phi), strict=True)
    }
    weights = safetensors.numpy.save(leaves, {'format': 'hyperjax'})
    record = {
      'format': FORMAT,
      'hyperjax': hyperjax.__version__,
      'leaves': {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in leaves.items()},
      'sha256': hashlib.sha256(weights).hexdigest(),
      'provenance': self.provenance,
    }
    _replace(place, {WEIGHTS: weights, RECORD: json.dumps(record, indent=2).encode() + b'\n'})


def _replace(place: pathlib.Path, contents: dict[str, bytes]) -> None:
  """Puts a folder with these files at a place in one move; nothing half-written is ever there."""
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = pathlib.Path(tempfile.mkdtemp(prefix=f'.{place.name}.', dir=place.parent))
    try:
      for name, content in contents.items():
        with open(beside / name, 'wb') as file:
          file.write(content)
          file.flush()
          os.fsync(file.fileno())
      beside.chmod(0o755)
      if place.exists():
        old = beside.with_name(f'{beside.name}.old')
        os.replace(place, old)
        os.replace(beside, place)
        shutil.rmtree(old)
      else:
        os.replace(beside, place)
    finally:
      shutil.rmtree(beside, ignore_errors=True)
  except OSError as error:
    raise InputError(f'{place} cannot be written ({error.strerror or error})') from error


def load_adapter(directory: str | os.PathLike[str]) -> Adapter:
  """Reads an adapter and verifies it against its record.

  Raises:
    InputError: names the file that is missing, damaged or of another format.
  """
  place = pathlib.Path(directory)
  if not (place / RECORD).exists():
    raise InputError(f'{place} is no adapter: it has no {RECORD}; `hyperjax.adapt` makes one')
  record = files.read_json(place / RECORD)
  if not isinstance(record, dict) or record.get('format') != FORMAT:
    raise InputError(f'{place / RECORD} is not of format {FORMAT}; adapt again with this version')
  try:
    weights = (place / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != record['sha256']:
      raise InputError(
        f'{place / WEIGHTS} does not hold what was saved (cut short or changed); adapt again'
      )
    leaves = safetensors.numpy.load(weights)
  except (OSError, KeyError, safetensors.SafetensorError) as error:
    raise InputError(f'{place / WEIGHTS} cannot be read ({error}); adapt again') from error
  return Adapter(peft.from_leaves(leaves), record.get('provenance', {}))


# -- A loaded run -----------------------------------------------------------------------------------


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

  def adapt(
    self, examples: Sequence[tuple[str, str]] = (), definition: str | None = None
  ) -> Adapter:
    """Writes phi from (input, output) examples and a definition, in one forward pass.

    The context keeps the definition and whole examples as far as they fit; what is cut is warned
    of.

    Raises:
      InputError: neither examples nor a definition; the run has no hypermodel.
    """
    if self.run.model.hypermodel is None:
      raise InputError(f'the run {self.run.model_dir} has no hypermodel to write an adapter with')
    if not examples and not definition:
      raise InputError('there is nothing to adapt to: give examples, a definition or both')
    vocabulary = self.run.vocabulary
    shots = episodes.examples(vocabulary, [(x, [y]) for x, y in examples])
    meaning = vocabulary.encode(definition) if definition else None
    length = self.run.lengths.get('hyper_inputs', 0)
    if not length:
      raise InputError(f'the run {self.run.model_dir} was trained without contexts')
    context, cut = episodes.context(vocabulary, meaning, shots, length)
    if cut:
      warnings.warn(
        f'the context holds {length} tokens: {cut} of its {len(shots) + bool(definition)} parts '
        'were cut or left out',
        stacklevel=2,
      )
    phi = self._write(context)
    return Adapter(phi, self._provenance(examples, definition, cut))

  def predict(
    self,
    inputs: Sequence[str],
    adapter: Adapter | None = None,
    strategy: decoding.Strategy = decoding.Greedy(),
    batch_size: int = 32,
    max_length: int | None = None,
    seed: int = 0,
  ) -> list[str]:
    """Answers to inputs under an adapter; None: the downstream model alone.

    Raises:
      InputError: an adapter of another backbone or of another structure.
    """
    if adapter is not None:
      self._check(adapter)
    phi = None if adapter is None else jax.tree.map(jnp.asarray, adapter.phi)
    tokens = self.run.vocabulary.encode_many(list(inputs))
    if not tokens:
      return []
    shapes = decoding.Shapes.up_to(batch_size, self.run.lengths['inputs'])
    rng = jax.random.key(seed)
    return evaluation.answer(self.run, tokens, phi, shapes, strategy, max_length, rng)

  def _check(self, adapter: Adapter) -> None:
    said = adapter.provenance.get('backbone')
    if said != self.backbone:
      raise InputError(
        f'the adapter was written for the backbone {said}, the run {self.run.model_dir} has '
        f'{self.backbone}; predict with the run that wrote it'
      )
    peft.check(adapter.phi, self.run.model.downstream.config, 1)

  @property
  def backbone(self) -> str:
    """A digest of the downstream weights' fingerprints."""
    marks = fingerprints.fingerprint(self.run.params['downstream'])
    return hashlib.sha256(json.dumps(marks, sort_keys=True).encode()).hexdigest()[:16]

  def _provenance(self, examples, definition, cut: int) -> dict[str, Any]:
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

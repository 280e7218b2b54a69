"""The mixtures that hyperjax ships, by the names that gin files and seqio know them by."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from hyperjax import errors, hints
from hyperjax.episodes import Episodes
from hyperjax.sources import c4, files
from hyperjax.sources import natural_instructions as sni
from hyperjax.vocabulary import Vocabulary


@runtime_checkable
class Mixture(Protocol):
  """A recipe for episodes: a frozen dataclass of choices; files are opened by `episodes` only.

  One that is scored by its answers has `evaluation_tasks` too (see NaturalInstructions).
  """

  def episodes(
    self,
    data_dir: files.DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> Episodes: ...


MIXTURES: dict[str, Mixture] = {
  'c4_caclm': c4.Caclm(),
  'c4_clm': c4.Clm(),
  'c4_reconstruction': c4.Reconstruction(),
  'sni': sni.NaturalInstructions(definition=False),
  'sni_def': sni.NaturalInstructions(),
  'sni_def_2pos': sni.NaturalInstructions(positives=2),
  'sni_def_fewshot': sni.NaturalInstructions(shots=16),
  'sni_fewshot': sni.NaturalInstructions(definition=False, shots=16),
  'sni_def_in_context': sni.NaturalInstructions(join_context=True),
  'sni_def_2pos_in_context': sni.NaturalInstructions(positives=2, join_context=True),
  'sni_def_fewshot_in_context': sni.NaturalInstructions(shots=16, join_context=True),
}
"""T5-MTF without context is `sni`; the in-context baselines are `…_in_context` (inputs: 1408)."""


def get(name: str, arguments: Mapping[str, Any] | None = None) -> Mixture:
  """The mixture of a name, with some of its fields replaced."""
  if name not in MIXTURES:
    raise errors.InputError(unknown(name, MIXTURES))
  return replaced(MIXTURES[name], arguments, name)


def replaced(mixture: Any, arguments: Mapping[str, Any] | None, name: str) -> Mixture:
  """The mixture, a dataclass, with some of its fields replaced."""
  if not arguments:
    return mixture
  fields = {field.name: field.type for field in dataclasses.fields(mixture)}
  for argument, value in arguments.items():
    if argument not in fields:
      raise errors.InputError(
        f'mixture {name} has no argument {argument!r}{_hint(argument, fields)}; it has'
        f' {", ".join(fields)}'
      )
    if not hints.fits(value, fields[argument]):
      raise errors.InputError(
        f'mixture {name}: {argument} is {value!r}; it takes {hints.named(fields[argument])}'
      )
  return dataclasses.replace(mixture, **arguments)


def unknown(name: str, names: Iterable[str]) -> str:
  """What to say of a mixture that is not there."""
  names = sorted(names)
  return f'no mixture {name!r}{_hint(name, names)}; known: {", ".join(names)}'


def _hint(name: str, names: Iterable[str]) -> str:
  close = difflib.get_close_matches(name, names)
  return f' (did you mean {" or ".join(close)}?)' if close else ''

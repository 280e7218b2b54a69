"""The mixtures that hyperjax ships, by the names that gin files and seqio know them by."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from hyperjax import errors, hints
from hyperjax.episodes import Episodes
from hyperjax.sources import c4, files, metaicl, p3
from hyperjax.sources import natural_instructions as sni
from hyperjax.sources.symbol_tuning import SymbolTuning
from hyperjax.vocabulary import Vocabulary


@runtime_checkable
class Mixture(Protocol):
  """A recipe for episodes: a frozen dataclass of choices; files are opened by `episodes` only.

  One that is scored by its answers has `evaluation_tasks` too (see NaturalInstructions), and where
  they are not as there, `average` (metrics.AVERAGES), `seeds` and `eval_split`.
  """

  def episodes(
    self,
    data_dir: files.DataDir,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    split: str = 'train',
    targets_per_context: int = 1,
  ) -> Episodes: ...


def _with_baselines(name: str, mixture: Any) -> dict[str, Mixture]:
  """A few-shot mixture, with the context in the model's own input, and without any."""
  return {
    name: mixture,
    f'{name}_in_context': dataclasses.replace(mixture, join_context=True),
    f'{name}_zero_shot': dataclasses.replace(mixture, shots=0),
  }


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
  **_with_baselines(
    'p3_t0_short', p3.P3('t0_train', max_mean_input=p3.SHORT, max_examples=p3.HELD)
  ),
  **_with_baselines('p3_held_out', p3.P3('held_out')),
  **_with_baselines('p3_section_6', p3.P3('section_6')),
  **_with_baselines('p3', p3.P3('found')),
  **{
    name: mixture
    for setting in metaicl.settings()
    for name, mixture in _with_baselines(f'metaicl_{setting}', metaicl.MetaICL(setting)).items()
  },
  **_with_baselines('metaicl', metaicl.MetaICL('found')),
  'symbol_tuning': SymbolTuning(metaicl.MetaICL('found')),
  'symbol_tuning_natural': SymbolTuning(metaicl.MetaICL('found'), labels='natural'),
}
"""The in-context baselines are `…_in_context` (inputs: 1408); T5-MTF without context is `sni`, or
`…_zero_shot`. `p3` and `metaicl` are all tasks that have files."""


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
  close = _hint(name, names)
  return f'no mixture {name!r}{close}' + ('' if close else f'; known: {", ".join(names)}')


def _hint(name: str, names: Iterable[str]) -> str:
  close = difflib.get_close_matches(name, names)
  return f' (did you mean {" or ".join(close)}?)' if close else ''

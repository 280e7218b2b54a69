"""TPU slices by name, v5e-64 or v4-32: chips, their shape, and what gcloud calls them."""

import dataclasses

FLAT = {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16'}
CUBES = {
  **{4: '2x2x1', 8: '2x2x2', 16: '2x2x4', 32: '2x4x4', 64: '4x4x4', 128: '4x4x8', 256: '4x8x8'},
  **{512: '8x8x8', 1024: '8x8x16', 2048: '8x16x16'},
}
"""Chips -> the shape that Cloud gives a slice of so many."""


@dataclasses.dataclass(frozen=True)
class Kind:
  """A generation of chips."""

  accelerator: str  # before the number
  per_chip: int  # what the number counts: 2 (TensorCores) or 1 (chips)
  shapes: dict[int, str]
  runtime: str  # the image of its virtual machines, for JAX


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} and /runtimes
KINDS = {
  'v4': Kind('v4', 2, CUBES, 'tpu-ubuntu2204-base'),
  'v5e': Kind('v5litepod', 1, FLAT, 'v2-alpha-tpuv5-lite'),
  'v5p': Kind('v5p', 2, CUBES, 'v2-alpha-tpuv5'),
  'v6e': Kind('v6e', 1, FLAT, 'v2-alpha-tpuv6e'),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips that are joined by their own network."""

  accelerator: str  # v5litepod-64, for gcloud and xpk
  topology: str  # v5e:8x8, as hyperjax.compile names it
  chips: int
  runtime: str


def named(name: str) -> Slice:
  """The slice v5e-64 (or v5litepod-64): v4 and v5p count TensorCores, two a chip, others chips.

  Raises:
    ValueError: there is none of this name.
  """
  given, _, number = name.rpartition('-')
  for kind, its in KINDS.items():
    if given in (kind, its.accelerator) and number.isdigit():
      chips, rest = divmod(int(number), its.per_chip)
      if not rest and chips in its.shapes:
        topology = f'{kind}:{its.shapes[chips]}'
        return Slice(f'{its.accelerator}-{number}', topology, chips, its.runtime)
      there = ', '.join(f'{kind}-{chips * its.per_chip}' for chips in its.shapes)
      raise ValueError(f'{name} is no slice of {kind}, which has {there}')
  raise ValueError(f'{name} is no TPU slice; {", ".join(KINDS)} are known, as in v5e-64 or v4-32')

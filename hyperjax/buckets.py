"""Buckets: shorter lengths, for batches whose episodes all fit them, so that less padding is read.

A bucket is a step's program of its own, hence a few of them. A batch as a whole has one.
"""

from collections.abc import Iterable, Mapping, Sequence

from hyperjax import errors
from hyperjax.episodes import Episode

Lengths = Mapping[str, int]


def completed(buckets: Sequence[Lengths] | None, lengths: Lengths) -> tuple[Lengths, ...]:
  """All lengths that batches may have, the fewest tokens first and the full ones last.

  A feature that a bucket does not name has its full length.

  Raises:
    InputError: a bucket names a feature that there is not, or is longer than the full length.
  """
  if isinstance(buckets, Mapping) or not all(isinstance(b, Mapping) for b in buckets or ()):
    raise errors.InputError(
      f'BUCKETS is {buckets!r}; give a tuple of lengths, with a comma after a single one: ({{…}},)'
    )
  for bucket in buckets or ():
    for feature, length in bucket.items():
      full = lengths.get(feature, 0)
      if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= full:
        raise errors.InputError(
          f'BUCKETS gives {feature} the length {length!r}; TASK_FEATURE_LENGTHS gives it {full}: '
          'a bucket has whole numbers from 1 to that'
        )
  every = [dict(lengths) | dict(bucket) for bucket in buckets or ()]
  return (*sorted(every, key=lambda each: sum(each.values())), dict(lengths))


def fitting(episodes: Iterable[Episode], buckets: Sequence[Lengths]) -> Lengths:
  """The first of the completed buckets that all these episodes, once they are cut, fit."""
  needed = dict.fromkeys(buckets[-1], 0)
  for episode in episodes:
    for feature in needed:
      texts = (episode['hyper_inputs'],) if feature == 'hyper_inputs' else episode[feature]
      needed[feature] = max(needed[feature], *map(len, texts))
  needed = {feature: min(length, buckets[-1][feature]) for feature, length in needed.items()}
  return next(each for each in buckets if all(needed[name] <= each[name] for name in needed))

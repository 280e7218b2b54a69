"""Running text as seqio tasks: CACLM and CLM over JSONL files, and over TFDS's C4.

`c4_caclm`, `c4_reconstruction` and `c4_clm` assemble local JSONL by index; `c4_v310_caclm` and
`c4_v310_clm` stream `c4/en:3.1.0` through tf.data, for text that does not fit in memory.
"""

import functools

import seqio

from hyperjax import mixtures
from tasks import assembled, preprocessors

for name in ('c4_caclm', 'c4_reconstruction', 'c4_clm'):
  assembled.register(name, splits=('train', 'validation'))

TEXT = [
  functools.partial(seqio.preprocessors.rekey, key_map={'targets': 'text'}),
  functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
]

for name, segments, features in (
  ('caclm', preprocessors.caclm, assembled.features(*assembled.FEATURES)),
  ('clm', preprocessors.clm, assembled.features('inputs', 'targets')),
):
  seqio.TaskRegistry.add(
    f'c4_v310_{name}',
    source=seqio.TfdsDataSource('c4/en:3.1.0', splits=('train', 'validation'), read_only=True),
    preprocessors=[*TEXT, functools.partial(segments, mixture=mixtures.get(f'c4_{name}'))],
    output_features=features,
  )

"""MetaICL and symbol tuning as seqio tasks: `metaicl_hr_to_lr`, …, `symbol_tuning`."""

from hyperjax import mixtures
from hyperjax.sources import metaicl, symbol_tuning
from tasks import assembled, metrics

for name, mixture in mixtures.MIXTURES.items():
  if isinstance(mixture, (metaicl.MetaICL, symbol_tuning.SymbolTuning)):
    assembled.register(
      name,
      splits=('train', 'test'),
      postprocess_fn=metrics.references,
      metric_fns=[metrics.accuracy, metrics.rouge_l],
    )

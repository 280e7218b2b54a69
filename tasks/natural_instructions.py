"""Super-NaturalInstructions as seqio tasks: `sni_def`, `sni_def_2pos` and their like."""

from hyperjax import mixtures
from hyperjax.sources import natural_instructions
from tasks import assembled, metrics

for name, mixture in mixtures.MIXTURES.items():
  if isinstance(mixture, natural_instructions.NaturalInstructions):
    assembled.register(
      name,
      splits=natural_instructions.SPLITS,
      postprocess_fn=metrics.references,
      metric_fns=[metrics.rouge_l, metrics.exact_match],
    )

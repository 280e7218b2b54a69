"""`python -m hyperjax.compile --gin_file=… --topology=v5e:16x16`: a run's step, without a TPU."""

import inspect
import os
import sys
from typing import Any

from absl import flags

from hyperjax import cli, files, topologies
from hyperjax.errors import InputError

FLAGS = flags.FLAGS

UNREAD = {
  'MODEL_DIR': '',
  'VOCABULARY': '',
  'MIXTURE_OR_TASK_NAME': '',
  'INITIAL_CHECKPOINT_PATH': '',
  'TRAIN_STEPS': 1_000_000,
}
"""Macros that training requires and that leave the compiled step as it is."""

SIZES = {
  'lengths': 'TASK_FEATURE_LENGTHS',
  'batch_size': 'BATCH_SIZE',
  'targets_per_context': 'TARGETS_PER_CONTEXT',
}
"""Sizes of a batch: parameters of the class of `trainer.train.data`, else macros."""


def define_flags() -> None:
  """The flags of this verb, beside gin's."""
  flags.DEFINE_string('topology', None, f'The machine: {topologies.EXAMPLES}.')
  flags.DEFINE_string('what', 'train', 'train, evaluate (a loss), adapt, or predict.')
  flags.DEFINE_string('until', 'code', "code, or plan: XLA's plan, told in a tenth of the time.")
  flags.DEFINE_string('output', None, 'A JSON file for all that is printed.')


def main() -> None:
  """Compiles, prints, saves."""
  if not FLAGS.topology:
    raise InputError(f'--topology is missing: {topologies.EXAMPLES}')
  topologies.be_quiet()
  cli.parse_gin(**UNREAD)
  topology = topologies.topology(FLAGS.topology)  # imports JAX; a mistyped flag need not wait
  report = compile_run(topology, FLAGS.what, FLAGS.until)
  from hyperjax import forecasts

  print(forecasts.as_text(report))
  if FLAGS.output:
    files.write_json(FLAGS.output, report)
  if FLAGS.until == 'plan':
    sys.stdout.flush()
    os._exit(0)  # the compiler goes on in a thread


def compile_run(topology: topologies.Topology, what: str, until: str = 'code') -> dict[str, Any]:
  """The forecast of the run that gin describes; none of its data or weights are read."""
  from hyperjax import bindings, forecasts, partitioning, program, step, trainer

  bindings.check_reached(trainer.train, FLAGS.gin_bindings)
  unread = ('model_dir', 'data', 'evaluation', 'saving', 'config')
  given = bindings.build(trainer.train, dict.fromkeys(unread))
  bound = inspect.signature(trainer.train).bind(**given)
  bound.apply_defaults()
  run = bound.arguments
  own = program.Program(
    step.Model(run['downstream'], run['hypermodel']),
    run['trainable'],
    run['total_steps'],
    run['objective'],
    run['optimizer'],
    run['seed'],
    run['accumulate'],
    run['loss_normalizing_factor'],
  )
  sizes = bindings.peek(trainer.train, 'data', list(SIZES))
  macros = bindings.macros(list(SIZES.values()))
  sizes = {name: macros[macro] for name, macro in SIZES.items() if macro in macros} | sizes
  if missing := [macro for name, macro in SIZES.items() if name not in sizes]:
    raise InputError(f'gin: {missing[0]} must be set, for instance by a file of gin/runs')
  mesh: partitioning.MeshShape = run['mesh']
  return forecasts.forecast(own, forecasts.Sizes(**sizes), mesh, topology, what, until)


if __name__ == '__main__':
  define_flags()
  cli.define_gin_flags()
  cli.run(main)

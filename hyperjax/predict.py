"""`python -m hyperjax.predict`: inputs in, the same lines with a "prediction" out."""

import json

from absl import flags

from hyperjax import cli
from hyperjax import files as whole_files
from hyperjax.errors import InputError
from hyperjax.sources import files

FLAGS = flags.FLAGS


def define_flags() -> None:
  flags.DEFINE_string('model_dir', None, 'The run that answers.')
  flags.DEFINE_integer('step', None, 'Which checkpoint; the latest by default.')
  flags.DEFINE_string('adapter', None, 'A folder made by hyperjax.adapt; none: no phi.')
  flags.DEFINE_string('inputs', None, 'JSON lines {"input": …}.')
  flags.DEFINE_string('output', None, 'Where the lines go, each with its "prediction".')
  flags.DEFINE_integer('beam_size', 1, '1 is greedy.')
  flags.DEFINE_integer('max_length', None, "Tokens of an answer; the run's by default.")
  flags.DEFINE_integer('batch_size', 32, 'Inputs answered together.')


def main() -> None:
  import hyperjax
  from hyperjax import adapters, decoding

  for flag in ('model_dir', 'inputs', 'output'):
    if not getattr(FLAGS, flag):
      raise InputError(f'--{flag} is missing')
  rows = [(files.text(row, 'input', where), row) for where, row in files.records(FLAGS.inputs)]
  if not rows:
    raise InputError(f'{FLAGS.inputs} has no inputs; give lines {{"input": …}}')
  adapter = None if FLAGS.adapter is None else adapters.load_adapter(FLAGS.adapter)
  model = hyperjax.load(FLAGS.model_dir, FLAGS.step)
  strategy = decoding.Greedy() if FLAGS.beam_size == 1 else decoding.Beam(FLAGS.beam_size)
  answers = model.predict(
    [x for x, _ in rows], adapter, strategy, FLAGS.batch_size, FLAGS.max_length
  )
  lines = [
    json.dumps({**row, 'prediction': y}, ensure_ascii=False)
    for (_, row), y in zip(rows, answers, strict=True)
  ]
  whole_files.write_text(FLAGS.output, '\n'.join(lines) + '\n')
  print(f'{FLAGS.output}: {len(lines)} predictions')


if __name__ == '__main__':
  define_flags()
  cli.run(main)

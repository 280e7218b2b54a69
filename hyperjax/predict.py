"""`python -m hyperjax.predict`: inputs in, the same lines with a "prediction" out."""

import json
import os
import pathlib

from absl import flags

from hyperjax import adapt, cli, files
from hyperjax.errors import InputError
from hyperjax.sources import files as lines

FLAGS = flags.FLAGS


def define_flags() -> None:
  """The flags of this verb."""
  flags.DEFINE_string('model_dir', None, 'The run that answers.')
  flags.DEFINE_integer('step', None, 'Which checkpoint; the latest by default.')
  flags.DEFINE_string('adapter', None, 'A folder made by hyperjax.adapt; none: no phi.')
  flags.DEFINE_string('inputs', None, 'JSON lines {"input": …}.')
  flags.DEFINE_string('output', None, 'Where the lines go, each with its "prediction".')
  flags.DEFINE_integer('beam_size', 1, '1 is greedy.', lower_bound=1)
  flags.DEFINE_integer('max_length', None, "Tokens of an answer; the run's by default.")
  flags.DEFINE_integer('batch_size', 32, 'Inputs answered together.', lower_bound=1)


def main() -> None:
  """Reads all inputs, answers them, writes all lines at once."""
  adapt.require('model_dir', 'inputs', 'output')
  if os.path.realpath(FLAGS.output) == os.path.realpath(FLAGS.inputs):
    raise InputError(f'--output={FLAGS.output} is the file of --inputs; give another one')
  check_output(pathlib.Path(FLAGS.output))
  rows = list(lines.records(pathlib.Path(FLAGS.inputs)))
  inputs = [adapt.filled(row, 'input', where) for where, row in rows]
  from hyperjax import adapters, decoding  # imports JAX, which a mistyped flag need not wait for

  adapter = None if FLAGS.adapter is None else adapters.load_adapter(FLAGS.adapter)
  model = adapters.load(FLAGS.model_dir, FLAGS.step)
  strategy = decoding.GREEDY if FLAGS.beam_size == 1 else decoding.Beam(FLAGS.beam_size)
  with adapt.warnings_as_lines():
    answers = model.predict(inputs, adapter, strategy, FLAGS.batch_size, FLAGS.max_length)
  answered = [
    json.dumps({**row, 'prediction': answer}, ensure_ascii=False)
    for (_, row), answer in zip(rows, answers, strict=True)
  ]
  files.write_text(FLAGS.output, '\n'.join(answered) + '\n')
  print(f'{FLAGS.output}: {len(answered)} predictions')


def check_output(path: pathlib.Path) -> None:
  """Refuses to write over anything but an earlier run's predictions."""
  if path.is_dir():
    raise InputError(f'--output={path} is a folder; give a file')
  if path.is_file() and path.stat().st_size:
    try:
      earlier = 'prediction' in next(lines.records(path))[1]
    except InputError:
      earlier = False
    if not earlier:
      raise InputError(f'--output={path} is there and holds no predictions; give another file')


if __name__ == '__main__':
  define_flags()
  cli.run(main)

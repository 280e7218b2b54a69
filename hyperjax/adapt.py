"""`python -m hyperjax.adapt`: examples and a definition in, an adapter out."""

import time
import warnings

from absl import flags

from hyperjax import cli, peft
from hyperjax.errors import InputError
from hyperjax.sources import files

FLAGS = flags.FLAGS


def define_flags() -> None:
  flags.DEFINE_string('model_dir', None, 'The run whose hypermodel writes the adapter.')
  flags.DEFINE_integer('step', None, 'Which checkpoint; the latest by default.')
  flags.DEFINE_string('examples', None, 'JSON lines {"input": …, "output": …}.')
  flags.DEFINE_string('definition', None, 'What the task is, in words.')
  flags.DEFINE_string('output', None, 'The folder of the adapter.')


def main() -> None:
  import hyperjax

  for flag in ('model_dir', 'output'):
    if not getattr(FLAGS, flag):
      raise InputError(f'--{flag} is missing')
  examples = [] if FLAGS.examples is None else read_examples(FLAGS.examples)
  model = hyperjax.load(FLAGS.model_dir, FLAGS.step)
  start = time.monotonic()
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    adapter = model.adapt(examples, FLAGS.definition)
  for warning in caught:
    print(f'warning: {warning.message}')
  adapter.save(FLAGS.output)
  seconds = time.monotonic() - start
  print(f'{FLAGS.output}: {peft.count(adapter.phi):,} values from {len(examples)} examples, '
        f'{seconds:.2f} s')


def read_examples(path: str) -> list[tuple[str, str]]:
  """(input, output) pairs of a JSONL file.

  Raises:
    InputError: file, line and field.
  """
  pairs = [
    (files.text(record, 'input', where), files.text(record, 'output', where))
    for where, record in files.records(path)
  ]
  if not pairs:
    raise InputError(f'{path} has no examples; give lines {{"input": …, "output": …}}')
  return pairs


if __name__ == '__main__':
  define_flags()
  cli.run(main)

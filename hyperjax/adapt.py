"""`python -m hyperjax.adapt`: examples and a definition in, an adapter out."""

import pathlib
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from absl import flags

from hyperjax import cli
from hyperjax.errors import InputError
from hyperjax.sources import files

FLAGS = flags.FLAGS


def define_flags() -> None:
  """The flags of this verb."""
  flags.DEFINE_string('model_dir', None, 'The run whose hypermodel writes the adapter.')
  flags.DEFINE_integer('step', None, 'Which checkpoint; the latest by default.')
  flags.DEFINE_string('examples', None, 'JSON lines {"input": …, "output": …}.')
  flags.DEFINE_string('definition', None, 'What the task is, in words.')
  flags.DEFINE_string('output', None, 'The folder of the adapter.')


def main() -> None:
  """Reads the examples, writes phi from them, saves it."""
  require('model_dir', 'output')
  examples = [] if FLAGS.examples is None else read_examples(FLAGS.examples)
  if not examples and not (FLAGS.definition or '').strip():
    raise InputError('there is nothing to adapt to: give --examples, --definition or both')
  from hyperjax import adapters, peft  # imports JAX, which a mistyped flag need not wait for

  adapters.check_place(FLAGS.output)
  model = adapters.load(FLAGS.model_dir, FLAGS.step)
  start = time.monotonic()
  with warnings_as_lines():
    adapter = model.adapt(examples, FLAGS.definition)
  adapter.save(FLAGS.output)
  count, seconds = peft.count(adapter.phi), time.monotonic() - start
  print(f'{FLAGS.output}: {count:,} values from {len(examples)} examples, {seconds:.2f} s')


def read_examples(path: str) -> list[tuple[str, str]]:
  """(input, output) pairs of a JSONL file.

  Raises:
    InputError: file, line and field.
  """
  records = files.records(pathlib.Path(path))
  return [(filled(row, 'input', where), filled(row, 'output', where)) for where, row in records]


def filled(record: dict[str, Any], field: str, where: str) -> str:
  """A field that must hold some text."""
  text = files.text(record, field, where)
  if not text.strip():
    raise InputError(f'{where}: field "{field}" is empty; give some text, or leave the line out')
  return text


def require(*names: str) -> None:
  """InputError naming the first of these flags that is not given."""
  for name in names:
    if not getattr(FLAGS, name):
      raise InputError(f'--{name} is missing; --help lists the flags')


@contextmanager
def warnings_as_lines() -> Iterator[None]:
  """Warnings as `warning: …` on stderr."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always', UserWarning)
    yield
  for warning in caught:
    print(f'warning: {warning.message}', file=sys.stderr, flush=True)


if __name__ == '__main__':
  define_flags()
  cli.run(main)

"""What every verb does around its work: flags, and errors that are one sentence."""

import functools
import re
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from hyperjax.errors import InputError, Note

FLAGS = flags.FLAGS


def run(main: Callable[[], None]) -> None:
  """Calls main() after parsing flags; InputError becomes `error: …` and exit status 1."""

  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      fail(f'{argv[1]!r} is not a flag; flags start with --')
    if not FLAGS['verbosity'].present:  # Orbax tells its whole life at INFO
      logging.set_verbosity(logging.WARNING)
    warnings.showwarning = functools.partial(_show, warnings.showwarning)
    try:
      main()
    except InputError as error:
      fail(one_line(error))
    except KeyboardInterrupt:
      print('interrupted', file=sys.stderr, flush=True)
      sys.exit(130)
    except BrokenPipeError:
      sys.exit(1)

  app.run(guarded, [sys.argv[0], *map(_rewritten, sys.argv[1:])], flags_parser=_parsed)


def define_gin_flags() -> None:
  """--gin_file, --gin_bindings (and --gin.X=Y) and --gin_search_paths, as T5X has them."""
  flags.DEFINE_multi_string('gin_file', [], 'A gin file; may be repeated, later ones win.')
  flags.DEFINE_multi_string('gin_bindings', [], 'A gin binding; also --gin.NAME=VALUE.')
  flags.DEFINE_list('gin_search_paths', ['.'], 'Where gin files are looked for.')


def parse_gin(**defaults: Any) -> str:
  """Reads the files and bindings that the flags name; returns all of it as one gin text.

  `defaults` are values of macros that a file requires and the flags leave out.
  """
  from hyperjax import bindings  # imports gin, which only some verbs have

  return bindings.parse(FLAGS.gin_file, FLAGS.gin_bindings, FLAGS.gin_search_paths, defaults)


def call(function: Callable, **arguments: Any) -> Any:
  """Calls a function with `arguments` and what gin binds to it, all of which is built before."""
  from hyperjax import bindings

  bindings.check_reached(function, FLAGS.gin_bindings)
  return function(**bindings.build(function, arguments))


def _show(others: Callable, message: Warning | str, category: type[Warning], *place: Any) -> None:
  """A Note as one line; any other warning as it was shown before."""
  if issubclass(category, Note):
    print(f'note: {message}', file=sys.stderr, flush=True)
  else:
    others(message, category, *place)


def fail(message: str) -> typing.NoReturn:
  """Prints `error: …` and exits with status 1."""
  print(f'error: {message}', file=sys.stderr, flush=True)
  sys.exit(1)


def one_line(error: BaseException) -> str:
  """An error's text without the calls that gin appends to those raised below it."""
  text = re.split(r'\n *In call to configurable', str(error))[0]
  return ' '.join(line.strip() for line in text.splitlines() if line.strip())


def _parsed(argv: Sequence[str]) -> Sequence[str]:
  try:
    return FLAGS(argv)
  except flags.Error as error:
    fail(f'{error}; --help lists the flags')


def _rewritten(argument: str) -> str:
  """T5X's short form: --gin.X=Y is --gin_bindings="X = Y"."""
  if argument.startswith('--gin.') and '=' in argument:
    name, _, value = argument.removeprefix('--gin.').partition('=')
    return f'--gin_bindings={name} = {value}'
  return argument

"""What every verb does around its work: flags, gin, and errors that are one sentence."""

import importlib.resources
import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from hyperjax.errors import InputError

FLAGS = flags.FLAGS


def run(main: Callable[[], None]) -> None:
  """Calls main() after parsing flags; InputError becomes `error: …` and exit status 1."""

  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      _fail(f'{argv[1]!r} is not a flag; flags start with --')
    if not FLAGS['verbosity'].present:  # Orbax tells its whole life at INFO
      logging.set_verbosity(logging.WARNING)
    try:
      main()
    except InputError as error:
      _fail(str(error))
    except BrokenPipeError:
      sys.exit(1)

  app.run(guarded, argv=[sys.argv[0], *map(_rewritten, sys.argv[1:])])


def _fail(message: str) -> None:
  print(f'error: {message}', file=sys.stderr, flush=True)
  # Background writers of a failed run must not keep the process, nor add their own tracebacks.
  sys.exit(1)


def _rewritten(argument: str) -> str:
  """T5X's short form: --gin.X=Y is --gin_bindings="X = Y"."""
  if argument.startswith('--gin.') and '=' in argument:
    name, _, value = argument.removeprefix('--gin.').partition('=')
    return f'--gin_bindings={name} = {value}'
  return argument


# -- gin --------------------------------------------------------------------------------------------


def define_gin_flags() -> None:
  """--gin_file, --gin_bindings (and --gin.X=Y) and --gin_search_paths, as T5X has them."""
  flags.DEFINE_multi_string('gin_file', [], 'A gin file; may be repeated, later ones win.')
  flags.DEFINE_multi_string('gin_bindings', [], 'A gin binding; also --gin.NAME=VALUE.')
  flags.DEFINE_list('gin_search_paths', ['.'], 'Where gin files are looked for.')


def parse_gin() -> None:
  """Reads the files and bindings that the flags name; gin's complaints become InputError."""
  import gin

  packaged = importlib.resources.files('hyperjax')
  for path in (*FLAGS.gin_search_paths, str(packaged), str(packaged.parent)):
    gin.add_config_file_search_path(path)
  for path in FLAGS.gin_file:
    if not any(os.path.isfile(os.path.join(p, path)) for p in _search_paths(packaged)):
      raise InputError(f'gin file {path!r} is not found from {os.getcwd()} or in the package')
  try:
    gin.parse_config_files_and_bindings(FLAGS.gin_file, FLAGS.gin_bindings)
  except (ValueError, SyntaxError, TypeError, AttributeError, OSError, ImportError) as error:
    raise InputError(f'gin: {_one_line(error)}') from error
  check_macros()


def _search_paths(packaged) -> list[str]:
  return ['', *FLAGS.gin_search_paths, str(packaged), str(packaged.parent)]


def check_macros() -> None:
  """Refuses a macro that is set and that nothing reads: a mistyped name, silent in gin 0.5.

  Uses gin's private names; a test pins them.
  """
  import gin

  config = gin.config._CONFIG
  defined = {scope for scope, selector in config if selector == 'gin.macro'}
  used = {
    reference.scoped_selector.rsplit('/', 1)[0]
    for value in config.values()
    for reference in gin.config.iterate_references(value)
    if 'macro' in reference.selector
  }
  for name in sorted(defined - used):
    import difflib

    near = difflib.get_close_matches(name, used, 1)
    hint = f'; did you mean {near[0]}?' if near else ''
    raise InputError(f'gin: nothing reads the macro {name}{hint}')


def call(function: Callable, **arguments):
  """Calls a function with the arguments that gin binds to it."""
  import gin

  try:
    return gin.get_configurable(function)(**arguments)
  except InputError:
    raise
  except (ValueError, RuntimeError, TypeError) as error:
    # gin adds the name of the configurable to messages of errors raised below it, so the only ones
    # taken for the user's are those that gin itself raises.
    text = str(error)
    for sign in ('gin.REQUIRED', 'Required bindings', 'missing a required', 'required positional'):
      if sign in text and not _from_deeper(error):
        raise InputError(f'gin: {_one_line(error)}') from error
    raise


def _from_deeper(error: BaseException) -> bool:
  """Whether the error was raised inside jax or flax rather than on the way to a call."""
  trace = error.__traceback__
  while trace is not None:
    if f'{os.sep}jax{os.sep}' in trace.tb_frame.f_code.co_filename:
      return True
    trace = trace.tb_next
  return False


def _one_line(error: BaseException) -> str:
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return ' '.join(lines)

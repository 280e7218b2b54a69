"""Gin files and bindings: read, checked against what the code takes, and built.

gin 0.5 is silent about a macro that nothing reads, and about a value of a wrong type until
something deep in the code trips over it; both are refused here. That takes gin's private names
_CONFIG and _REGISTRY, which a test pins.
"""

import contextlib
import copy
import difflib
import importlib.resources
import inspect
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
from hyperjax import cli, hints
from hyperjax.errors import InputError

PROVIDERS = {
  'MODEL': 'gin/models',
  'MODEL_CONFIG': 'gin/models',
  'HYPERMODEL': 'gin/hypermodels',
  'TRAINABLE': 'gin/hypermodels',
}
"""Where the files are that set the macros which no run file sets."""


def parse(
  files: Sequence[str],
  bindings: Sequence[str],
  search_paths: Sequence[str],
  defaults: Mapping[str, Any] = types.MappingProxyType({}),
) -> str:
  """Reads gin files, then bindings; returns everything as one gin text.

  Files are looked for in `search_paths`, and then in the package. `defaults` are values of macros
  that a file requires and nothing sets.

  Raises:
    InputError: gin's complaints; a macro that is missing or that nothing reads; a wrong type.
  """
  package = importlib.resources.files('hyperjax')
  places = [*search_paths, str(package), os.path.dirname(str(package))]
  for place in places:
    gin.add_config_file_search_path(place)
  for path in files:
    if not any(os.path.isfile(os.path.join(place, path)) for place in ('', *places)):
      raise InputError(f'gin file {path!r} is found neither from {os.getcwd()} nor in the package')
    with _complaints(f'gin file {path}'):
      gin.parse_config_file(path)
  for binding in bindings:
    with _complaints(f'gin binding {binding!r}'):
      gin.parse_config(binding)
  reads = _reads()
  for name, value in defaults.items():
    if 'gin.REQUIRED' in reads.get(name, ()):
      gin.bind_parameter((name, 'gin.macro', 'value'), value)
  check_macros()
  check_types()
  with _complaints('gin'):
    gin.finalize()
  return gin.config_str()


def build(function: Callable, arguments: Mapping[str, Any]) -> dict[str, Any]:
  """`arguments`, and what gin binds to the function's other parameters; nothing else is built.

  Raises:
    InputError: what cannot be built, and a parameter that nothing is bound to.
  """
  _registered(function)
  with _complaints('gin'):
    raw = gin.get_bindings(function, resolve_references=False)
    # Copying a reference builds it: gin's own way, so that one object is built for each use.
    bound = copy.deepcopy({name: x for name, x in raw.items() if name not in arguments})
  bound.update(arguments)
  for parameter in inspect.signature(function).parameters.values():
    if parameter.default is parameter.empty and parameter.name not in bound:
      raise InputError(f'gin binds nothing to {_short(_selector(function))}.{parameter.name}')
  return bound


def peek(function: Callable, parameter: str, names: Sequence[str]) -> dict[str, Any]:
  """What gin binds to some parameters of the class that a function's parameter is bound to.

  That class is not built. Parameters that nothing is bound to are left out.
  """
  with _complaints('gin'):
    raw = gin.get_bindings(function, resolve_references=False)
    _, reference = _plain(parameter, raw[parameter])
    if not isinstance(reference, gin.config.ConfigurableReference):
      return {}
    with gin.config_scope('/'.join(reference.scopes)):
      own = gin.get_bindings(reference.configurable.selector, resolve_references=False)
    return copy.deepcopy({name: own[name] for name in names if name in own})


def macros(names: Sequence[str]) -> dict[str, Any]:
  """The values of those macros that are set."""
  config = gin.config._CONFIG
  there = [name for name in names if (name, 'gin.macro') in config]
  return copy.deepcopy({name: config[name, 'gin.macro']['value'] for name in there})


# -- Who reads what --------------------------------------------------------------------------------


def check_macros() -> None:
  """Refuses macros that are read and not set, or set and not read: mistyped names."""
  reads = _reads()
  used = {name for names in reads.values() for name in names}
  defined = {name for name in reads if _is_macro(name)}
  required = {name for name in defined if 'gin.REQUIRED' in reads[name]}
  if missing := sorted({name for name in used if _is_macro(name)} - defined | required):
    provided = [name for name in missing if name in PROVIDERS]
    hints = [f'{name} is set by a file of {PROVIDERS[name]}' for name in provided]
    hint = ', '.join(hints) or f'for instance --gin.{missing[0]}=VALUE, text in quotes'
    raise InputError(f'gin: {", ".join(missing)} must be set: {hint}')
  for name in sorted(defined - used):
    near = difflib.get_close_matches(name, used, 1)
    hint = f'; did you mean {near[0]}?' if near else ''
    raise InputError(f'gin: nothing reads the macro {name}{hint}')


def check_reached(function: Callable, bindings: Sequence[str]) -> None:
  """Refuses bindings of a command line whose values the function would never see."""
  _registered(function)
  reads = _reads()
  reached, todo = set(), [_selector(function)]
  while todo:
    if (name := todo.pop()) not in reached:
      reached.add(name)
      todo += reads.get(name, ())
  for binding in bindings:
    name, equals, _ = binding.partition('=')
    owner = _owner(name.strip())
    if equals and not any(f'.{each}'.endswith(f'.{owner}') for each in reached):
      raise InputError(
        f'gin binding {binding!r}: nothing in this run reads {name.strip()}; '
        'leave it out, or bind what reads it'
      )


def _reads() -> dict[str, set[str]]:
  """Macro or full selector -> the macros and full selectors that its bindings refer to."""
  reads: dict[str, set[str]] = {}
  for (scope, selector), values in gin.config._CONFIG.items():
    name = scope if selector == 'gin.macro' else selector
    references = gin.config.iterate_references(values)
    reads.setdefault(name, set()).update(map(_referred, references))
  return reads


def _referred(reference: Any) -> str:
  own = reference.configurable.selector
  return '/'.join(reference.scopes) if own in ('gin.macro', 'gin.constant') else own


def _is_macro(name: str) -> bool:
  return '.' not in name


def _owner(name: str) -> str:
  """`train/data.Live.split` -> data.Live; a macro is its own."""
  return name if _is_macro(name) else name.rpartition('.')[0].rpartition('/')[2]


def _registered(function: Callable) -> None:
  if _selector(function) not in _reads():
    raise InputError(
      f'gin binds nothing to {_short(_selector(function))}: give --gin_file=… of a run, '
      'such as gin/runs/mtf.gin'
    )


def _selector(function: Callable) -> str:
  return f'{function.__module__}.{function.__qualname__}'


def _short(selector: str) -> str:
  return selector.removeprefix('hyperjax.')


# -- Types -----------------------------------------------------------------------------------------


def check_types() -> None:
  """Refuses plain values that are not of the type that a parameter is annotated with."""
  for (_, selector), values in gin.config._CONFIG.items():
    if selector == 'gin.macro':
      continue
    parameters = inspect.signature(gin.config._REGISTRY[selector].wrapped).parameters
    for name, value in values.items():
      where, value = _plain(f'{_short(selector)}.{name}', value)
      hint = parameters[name].annotation if name in parameters else Any
      if not any(gin.config.iterate_references(value)) and not hints.fits(value, hint):
        raise InputError(
          f'gin: {where} is {value!r}; {_short(selector)}.{name} takes {hints.named(hint)}'
        )


def _plain(where: str, value: Any) -> tuple[str, Any]:
  """The value behind macros of macros, and the name of the last one."""
  while isinstance(value, gin.config.ConfigurableReference) and _is_macro(_referred(value)):
    where = _referred(value)
    value = gin.config._CONFIG[where, 'gin.macro']['value']
  return where, value


# -- Sentences -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _complaints(where: str) -> Iterator[None]:
  """gin's errors, and those of what it builds, as an InputError of one sentence."""
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    called = re.search(r"In call to configurable '(\w+)'", str(error))
    of = f' of {called[1]}' if called else ''
    hint = '; text needs quotes' if isinstance(error, SyntaxError) else ''
    text = re.sub(r'malformed node or string[^<]*<[^>]*> ', '', cli.one_line(error))
    raise InputError(f'{where}{of}: {text}{hint}') from error

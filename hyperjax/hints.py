"""Whether a value is of the type that a parameter is annotated with."""

import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def fits(value: Any, hint: Any) -> bool:
  """Whether a plain value is of a type: lists pass for tuples, types not known here take all."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return any(fits(value, each) for each in inner)
  if hint is None:
    return value is None
  if hint is inspect.Parameter.empty:
    return True
  if hint in (int, float):
    return isinstance(value, (int, hint)) and not isinstance(value, bool)
  if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
    return isinstance(value, Mapping) and all(fits(each, inner[1]) for each in value.values())
  if origin is tuple and inner[-1] is not ...:
    listed = isinstance(value, (list, tuple)) and len(value) == len(inner)
    return listed and all(map(fits, value, inner))
  if origin in (Sequence, list, tuple):
    return isinstance(value, (list, tuple)) and all(fits(each, inner[0]) for each in value)
  if origin is Callable:
    return callable(value)
  with contextlib.suppress(TypeError):  # not something to ask isinstance about
    return isinstance(value, hint)
  return True


def named(hint: Any) -> str:
  """A type as one would write it."""
  return inspect.formatannotation(hint).replace('collections.abc.', '')

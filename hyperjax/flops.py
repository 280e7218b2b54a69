"""Floating-point operations of a traced function: of its matrix products, loops counted in full.

XLA's own count takes the body of a loop once, so this one walks the jaxpr: a scan counts its length
times, a `while` as often as the caller says, a conditional as its dearest branch, and what remat
computes anew counts again. Products only: 2 x the size of the result x the length of the sum.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core


@dataclasses.dataclass(frozen=True)
class Mark:
  """What is known of a value: the parameter that it is, and whether anything trained is in it."""

  owner: str | None = None  # 'trained', 'frozen': a parameter, at most cast, cut or turned
  follows: bool = False


NOTHING = Mark()
TRAINED = Mark('trained', True)
FROZEN = Mark('frozen', False)


@dataclasses.dataclass(frozen=True)
class Flops:
  """Operations of a function; `total` holds all, the others those of products with a parameter."""

  total: int = 0
  trained: int = 0  # of parameters that train
  passed: int = 0  # of frozen ones whose input depends on what trains: a gradient passes
  frozen: int = 0  # of frozen ones in front of all that trains

  def __add__(self, other: 'Flops') -> 'Flops':
    return Flops(*map(sum, zip(dataclasses.astuple(self), dataclasses.astuple(other))))

  def __mul__(self, times: int) -> 'Flops':
    return Flops(*(times * each for each in dataclasses.astuple(self)))

  @property
  def of_parameters(self) -> int:
    """2N: products with parameters, forward."""
    return self.trained + self.passed + self.frozen

  @property
  def with_gradients(self) -> int:
    """6N of what trains, 4N of what a gradient passes through, 2N of the rest."""
    return 3 * self.trained + 2 * self.passed + self.frozen


def count(jaxpr: core.Jaxpr, marks: Sequence[Mark] | None = None, rounds: int = 1) -> Flops:
  """The operations of a jaxpr on all devices together.

  Args:
    marks: of its inputs; None: nothing is known of them, and only `total` is counted.
    rounds: how often the body of a `while` runs, which a jaxpr does not say.
  """
  marks = [NOTHING] * len(jaxpr.invars) if marks is None else marks
  return _walk(jaxpr, marks, rounds)[1]


# What a parameter goes through on its way to a product and still is the parameter.
_MOVES = {
  'broadcast_in_dim',
  'convert_element_type',
  'copy',
  'dynamic_slice',
  'optimization_barrier',
  'reshape',
  'sharding_constraint',
  'slice',
  'squeeze',
  'transpose',
}


def _walk(jaxpr: core.Jaxpr, marks: Sequence[Mark], rounds: int) -> tuple[list[Mark], Flops]:
  """The marks of the results, and the operations."""
  known: dict[Any, Mark] = dict(zip(jaxpr.invars, marks, strict=True))
  read = lambda x: NOTHING if isinstance(x, core.Literal) else known.get(x, NOTHING)
  total = Flops()
  for equation in jaxpr.eqns:
    given = [read(x) for x in equation.invars]
    results, flops = _equation(equation, given, rounds)
    known |= zip(equation.outvars, results)
    total += flops
  return [read(x) for x in jaxpr.outvars], total


def _equation(equation, given: list[Mark], rounds: int) -> tuple[list[Mark], Flops]:
  name, params = equation.primitive.name, equation.params
  follows = any(mark.follows for mark in given)
  plain = [Mark(None, follows)] * len(equation.outvars)
  if name == 'dot_general':
    return plain, _product(equation, given)
  if name in _MOVES:
    return [Mark(given[0].owner, follows)] * len(plain), Flops()
  if name == 'scan':
    body, consts, carried = params['jaxpr'].jaxpr, params['num_consts'], params['num_carry']
    return _loop(body, given, consts, carried, params['length'], rounds)
  if name == 'while':
    test, of_test = params['cond_jaxpr'].jaxpr, params['cond_nconsts']
    body, consts = params['body_jaxpr'].jaxpr, params['body_nconsts']
    given = given[of_test:]
    results, flops = _loop(body, given, consts, len(given) - consts, rounds, rounds)
    return results, flops + _walk(test, [NOTHING] * len(test.invars), rounds)[1] * rounds
  if name == 'cond':
    branches = [_walk(each.jaxpr, given[1:], rounds) for each in params['branches']]
    return plain, max((flops for _, flops in branches), key=lambda flops: flops.total)
  inner = _inner(params)
  if inner is None:
    return plain, Flops()
  if len(inner.invars) != len(given):
    given = [NOTHING] * len(inner.invars)
  results, flops = _walk(inner, given, rounds)
  return (results if len(results) == len(plain) else plain), flops


def _inner(params: dict[str, Any]) -> core.Jaxpr | None:
  """The function that jit, remat, custom_jvp and their like call."""
  for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
    if key in params:
      return getattr(params[key], 'jaxpr', params[key])
  return None


def _loop(
  body: core.Jaxpr, given: list[Mark], consts: int, carried: int, length: int, rounds: int
) -> tuple[list[Mark], Flops]:
  """A loop's results and operations; what it carries is marked as every round leaves it."""
  fixed, carry, rows = given[:consts], given[consts : consts + carried], given[consts + carried :]
  while True:
    results, flops = _walk(body, [*fixed, *carry, *rows], rounds)
    after = [_either(x, y) for x, y in zip(carry, results)]
    if after == carry:
      return results, flops * length
    carry = after


def _either(x: Mark, y: Mark) -> Mark:
  return Mark(x.owner if x.owner == y.owner else None, x.follows or y.follows)


def _product(equation, given: list[Mark]) -> Flops:
  (contracted, _), _ = equation.params['dimension_numbers']
  summed = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
  flops = 2 * math.prod(equation.outvars[0].aval.shape) * summed
  owners = {mark.owner for mark in given} - {None}
  if not owners:
    return Flops(flops)
  if 'trained' in owners:
    return Flops(flops, trained=flops)
  if any(mark.follows for mark in given):
    return Flops(flops, passed=flops)
  return Flops(flops, frozen=flops)

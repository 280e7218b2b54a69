"""Programs as XLA plans them: the same numbers as those of the compiled program."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hyperjax import hlo, partitioning, schedules, topologies

tpu = pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu is missing')

BUFFERS = """\
BufferAssignment:
allocation 0: size 40, parameter 0, shape |f32[10]| at ShapeIndex {}, maybe-live-out:
 value: <1 x @0> (size=40,offset=0): f32[10]{0}
allocation 1: size 20, parameter 1, shape |f32[5]| at ShapeIndex {}:
allocation 2: size 12, maybe-live-out:
allocation 3: size 8, output shape is |(f32[10])|, maybe-live-out:
allocation 4: size 512, constant:
allocation 5: size 4096, thread-local:
allocation 6: size 1000000, preallocated-temp:
allocation 7: size 777, color 1, preallocated-temp:
"""


def test_what_is_allocated_in_main_memory():
  assert schedules.allocated(BUFFERS) == (60, 20, 512 + 4096 + 1000000)


def lowered(devices):
  """A donated state, rows that a mesh splits, and a matrix that it gathers."""
  mesh = partitioning.make_mesh(partitioning.MeshShape(1, len(devices)), devices)
  split = NamedSharding(mesh, P('fsdp'))
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=split)

  def step(state, rows):
    return jnp.tanh(state + 1), jnp.tanh(rows @ state).sum(axis=1)

  jitted = jax.jit(step, donate_argnums=0, out_shardings=(split, split))
  return jitted.lower(shape(256, 384), shape(512, 256))


def told(compiled):
  found = hlo.by_kind(hlo.parse(compiled.text).collectives)
  return compiled.results, found


def test_a_plan_tells_what_the_program_does():
  plan, program = (made(lowered(jax.devices())) for made in (schedules.planned, schedules.compiled))
  assert told(plan) == told(program) and 0 <= plan.peak - program.peak < 64  # constants


@tpu
def test_a_plan_for_a_tpu_lacks_the_code(monkeypatch):
  for name, value in topologies.QUIET.items():
    monkeypatch.setenv(name, value)
  devices = topologies.topology('v5e:2x2').devices
  plan, program = (made(lowered(devices)) for made in (schedules.planned, schedules.compiled))
  assert told(plan) == told(program) and 'all-gather' in told(plan)[1]
  assert plan.text.count('fusion(') == program.text.count('fusion(')
  # Code, and what is so small that it lies beside it.
  assert 0 < program.peak - plan.peak < 2**20 and plan.temporaries > 0


def test_a_program_that_leaves_no_plan_behind_tells_itself():
  class Cached:
    """A program out of JAX's cache."""

    def __init__(self, lowered):
      self.lowered = lowered

    def compile(self, compiler_options=None):
      return self.lowered.compile()

  cached = Cached(lowered(jax.devices()))
  assert told(schedules.planned(cached)) == told(schedules.compiled(cached))


def test_an_error_of_the_compiler_is_raised():
  class Failing:
    def compile(self, compiler_options):
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Used 20.1G of 15.75G hbm')

  with pytest.raises(jax.errors.JaxRuntimeError, match='15.75G'):
    schedules.planned(Failing())

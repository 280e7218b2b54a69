"""A run's programs: its compiled steps, and the shapes and places of all that they take.

No array exists here. The trainer runs these programs, and hyperjax.compile compiles them for
machines that are not there: the same step, shardings, donation and optimiser.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from hyperjax import optim, partitioning, protocols, step
from hyperjax.errors import InputError

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
  """What the steps of a run compute: all of it but data, weights and a place on disk."""

  model: step.Model
  trainable: Sequence[str]
  total_steps: int
  objective: protocols.Objective
  optimizer: optim.AdamW | optim.Adafactor
  seed: int
  accumulate: int
  loss_normalizing_factor: float | None

  def __post_init__(self):
    if isinstance(self.trainable, str):
      raise InputError(
        f'trainable is {self.trainable!r}; give a tuple of names: ({self.trainable!r},)'
      )
    object.__setattr__(self, 'trainable', tuple(self.trainable))
    if self.total_steps < 1:
      raise InputError(f'TRAIN_STEPS (total_steps) is {self.total_steps}; give at least 1')
    factor = self.loss_normalizing_factor
    if factor is not None and not factor > 0:
      raise InputError(
        f'LOSS_NORMALIZING_FACTOR (loss_normalizing_factor) is {factor}; give None or more than 0'
      )

  def train_step(self, plan: 'Plan') -> Any:
    """(state, frozen, batch) -> (state, metrics), compiled at its first call."""
    rate = self.optimizer.rate(self.total_steps)

    def one(state, frozen, batch):
      new, metrics = step.train_step(
        state,
        frozen,
        batch,
        model=self.model,
        objective=self.objective,
        tx=plan.tx,
        seed=self.seed,
        accumulate=self.accumulate,
        loss_normalizing_factor=self.loss_normalizing_factor,
      )
      return new, metrics | {'learning_rate': rate(state.step)}

    return step.jit_step(one, out_shardings=(plan.state_shardings, None))

  def evaluation_step(self) -> Any:
    """(trainable, frozen, batch, extra) -> sums of metrics, compiled at its first call."""

    @jax.jit
    def sums(trainable, frozen, batch, extra):
      params = step.join(trainable, frozen)
      generate = lambda b: self.model.generate(params, b)
      answer = lambda b, phi: self.model.logits(params, b, phi)
      return self.objective(generate, answer, batch, extra)[1]

    return sums


@dataclasses.dataclass(frozen=True)
class Plan:
  """All parameters of a program on a mesh without their values, who trains, and the state."""

  shapes: Tree
  axes: Tree  # logical axis names
  shardings: Tree
  trained: Tree  # the shapes of what trains
  frozen: Tree  # of what does not, in the dtype of computation
  tx: optax.GradientTransformation
  first_state: Callable[[Tree], step.TrainState]  # from what trains
  state_shardings: step.TrainState

  def placed(self, tree: Tree) -> Tree:
    """Shapes of some of the parameters with their shardings."""
    return abstract(tree, pick(self.shardings, tree))

  @property
  def state(self) -> step.TrainState:
    """The training state: shapes and shardings."""
    return abstract(jax.eval_shape(self.first_state, self.trained), self.state_shardings)


def plan(program: Program, mesh: Mesh) -> Plan:
  """The program's parameters and state on a mesh.

  Raises:
    InputError: a leaf that holds nothing; names that no parameter has; a mesh that does not divide
      the leaves; an optimiser that does not fit the number of steps.
  """
  boxed = jax.eval_shape(program.model.init_params, jax.random.key(program.seed))
  is_spec = lambda leaf: isinstance(leaf, PartitionSpec)
  axes = jax.tree.map(tuple, nn.get_partition_spec(boxed), is_leaf=is_spec)
  shapes = nn.unbox(boxed)
  for name, leaf in named(shapes):
    if leaf.size == 0:
      raise InputError(
        f'{name} has the shape {list(leaf.shape)}, which holds nothing: '
        'give lengths and widths of at least 1, such as PREFIX_LENGTH'
      )
  trained, frozen = step.split(shapes, program.trainable)
  shardings = partitioning.parameter_shardings(mesh, axes, shapes)
  tx = program.optimizer.transformation(pick(axes, trained), program.total_steps)
  first = _first_state(tx)
  of_state = partitioning.state_shardings(
    mesh, jax.eval_shape(first, trained), trained, pick(shardings, trained)
  )
  cast = _cast(frozen, program.model)
  return Plan(shapes, axes, shardings, trained, cast, tx, first, of_state)


def _first_state(tx: optax.GradientTransformation) -> Callable[[Tree], step.TrainState]:
  def first(trained):
    return step.TrainState(jnp.zeros((), jnp.int32), trained, tx.init(trained))

  return first


def dtype_of(model: step.Model) -> Any:
  """The dtype that a model computes in, and that frozen weights are held in."""
  return jnp.dtype(getattr(getattr(model.downstream, 'config', None), 'dtype', 'float32'))


def _cast(frozen: Tree, model: step.Model) -> Tree:
  """Shapes of frozen weights in the dtype of computation; trained ones stay float32."""
  dtype = dtype_of(model)
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), frozen)


# -- Trees of shapes -------------------------------------------------------------------------------


def pick(tree: Tree, like: Tree) -> Tree:
  """The leaves of `tree` that `like` has."""
  return {k: pick(tree[k], v) if isinstance(v, dict) else tree[k] for k, v in like.items()}


def abstract(shapes: Any, shardings: Any) -> Any:
  """Shapes with their places."""
  one = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  return jax.tree.map(one, shapes, shardings)


def named(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> Sequence[tuple[str, Any]]:
  """Leaves with their slash-joined paths."""
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
  return [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf) for path, leaf in leaves]

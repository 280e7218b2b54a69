"""The train step: equation (4) of HyperTuning, its gradient, and one update.

    loss(xi) = cross_entropy(y, M(theta, x, phi)),   phi = H(xi, context)

`params` is {'hypermodel': xi, 'downstream': theta}; what trains is named by path prefixes, and
gradients and optimiser state exist for that alone.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperjax import peft, protocols
from hyperjax.errors import InputError

Tree = dict[str, Any]
Sums = dict[str, tuple[jax.Array, jax.Array]]


@peft.pytree
class TrainState:
  """All that a step changes; saved, sharded and restored as one."""

  step: Any  # int32 scalar
  trainable: Any
  opt_state: Any
  extra: Any = None  # whatever an objective carries


# -- Which parameters train ------------------------------------------------------------------------


def split(params: Tree, trainable: Sequence[str]) -> tuple[Tree, Tree]:
  """(trainable, frozen) parts of a nested dict, by slash-joined path prefixes.

  Raises:
    InputError: a prefix names no parameter.
  """
  for prefix in trainable:
    if not _has(params, prefix.split('/')):
      raise InputError(
        f'trainable names {prefix!r}, but the parameters have no such part, '
        f'only {", ".join(params)} and what is in them'
      )
  return _filter(params, '', trainable, True), _filter(params, '', trainable, False)


def _has(params, path: Sequence[str]) -> bool:
  for key in path:
    if not isinstance(params, dict) or key not in params:
      return False
    params = params[key]
  return True


def _filter(params: Tree, where: str, prefixes: Sequence[str], wanted: bool) -> Tree:
  result = {}
  for key, value in params.items():
    name = f'{where}/{key}'.lstrip('/')
    if any(name == p for p in prefixes):
      if wanted:
        result[key] = value
    elif isinstance(value, dict):
      inner = _filter(value, name, prefixes, wanted)
      if inner:
        result[key] = inner
    elif not wanted:
      result[key] = value
  return result


def join(first: Tree, second: Tree) -> Tree:
  """The nested dict of which `split` made two."""
  result = dict(first)
  for key, value in second.items():
    result[key] = join(first[key], value) if key in first else value
  return result


# -- The loss --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Model:
  """A hypermodel (or nobody) that writes phi for a downstream model."""

  downstream: protocols.Downstream
  hypermodel: protocols.Hypermodel | None = None

  def init_params(self, key: jax.Array) -> Tree:
    """The joined tree at random, boxed with logical axes; no 'hypermodel' where there is none."""
    keys = dict(zip(('downstream', 'hypermodel'), jax.random.split(key), strict=True))
    params = {'downstream': self.downstream.init_params(keys['downstream'])}
    if self.hypermodel is not None:
      params['hypermodel'] = self.hypermodel.init_params(keys['hypermodel'])
    return params

  def generate(self, params: Tree, batch: Tree, rngs=None) -> peft.Phi | None:
    """phi for the batch's contexts; None where nobody writes one."""
    return None if self.hypermodel is None else self.hypermodel.generate(params, batch, rngs)

  def logits(self, params: Tree, batch: Tree, phi: peft.Phi | None = None, rngs=None):
    """What the downstream model says of the batch under phi, [b, t, v]."""
    return self.downstream.logits(params, batch, phi, rngs)


def loss_fn(
  trainable: Tree,
  frozen: Tree,
  batch: Tree,
  extra: Any,
  rng: jax.Array,
  model: Model,
  objective: protocols.Objective,
) -> tuple[jax.Array, tuple[Sums, Any]]:
  """The objective's sum over the batch. Dropout rngs go to the parts that train, and no others."""
  params = join(trainable, frozen)
  keys = dict(zip(('hypermodel', 'downstream'), jax.random.split(rng), strict=True))
  rngs = {part: {'dropout': keys[part]} if part in trainable else None for part in keys}
  generate = lambda b: model.generate(params, b, rngs['hypermodel'])
  answer = lambda b, phi: model.logits(params, b, phi, rngs['downstream'])
  total, metrics, extra = objective(generate, answer, batch, extra)
  return total, (metrics, extra)


# -- The step --------------------------------------------------------------------------------------


def microbatches(batch: Tree, parts: int) -> Tree:
  """Every leaf [c m …] as [parts, c/parts m …]: each part takes whole contexts.

  The contexts of a part are strided, so that under a mesh every device holds some of each part.
  """
  contexts = num_contexts(batch)

  def cut(leaf):
    rows = leaf.reshape(contexts // parts, parts, leaf.shape[0] // contexts, *leaf.shape[1:])
    rows = jnp.moveaxis(rows, 1, 0)
    return rows.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:])

  return jax.tree.map(cut, batch)


def num_contexts(batch: Tree) -> int:
  """Contexts in a batch, read or not; a batch that does not say has one for every row."""
  keys = ('hyper_input_tokens', 'task_id', 'decoder_target_tokens')
  return next(batch[key].shape[0] for key in keys if key in batch)


def gradients(
  state: TrainState,
  frozen: Tree,
  batch: Tree,
  rng: jax.Array,
  model: Model,
  objective: protocols.Objective,
  accumulate: int = 1,
) -> tuple[Tree, Sums, Any]:
  """Gradients of the objective's sum over the whole batch, read in `accumulate` parts."""
  value_and_grad = jax.grad(loss_fn, has_aux=True)

  def one(extra, part, index):
    rng_part = jax.random.fold_in(rng, index)
    return value_and_grad(state.trainable, frozen, part, extra, rng_part, model, objective)

  if accumulate == 1:
    grads, (sums, extra) = one(state.extra, batch, 0)
    return grads, sums, extra
  parts = microbatches(batch, accumulate)

  def body(carry, part_and_index):
    grads, sums, extra = carry
    part, index = part_and_index
    new_grads, (new_sums, extra) = one(extra, part, index)
    return (_add(grads, new_grads), _add(sums, new_sums), extra), None

  first = jax.tree.map(lambda leaf: leaf[0], parts)
  zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
  grads, (sums, _) = zeros(jax.eval_shape(one, state.extra, first, jnp.int32(0)))
  carry = (grads, sums, state.extra)
  (grads, sums, extra), _ = jax.lax.scan(body, carry, (parts, jnp.arange(accumulate)))
  return grads, sums, extra


def _add(first, second):
  return jax.tree.map(jnp.add, first, second)


def train_step(
  state: TrainState,
  frozen: Tree,
  batch: Tree,
  *,
  model: Model,
  objective: protocols.Objective,
  tx: optax.GradientTransformation,
  seed: int = 0,
  accumulate: int = 1,
  loss_normalizing_factor: float | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update. The loss is a sum over target tokens divided by their global number.

  Accumulation and sharding therefore equal the full batch. `loss_normalizing_factor` divides
  instead of the number of tokens, as in T5X. Dropout depends on (seed, step) alone.

  Returns:
    the next state, and metrics as scalars. A loss that is not finite spoils the next state; the
    trainer sees it in the metrics, stops, and keeps the last good checkpoint.
  """
  rng = jax.random.fold_in(jax.random.key(seed), state.step)
  grads, sums, extra = gradients(state, frozen, batch, rng, model, objective, accumulate)
  weight = sums['loss'][1]
  factor = (
    1 / jnp.maximum(weight, 1)
    if loss_normalizing_factor is None
    else (1 / jnp.float32(loss_normalizing_factor))
  )
  grads = jax.tree.map(lambda g: (g * factor).astype(g.dtype), grads)
  updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
  trainable = optax.apply_updates(state.trainable, updates)
  metrics = means(sums) | {
    'grad_norm': optax.tree.norm(grads),
    'weight': weight,
  }
  return TrainState(state.step + 1, trainable, opt_state, extra), metrics


def means(sums: Sums) -> dict[str, jax.Array]:
  """{name: sum / weight}, 0 where there was nothing to weigh."""
  return {name: total / jnp.maximum(weight, 1e-9) for name, (total, weight) in sums.items()}


def check_batch(batch_size: int, contexts: int, accumulate: int) -> None:
  """Refuses sizes that do not divide.

  Raises:
    InputError: names the sizes.
  """
  if accumulate < 1 or contexts % accumulate:
    raise InputError(
      f'accumulate={accumulate} does not divide the {contexts} contexts of a batch of {batch_size}'
    )


def jit_step(step: Callable, **shardings) -> Callable:
  """The step compiled, its state donated: the old one's memory becomes the new one's."""
  return jax.jit(step, donate_argnums=0, **shardings)

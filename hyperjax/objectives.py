"""What is minimised. Objectives return sums; the step divides them by the global weight.

b batch, t target length, v vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hyperjax import peft
from hyperjax.errors import InputError


def token_losses(
  logits: Float[Array, 'b t v'],
  targets: Int[Array, 'b t'],
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
) -> tuple[Float[Array, 'b t'], Float[Array, 'b t']]:
  """Cross entropy in nats and the z-loss term z_loss * logsumexp(logits)^2, per token.

  Label smoothing spreads `label_smoothing` over the other tokens and subtracts the entropy of the
  smoothed target, so that a perfect prediction costs 0 (T5X's convention).
  """
  logits = logits.astype(jnp.float32)
  log_z = jax.nn.logsumexp(logits, axis=-1)
  right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  loss = log_z - right
  if label_smoothing:
    other = label_smoothing / (logits.shape[-1] - 1)
    mean_of_others = jnp.sum(log_z[..., None] - logits, axis=-1) - loss
    entropy = -(1 - label_smoothing) * jnp.log(1 - label_smoothing) - label_smoothing * jnp.log(
      other
    )
    loss = (1 - label_smoothing) * loss + other * mean_of_others - entropy
  return loss, z_loss * jnp.square(log_z)


def largest(logits: Float[Array, 'b t v'], targets: Int[Array, 'b t']) -> Bool[Array, 'b t']:
  """Whether no logit is above the target's.

  On CPUs XLA finds a maximum in a thirtieth of the time of an argmax.
  """
  right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return right >= jnp.max(logits, axis=-1)


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
  """Equation (4) of HyperTuning: cross entropy of the target given x and phi = H(context)."""

  z_loss: float = 0.0
  label_smoothing: float = 0.0

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise InputError(
        f'CrossEntropy.label_smoothing is {self.label_smoothing}; give a share in [0, 1)'
      )
    if self.z_loss < 0:
      raise InputError(f'CrossEntropy.z_loss is {self.z_loss}; give a weight of 0 or more')

  def __call__(self, generate, answer, batch: dict[str, Any], extra: Any):
    """See protocols.Objective; also reports accuracy and the statistics of phi."""
    phi = generate(batch)
    logits = answer(batch, phi)
    targets, weights = batch['decoder_target_tokens'], batch['decoder_loss_weights']
    loss, z_term = token_losses(logits, targets, self.z_loss, self.label_smoothing)
    weight = weights.sum()
    total = jnp.sum((loss + z_term) * weights)
    hits = jnp.sum(largest(logits, targets) * weights)
    metrics = {
      'loss': (total, weight),
      'cross_ent_loss': (jnp.sum(loss * weights), weight),
      'accuracy': (hits, weight),
      **statistics(phi),
    }
    if self.z_loss:
      metrics['z_loss'] = (jnp.sum(z_term * weights), weight)
    return total, metrics, extra


def statistics(phi: peft.Phi | None) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Norms of phi per site, and the mean cosine similarity between contexts.

  phi_norm/<site> is the root mean square of the leaf's values. phi_cosine near 1 means that the
  hypermodel writes the same phi whatever the context: it has collapsed.
  """
  if phi is None:
    return {}
  one = jnp.ones((), jnp.float32)
  result, vectors = {}, []
  for name, leaf in zip(peft.leaf_names(phi), jax.tree.leaves(phi), strict=True):
    if name.endswith('mask'):
      continue
    leaf = jax.lax.stop_gradient(leaf).astype(jnp.float32)
    result[f'phi_norm/{name}'] = (jnp.sqrt(jnp.mean(jnp.square(leaf))), one)
    axis = peft.axes_of(name).index('contexts')
    if leaf.shape[axis] > 1:
      vectors.append(_similarity_parts(jnp.moveaxis(leaf, axis, 0)))
  if vectors:
    result['phi_cosine'] = (_mean_cosine(jnp.sum(jnp.stack(vectors), axis=0)), one)
  return result


def _similarity_parts(leaf: jax.Array) -> Float[Array, '2 c']:
  """Inner products with the next context and with itself: enough for a mean over c pairs."""
  flat = leaf.reshape(leaf.shape[0], -1)
  other = jnp.roll(flat, 1, axis=0)
  return jnp.stack([jnp.sum(flat * other, axis=1), jnp.sum(flat * flat, axis=1)])


def _mean_cosine(parts: Float[Array, '2 c']) -> jax.Array:
  inner, square = parts
  return jnp.mean(inner / jnp.sqrt(square * jnp.roll(square, 1) + 1e-30))

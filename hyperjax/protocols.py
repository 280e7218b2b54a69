"""The contracts between the parts. `params` is always {'hypermodel': …, 'downstream': …}."""

from typing import Any, Protocol, runtime_checkable

import jax

from hyperjax import peft

Params = dict[str, Any]
Batch = dict[str, Any]
Rngs = dict[str, jax.Array] | None


@runtime_checkable
class Hypermodel(Protocol):
  """Writes phi from a batch's contexts."""

  def init_params(self, key: jax.Array) -> Params:
    """Its own parameters at random, boxed with their logical axes."""
    ...

  def generate(self, params: Params, batch: Batch, rngs: Rngs = None) -> peft.Phi:
    """phi for the contexts of the batch."""
    ...


@runtime_checkable
class Downstream(Protocol):
  """The language model that phi adapts."""

  def init_params(self, key: jax.Array) -> Params:
    """Its own parameters at random, boxed with their logical axes."""
    ...

  def logits(
    self, params: Params, batch: Batch, phi: peft.Phi | None = None, rngs: Rngs = None
  ) -> jax.Array:
    """Logits [b, t, v] of the batch's decoder_input_tokens."""
    ...


@runtime_checkable
class Objective(Protocol):
  """What is minimised. Sums, not means: the step divides once, by the weight."""

  def __call__(self, generate, answer, batch: Batch, extra: Any):
    """Calls generate(batch) -> phi and answer(batch, phi) -> logits as it needs.

    Returns:
      (loss summed over target tokens, {name: (sum, weight)}, extra). The metrics hold 'loss'.
    """
    ...

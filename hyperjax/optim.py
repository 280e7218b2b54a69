"""How weights move: AdamW and Adafactor, the schedules of their learning rates, and clipping."""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from hyperjax.errors import InputError

Axes = Any  # a tree of tuples of logical axis names, shaped like the parameters
Number = Any  # at least 0; or traced, in a sweep over learning rates
Rate = Callable[[Any], Float[Array, '']]  # step -> learning rate


@runtime_checkable
class Schedule(Protocol):
  """The learning rate over a run, from its first step to `total_steps`."""

  def __call__(self, step: Any, total_steps: int) -> Float[Array, '']: ...


def _check(config, *fields: str) -> None:
  """Fields are numbers of at least 0, or traced ones (a sweep); `clip` is above 0, or None."""
  for name in fields:
    value = getattr(config, name)
    if isinstance(value, jax.Array) or (name == 'clip' and value is None):
      continue
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 <= value < float('inf') or (name == 'clip' and value == 0):
      least = 'above 0, or None for no clipping' if name == 'clip' else 'of at least 0'
      raise InputError(f'{type(config).__name__}.{name} = {value!r} must be a number {least}')


@dataclasses.dataclass(frozen=True)
class Constant:
  """One rate, after a linear warm-up from 0."""

  rate: Number = 1e-3
  warmup_steps: int = 0

  def __post_init__(self):
    _check(self, 'rate', 'warmup_steps')

  def __call__(self, step: Any, total_steps: int) -> Float[Array, '']:
    del total_steps
    return _float(self.rate * _warmup(step, self.warmup_steps))


@dataclasses.dataclass(frozen=True)
class LinearDecay:
  """From 0 up to `peak` over `warmup_steps`, then straight down to `final` at the run's last step.

  HyperTuning: peak 5e-5, no warm-up given.
  """

  peak: Number = 5e-5
  warmup_steps: int = 0
  final: Number = 0.0

  def __post_init__(self):
    _check(self, 'peak', 'warmup_steps', 'final')

  def __call__(self, step: Any, total_steps: int) -> Float[Array, '']:
    if self.warmup_steps >= total_steps:
      raise InputError(
        f'LinearDecay.warmup_steps = {self.warmup_steps} leaves nothing of the {total_steps} steps '
        'of the run to decay over: lower it or train longer'
      )
    left = (total_steps - step) / (total_steps - self.warmup_steps)
    decayed = self.final + (self.peak - self.final) * jnp.clip(left, 0.0, 1.0)
    return _float(
      jnp.where(step < self.warmup_steps, self.peak * _warmup(step, self.warmup_steps), decayed)
    )


@dataclasses.dataclass(frozen=True)
class Rsqrt:
  """scale / sqrt(max(step, warmup_steps)): T5's pretraining; T5X's `constant * rsqrt_decay`."""

  scale: Number = 1.0
  warmup_steps: int = 10_000

  def __post_init__(self):
    _check(self, 'scale', 'warmup_steps')

  def __call__(self, step: Any, total_steps: int) -> Float[Array, '']:
    del total_steps
    return _float(self.scale / jnp.sqrt(jnp.maximum(step, max(self.warmup_steps, 1))))


@dataclasses.dataclass(frozen=True)
class AdamW:
  """Adam with decoupled weight decay on matrices; gradients are first clipped by their global norm.

  A number for `learning_rate` is a constant rate; `clip` None leaves gradients as they are.
  """

  learning_rate: Schedule | Number = LinearDecay()
  b1: Number = 0.9
  b2: Number = 0.999
  eps: Number = 1e-8
  weight_decay: Number = 0.0
  clip: Number | None = 1.0

  def __post_init__(self):
    _check(self, 'b1', 'b2', 'eps', 'weight_decay', 'clip')
    _schedule(self)

  def rate(self, total_steps: int) -> Rate:
    """The learning rate as a function of the step alone."""
    return _rate(self, total_steps)

  def transformation(self, axes: Axes, total_steps: int) -> optax.GradientTransformation:
    """The optimiser of parameters with these logical axes, in a run of `total_steps`."""
    adam = optax.scale_by_adam(self.b1, self.b2, self.eps)
    return _chain(self, adam, axes, total_steps)


@dataclasses.dataclass(frozen=True)
class Adafactor:
  """Adafactor (Shazeer and Stern 2018) as T5X runs it: factored second moments, no momentum.

  The update of each matrix of each layer is clipped to RMS `clipping_threshold` and multiplied by
  that matrix's own RMS (at least `min_scale`), so the learning rate is relative: 1e-3 is T5's for
  fine-tuning. Weight decay is decoupled and multiplied by the rate, as in AdamW.
  """

  learning_rate: Schedule | Number = Constant(1e-3)
  decay_rate: Number = 0.8
  clipping_threshold: Number = 1.0
  min_scale: Number = 1e-3
  min_dim_size_to_factor: int = 128
  weight_decay: Number = 0.0
  clip: Number | None = None

  def __post_init__(self):
    _check(
      self,
      'decay_rate',
      'clipping_threshold',
      'min_scale',
      'min_dim_size_to_factor',
      'weight_decay',
      'clip',
    )
    _schedule(self)

  def rate(self, total_steps: int) -> Rate:
    """The learning rate as a function of the step alone."""
    return _rate(self, total_steps)

  def transformation(self, axes: Axes, total_steps: int) -> optax.GradientTransformation:
    """The optimiser of parameters with these logical axes, in a run of `total_steps`."""
    one = optax.chain(
      optax.scale_by_factored_rms(
        decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_dim_size_to_factor
      ),
      optax.clip_by_block_rms(self.clipping_threshold),
      optax.scale_by_param_block_rms(self.min_scale),
    )
    return _chain(self, by_layer(one, axes), axes, total_steps)


def by_layer(tx: optax.GradientTransformation, axes: Axes) -> optax.GradientTransformation:
  """Runs `tx` on every leaf alone, and on every layer alone of a leaf whose first axis is 'layers'.

  On a whole stack Adafactor would take one RMS, and factor, over all layers. The state is a tree
  like the parameters with a state of `tx` at each leaf (stacked over layers like the leaf).
  """

  def each(function: Callable, names: tuple) -> Callable:
    return jax.vmap(function) if names[:1] == ('layers',) else function

  def init(params):
    return _map_axes(lambda names, p: each(tx.init, names)(p), axes, params)

  def update(grads, state, params=None):
    pairs = _map_axes(
      lambda names, *leaf: each(tx.update, names)(*leaf), axes, grads, state, params
    )
    return (
      _map_axes(lambda names, pair: pair[0], axes, pairs),
      _map_axes(lambda names, pair: pair[1], axes, pairs),
    )

  return optax.GradientTransformation(init, update)


def _chain(config, tx, axes: Axes, total_steps: int) -> optax.GradientTransformation:
  # Always the same four parts, so that clip and weight_decay can change between two legs of a run.
  return optax.chain(
    optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip),
    tx,
    optax.add_decayed_weights(config.weight_decay, mask=_map_axes(_is_matrix, axes)),
    optax.scale_by_learning_rate(config.rate(total_steps)),
  )


def _is_matrix(names: tuple) -> bool:
  return sum(name != 'layers' for name in names) > 1


def _map_axes(function: Callable, axes: Axes, *trees: Any) -> Any:
  return jax.tree.map(function, axes, *trees, is_leaf=lambda names: isinstance(names, tuple))


def _rate(config, total_steps: int) -> Rate:
  schedule = _schedule(config)
  schedule(0, total_steps)  # refuses a run that it does not fit, here and not inside a trace
  return lambda step: schedule(step, total_steps)


def _schedule(config) -> Schedule:
  given = config.learning_rate
  if callable(given):
    return given
  if isinstance(given, (numbers.Real, jax.Array)):
    return Constant(given)
  raise InputError(
    f'{type(config).__name__}.learning_rate = {given!r} is neither a number nor a schedule: '
    'give 1e-3, or @LinearDecay() in gin'
  )


def _warmup(step: Any, warmup_steps: int) -> Any:
  return jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0


def _float(rate: Any) -> Float[Array, '']:
  return jnp.asarray(rate, jnp.float32)

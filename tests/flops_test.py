"""Counts of arithmetic: those of one's own hand, for loops, remat, conditionals and models."""

import functools

import jax
import jax.numpy as jnp
import pytest
import tiny_models
from flax import linen as nn

from hyperjax import flops, objectives, peft, step
from hyperjax.hypermodels import hypert5
from hyperjax.models import t5

B, D, F = 5, 7, 11
PRODUCT = 2 * B * D * F


def shaped(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def total(function, *arguments, **options) -> int:
  return flops.count(jax.make_jaxpr(function)(*arguments).jaxpr, **options).total


def test_a_product_is_twice_its_result_times_the_length_of_its_sum():
  assert total(jnp.dot, shaped(B, D), shaped(D, F)) == PRODUCT
  assert total(lambda x: x + jnp.tanh(x), shaped(B, D)) == 0
  einsum = functools.partial(jnp.einsum, 'bij,bjk->bik')
  assert total(einsum, shaped(3, B, D), shaped(3, D, F)) == 3 * PRODUCT


def stacked(x, kernels):
  return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0].sum()


LAYERS = 3
SQUARE = 2 * B * D * D


def test_a_scan_counts_its_length_also_in_its_gradient():
  arguments = shaped(B, D), shaped(LAYERS, D, D)
  assert total(stacked, *arguments) == LAYERS * SQUARE
  assert total(jax.grad(stacked, (0, 1)), *arguments) == 3 * LAYERS * SQUARE

  def twice(x, kernels):
    return jax.lax.scan(lambda y, _: (y + stacked(x, kernels), None), 0.0, None, length=4)[0]

  assert total(twice, *arguments) == 4 * LAYERS * SQUARE


def test_what_remat_computes_anew_counts_again():
  def loss(x, kernels):
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(x, kernel):
      return jnp.tanh(jnp.tanh(x @ kernel) @ kernel), None

    return jax.lax.scan(body, x, kernels)[0].sum()

  # Forward 2 a layer, backward 4, anew 2: tanh's derivative needs both results.
  arguments = shaped(B, D), shaped(LAYERS, D, D)
  assert total(jax.grad(loss, (0, 1)), *arguments) == 8 * LAYERS * SQUARE


def test_a_conditional_counts_its_dearest_branch_and_a_while_its_rounds():
  def either(x, kernel):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ kernel @ kernel, lambda: x @ kernel)

  assert total(either, shaped(B, D), shaped(D, D)) == 2 * SQUARE

  def loop(x, kernel):
    return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ kernel, x)

  assert total(loop, shaped(B, D), shaped(D, D)) == SQUARE
  assert total(loop, shaped(B, D), shaped(D, D), rounds=13) == 13 * SQUARE


def test_products_with_parameters_count_by_who_trains():
  def model(first, phi, last, x):
    """x meets a frozen kernel, then what is trained, then a frozen kernel; and itself."""
    y = x @ first.astype(jnp.bfloat16).astype(jnp.float32)
    y = jnp.tanh(y @ phi.T.reshape(D, D))
    return (y @ last) @ x.T @ x

  kernel = shaped(D, D)
  jaxpr = jax.make_jaxpr(jax.jit(model))(kernel, kernel, kernel, shaped(B, D))
  marks = [flops.FROZEN, flops.TRAINED, flops.FROZEN, flops.NOTHING]
  found = flops.count(jaxpr.jaxpr, marks)
  assert found == flops.Flops(3 * SQUARE + 2 * (2 * B * B * D), SQUARE, SQUARE, SQUARE)
  assert found.of_parameters == 3 * SQUARE
  assert found.with_gradients == (3 + 2 + 1) * SQUARE


def test_a_loop_passes_gradients_from_its_second_round_on():
  def model(trained, frozen, x):
    body = lambda y, kernel: (jnp.tanh(y @ kernel) + trained, None)
    return jax.lax.scan(body, x, frozen)[0]

  jaxpr = jax.make_jaxpr(model)(shaped(B, D), shaped(LAYERS, D, D), shaped(B, D))
  found = flops.count(jaxpr.jaxpr, [flops.TRAINED, flops.FROZEN, flops.NOTHING])
  assert (found.passed, found.frozen) == (LAYERS * SQUARE, 0)


# -- A model, by hand ------------------------------------------------------------------------------


def stack(config: t5.T5Config, layers: int, blocks: int) -> int:
  """Parameters in the products of a stack, but for the keys and values of a memory."""
  attention = config.emb_dim * config.num_heads * config.head_dim
  own = blocks * (4 if blocks == 1 else 3) * attention  # the second block: query and out
  return layers * (own + 3 * config.emb_dim * config.mlp_dim)


def memory(config: t5.T5Config) -> int:
  return config.num_decoder_layers * 2 * config.emb_dim * config.num_heads * config.head_dim


def products(config: t5.T5Config, rows: int, read: int, written: int, logits: int) -> int:
  """Parameters x the tokens that pass through them, in T5."""
  encoder = stack(config, config.num_encoder_layers, 1) + memory(config)
  decoder = stack(config, config.num_decoder_layers, 2) + logits * config.emb_dim
  return rows * (read * encoder + written * decoder)


@pytest.mark.parametrize('remat', [None, 'full'])
def test_a_hypermodel_over_a_frozen_model(remat):
  down, trunk = tiny_models.DOWNSTREAM, tiny_models.TRUNK
  c, m, s, t, h, p = 3, 2, 7, 5, 9, 4
  config = t5.T5Config(**(vars(down) | {'remat': remat}))
  model = step.Model(t5.T5(config), hypert5.HyperT5(trunk, down, peft.PrefixTuning(p)))
  shapes = jax.eval_shape(lambda key: nn.unbox(model.init_params(key)), jax.random.key(0))
  trained, frozen = step.split(shapes, ('hypermodel',))
  batch = jax.eval_shape(lambda: tiny_models.batch(c, m, s, t, h))
  loss = functools.partial(
    step.loss_fn,
    extra=None,
    rng=jax.random.key(0),
    model=model,
    objective=objectives.CrossEntropy(),
  )
  jaxpr = jax.make_jaxpr(lambda *given: loss(*given)[0])(trained, frozen, batch)
  parts = ((trained, flops.TRAINED), (frozen, flops.FROZEN), (batch, flops.NOTHING))
  found = flops.count(jaxpr.jaxpr, [mark for tree, mark in parts for _ in jax.tree.leaves(tree)])
  width = down.num_heads * down.head_dim
  layers = down.num_encoder_layers + down.num_decoder_layers
  heads = c * p * (4 * trunk.emb_dim**2 + 2 * layers * trunk.emb_dim * width)
  by_hand = products(trunk, c, h, 2 * p, 0) + heads
  assert found.trained == 2 * by_hand
  assert found.passed == 2 * products(down, c * m, s, t, down.vocab_size)
  assert found.frozen == 0

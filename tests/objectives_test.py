"""What is minimised: hand formulas of the loss, and statistics that show a collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from hyperjax import objectives, peft, protocols
from hyperjax.errors import InputError
from hyperjax.models import t5

V = 11


@pytest.fixture(scope='module')
def logits():
  return jnp.asarray(tiny.normal(2, 5, V, seed=3, scale=2.0))


TARGETS = np.array([[1, 10, 3, 0, 0], [7, 7, 2, 4, 0]], np.int32)


def probabilities(logits):
  return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_cross_entropy_is_minus_log_probability(logits):
  loss, z = objectives.token_losses(logits, jnp.asarray(TARGETS))
  p = np.take_along_axis(probabilities(np.asarray(logits, np.float64)), TARGETS[..., None], 2)
  np.testing.assert_allclose(loss, -np.log(p[..., 0]), rtol=1e-5)
  assert not z.any()


def test_label_smoothing_is_t5x(logits):
  """Cross entropy to the smoothed target, less its entropy: t5x/losses.py."""
  smoothing = 0.15
  target = np.where(np.arange(V) == TARGETS[..., None], 1 - smoothing, smoothing / (V - 1))
  p = probabilities(np.asarray(logits, np.float64))
  expected = -(target * np.log(p)).sum(-1) + (target * np.log(target)).sum(-1)
  loss, _ = objectives.token_losses(logits, jnp.asarray(TARGETS), label_smoothing=smoothing)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  perfect, _ = objectives.token_losses(
    jnp.log(jnp.asarray(target, jnp.float32)), jnp.asarray(TARGETS), label_smoothing=smoothing
  )
  np.testing.assert_allclose(perfect, 0, atol=1e-6)


def test_z_loss_is_the_square_of_the_log_normaliser(logits):
  _, z = objectives.token_losses(logits, jnp.asarray(TARGETS), z_loss=0.03)
  expected = 0.03 * np.log(np.exp(np.asarray(logits, np.float64)).sum(-1)) ** 2
  np.testing.assert_allclose(z, expected, rtol=1e-5)


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_losses_and_gradients_equal_torch(logits, smoothing):
  """torch spreads smoothing over all v tokens and keeps the entropy: translated here."""
  torch = pytest.importorskip('torch')
  ours = smoothing * (V - 1) / V

  def total(logits):
    loss, _ = objectives.token_losses(logits, jnp.asarray(TARGETS), label_smoothing=ours)
    return jnp.sum(loss * (TARGETS > 0))

  value, gradient = jax.value_and_grad(total)(logits)
  x = torch.tensor(np.asarray(logits), dtype=torch.float64, requires_grad=True)
  theirs = torch.nn.functional.cross_entropy(
    x.reshape(-1, V),
    torch.tensor(TARGETS.reshape(-1), dtype=torch.int64),
    ignore_index=0,
    label_smoothing=smoothing,
    reduction='sum',
  )
  theirs.backward()
  entropy = 0.0
  if smoothing:
    entropy = -(1 - ours) * np.log(1 - ours) - ours * np.log(ours / (V - 1))
  np.testing.assert_allclose(value, theirs.item() - entropy * (TARGETS > 0).sum(), rtol=1e-5)
  np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
  logits = jnp.zeros((1, 1, 70_000), jnp.bfloat16)
  loss, _ = objectives.token_losses(logits, jnp.zeros((1, 1), jnp.int32))
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, np.log(70_000), rtol=1e-5)


def objective(logits, weights, phi=None, **kwargs):
  batch = {'decoder_target_tokens': jnp.asarray(TARGETS), 'decoder_loss_weights': weights}
  call = objectives.CrossEntropy(**kwargs)
  assert isinstance(call, protocols.Objective)
  return call(lambda _: phi, lambda _, given: logits if given is phi else None, batch, 'extra')


def test_padding_has_no_part_in_sums(logits):
  weights = jnp.asarray(TARGETS > 0, jnp.float32)
  total, metrics, extra = objective(logits, weights, z_loss=0.01)
  other = logits + 5 * jax.random.normal(jax.random.key(0), logits.shape) * (1 - weights)[..., None]
  again, metrics_again, _ = objective(other, weights, z_loss=0.01)
  np.testing.assert_allclose(total, again, rtol=1e-6)
  tiny.close(metrics, metrics_again)
  loss, z = objectives.token_losses(logits, jnp.asarray(TARGETS), z_loss=0.01)
  np.testing.assert_allclose(metrics['loss'], [((loss + z) * weights).sum(), 7], rtol=1e-5)
  np.testing.assert_allclose(metrics['cross_ent_loss'], [(loss * weights).sum(), 7], rtol=1e-5)
  np.testing.assert_allclose(metrics['z_loss'], [(z * weights).sum(), 7], rtol=1e-5)
  assert extra == 'extra'


def test_accuracy_counts_target_tokens_that_are_likeliest(logits):
  weights = jnp.asarray(TARGETS > 0, jnp.float32)
  right = logits.at[0, 1, 10].set(99.0).at[1, 3, 4].set(99.0).at[1, 4, 0].set(99.0)
  right = right.at[0, 0, 2].set(99.0).at[0, 2, 2].set(99.0)
  right = right.at[1, :3, 9].set(99.0)
  _, metrics, _ = objective(right, weights)
  assert metrics['accuracy'] == (2, 7)


@pytest.mark.parametrize('change', [{'label_smoothing': 1.0}, {'z_loss': -0.1}])
def test_a_bad_amount_is_refused_by_name(change):
  with pytest.raises(InputError, match=next(iter(change))):
    objectives.CrossEntropy(**change)


# -- Statistics of phi -----------------------------------------------------------------------------


def prefix(values):
  """A prefix phi whose contexts are these multiples of the same random one."""
  config = t5.preset('tiny', emb_dim=8, num_heads=2, head_dim=3)
  phi = tiny.filled(peft.PrefixTuning(4).spec(config))
  return jax.tree.map(lambda leaf: jnp.concatenate([leaf * v for v in values], axis=1), phi)


def test_a_hypermodel_that_collapsed_has_cosine_one():
  statistics = objectives.statistics(prefix([1, 1, 1]))
  np.testing.assert_allclose(statistics['phi_cosine'], (1, 1), rtol=1e-5)
  statistics = objectives.statistics(prefix([1, 2, 0.1]))
  np.testing.assert_allclose(statistics['phi_cosine'], (1, 1), rtol=1e-5)


def test_the_cosine_is_the_mean_over_neighbouring_contexts():
  # pairs (1, -1), (-1, -1), (-1, 1), (1, 1)
  np.testing.assert_allclose(
    objectives.statistics(prefix([1, -1, -1, 1]))['phi_cosine'][0], 0, atol=1e-6
  )
  phi = tiny.filled(peft.LoRA(3).spec(tiny.DOWNSTREAM, 3))
  flat = np.concatenate(
    [np.moveaxis(leaf, 1, 0).reshape(3, -1) for leaf in jax.tree.leaves(phi)], axis=1
  )
  flat /= np.linalg.norm(flat, axis=1, keepdims=True)
  expected = (flat[0] @ flat[1] + flat[1] @ flat[2] + flat[2] @ flat[0]) / 3
  phi = jax.tree.map(jnp.asarray, phi)
  np.testing.assert_allclose(objectives.statistics(phi)['phi_cosine'][0], expected, rtol=1e-4)


def test_one_context_has_no_cosine_and_nobodys_phi_no_statistics():
  assert 'phi_cosine' not in objectives.statistics(prefix([1]))
  assert objectives.statistics(None) == {}


def test_norms_are_root_mean_squares_per_site_without_masks_and_gradients():
  phi = prefix([2.0])
  front = peft.Prefix(
    phi.encoder.attention.prefix.key, jnp.full((2, 1, 4, 2, 3), -3.0), jnp.ones((1, 4), bool)
  )
  phi = peft.Phi(peft.LayerPhi(peft.AttentionPhi(front)))
  statistics = objectives.statistics(phi)
  assert set(statistics) == {
    'phi_norm/encoder/attention/prefix/key',
    'phi_norm/encoder/attention/prefix/value',
  }
  np.testing.assert_allclose(statistics['phi_norm/encoder/attention/prefix/value'], (3, 1))
  norm = np.sqrt(np.mean(np.square(front.key)))
  np.testing.assert_allclose(
    statistics['phi_norm/encoder/attention/prefix/key'][0], norm, rtol=1e-5
  )
  gradient = jax.grad(
    lambda key: objectives.statistics(
      peft.Phi(peft.LayerPhi(peft.AttentionPhi(peft.Prefix(key, front.value))))
    )['phi_norm/encoder/attention/prefix/key'][0]
  )(front.key)
  assert not gradient.any()

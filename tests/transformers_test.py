"""Our T5 1.0 and 1.1 are those of Hugging Face's transformers: logits, loss, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from hyperjax import objectives
from hyperjax.models import t5

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

SIZES = dict(
  vocab_size=38,
  emb_dim=10,
  num_heads=4,
  num_encoder_layers=2,
  num_decoder_layers=3,
  head_dim=6,
  mlp_dim=14,
)
V1_1 = t5.T5Config(**SIZES)
V1_0 = t5.T5Config(**SIZES, mlp_activations=('relu',), logits_via_embedding=True)
ATTENTION = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
BLOCKS = {  # ours: theirs, in their layers 0, 1, 2
  'encoder': {'attention': 'SelfAttention', 'mlp': 'DenseReluDense'},
  'decoder': {
    'self_attention': 'SelfAttention',
    'encoder_decoder_attention': 'EncDecAttention',
    'mlp': 'DenseReluDense',
  },
}
NORMS = {'encoder_decoder_attention': 'cross_attention'}


def their_names(params):
  """{their name: (our leaf, layer or None, transposed)}."""
  names = {'shared.weight': ('token_embedder/embedding', None, False)}
  if 'logits_dense' in params['decoder']:
    names['lm_head.weight'] = ('decoder/logits_dense/kernel', None, True)
  for stack, blocks in BLOCKS.items():
    names[f'{stack}.final_layer_norm.weight'] = (f'{stack}/{stack}_norm/scale', None, False)
    bias = f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    names[bias] = (f'{stack}/relpos_bias/rel_embedding', None, True)
    layers = params[stack]['layers']
    for layer in range(len(layers['mlp']['wo']['kernel'])):
      for i, (block, theirs) in enumerate(blocks.items()):
        where, ours = f'{stack}.block.{layer}.layer.{i}', f'{stack}/layers'
        norm = f'{ours}/pre_{NORMS.get(block, block)}_layer_norm/scale'
        names[f'{where}.layer_norm.weight'] = (norm, layer, False)
        for linear in layers[block]:
          name = f'{where}.{theirs}.{ATTENTION.get(linear, linear)}.weight'
          names[name] = (f'{ours}/{block}/{linear}/kernel', layer, True)
  return names


def as_theirs(tree):
  """Our leaves (parameters or gradients) under their names and in their layout."""
  leaves = {name: np.asarray(leaf) for name, leaf in tiny.named(tree).items()}
  used, result = set(), {}
  for theirs, (ours, layer, transposed) in their_names(tree).items():
    leaf = leaves[ours] if layer is None else leaves[ours][layer]
    result[theirs] = np.ascontiguousarray(leaf.T if transposed else leaf)
    used.add(ours)
  assert used == set(leaves)
  return result


def their_model(config, params):
  theirs = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=config.vocab_size,
      d_model=config.emb_dim,
      d_kv=config.head_dim,
      d_ff=config.mlp_dim,
      num_layers=config.num_encoder_layers,
      num_decoder_layers=config.num_decoder_layers,
      num_heads=config.num_heads,
      feed_forward_proj='relu' if config.logits_via_embedding else 'gated-gelu',
      tie_word_embeddings=config.logits_via_embedding,
      dropout_rate=0.0,
    )
  ).eval()
  if not config.logits_via_embedding:  # transformers 5 ties them until a checkpoint says otherwise
    theirs.lm_head.weight = torch.nn.Parameter(torch.zeros(config.vocab_size, config.emb_dim))
  own = dict(theirs.named_parameters())
  weights = as_theirs(params)
  assert set(own) == set(weights)
  with torch.no_grad():
    for name, value in weights.items():
      assert own[name].shape == value.shape, name
      own[name].copy_(torch.from_numpy(value))
  return theirs


@pytest.mark.parametrize('config', [V1_1, V1_0], ids=['1.1', '1.0'])
def test_logits_loss_and_gradients_equal_transformers(config):
  """Random weights that give logits of order 1; padding in inputs and in targets."""
  model = t5.T5(config)
  params, batch = tiny.params_of(model), tiny.batch()
  weights = batch['decoder_loss_weights']
  assert not weights.all() and not (batch['encoder_input_tokens'] > 0).all()

  def mean_loss(params):
    logits = model.apply({'params': params}, tiny.rows(batch, 0, None))
    losses, _ = objectives.token_losses(logits, batch['decoder_target_tokens'])
    return jnp.sum(losses * weights) / weights.sum(), logits

  (loss, logits), gradients = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))(params)
  assert 0.3 < np.std(logits) < 3

  theirs = their_model(config, params)
  tokens = {name: torch.from_numpy(np.array(value)) for name, value in batch.items()}
  targets = tokens['decoder_target_tokens'].long()
  output = theirs(
    input_ids=tokens['encoder_input_tokens'],
    attention_mask=(tokens['encoder_input_tokens'] > 0).long(),
    decoder_input_ids=tokens['decoder_input_tokens'],
    decoder_attention_mask=(targets > 0).long(),
    labels=torch.where(targets > 0, targets, -100),
  )
  output.loss.backward()
  real = np.asarray(weights, bool)
  np.testing.assert_allclose(logits[real], output.logits.detach().numpy()[real], atol=1e-4)
  np.testing.assert_allclose(loss, output.loss.item(), rtol=1e-5)
  for name, gradient in as_theirs(gradients).items():
    other = theirs.get_parameter(name).grad.numpy()
    worst = np.abs(gradient - other).max() / np.abs(other).max()
    assert worst < 1e-4, (name, worst)

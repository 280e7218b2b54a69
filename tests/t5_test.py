"""T5 equals T5X's, and what it computes does not depend on how it is run."""

import dataclasses
import functools
import json
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from flax import linen as nn

from hyperjax import peft
from hyperjax.errors import InputError
from hyperjax.models import attention, layers, t5, transformer

CONFIG = t5.T5Config(
  vocab_size=37,
  emb_dim=12,
  num_heads=3,
  num_encoder_layers=2,
  num_decoder_layers=4,
  head_dim=5,
  mlp_dim=14,
)


def batch(b=2, s=7, t=6, vocab=37, seed=0):
  rng = np.random.default_rng(seed)
  inputs = rng.integers(2, vocab, (b, s)).astype(np.int32)
  inputs[0, s - 2 :] = 0
  targets = rng.integers(2, vocab, (b, t)).astype(np.int32)
  decoder = np.concatenate([np.zeros((b, 1), np.int32), targets[:, :-1]], axis=1)
  return {
    'encoder_input_tokens': jnp.asarray(inputs),
    'decoder_input_tokens': jnp.asarray(decoder),
    'decoder_target_tokens': jnp.asarray(targets),
    'decoder_loss_weights': jnp.ones((b, t), jnp.float32),
  }


def params_of(config, seed=0):
  return tiny.params_of(t5.T5(config), seed)


@pytest.fixture(scope='module')
def params():
  return params_of(CONFIG)


@pytest.fixture(scope='module')
def memory(params):
  return tiny.apply(t5.T5(CONFIG), params, batch()['encoder_input_tokens'], method='encode')


def stacked(flat: dict) -> dict:
  """T5X's layers_0, layers_1, … stacked into `layers`."""
  tree: dict = {}
  for name in sorted(flat):
    stack, _, rest = name.partition('/layers_')
    if not rest:
      put(tree, name.split('/'), flat[name])
    elif rest.startswith('0/'):
      path = rest[2:]
      leaves, i = [], 0
      while f'{stack}/layers_{i}/{path}' in flat:
        leaves.append(flat[f'{stack}/layers_{i}/{path}'])
        i += 1
      put(tree, [stack, 'layers', *path.split('/')], np.stack(leaves))
  return tree


def put(tree, path, leaf):
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = jnp.asarray(leaf)


def test_logits_equal_t5x(shared_data):
  folder = shared_data / 't5x' / 'logits'
  config = t5.T5Config(**json.loads((folder / 'config.json').read_text())['config'])
  params = stacked(dict(np.load(folder / 'params.npz')))
  io = {k: jnp.asarray(v) for k, v in np.load(folder / 'io.npz').items()}
  model = t5.T5(config)
  np.testing.assert_allclose(tiny.apply(model, params, io), io['logits'], atol=1e-5)
  memory = tiny.apply(model, params, io['encoder_input_tokens'], method='encode')
  np.testing.assert_allclose(memory.states, io['encoded'], atol=1e-5)


def test_parameters_have_t5x_names_axes_and_stacked_layers():
  boxed = jax.eval_shape(t5.T5(CONFIG).init_params, jax.random.key(0))
  names = nn.get_partition_spec(boxed)
  query = names['encoder']['layers']['attention']['query']['kernel']
  assert tuple(query) == ('layers', 'embed', 'joined_kv')
  assert tuple(names['decoder']['logits_dense']['kernel']) == ('embed', 'vocab')
  shapes = jax.tree.map(jnp.shape, nn.unbox(boxed))
  assert shapes['encoder']['layers']['attention']['query']['kernel'] == (2, 12, 15)
  assert shapes['decoder']['layers']['encoder_decoder_attention']['out']['kernel'] == (4, 15, 12)
  assert shapes['decoder']['relpos_bias']['rel_embedding'] == (3, 32)
  assert set(shapes['decoder']['layers']) == {
    'pre_self_attention_layer_norm',
    'self_attention',
    'pre_cross_attention_layer_norm',
    'encoder_decoder_attention',
    'pre_mlp_layer_norm',
    'mlp',
  }


def test_layers_start_differently_and_at_t5xs_scale():
  """Kernels have variance 1 / in; the query's also holds the 1 / h that attention leaves out."""
  params = tiny.started(t5.T5(CONFIG))
  layer = params['decoder']['layers']
  kernel = layer['mlp']['wi_0']['kernel']
  assert not np.allclose(kernel[0], kernel[1])
  for name, variance in (('query', 1 / (12 * 5)), ('key', 1 / 12), ('out', 1 / 15)):
    start = np.var(layer['self_attention'][name]['kernel'])
    assert abs(start / variance - 1) < 0.25, name
  assert abs(np.var(params['token_embedder']['embedding']) - 1) < 0.25


def test_scan_equals_a_loop_over_layers(params, memory):
  """The encoder's scanned layers, one Block at a time."""
  b = batch()
  tokens, stack = b['encoder_input_tokens'], CONFIG.stack('encoder')
  real = tokens > 0
  x = params['token_embedder']['embedding'][tokens]
  positions = jnp.arange(tokens.shape[1])
  bias = layers.RelativeBias(3, True).apply(
    {'params': params['encoder']['relpos_bias']}, positions, positions
  )

  @jax.jit
  def block(layer, x, shared):
    return transformer.Block(stack).apply({'params': layer}, x, None, None, shared)

  for i in range(2):
    layer = jax.tree.map(operator.itemgetter(i), params['encoder']['layers'])
    kernel = attention.Xla(real[:, None, :] & real[:, :, None], bias)
    shared = (kernel, None, None, 0, None)
    x, _ = block(layer, x, shared)
  x = layers.RMSNorm().apply({'params': params['encoder']['encoder_norm']}, x)
  np.testing.assert_allclose(x, memory.states, atol=2e-6)


@functools.partial(jax.jit, static_argnames='config')
def loss_and_gradient(params, config):
  def loss(params):
    return jnp.sum(jnp.sin(t5.T5(config).apply({'params': params}, batch())))

  return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize('policy', sorted(transformer.REMAT_POLICIES))
def test_remat_changes_nothing(params, policy):
  remat = loss_and_gradient(params, dataclasses.replace(CONFIG, remat=policy))
  tiny.close(remat, loss_and_gradient(params, CONFIG))


def test_padding_and_batch_order_do_not_matter(params):
  b, model = batch(b=3), t5.T5(CONFIG)
  logits = tiny.apply(model, params, b)
  longer = {**b, 'encoder_input_tokens': jnp.pad(b['encoder_input_tokens'], ((0, 0), (0, 4)))}
  np.testing.assert_allclose(tiny.apply(model, params, longer), logits, atol=2e-6)
  order = jnp.array([2, 0, 1])
  shuffled = tiny.apply(model, params, {k: v[order] for k, v in b.items()})
  np.testing.assert_allclose(shuffled, logits[order], atol=2e-6)


def test_decoder_is_causal(params):
  b, model = batch(), t5.T5(CONFIG)
  logits = tiny.apply(model, params, b)
  changed = {**b, 'decoder_input_tokens': b['decoder_input_tokens'].at[:, 4].add(1)}
  after = tiny.apply(model, params, changed)
  np.testing.assert_array_equal(after[:, :4], logits[:, :4])
  assert not np.allclose(after[:, 4:], logits[:, 4:])


def test_reading_with_a_cache_equals_reading_at_once(params, memory):
  b, model = batch(), t5.T5(CONFIG)
  run = lambda *args, **kw: tiny.apply(model, params, *args, **kw)
  memory = run(b['encoder_input_tokens'], method='encode')
  tokens = b['decoder_input_tokens']
  causal = jnp.tril(jnp.ones((1, 6, 6), bool))
  whole, _, own = run(tokens, memory, causal, keep=(0, 6), method='read')
  cache = transformer.empty_cache(CONFIG.stack('decoder'), 2, 9)
  parts, columns = [], []
  for start, stop in ((0, 3), (3, 4), (4, 6)):
    keep, mask = (0, stop - start), t5.cached_mask(cache, stop - start)
    part, cache, kept = run(tokens[:, start:stop], memory, mask, cache, keep=keep, method='read')
    parts.append(part)
    columns.append(kept)
  np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=2e-6)
  joined = jax.tree.map(lambda *kept: jnp.concatenate(kept, axis=2), *columns)
  tiny.close(joined, own)
  assert cache.length == 6
  assert [layer.cross_attention.key.shape for layer in cache.layers] == [(2, 3, 7, 5)] * 4


def test_rows_may_share_a_cache_and_go_on_from_one_another(params, memory):
  """Three beams of each row; at position 2 each goes on from what its neighbour has read."""
  m, model, rng = 3, t5.T5(CONFIG), np.random.default_rng(5)
  run = lambda *args, **kw: tiny.apply(model, params, *args, **kw)
  tokens = rng.integers(2, 37, (2, m, 5)).astype(np.int32)
  pasts = np.concatenate([np.roll(tokens[..., :2], -1, axis=1), tokens[..., 2:]], axis=-1)
  causal = jnp.tril(jnp.ones((1, 5, 5), bool))
  wanted, _, _ = run(pasts.reshape(6, 5), memory, causal, method='read')

  cache = transformer.empty_cache(CONFIG.stack('decoder'), 2, m * 7)
  own = np.eye(m, dtype=bool)[:, None, None, :]  # m t s m: whose columns a beam sees
  neighbours = np.roll(own, 1, axis=-1)
  place = np.arange(7)[None, None, :, None]
  for start, stop in ((0, 2), (2, 3), (3, 4), (4, 5)):
    time = np.arange(start, stop)[None, :, None, None]
    whose = np.where((place < 2) & (start >= 2), neighbours, own)
    mask = np.tile((whose & (place <= time)).reshape(m, stop - start, m * 7), (2, 1, 1))
    part = tokens[..., start:stop].reshape(6, -1)
    hidden, cache, _ = run(part, memory, mask, cache, method='read')
    if start >= 2:
      np.testing.assert_allclose(hidden, wanted[:, start:stop], atol=3e-6)
  assert cache.layers[0].self_attention.key.shape == (2, 3, m * 7, 5)


def test_one_memory_serves_several_rows(params, memory):
  """Beams of one row read its memory without a copy: rows i // beams."""
  model = t5.T5(CONFIG)
  tokens = jnp.arange(2, 2 + 6 * 4).reshape(6, 4)
  mask = jnp.tril(jnp.ones((1, 4, 4), bool))
  shared, _, _ = tiny.apply(model, params, tokens, memory, mask, method='read')
  wide = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), memory)
  copied, _, _ = tiny.apply(model, params, tokens, wide, mask, method='read')
  np.testing.assert_allclose(shared, copied, atol=2e-6)


def test_kept_columns_are_the_layers_own_keys_and_values(params, memory):
  """`keep` cuts columns of every layer; layer 0's keys are the projection of the normed input."""
  model = t5.T5(CONFIG)
  queries = jax.random.normal(jax.random.key(1), (2, 6, 12))
  read = lambda keep: tiny.apply(model, params, queries, memory, keep=keep, method='read')
  _, _, every = read((0, 6))
  _, _, last = read((4, 6))
  assert last.key.shape == (4, 2, 2, 3, 5)
  np.testing.assert_array_equal(last.key, every.key[:, :, 4:])
  np.testing.assert_array_equal(last.value, every.value[:, :, 4:])
  layer = jax.tree.map(lambda leaf: leaf[0], params['decoder']['layers'])
  normed = layers.RMSNorm().apply({'params': layer['pre_self_attention_layer_norm']}, queries)
  key = normed @ layer['self_attention']['key']['kernel']
  np.testing.assert_allclose(every.key[0], key.reshape(2, 6, 3, 5), atol=2e-6)


def test_a_stack_without_causality_lets_the_last_query_change_the_first_output(params, memory):
  model = t5.T5(CONFIG)
  queries = jax.random.normal(jax.random.key(1), (2, 6, 12))

  @jax.jit
  @jax.grad
  def change(queries, mask):  # of the first output
    hidden, _, _ = tiny.apply(model, params, queries, memory, mask, method='read')
    return hidden[:, 0].sum()

  assert np.abs(change(queries, None)[:, -1]).max() > 1e-6
  causal = jnp.tril(jnp.ones((1, 6, 6), bool))
  assert np.abs(change(queries, causal)[:, -1]).max() == 0


def test_unidirectional_buckets_put_every_key_to_the_right_in_bucket_0():
  relative = jnp.arange(-300, 300)
  bucket = layers.relative_bucket(relative, False, 32, 128)
  assert (bucket[relative >= 0] == 0).all()
  assert bucket.max() == 31 and bucket[relative == -1] == 1


def test_tied_logits_are_divided_by_the_root_of_the_width():
  tied = dataclasses.replace(CONFIG, logits_via_embedding=True, mlp_activations=('relu',))
  params = params_of(tied)
  assert 'logits_dense' not in params['decoder']
  assert set(params['encoder']['layers']['mlp']) == {'wi', 'wo'}
  hidden = jax.random.normal(jax.random.key(2), (2, 3, 12))
  logits = tiny.apply(t5.T5(tied), params, hidden, method='to_logits')
  table = params['token_embedder']['embedding']
  np.testing.assert_allclose(logits, hidden @ table.T / np.sqrt(12), rtol=1e-5, atol=1e-5)


def test_dropout_acts_only_where_an_rng_is_given():
  config = dataclasses.replace(CONFIG, dropout_rate=0.5)
  params, b = params_of(config), batch()
  plain = tiny.apply(t5.T5(CONFIG), params, b)
  np.testing.assert_array_equal(tiny.apply(t5.T5(config), params, b), plain)
  dropped = tiny.apply(t5.T5(config), params, b, rngs={'dropout': jax.random.key(3)})
  assert not np.allclose(dropped, plain)


def test_bfloat16_computes_in_bfloat16_with_float32_weights_and_logits():
  config = dataclasses.replace(CONFIG, dtype='bfloat16')
  params = params_of(config)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  memory = t5.T5(config).apply({'params': params}, batch()['encoder_input_tokens'], method='encode')
  assert memory.states.dtype == jnp.bfloat16
  assert tiny.apply(t5.T5(config), params, batch()).dtype == jnp.float32


@pytest.mark.parametrize(
  'size,count',
  [('small', 76_961_152), ('base', 247_577_856), ('large', 783_150_080), ('xl', 2_849_757_184)],
)
def test_presets_have_the_public_sizes(size, count):
  """Parameter counts of T5 1.1, as the public checkpoints have them."""
  config = t5.preset(size)
  shapes = jax.eval_shape(t5.T5(config).init_params, jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_presets_of_1_0_are_tied_relu_models():
  config = t5.preset_1_0('small')
  shapes = jax.eval_shape(t5.T5(config).init_params, jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 60_506_624
  assert t5.preset_1_0('base', mlp_activations=('gelu',)).mlp_activations == ('gelu',)


@pytest.mark.parametrize(
  'change,word',
  [
    ({'emb_dim': 0}, 'emb_dim'),
    ({'mlp_activations': ('swish', 'linear')}, 'mlp_activations'),
    ({'remat': 'everything'}, 'remat'),
    ({'dropout_rate': 1.5}, 'dropout_rate'),
    ({'attention': 'flash'}, "attention is 'flash'; give None or one of"),
    ({'dtype': 'float23'}, 'dtype'),
    ({'dtype': 'int32'}, 'dtype'),
    ({'relpos_buckets': 2}, 'relpos_buckets is 2; give at least 4'),
    ({'relpos_max_distance': 16}, 'relpos_max_distance is 16; give more than half'),
  ],
)
def test_a_bad_config_is_refused_by_name(change, word):
  with pytest.raises(InputError, match=word):
    dataclasses.replace(CONFIG, **change)


def test_a_joined_memory_is_attended_to(params):
  """Phi.memory changes the logits, and an all-masked one does not."""
  b, model = batch(), t5.T5(CONFIG)
  plain = tiny.apply(model, params, b)
  states = jax.random.normal(jax.random.key(4), (1, 3, 12))
  seen = peft.Phi(memory=peft.Memory(states, jnp.ones((1, 3), bool)))
  unseen = peft.Phi(memory=peft.Memory(states, jnp.zeros((1, 3), bool)))
  assert not np.allclose(tiny.apply(model, params, b, seen), plain)
  np.testing.assert_allclose(tiny.apply(model, params, b, unseen), plain, atol=2e-6)

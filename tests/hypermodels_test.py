"""Who writes phi: what HyperT5 and LearnedPhi write, how they start, and what they start from."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hyperjax import objectives, partitioning, peft, protocols, step
from hyperjax.errors import InputError
from hyperjax.hypermodels import hypert5, learned
from hyperjax.models import t5

PREFIX = peft.PrefixTuning(5)
LORA = peft.LoRA(rank=7, alpha=21.0)
EVERYWHERE = peft.LoRA(rank=3, sites=tiny.ALL_SITES)
METHODS = {'prefix': PREFIX, 'LoRA': LORA, 'LoRA everywhere': EVERYWHERE}
DOWNSTREAM = t5.T5(tiny.DOWNSTREAM)


def hyper(method, hidden=11, trunk=tiny.TRUNK):
  return hypert5.HyperT5(trunk, tiny.DOWNSTREAM, method, hidden)


def shapes_of(model):
  return jax.eval_shape(lambda key: nn.unbox(model.init_params(key)), jax.random.key(0))


def write(model, params, tokens=None):
  tokens = tiny.batch()['hyper_input_tokens'] if tokens is None else tokens
  return tiny.apply(model, params, tokens)


def loss_of(phi, batch):
  """Mean loss of the tiny downstream model under phi, and its logits."""
  logits = tiny.apply(DOWNSTREAM, tiny.params_of(DOWNSTREAM), tiny.rows(batch, 0, None), phi)
  losses, _ = objectives.token_losses(logits, batch['decoder_target_tokens'])
  weights = batch['decoder_loss_weights']
  return (losses * weights).sum() / weights.sum(), logits


# -- HyperT5: what it writes -----------------------------------------------------------------------


@pytest.mark.parametrize('method', METHODS)
def test_phi_has_the_shapes_of_its_spec(method):
  model = hyper(METHODS[method])
  phi = jax.eval_shape(
    lambda params, tokens: model.apply({'params': params}, tokens),
    shapes_of(model),
    tiny.batch()['hyper_input_tokens'],
  )
  assert jax.tree.map(jnp.shape, phi) == jax.tree.map(
    jnp.shape, METHODS[method].spec(tiny.DOWNSTREAM, contexts=3)
  )


@pytest.mark.parametrize('method, queries', [('prefix', 5 + 5), ('LoRA', 2 + 3 + 3)])
def test_queries_are_2p_for_prefixes_and_3l_for_lora(method, queries):
  assert shapes_of(hyper(METHODS[method]))['queries'].shape == (queries, 16)


def test_hypermodels_keep_the_contract():
  for model in (hyper(PREFIX), learned.LearnedPhi(tiny.DOWNSTREAM)):
    assert isinstance(model, protocols.Hypermodel)
  assert isinstance(DOWNSTREAM, protocols.Downstream)


def test_each_context_is_read_alone_and_its_padding_does_not_matter():
  model = hyper(PREFIX)
  params, tokens = tiny.params_of(model), tiny.batch()['hyper_input_tokens']
  together = write(model, params)
  longer = write(model, params, jnp.pad(tokens, ((0, 0), (0, 4))))
  tiny.close(longer, together)
  for i in range(3):
    tiny.close(write(model, params, tokens[i : i + 1]), peft.select(together, i))
  key = together.decoder.attention.prefix.key
  assert np.abs(key[:, 0] - key[:, 1]).max() > 1e-3  # but contexts matter


def test_the_last_query_changes_the_first_state():
  model = hyper(PREFIX)
  params, tokens = tiny.params_of(model), tiny.batch()['hyper_input_tokens']

  @jax.jit
  @jax.grad
  def change(queries):
    states = model.apply({'params': {**params, 'queries': queries}}, tokens, method='states')
    return jnp.sum(jnp.sin(states[:, 0]))

  assert np.abs(change(params['queries'])[-1]).max() > 1e-5


def test_stacks_and_sites_have_queries_of_their_own():
  """A prefix's first p queries go to the encoder; LoRA's are for encoder, decoder and cross."""
  assert hypert5.query_groups(PREFIX, tiny.DOWNSTREAM) == {'encoder': 5, 'decoder': 5}
  assert hypert5.query_groups(LORA, tiny.DOWNSTREAM) == {'encoder': 2, 'decoder': 3, 'cross': 3}
  model = hyper(PREFIX)
  params, states = tiny.params_of(model), tiny.normal(3, 10, 16)
  run = lambda states: tiny.apply(model, params, states, method='write')
  before, after = run(states), run(np.concatenate([states[:, :5], 2 * states[:, 5:]], axis=1))
  tiny.close(after.encoder, before.encoder, atol=0)
  shuffled = run(states[:, [4, 1, 2, 3, 0, 5, 6, 7, 8, 9]])
  key = before.encoder.attention.prefix.key  # each query writes its own position
  tiny.close(shuffled.encoder.attention.prefix.key, key[:, :, [4, 1, 2, 3, 0]])


# -- HyperT5: how it starts ------------------------------------------------------------------------


def hyper_model(method):
  return step.Model(DOWNSTREAM, hyper(method))


def all_params(method, start=tiny.started):
  model = hyper(method)
  return {'hypermodel': start(model), 'downstream': tiny.params_of(DOWNSTREAM)}


def test_hyper_lora_is_the_base_at_step_0_and_learns():
  """Gradients reach the gates at step 0, and from step 1 the factors, queries and trunk."""
  batch, params = tiny.batch(), all_params(LORA)
  phi = write(hyper(LORA), params['hypermodel'])
  np.testing.assert_array_equal(loss_of(phi, batch)[1], loss_of(None, batch)[1])
  trainable, frozen = step.split(params, ('hypermodel',))

  @jax.jit
  def gradients(trainable, frozen):
    state = step.TrainState(jnp.int32(0), trainable, None)
    rng, objective = jax.random.key(0), objectives.CrossEntropy()
    return step.gradients(state, frozen, batch, rng, hyper_model(LORA), objective)[0]

  first = gradients(trainable, frozen)['hypermodel']
  gates = {name for name in first if name.startswith('heads_')}
  assert len(gates) == 6
  for name in gates:
    assert np.abs(first[name].pop('gate')).min() > 1e-6  # in every layer
  assert all(not leaf.any() for leaf in jax.tree.leaves(first))
  moved = jax.tree.map(lambda x, g: x - 0.5 * g, trainable, gradients(trainable, frozen))
  second = gradients(moved, frozen)['hypermodel']
  assert all(np.abs(second[name][factor]).max() > 1e-9 for name in gates for factor in 'ab')
  assert np.abs(second['queries']).min(axis=1).max() > 1e-9
  still = [n for n, leaf in tiny.named(second['t5']).items() if not leaf.any()]
  assert still == []


def test_hyper_prefix_starts_near_the_base():
  """Mean loss within 0.05 nats of the base's, where a random prefix is further away."""
  batch = tiny.batch()
  base, _ = loss_of(None, batch)
  for seed in range(3):
    phi = write(hyper(PREFIX), tiny.started(hyper(PREFIX), seed))
    loss, _ = loss_of(phi, batch)
    assert 0 < abs(loss - base) < 0.05
  large = jax.tree.map(lambda leaf: leaf * 50, phi)
  assert abs(loss_of(large, batch)[0] - base) > 0.4


def test_the_last_prefix_kernel_is_stacked_by_layers():
  boxed = jax.eval_shape(hyper(PREFIX).init_params, jax.random.key(0))
  kernel = boxed['heads_decoder']['value_kernel']
  assert kernel.names == ('layers', 'embed', 'joined_kv')
  assert kernel.value.shape == (3, 11, 4 * 6)


@pytest.mark.parametrize('method', METHODS)
def test_it_starts_on_a_mesh(method):
  """Every axis name is known and occurs once, and shards of the tiny sizes are whole."""
  mesh = tiny.mesh()
  for model in (hyper(METHODS[method], 12), learned.LearnedPhi(tiny.DOWNSTREAM, METHODS[method])):
    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules()):
      tiny.shardings(mesh, model)


@pytest.mark.parametrize('method', [peft.PrefixTuning(3), EVERYWHERE], ids=['prefix', 'LoRA'])
def test_heads_have_the_same_gradients_on_a_mesh(method):
  """XLA's partitioner gets this wrong if it may split the hidden layer (openxla/xla#40034)."""
  model = hyper(method, 12)
  queries = sum(hypert5.query_groups(method, tiny.DOWNSTREAM).values())
  states, params = tiny.normal(8, queries, 16), tiny.params_of(model)

  @jax.jit
  @jax.grad
  def gradients(params, states):
    phi = peft.constrain(model.apply({'params': params}, states, method='write'))
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(phi))

  expected = gradients(params, states)
  mesh = tiny.mesh()
  params, rows = jax.device_put(params, tiny.shardings(mesh, model)), P(('data', 'fsdp'))
  with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules()):
    sharded = gradients(params, jax.device_put(states, NamedSharding(mesh, rows)))
  tiny.close(jax.device_get(sharded), jax.device_get(expected))


def backbone_of(trunk, seed=5):
  return tiny.params_of(t5.T5(trunk), seed)


def test_start_from_copies_the_trunk_and_takes_rows_of_the_table():
  model, backbone = hyper(PREFIX), backbone_of(tiny.TRUNK)
  params = tiny.params_of(model)
  started = model.start_from(params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), backbone))
  assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, params)
  assert {leaf.dtype for leaf in jax.tree.leaves(started)} == {jnp.dtype('float32')}
  started = model.start_from(params, backbone)
  assert 'logits_dense' in backbone['decoder'] and 'logits_dense' not in started['t5']['decoder']
  given = tiny.named(backbone)
  for name, leaf in tiny.named(started['t5']).items():
    np.testing.assert_array_equal(leaf, given[name])
  table = np.asarray(backbone['token_embedder']['embedding'])
  rows = [np.flatnonzero((table == query).all(axis=1)) for query in np.asarray(started['queries'])]
  assert all(len(row) == 1 and row > 2 for row in rows) and len(np.unique(rows)) == 10
  for head in ('heads_encoder', 'heads_decoder'):
    assert started[head] is params[head]


def test_a_trunk_that_was_copied_may_be_donated():
  """A step gives its state's memory away; the backbone, frozen beside it, is still there."""
  model, backbone = hyper(PREFIX), backbone_of(tiny.TRUNK, seed=6)
  started = model.start_from(tiny.params_of(model), backbone)
  jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(started['t5'])
  assert started['t5']['token_embedder']['embedding'].is_deleted()
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(backbone))


@pytest.mark.parametrize(
  'change, words',
  [
    ({'num_decoder_layers': 3}, r'decoder/layers/.* is \(3, .* \(2, '),
    ({'vocab_size': 40}, r'token_embedder/embedding is \(40, 16\) there and \(38, 16\)'),
    ({'mlp_activations': ('relu',)}, 'mlp/wi_0/kernel is absent there'),
  ],
)
def test_a_backbone_of_other_sizes_is_refused(change, words):
  model = hyper(PREFIX)
  backbone = shapes_of(t5.T5(dataclasses.replace(tiny.TRUNK, **change)))
  assert re.search(words, model.trunk_misfit(backbone))
  with pytest.raises(InputError, match=words):
    model.start_from(tiny.params_of(model), backbone)
  assert model.trunk_misfit(backbone_of(tiny.TRUNK)) is None


@pytest.mark.parametrize(
  'size, method, millions',
  [
    ('large', peft.PrefixTuning(16), 105),
    ('xl', peft.PrefixTuning(16), 420),
    ('large', peft.LoRA(8), 107),
    ('xl', peft.LoRA(8), 428),
    ('large', peft.LoRA(16), 208),
    ('xl', peft.LoRA(16), 831),
  ],
)
def test_heads_have_the_papers_parameter_counts(size, method, millions):
  """papers.md C.1: four prefix heads, six LoRA heads, hidden width as the trunk's."""
  config = t5.preset(size)
  shapes = shapes_of(hypert5.HyperT5(config, config, method))
  heads = [shapes[name] for name in shapes if name.startswith('heads_')]
  count = sum(leaf.size for leaf in jax.tree.leaves(heads))
  assert abs(count / 1e6 - millions) < 0.8


# -- LearnedPhi ------------------------------------------------------------------------------------


@pytest.mark.parametrize('method', METHODS)
def test_learned_phi_is_its_parameters(method):
  model = learned.LearnedPhi(tiny.DOWNSTREAM, METHODS[method])
  params = tiny.started(model)
  phi = model.generate({'hypermodel': params}, {})
  assert jax.tree.map(jnp.shape, phi) == jax.tree.map(
    jnp.shape, METHODS[method].spec(tiny.DOWNSTREAM)
  )
  assert set(params) == {name.replace('/', '.') for name in peft.leaf_names(phi)}
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == peft.count(phi)


def test_learned_lora_starts_as_the_base_and_learned_prefixes_near_it():
  batch = tiny.batch()
  base, logits = loss_of(None, batch)
  started = {}
  for name, method, hidden in (
    ('LoRA', EVERYWHERE, None),
    ('flat', PREFIX, None),
    ('MLP', PREFIX, 11),
  ):
    model = learned.LearnedPhi(tiny.DOWNSTREAM, method, hidden)
    started[name] = loss_of(model.generate({'hypermodel': tiny.started(model)}, {}), batch)
  np.testing.assert_array_equal(started['LoRA'][1], logits)
  assert 0 < abs(started['flat'][0] - base) < 0.05
  assert 0 < abs(started['MLP'][0] - base) < 0.05


@pytest.mark.parametrize('method', [PREFIX, peft.LoRA(7), peft.LoRA(7, alpha=14.0)])
def test_learned_phi_starts_from_a_phi_exactly(method):
  model = learned.LearnedPhi(tiny.DOWNSTREAM, method)
  params = tiny.started(model)
  phi = tiny.filled(method.spec(tiny.DOWNSTREAM))
  started = model.start_from_phi(params, phi)
  assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, params)
  tiny.close(model.generate({'hypermodel': started}, {}), phi, atol=0)
  jax.tree.map(np.testing.assert_array_equal, model.generate({'hypermodel': started}, {}), phi)


def test_an_odd_scale_gives_phi_back_up_to_rounding():
  model = learned.LearnedPhi(tiny.DOWNSTREAM, peft.LoRA(7, alpha=3.0))
  phi = tiny.filled(model.method.spec(tiny.DOWNSTREAM))
  started = model.start_from_phi(tiny.started(model), phi)
  tiny.close(model.generate({'hypermodel': started}, {}), phi, atol=1e-7)


@pytest.mark.parametrize(
  'model, phi, words',
  [
    (PREFIX, lambda: PREFIX.spec(tiny.DOWNSTREAM, contexts=2), r'key is \(3, 2, 5, 4, 6\)'),
    (PREFIX, lambda: peft.PrefixTuning(4).spec(tiny.DOWNSTREAM), r'\(3, 1, 4, 4, 6\) there'),
    (LORA, lambda: PREFIX.spec(tiny.DOWNSTREAM), 'absent'),
  ],
)
def test_a_phi_that_is_not_its_own_is_refused(model, phi, words):
  model = learned.LearnedPhi(tiny.DOWNSTREAM, model)
  with pytest.raises(InputError, match=words):
    model.start_from_phi(tiny.started(model), tiny.filled(phi()))


def test_the_mlp_form_cannot_start_from_a_flat_phi():
  model = learned.LearnedPhi(tiny.DOWNSTREAM, PREFIX, hidden=11)
  with pytest.raises(InputError, match='absent'):
    model.start_from_phi(shapes_of(model), tiny.filled(PREFIX.spec(tiny.DOWNSTREAM)))


def test_lora_has_no_reparameterisation():
  with pytest.raises(InputError, match='hidden'):
    learned.LearnedPhi(tiny.DOWNSTREAM, LORA, hidden=11).init_params(jax.random.key(0))


@pytest.mark.parametrize('hidden', [0, -1])
def test_heads_have_a_hidden_width(hidden):
  for model in (hyper(PREFIX, hidden), hyper(LORA, hidden)):
    with pytest.raises(InputError, match=f'hidden.* {hidden}; give'):
      shapes_of(model)
  with pytest.raises(InputError, match=f'hidden.* {hidden}; give'):
    shapes_of(learned.LearnedPhi(tiny.DOWNSTREAM, PREFIX, hidden))


def test_a_batch_without_contexts_is_refused_by_name():
  model = hyper(PREFIX)
  batch = tiny.rows(tiny.batch(), 0, None)
  with pytest.raises(InputError, match='hyper_input_tokens.*TASK_FEATURE_LENGTHS'):
    model.generate({'hypermodel': tiny.params_of(model)}, batch)


def test_hypert5_and_prefix_tuning_share_the_mlp_head():
  """Appendix D: HyperT5's states as embeddings, with its heads, give the phi that it generated."""
  model = hyper(PREFIX)
  params, tokens = tiny.params_of(model), tiny.batch()['hyper_input_tokens'][1:2]
  states = tiny.apply(model, params, tokens, method='states')[0]
  tuned = {
    'encoder_embedding': states[:5],
    'encoder_head': params['heads_encoder'],
    'decoder_embedding': states[5:],
    'decoder_head': params['heads_decoder'],
  }
  mlp = learned.LearnedPhi(tiny.DOWNSTREAM, PREFIX, hidden=11, embedding=16)
  assert jax.tree.map(jnp.shape, tuned) == jax.tree.map(jnp.shape, shapes_of(mlp))
  phi = jax.jit(lambda params: mlp.generate({'hypermodel': params}, {}))(tuned)
  tiny.close(phi, write(model, params, tokens))

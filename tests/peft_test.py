"""phi is a value: what it adapts, whose rows it serves, and its algebra."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hyperjax import partitioning, peft
from hyperjax.errors import InputError
from hyperjax.models import attention, t5

MODEL = t5.T5(tiny.DOWNSTREAM)
PREFIX = peft.PrefixTuning(5)
LORA = peft.LoRA(rank=7, sites=tiny.ALL_SITES)


@pytest.fixture(scope='module')
def params():
  return tiny.params_of(MODEL)


@pytest.fixture(scope='module')
def batch():
  return tiny.batch()


@pytest.fixture(scope='module')
def base(params, batch):
  return logits(params, batch)


def logits(params, batch, phi=None):
  return tiny.apply(MODEL, params, tiny.rows(batch, 0, None), phi)


def prefix(contexts=1, length=5, seed=0, **leaves):
  """A prefix phi; `leaves` (mask, gate) are added to the encoder's and the decoder's."""
  phi = tiny.filled(peft.PrefixTuning(length).spec(tiny.DOWNSTREAM, contexts), seed, 0.7)

  def add(stack):
    front = dataclasses.replace(stack.attention.prefix, **leaves)
    return peft.LayerPhi(peft.AttentionPhi(front))

  return peft.Phi(add(phi.encoder), add(phi.decoder))


def gated(contexts=1, gate=None, **leaves):
  """A prefix in the encoder and in both attentions of the decoder, with a softmax of its own."""
  phi, s = prefix(contexts, **leaves), tiny.DOWNSTREAM

  def add(stack, layers):
    value = tiny.normal(layers, contexts, s.num_heads, seed=9)
    value = value if gate is None else np.full_like(value, gate)
    front = dataclasses.replace(stack.attention.prefix, gate=value)
    return peft.AttentionPhi(front)

  encoder, decoder = add(phi.encoder, 2), add(phi.decoder, 3)
  return peft.Phi(peft.LayerPhi(encoder), peft.LayerPhi(decoder, decoder))


def lora(contexts=1, seed=0, method=LORA):
  return tiny.filled(method.spec(tiny.DOWNSTREAM, contexts), seed)


def memory(contexts=1, length=4):
  mask = np.arange(length) < np.arange(2, 2 + contexts)[:, None]
  return peft.Memory(tiny.normal(contexts, length, 10, seed=4), mask)


def mask_of(contexts, length=5):
  """A different mask for every context, with holes."""
  return (np.arange(contexts)[:, None] + np.arange(length)) % 3 != 1


def everything(contexts, rows=None):
  """Prefixes (masked in the encoder, gated in the decoder), LoRA at all sites, and a memory.

  With `rows`, leaves differ in their contexts: one for all, `contexts`, or one for each row.
  """
  front = prefix(contexts, mask=mask_of(contexts)).encoder.attention.prefix
  leaves = tiny.named(lora(contexts))
  leaves |= {f'encoder/attention/prefix/{k}': v for k, v in tiny.named(front).items()}
  gate = gated(contexts).decoder.attention.prefix
  leaves |= {f'decoder/attention/prefix/{k}': v for k, v in tiny.named(gate).items()}
  leaves |= {f'memory/{k}': v for k, v in tiny.named(memory(contexts)).items()}
  phi = peft.from_leaves(leaves)
  if rows is None:
    return phi
  choices = [tiny.named(everything(c)) for c in (1, contexts, rows)]
  return peft.from_leaves({name: choices[sum(map(ord, name)) % 3][name] for name in leaves})


# -- What adapts nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
  'phi',
  [
    peft.Phi(),
    prefix(length=0),
    prefix(3, length=0),
    gated(length=0),
    gated(3, gate=0.0),
    gated(mask=np.zeros((1, 5), bool)),
    jax.tree_util.tree_map_with_path(
      lambda path, leaf: 0 * leaf if peft.path_name(path).endswith('/b') else leaf, lora(3)
    ),
  ],
  ids=['nothing', 'length 0', 'length 0, c 3', 'gated length 0', 'gate 0', 'gated masked']
  + ['zero LoRA'],
)
def test_what_adapts_nothing_gives_exactly_the_base(params, batch, base, phi):
  np.testing.assert_array_equal(logits(params, batch, phi), base)


def test_a_prefix_of_zeros_takes_softmax_mass(params, batch, base):
  zeros = jax.tree.map(np.zeros_like, prefix())
  assert np.abs(logits(params, batch, zeros) - base).max() > 0.01


@pytest.mark.parametrize('site', tiny.ALL_SITES)
def test_every_site_adapts(params, batch, base, site):
  """Factors at one site move the logits; the others are zero, so that one program serves all."""
  phi = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf if peft.path_name(path).startswith(f'{site}/') else 0 * leaf, lora()
  )
  assert np.abs(logits(params, batch, phi) - base).max() > 1e-3


# -- Whose rows ------------------------------------------------------------------------------------


CASES = {
  'prefix': lambda c: prefix(c),
  'masked prefix': lambda c: prefix(c, mask=mask_of(c)),
  'gated prefix': lambda c: gated(c, mask=mask_of(c)),
  'LoRA everywhere': lambda c: lora(c),
  'memory': lambda c: peft.Phi(memory=memory(c)),
  'everything': lambda c: everything(c),
}


@pytest.mark.parametrize('case', CASES)
def test_c_contexts_by_m_targets_equal_c_calls(params, batch, case):
  phi = CASES[case](3)
  together = logits(params, batch, phi)
  for i in range(3):
    alone = tiny.apply(MODEL, params, tiny.rows(batch, 2 * i, 2 * i + 2), peft.select(phi, i))
    tiny.close(alone, together[2 * i : 2 * i + 2])
  assert np.abs(together[:2] - alone).max() > 0.01  # the contexts do differ


def test_the_number_of_contexts_is_read_per_leaf(params, batch):
  """Leaves of 1, 3 and 6 contexts over 6 rows equal the same leaves copied for every row."""
  phi = everything(3, rows=6)
  contexts = {leaf.shape[peft.axes_of(n).index('contexts')] for n, leaf in tiny.named(phi).items()}
  assert contexts == {1, 3, 6}
  together = logits(params, batch, phi)
  for row in range(6):
    alone = tiny.apply(MODEL, params, tiny.rows(batch, row, row + 1), peft.select(phi, row))
    tiny.close(alone[0], together[row])


def test_a_mesh_changes_nothing(params):
  """8 contexts x 2 targets, leaves of 1, 8 and 16 contexts, on 2 x 2 x 2 devices; gradients too."""
  leaves, batch = tiny.named(everything(8, rows=16)), tiny.rows(tiny.batch(c=8), 0, None)
  masks = {name: leaves.pop(name) for name in list(leaves) if name.endswith('mask')}

  @jax.jit
  def run(params, leaves, masks, batch):
    def loss(params, leaves):
      phi = peft.constrain(peft.from_leaves(leaves | masks))
      logits = MODEL.apply({'params': params}, batch, phi)
      return jnp.sum(jnp.sin(logits)), (logits, phi)

    return jax.grad(loss, (0, 1), has_aux=True)(params, leaves)

  gradients, (expected, _) = run(params, leaves, masks, batch)
  mesh = tiny.mesh()
  shardings = tiny.shardings(mesh, MODEL)
  with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.rules()):
    phi = peft.from_leaves(leaves | masks)
    for constraint in jax.make_jaxpr(peft.constrain)(phi).eqns:
      split = zip(constraint.invars[0].aval.shape, constraint.params['sharding'].spec)
      assert all(axes is None for size, axes in split if size == 1)
    rows = partitioning.put_batch(mesh, jax.device_get(batch))
    on_mesh, (sharded, phi) = run(jax.device_put(params, shardings), leaves, masks, rows)
  tiny.close(jax.device_get(sharded), jax.device_get(expected))
  tiny.close(jax.device_get(on_mesh), jax.device_get(gradients), atol=1e-4)
  seen = set()
  for name, leaf in tiny.named(phi).items():  # one context is everyone's; several lie with rows
    if name.endswith(('prefix/key', 'prefix/value')):
      seen.add(leaf.shape[1])
      contexts = None if leaf.shape[1] == 1 else ('data', 'fsdp')
      wanted = NamedSharding(mesh, P(None, contexts, None, 'model', None))
      assert leaf.sharding.is_equivalent_to(wanted, 5), name
  assert seen == {1, 8, 16}


def test_masked_positions_equal_a_shorter_prefix(params, batch):
  mask = np.array([[True, False, True, True, False]])
  for make in (prefix, gated):
    masked = make(mask=mask)
    short = jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf[:, :, [0, 2, 3]] if 'gate' not in str(path) else leaf,
      make(),
    )
    tiny.close(logits(params, batch, masked), logits(params, batch, short))


def test_a_prefix_that_is_all_masked_changes_nothing(params, batch, base):
  tiny.close(logits(params, batch, prefix(mask=np.zeros((1, 5), bool))), base)


# -- Attention to a prefix, against numpy ----------------------------------------------------------


def dense(query, key, value, front=None, gate=None):
  """Dense attention of one row in numpy: t n h, s n h, s n h."""

  def read(key, value):
    weights = np.exp(np.einsum('tnh,snh->nts', query, key))
    return np.einsum('nts,snh->tnh', weights / weights.sum(-1, keepdims=True), value)

  if front is None:
    return read(key, value)
  if gate is not None:
    return read(key, value) + np.tanh(gate)[:, None] * read(*front)
  return read(np.concatenate([front[0], key]), np.concatenate([front[1], value]))


@pytest.mark.parametrize('with_gate', [False, True])
def test_attention_reads_prefix_and_own_columns(with_gate):
  """4 rows of 2 contexts, 6 heads of 2 key/value heads; per row as a dense softmax says."""
  rng = np.random.default_rng(1)
  b, c, t, s, n, k, h, p = 4, 2, 3, 5, 6, 2, 7, 8
  query, key, value = (rng.standard_normal(x) for x in [(b, t, n, h), (b, s, k, h), (b, s, k, h)])
  front = rng.standard_normal((2, c, p, k, h))
  gate = rng.standard_normal((c, n)) if with_gate else None
  own, before = attention.KeyValue(key, value), peft.Prefix(*front, gate=gate)
  args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (query, own, before))
  got = jax.jit(attention.Xla().attend)(*args)

  def wide(x):  # head i reads key/value head i // 3
    return np.repeat(x, n // k, axis=1)

  for i in range(b):
    own = wide(key[i]), wide(value[i])
    before = [wide(x[i // 2]) for x in front]
    expected = dense(query[i], *own, before, gate[i // 2] if with_gate else None)
    np.testing.assert_allclose(got[i], expected, atol=1e-5)


def test_prefix_columns_get_no_position_bias():
  """A large bias on every own column makes the prefix negligible; it is not added to its own."""
  ones = jnp.ones((1, 4, 2, 3))
  front = peft.Prefix(ones[:, :3], 100 * ones[:, :3])
  own = attention.KeyValue(ones, ones)
  out = attention.Xla(bias=jnp.full((2, 2, 4), 30.0)).attend(ones[:, :2], own, front)
  np.testing.assert_allclose(out, 1.0, atol=1e-5)


# -- Algebra ---------------------------------------------------------------------------------------


def test_merged_lora_equals_factored(params, batch):
  phi = lora()
  merged = jax.jit(peft.merge)(params, phi)
  tiny.close(logits(merged, batch), logits(params, batch, phi))
  assert jax.tree.structure(merged) == jax.tree.structure(params)


def test_merging_knows_t5_1_0(batch):
  """Its MLP is not gated: one `wi`, adapted as wi_0."""
  config = dataclasses.replace(
    tiny.DOWNSTREAM, mlp_activations=('relu',), logits_via_embedding=True
  )
  model, rows = t5.T5(config), tiny.rows(batch, 0, 3)
  method = peft.LoRA(7, sites=('encoder/mlp/wi_0', 'decoder/mlp/wi_0', 'decoder/mlp/wo'))
  phi = lora(method=method)
  params = tiny.params_of(model)
  merged = tiny.apply(model, peft.merge(params, phi), rows)
  tiny.close(merged, tiny.apply(model, params, rows, phi))
  assert np.abs(merged - tiny.apply(model, params, rows)).max() > 0.01
  with pytest.raises(InputError, match='wi_1'):
    peft.LoRA(7, sites=('encoder/mlp/wi_1',)).spec(config)
  with pytest.raises(InputError, match='wi_1'):
    peft.check(lora(), config, 6)


def test_concatenated_lora_adds_the_updates(params, batch):
  first, second = lora(seed=1), lora(seed=2, method=peft.LoRA(4, sites=tiny.ALL_SITES))
  both = jax.jit(peft.concatenate)([first, second])
  assert both.encoder.mlp.wo.a.shape == (2, 1, 14, 11)
  merge = jax.jit(peft.merge)
  merged = merge(merge(params, first), second)
  tiny.close(logits(params, batch, both), logits(merged, batch))


def test_concatenated_prefixes_are_both_attended_to(params, batch):
  """Cutting a prefix in two and joining it again changes nothing; the order does not matter."""
  first, second = prefix(3), prefix(1, length=2, seed=8)
  both = peft.concatenate([first, second])
  assert both.decoder.attention.prefix.value.shape == (3, 3, 7, 4, 6)
  got = logits(params, batch, both)
  tiny.close(got, logits(params, batch, peft.concatenate([second, first])))
  nothing = prefix(1, length=3, seed=2, mask=np.zeros((1, 3), bool))
  joined = peft.concatenate([first, nothing, second])  # a mask in one gives all of them a mask
  assert joined.encoder.attention.prefix.mask.sum() == 3 * 7
  tiny.close(got, logits(params, batch, joined))
  assert np.abs(got - logits(params, batch, first)).max() > 0.01


def test_concatenated_memories_are_both_attended_to(params, batch):
  whole = peft.Phi(memory=memory(3, length=6))
  cut = [jax.tree.map(lambda leaf, i=i: leaf[:, i : i + 3], whole) for i in (0, 3)]
  tiny.close(peft.concatenate(cut), whole)


def test_what_cannot_be_concatenated_is_refused():
  with pytest.raises(InputError, match='gate'):
    peft.concatenate([gated(), gated()])
  with pytest.raises(InputError, match='encoder/attention/prefix/key'):
    peft.concatenate([prefix(), lora()])
  with pytest.raises(InputError, match='at least one'):
    peft.concatenate([])
  with pytest.raises(InputError, match='2 contexts beside one of 3'):
    peft.concatenate([prefix(3), prefix(2)])


@pytest.mark.parametrize(
  'combine', [peft.stack, peft.concatenate, lambda x: peft.interpolate(*x, 0.5)]
)
def test_phi_of_different_models_are_not_combined(combine):
  other = dataclasses.replace(tiny.DOWNSTREAM, num_heads=1)  # a size of 1 would be repeated
  with pytest.raises(InputError, match='prefix/key has heads 4 and 1; give phi of one model'):
    combine([prefix(), tiny.filled(PREFIX.spec(other))])


def test_prefixes_of_different_lengths_are_not_interpolated():
  with pytest.raises(InputError, match='prefix/key has prefix 5 and 1'):
    peft.interpolate(prefix(), prefix(length=1), 0.5)
  with pytest.raises(InputError, match='2 contexts beside one of 3'):
    peft.interpolate(prefix(3), prefix(2), 0.5)


def test_stack_and_select_are_inverse():
  phis = [everything(1) for _ in range(3)]
  phis = [jax.tree.map(lambda leaf, i=i: leaf * i, phi) for i, phi in enumerate(phis)]
  together = jax.jit(peft.stack)(phis)
  assert peft.num_contexts(together) == 3
  for i, phi in enumerate(phis):
    tiny.close(peft.select(together, i), phi, atol=0)
  with pytest.raises(InputError, match='no context 3'):
    peft.select(together, 3)
  with pytest.raises(InputError, match='at least one'):
    peft.stack([])


def test_stacking_phis_that_share_different_leaves_keeps_each_context():
  shared = everything(2, rows=2)  # some leaves with one context, some with two
  alone = jax.tree.map(lambda leaf: leaf * 0, everything(1))
  together = jax.device_get(jax.jit(peft.stack)([alone, shared]))
  for i, expected in enumerate([alone, peft.select(shared, 0), peft.select(shared, 1)]):
    tiny.close(peft.select(together, i), expected, atol=0)


def test_mean_and_interpolation():
  phi, other = lora(3), lora(1, seed=5)
  mean = peft.mean(phi)
  assert peft.num_contexts(mean) == 1
  a = phi.decoder.mlp.wi_1.a
  np.testing.assert_allclose(mean.decoder.mlp.wi_1.a[:, 0], a.mean(1), rtol=1e-5)
  tiny.close(peft.mean(peft.stack([other, other])), other)
  tiny.close(peft.interpolate(phi, other, 0.0), phi)
  half = peft.interpolate(peft.select(phi, 2), other, 0.25)
  b = 0.75 * phi.encoder.attention.out.b[:, 2:] + 0.25 * other.encoder.attention.out.b
  np.testing.assert_allclose(half.encoder.attention.out.b, b, rtol=1e-6)
  with pytest.raises(InputError, match='prefix/mask'):
    peft.mean(prefix(3, mask=mask_of(3)))
  with pytest.raises(InputError, match='masks'):
    peft.interpolate(prefix(mask=mask_of(1)), prefix(), 0.5)
  with pytest.raises(InputError, match='memory/states'):
    peft.interpolate(phi, dataclasses.replace(other, memory=memory()), 0.5)


def test_count_is_of_one_context():
  # 5 positions x 24 x (key, value) in 2 + 3 layers
  assert peft.count(prefix(3, mask=mask_of(3))) == peft.count(prefix()) == 5 * 24 * 2 * 5
  assert peft.count(None) == peft.count(peft.Phi()) == 0
  # rank 7, (in + out) of 4 attention maps 4 * 34 or 8 * 34, and of 3 MLP maps 3 * 24
  assert peft.count(lora(3)) == 7 * (2 * (4 * 34 + 3 * 24) + 3 * (8 * 34 + 3 * 24))


def test_only_one_lora_merges_into_weights(params):
  with pytest.raises(InputError, match='3; select one'):
    peft.merge(params, lora(3))
  with pytest.raises(InputError, match='prefix/key cannot be merged'):
    peft.merge(params, prefix())
  other = dataclasses.replace(
    tiny.DOWNSTREAM, num_encoder_layers=1
  )  # would be added to every layer
  with pytest.raises(
    InputError, match=r'encoder/attention/query is \(1, 10, 24\) in phi and \(2, '
  ):
    peft.merge(params, tiny.filled(LORA.spec(other)))


# -- Names, axes, shapes ---------------------------------------------------------------------------


@pytest.mark.parametrize('phi', [everything(3), prefix(), lora(), gated(), peft.Phi()])
def test_names_and_leaves_make_phi_again(phi):
  again = peft.from_leaves(tiny.named(phi))
  tiny.close(again, phi, atol=0)


@pytest.mark.parametrize(
  'name',
  ['encoder', 'encoder/attention/prefix', 'encoder/attention/prefix/keys', 'decoder/mlp/wi/a']
  + ['encoder/attention/query/a', 'middle/mlp/wo/a', 'memory/states', 'decoder/attention/key/a/b'],
)
def test_names_that_phi_cannot_have_are_refused(name):
  """… among them a LoRA factor without the other one, and a memory without its mask."""
  with pytest.raises(InputError, match=name.split('/')[0]):
    peft.from_leaves({name: np.zeros(3)})


def test_every_leaf_has_an_axis_for_each_dimension():
  sizes = {}
  for name, leaf in tiny.named(everything(3)).items():
    for axis, size in zip(peft.axes_of(name), leaf.shape, strict=True):
      sizes.setdefault(axis, set()).add(size)
  assert sizes == {
    'layers': {2, 3},
    'contexts': {3},
    'prefix': {5},
    'heads': {4},
    'kv': {6},
    'embed': {10},
    'rank': {7},
    'joined_kv': {24},
    'mlp': {14},
    'length': {4},
  }
  known = {axis for axis, _ in partitioning.STANDARD_RULES}
  assert set(sizes) <= known
  axes = peft.logical_axes(lora())
  assert axes.encoder.attention.out == peft.LowRank(
    ('layers', 'contexts', 'joined_kv', 'rank'), ('layers', 'contexts', 'rank', 'embed')
  )


def replaced(phi, name, shape):
  return peft.from_leaves(tiny.named(phi) | {name: np.zeros(shape)})


@pytest.mark.parametrize(
  'phi, words',
  [
    (lora(4), 'encoder/attention/query/a has 4 contexts.*batch of 6'),
    (replaced(prefix(), 'decoder/attention/prefix/key', (3, 1, 5, 8, 6)), 'key has 8 heads.* 4'),
    (replaced(prefix(), 'decoder/attention/prefix/value', (3, 1, 5, 4, 3)), 'value has 3 kv.* 6'),
    (replaced(prefix(), 'encoder/attention/prefix/key', (3, 1, 5, 4, 6)), 'key has 3 layers.* 2'),
    (replaced(prefix(), 'encoder/attention/prefix/key', (2, 5, 4, 6)), r'shape \(2, 5, 4, 6\)'),
    (replaced(prefix(), 'encoder/attention/prefix/value', (2, 1, 4, 4, 6)), 'prefix 4.*has 5'),
    (replaced(lora(), 'decoder/mlp/wo/a', (3, 1, 10, 7)), 'wo/a has 10 mlp.* 14'),
    (replaced(lora(), 'decoder/mlp/wo/b', (3, 1, 7, 14)), 'wo/b has 14 embed.* 10'),
    (replaced(lora(), 'decoder/mlp/wo/b', (3, 1, 8, 10)), 'wo/b has rank 8, .*wo/a has 7'),
    (replaced(gated(), 'decoder/attention/prefix/gate', (3, 1, 2)), 'gate has 2 heads.* 4'),
    (replaced(prefix(mask=mask_of(1)), 'encoder/attention/prefix/mask', (1, 6)), 'mask has prefix'),
    (peft.Phi(gated().decoder), 'encoder/attention/prefix/key has 3 layers'),
    (peft.Phi(encoder=peft.LayerPhi(None, gated().encoder.attention)), 'encoder/cross_attention'),
    (peft.Phi(memory=peft.Memory(np.zeros((1, 4, 9)), np.ones((1, 4), bool))), 'states has 9'),
    (peft.Phi(memory=peft.Memory(np.zeros((1, 4, 10)), np.ones((1, 3), bool))), 'length 3'),
  ],
)
def test_a_phi_that_does_not_fit_is_refused_by_name(params, batch, phi, words):
  with pytest.raises(InputError, match=words):
    peft.check(phi, tiny.DOWNSTREAM, 6)


def test_the_model_checks_its_phi(params, batch):
  with pytest.raises(InputError, match='4 contexts'):
    logits(params, batch, prefix(4))


def test_specs_have_the_papers_shapes():
  spec = peft.PrefixTuning(16).spec(t5.preset('small'))
  assert spec.encoder.attention.prefix.key.shape == (8, 1, 16, 6, 64)
  assert spec.decoder.cross_attention is None
  spec = peft.LoRA(8).spec(t5.preset('small'), contexts=3)
  assert spec.decoder.cross_attention.query.a.shape == (8, 3, 512, 8)
  assert spec.decoder.cross_attention.value.b.shape == (8, 3, 8, 384)
  assert spec.encoder.attention.key is None and spec.encoder.mlp is None
  # papers.md C.1, phi in bf16: prefix 3.1 MB Large, 6.3 MB XL; LoRA 4.7 MB and 9.4 MB
  for size, prefix_mb, lora_mb in (('large', 3.1, 4.7), ('xl', 6.3, 9.4)):
    config = t5.preset(size)
    assert round(2 * peft.count(peft.PrefixTuning(16).spec(config)) / 1e6, 1) == prefix_mb
    assert round(2 * peft.count(peft.LoRA(8).spec(config)) / 1e6, 1) == lora_mb


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: peft.PrefixTuning(-1), 'length is -1'),
    (lambda: peft.LoRA(0), 'rank is 0'),
    (lambda: peft.LoRA(sites=()), 'sites'),
    (lambda: peft.LoRA(sites=('encoder/mlp/wo',) * 2), 'sites'),
    (lambda: peft.LoRA(sites=('encoder/mlp/w',)).spec(tiny.DOWNSTREAM), 'encoder/mlp/w'),
    (lambda: peft.LoRA(sites=('encoder/cross_attention/out',)).spec(tiny.DOWNSTREAM), 'cross'),
    (lambda: peft.PrefixTuning(2, ('coder',)).spec(tiny.DOWNSTREAM), 'coder'),
    (lambda: peft.PrefixTuning(2, ()), 'stacks'),
  ],
)
def test_a_bad_method_is_refused_by_name(make, words):
  with pytest.raises(InputError, match=words):
    make()


# -- A pytree, also where jaxtyping checks constructors --------------------------------------------


def test_phi_holds_whatever_stands_for_arrays():
  phi = everything(3)
  shapes = jax.tree.map(jnp.shape, phi)
  assert shapes.encoder.attention.prefix.mask == (3, 5)
  nothing = jax.tree.map(lambda _: None, phi)
  assert isinstance(nothing, peft.Phi) and jax.tree.leaves(nothing) == []
  abstract = jax.eval_shape(lambda phi: jax.tree.map(lambda x: x[None], phi), phi)
  assert abstract.decoder.attention.prefix.gate.shape == (1, 3, 3, 4)
  specs = jax.tree.map(lambda _: P(), phi)
  assert specs.memory.states == P()
  host = jax.device_get(phi)
  assert isinstance(host.memory.states, np.ndarray)
  tiny.close(host, phi, atol=0)


def test_phi_passes_through_jit_vmap_scan_and_grad():
  phi = prefix(3)
  axes = jax.tree.map(lambda _: 1, phi)

  def norm(phi):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(phi))

  per_context = jax.jit(jax.vmap(norm, in_axes=(axes,)))(phi)
  np.testing.assert_allclose(per_context.sum(), norm(phi), rtol=1e-5)
  low_rank = jax.vmap(lambda x: x.a + x.b, in_axes=(peft.LowRank(0, None),))
  assert low_rank(peft.LowRank(jnp.ones((3, 2)), jnp.ones(2))).shape == (3, 2)
  gradient = jax.grad(norm)(phi)
  tiny.close(gradient, jax.tree.map(lambda x: 2 * x, phi))
  total, layers = jax.lax.scan(lambda sum, layer: (sum + norm(layer), layer), 0.0, phi.encoder)
  np.testing.assert_allclose(total, norm(phi.encoder), rtol=1e-5)
  tiny.close(layers, phi.encoder, atol=0)

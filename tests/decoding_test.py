"""Decoding equals transformers' token for token, and does not depend on how it is batched."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hyperjax import decoding, peft
from hyperjax.convert import huggingface
from hyperjax.errors import InputError
from hyperjax.models import t5

V1_1 = t5.T5Config(
  vocab_size=37,
  emb_dim=12,
  num_heads=3,
  num_encoder_layers=3,
  num_decoder_layers=2,
  head_dim=5,
  mlp_dim=14,
)
V1_0 = dataclasses.replace(V1_1, mlp_activations=('relu',), logits_via_embedding=True)
LENGTH = 9
GREEDY = decoding.Greedy()


def params_of(config: t5.T5Config, seed: int) -> dict:
  """Random weights with logits of order 1, and answers that vary and end at different lengths."""
  params = jax.jit(lambda key: nn.unbox(t5.T5(config).init_params(key)))(jax.random.key(seed))
  rng = np.random.default_rng(seed)

  def wide(path, leaf):
    name = peft.path_name(path)
    if name.endswith('scale'):
      size = 4 if config.logits_via_embedding and 'decoder_norm' in name else 1
      return jnp.asarray(size * rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
    if name.endswith('embedding'):
      return (leaf * 0.2).at[1].multiply(1.8)  # of tied logits, too
    if 'logits' in name:
      return leaf.at[:, 1].multiply(1.8)
    return leaf * (2 if 'kernel' in name else 1)

  return jax.tree_util.tree_map_with_path(wide, params)


def inputs(b: int = 5, s: int = 7, seed: int = 0) -> np.ndarray:
  """Tokens with padding of different lengths."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(2, 37, (b, s)).astype(np.int32)
  lengths = rng.integers(2, s + 1, b)
  return np.where(np.arange(s) < lengths[:, None], tokens, 0).astype(np.int32)


def everything(contexts: int, seed: int = 0, scale: float = 0.5) -> peft.Phi:
  """A phi with LoRA, prefixes and memory."""
  lora = peft.LoRA(2, sites=(*peft.ATTENTION_QV, 'encoder/mlp/wo', 'decoder/mlp/wi_0'))
  specs = lora.spec(V1_1, contexts), peft.PrefixTuning(3).spec(V1_1, contexts)
  leaves = {n: x for spec in specs for n, x in zip(peft.leaf_names(spec), jax.tree.leaves(spec))}
  rng = np.random.default_rng(seed)
  draw = {name: scale * rng.normal(size=leaf.shape) for name, leaf in leaves.items()}
  draw['memory/states'] = scale * rng.normal(size=(contexts, 4, V1_1.emb_dim))
  phi = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in draw.items()}
  return peft.from_leaves(phi | {'memory/mask': jnp.tile(jnp.arange(4) < 3, (contexts, 1))})


@pytest.fixture(scope='module')
def model():
  return t5.T5(V1_1)


@pytest.fixture(scope='module')
def params():
  return params_of(V1_1, 22)


def generate(model, params, tokens, phi=None, strategy=GREEDY, length=LENGTH, rng=None):
  found = decoding.generate(model, params, tokens, phi, strategy, max_length=length, rng=rng)
  return jax.device_get(found)


# -- transformers ---------------------------------------------------------------------------------


def hugging_face(config: t5.T5Config, params: dict, folder):
  """The same model in transformers (PyTorch)."""
  pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  huggingface.save(folder, t5.T5(config), params)
  return transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope='module', params=[V1_1, V1_0], ids=['1.1', '1.0'])
def both(request, tmp_path_factory):
  params = params_of(request.param, 22 if request.param == V1_1 else 19)
  made = hugging_face(request.param, params, tmp_path_factory.mktemp('hf'))
  return t5.T5(request.param), params, made


def cut(tokens: np.ndarray) -> list[list[int]]:
  """Rows up to their EOS, which transformers pads with more of it."""
  rows = [row.tolist() for row in tokens]
  return [row[: row.index(1) + 1] if 1 in row else row for row in rows]


def theirs(made, tokens, length=LENGTH, **options):
  import torch

  with torch.no_grad():
    found = made.generate(
      input_ids=torch.tensor(tokens).long(),
      attention_mask=torch.tensor(tokens > 0).long(),
      max_new_tokens=length,
      return_dict_in_generate=True,
      output_scores=True,
      **options,
    )
  return found, cut(found.sequences[:, 1:].numpy())


def test_logits_equal_transformers(both):
  import torch

  model, params, made = both
  tokens, decoder = inputs(), inputs(5, 6, seed=1)
  batch = {'encoder_input_tokens': tokens, 'decoder_input_tokens': decoder}
  ours = model.apply({'params': params}, jax.tree.map(jnp.asarray, batch))
  with torch.no_grad():
    found = made(
      input_ids=torch.tensor(tokens).long(),
      attention_mask=torch.tensor(tokens > 0).long(),
      decoder_input_ids=torch.tensor(decoder).long(),
    ).logits.numpy()
  assert 0.3 < found.std() < 5
  np.testing.assert_allclose(ours, found, atol=1e-4)


def test_greedy_equals_transformers(both):
  model, params, made = both
  tokens = inputs(b=19)
  ours, scores = generate(model, params, tokens)
  found, expected = theirs(made, tokens, num_beams=1, do_sample=False)
  assert len(set(map(len, expected))) > 3, 'the rows should end at different lengths'
  assert cut(ours) == expected
  transitions = made.compute_transition_scores(
    found.sequences, found.scores, normalize_logits=True
  ).numpy()
  for row, score, each in zip(expected, scores, transitions):
    np.testing.assert_allclose(score, each[: len(row)].sum(), atol=1e-4)


@pytest.mark.parametrize(
  'length_penalty,early_stopping,length',
  [
    (1.0, False, 9),
    (2.0, False, 17),
    (0.0, True, 9),
    (0.7, True, 11),
    (0.5, 'never', 9),
    (-1.0, 'never', 9),
  ],
)
def test_four_beams_equal_transformers(both, length_penalty, early_stopping, length):
  model, params, made = both
  if model.config == V1_0 and length_penalty != 1.0:
    pytest.skip('the search is the same for both models')
  tokens = inputs(b=40)
  strategy = decoding.Beam(4, length_penalty, early_stopping)
  ours, scores = generate(model, params, tokens, strategy=strategy, length=length)
  options = {'length_penalty': length_penalty, 'early_stopping': early_stopping}
  found, expected = theirs(made, tokens, length, num_beams=4, **options)
  assert len(set(map(len, expected))) > 1
  assert cut(ours) == expected
  atol = 1e-4 * max(1, length**-length_penalty)  # a negative penalty multiplies rounding, too
  np.testing.assert_allclose(scores, found.sequences_scores.numpy(), atol=atol)


# -- Laws -----------------------------------------------------------------------------------------


@jax.jit
def _all_logits(params, tokens, decoder, phi):
  batch = {'encoder_input_tokens': tokens, 'decoder_input_tokens': decoder}
  return t5.T5(V1_1).apply({'params': params}, batch, phi)


def uncached(params, tokens, phi=None, length=LENGTH):
  """Greedy answers by a full forward pass for each token."""
  answers = np.zeros((len(tokens), length), np.int32)
  ended = np.zeros(len(tokens), bool)
  for i in range(length):
    decoder = np.pad(answers[:, :-1], ((0, 0), (1, 0)))
    best = np.argmax(_all_logits(params, tokens, decoder, phi)[:, i], axis=-1)
    answers[:, i] = np.where(ended, 0, best)
    ended |= best == 1
  return answers


def test_a_cache_changes_nothing(model, params):
  tokens, phi = inputs(6), everything(2)
  with_cache, _ = generate(model, params, tokens, phi)
  np.testing.assert_array_equal(with_cache, uncached(params, tokens, phi))
  assert (with_cache != generate(model, params, tokens)[0]).any(), 'phi should matter'


@pytest.mark.parametrize('strategy', [GREEDY, decoding.Beam(3)], ids=['greedy', 'beam'])
def test_contexts_of_a_batch_equal_calls_of_their_own(model, params, strategy):
  tokens, phi = inputs(6), everything(2)
  together = generate(model, params, tokens, phi, strategy)
  alone = [
    generate(model, params, tokens[3 * i : 3 * i + 3], peft.select(phi, i), strategy)
    for i in range(2)
  ]
  np.testing.assert_array_equal(together[0], np.concatenate([each[0] for each in alone]))
  np.testing.assert_allclose(together[1], np.concatenate([each[1] for each in alone]), atol=1e-5)


def test_zero_lora_gives_the_base_models_answers(model, params):
  zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), peft.LoRA(2).spec(V1_1, 1))
  for ours, base in zip(generate(model, params, inputs(), zero), generate(model, params, inputs())):
    np.testing.assert_array_equal(ours, base)


def test_the_order_of_rows_does_not_matter(model, params):
  tokens, order = inputs(), np.array([3, 0, 4, 1, 2])
  answers, scores = generate(model, params, tokens)
  shuffled, shuffled_scores = generate(model, params, tokens[order])
  np.testing.assert_array_equal(shuffled, answers[order])
  np.testing.assert_allclose(shuffled_scores, scores[order], atol=1e-5)


@pytest.mark.parametrize('strategy', [GREEDY, decoding.Beam(3, 1.0, True)], ids=['greedy', 'beam'])
def test_the_loop_ends_with_its_last_row_and_that_changes_nothing(model, params, strategy):
  tokens = inputs(b=19)

  def steps(rows):
    return decoding.decode(model, params, rows, None, None, strategy, LENGTH, 1)[2]

  answers, scores = generate(model, params, tokens, strategy=strategy)
  assert steps(tokens) == LENGTH
  made = np.array([steps(tokens[np.full(19, i)]) for i in range(19)])
  chosen = np.resize(np.flatnonzero(made < LENGTH), 19)
  assert steps(tokens[chosen]) == made[made < LENGTH].max()
  fewer, fewer_scores = generate(model, params, tokens[chosen], strategy=strategy)
  np.testing.assert_array_equal(fewer, answers[chosen])
  np.testing.assert_allclose(fewer_scores, scores[chosen], atol=1e-4)


def test_one_beam_is_greedy(model, params):
  strategy = decoding.Beam(1, length_penalty=0.0, early_stopping=True)
  greedy, beam = (generate(model, params, inputs(), strategy=s) for s in (GREEDY, strategy))
  np.testing.assert_array_equal(beam[0], greedy[0])
  np.testing.assert_allclose(beam[1], greedy[1], atol=1e-5)


# -- Sampling -------------------------------------------------------------------------------------


def test_sampling_the_best_token_is_greedy(model, params):
  strategy, rng = decoding.Sampling(0.7, top_k=1), jax.random.key(3)
  sampled = generate(model, params, inputs(), strategy=strategy, rng=rng)
  for ours, greedy in zip(sampled, generate(model, params, inputs())):
    np.testing.assert_allclose(ours, greedy, atol=1e-5)


def test_samples_have_the_models_distribution(model, params):
  tokens = np.repeat(inputs(1), 3000, axis=0)
  logits = _all_logits(params, tokens[:1], np.zeros((1, LENGTH), np.int32), None)[0, 0]
  strategy = decoding.Sampling(temperature=1.7)
  first, scores = generate(
    model, params, tokens, strategy=strategy, length=1, rng=jax.random.key(1)
  )
  found = np.bincount(first[:, 0], minlength=37) / len(first)
  wanted = jax.nn.softmax(logits / 1.7)
  assert np.abs(found - wanted).sum() / 2 < 0.05
  assert np.abs(found - jax.nn.softmax(logits)).sum() / 2 > 0.1
  np.testing.assert_allclose(scores, jax.nn.log_softmax(logits)[first[:, 0]], atol=1e-5)


def test_limits_keep_the_most_probable_tokens():
  probs = jnp.array([[0.1, 0.4, 0.05, 0.2, 0.25], [0.96, 0.01, 0.01, 0.01, 0.01]])
  kept = lambda **limits: jnp.isfinite(decoding.Sampling(**limits).limited(jnp.log(probs))).tolist()
  assert kept() == [[True] * 5, [True] * 5]
  assert kept(top_k=2)[0] == [False, True, False, False, True]
  assert kept(top_p=0.6)[0] == [False, True, False, False, True]  # 0.4 alone is too little
  assert kept(top_p=0.66)[0] == [False, True, False, True, True]
  assert kept(top_p=0.01) == [[False, True] + [False] * 3, [True] + [False] * 4]


@pytest.mark.parametrize('v', [37, 3 * 128, 1000])
def test_the_largest_of_chunks_are_the_largest(v):
  x = jnp.asarray(np.random.default_rng(v).permutation(3 * 2 * v).reshape(3, 2, v), jnp.float32)
  for k in (1, 3, 7):
    for ours, wanted in zip(decoding.largest(x, k), jax.lax.top_k(x, k)):
      np.testing.assert_array_equal(ours, wanted)


# -- Scores ---------------------------------------------------------------------------------------


def test_scores_are_sums_of_log_probabilities(model, params):
  tokens, phi = inputs(4), everything(2)
  targets = np.array([[5, 1, 0], [7, 8, 9], [4, 4, 1], [1, 0, 0]] * 2, np.int32)
  targets[4:] += 2 * (targets[4:] > 1)
  scores = decoding.score(model, params, tokens, targets, phi)
  mean = decoding.score(model, params, tokens, targets, phi, mean=True)
  decoder = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
  questions = np.repeat(tokens, 2, axis=0)  # two choices each
  log_probs = jax.nn.log_softmax(_all_logits(params, questions, decoder, phi))
  each = np.take_along_axis(np.asarray(log_probs), targets[..., None], axis=-1)[..., 0]
  wanted = (each * (targets > 0)).sum(axis=1)
  np.testing.assert_allclose(scores, wanted, atol=1e-5)
  np.testing.assert_allclose(mean, wanted / (targets > 0).sum(axis=1), atol=1e-5)


def test_an_answers_score_is_what_generation_says(model, params):
  answers, scores = generate(model, params, inputs())
  ended = np.array([1 in row for row in answers])
  again = decoding.score(model, params, inputs(), answers)
  real = np.array([0 not in row for row in cut(answers)])  # a pad that was written counts as none
  assert ended.any() and real.sum() > 2
  np.testing.assert_allclose(again[real], scores[real], atol=1e-4)


# -- Many inputs ----------------------------------------------------------------------------------


def test_ten_odd_batches_compile_few_times_and_change_nothing(model, params):
  rng, phi = np.random.default_rng(0), everything(1)
  shapes = decoding.Shapes.up_to(8, 20)
  assert shapes == decoding.Shapes((1, 8), (16, 20))
  before = decoding.decode._cache_size()
  for size in rng.permutation(10) + 2:
    lists = [rng.integers(2, 37, n).astype(np.int32) for n in rng.integers(1, 20, size)]
    answers, scores = decoding.answers(model, params, lists, shapes, phi, max_length=LENGTH)
    tokens = decoding.Shapes((11,), (20,)).padded(lists)
    found, found_scores = generate(model, params, tokens, phi)
    np.testing.assert_array_equal(answers, found[:size])
    np.testing.assert_allclose(scores, found_scores[:size], atol=1e-4)
  assert decoding.decode._cache_size() - before <= 4 + 1


def test_padding_keeps_the_tail_of_what_is_too_long():
  padded = decoding.Shapes((3,), (4,)).padded([np.arange(1, 7, dtype=np.int32), np.array([9])])
  np.testing.assert_array_equal(padded, [[3, 4, 5, 6], [9, 0, 0, 0], [9, 0, 0, 0]])


# -- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'make,word',
  [
    (lambda: decoding.Sampling(temperature=0.0), 'temperature'),
    (lambda: decoding.Sampling(top_k=0), 'top_k'),
    (lambda: decoding.Sampling(top_p=1.5), 'top_p'),
    (lambda: decoding.Beam(width=0), 'width'),
    (lambda: decoding.Beam(early_stopping='always'), 'early_stopping'),
  ],
)
def test_a_bad_strategy_is_refused_by_name(make, word):
  with pytest.raises(InputError, match=word):
    make()


def test_bad_calls_are_refused(model, params):
  with pytest.raises(InputError, match='max_length is 0'):
    generate(model, params, inputs(), length=0)
  with pytest.raises(InputError, match='rng'):
    generate(model, params, inputs(), strategy=decoding.Sampling())
  with pytest.raises(InputError, match='3 contexts'):
    generate(model, params, inputs(5), everything(3))

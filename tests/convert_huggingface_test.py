"""Hugging Face's folders become our models with transformers' logits, and go home again."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import tiny_data
import tiny_models as tiny
from flax import linen as nn
from flax import serialization
from sentencepiece import sentencepiece_model_pb2

from hyperjax import errors, partitioning
from hyperjax.convert import huggingface
from hyperjax.models import t5
from hyperjax.vocabulary import Vocabulary

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
from safetensors import numpy as safetensors_numpy  # noqa: E402
from safetensors import torch as safetensors_torch  # noqa: E402, needs torch

SIZES = dict(
  vocab_size=38, d_model=10, d_kv=6, d_ff=14, num_layers=2, num_decoder_layers=3, num_heads=4
)
KINDS = {
  '1.0': dict(feed_forward_proj='relu'),
  '1.1': dict(feed_forward_proj='gated-gelu', tie_word_embeddings=False),
  'flan': dict(feed_forward_proj='gated-gelu', tie_word_embeddings=False, dropout_rate=0.2),
  'mt5': {},
}


def model_of(kind: str, **changes):
  """Random weights, of a size that makes logits of order 1."""
  prefix = 'MT5' if kind == 'mt5' else 'T5'
  config = getattr(transformers, f'{prefix}Config')(**(SIZES | KINDS[kind] | changes))
  torch.manual_seed(3)
  model = getattr(transformers, f'{prefix}ForConditionalGeneration')(config).eval()
  if kind != '1.0':
    model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(config.vocab_size, config.d_model))
  with torch.no_grad():
    for name, weight in model.named_parameters():
      if 'layer_norm' in name:
        weight += 0.2 * torch.randn_like(weight)
      elif 'shared' not in name and 'lm_head' not in name:
        weight *= 2
  return model


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """{kind: (the folder that transformers wrote, its logits)}."""
  place = tmp_path_factory.mktemp('hf')
  result = {}
  for kind in KINDS:
    model = model_of(kind)
    model.save_pretrained(place / kind)
    # As published configs have it; transformers 5 writes another field in its place.
    edit(place / kind, tie_word_embeddings=kind == '1.0', scale_decoder_outputs=None)
    result[kind] = place / kind, theirs(model)
  return result


def edit(folder: pathlib.Path, **changes) -> None:
  """Sets fields of config.json; None takes one out."""
  path = folder / 'config.json'
  config = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


BATCH = tiny.batch(m=1)


def theirs(model) -> np.ndarray:
  tokens = torch.tensor(np.asarray(BATCH['encoder_input_tokens'])).long()
  targets = torch.tensor(np.asarray(BATCH['decoder_input_tokens'])).long()
  with torch.no_grad():
    return model(
      input_ids=tokens, attention_mask=(tokens > 0).long(), decoder_input_ids=targets
    ).logits.numpy()


def ours(folder: pathlib.Path, **how) -> np.ndarray:
  model, params = huggingface.load(folder, **how)
  batch = {k: BATCH[k] for k in ('encoder_input_tokens', 'decoder_input_tokens')}
  return np.asarray(model.apply({'params': params}, batch))


def copy(folders, kind: str, target: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(folders[kind][0], target))


# --- In -------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_logits_are_transformers(folders, kind):
  folder, logits = folders[kind]
  assert np.abs(logits).mean() > 0.3
  np.testing.assert_allclose(ours(folder), logits, atol=1e-5)


@pytest.mark.parametrize(
  'form', ['sharded', 'msgpack', 'bin', 'old bin', 'sharded bin', 'bfloat16']
)
def test_every_form_of_weights(folders, tmp_path, form):
  model, logits = model_of('1.1'), folders['1.1'][1]
  copy(folders, '1.1', tmp_path / 'a')
  weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
  (tmp_path / 'a' / 'model.safetensors').unlink()
  if form == 'sharded':
    model.save_pretrained(tmp_path / 'b', max_shard_size='2KB')
    for path in (tmp_path / 'b').glob('model*'):
      shutil.copy(path, tmp_path / 'a')
    assert len(list((tmp_path / 'a').glob('*.safetensors'))) > 2
  elif form == 'msgpack':
    tree = {}
    for name, weight in weights.items():
      if not name.endswith('embed_tokens.weight'):
        *parts, _ = name.split('.')
        embedding = parts[-1] in ('shared', 'relative_attention_bias')
        kind = 'embedding' if embedding else 'weight' if 'norm' in parts[-1] else 'kernel'
        node = tree
        for part in parts:
          node = node.setdefault(part, {})
        node[kind] = weight.numpy().T if kind == 'kernel' else weight.numpy()
    (tmp_path / 'a' / 'flax_model.msgpack').write_bytes(serialization.to_bytes(tree))
  elif form == 'bfloat16':
    half = {name: weight.bfloat16() for name, weight in weights.items()}
    half = {name: each for name, each in half.items() if 'embed_tokens' not in name}
    safetensors_torch.save_file(half, tmp_path / 'a' / 'model.safetensors')
    model.load_state_dict({name: weight.bfloat16().float() for name, weight in weights.items()})
    np.testing.assert_allclose(ours(tmp_path / 'a'), theirs(model), atol=1e-5)
    params = huggingface.load(tmp_path / 'a', dtype='bfloat16')[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('bfloat16')}
    return
  elif form in ('bin', 'old bin'):
    zipped = form == 'bin'
    path = tmp_path / 'a' / 'pytorch_model.bin'
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
  else:
    parts = {'one.bin': list(weights)[:20], 'two.bin': list(weights)[20:]}
    for file, names in parts.items():
      torch.save({name: weights[name] for name in names}, tmp_path / 'a' / file)
    where = {name: file for file, names in parts.items() for name in names}
    index = tmp_path / 'a' / 'pytorch_model.bin.index.json'
    index.write_text(json.dumps({'weight_map': where}))
  np.testing.assert_allclose(ours(tmp_path / 'a'), logits, atol=1e-5)


FLIPPED = {
  'vocab_size': 40,
  'd_model': 12,
  'd_kv': 5,
  'd_ff': 15,
  'num_layers': 3,
  'num_decoder_layers': 2,
  'num_heads': 3,
  'relative_attention_num_buckets': 16,
  'relative_attention_max_distance': 30,
  'dropout_rate': 0.7,
  'classifier_dropout': 0.4,
  'layer_norm_epsilon': 1e-2,
  'initializer_factor': 3.0,
  'feed_forward_proj': 'gated-silu',
  'is_encoder_decoder': False,
  'is_decoder': True,
  'use_cache': False,
  'pad_token_id': 5,
  'eos_token_id': 7,
  'dense_act_fn': 'relu',
  'is_gated_act': False,
  'tie_word_embeddings': True,
  'scale_decoder_outputs': True,
  'model_type': 'umt5',
  'decoder_start_token_id': 4,
  'dtype': 'bfloat16',
  'chunk_size_feed_forward': 2,
  'tie_encoder_decoder': True,
  'add_cross_attention': True,
  'pruned_heads': {'0': [0]},
  'cross_attention_hidden_size': 3,
  'output_hidden_states': True,
  'id2label': {'0': 'a'},
  'rope_theta': 3.0,
  'architectures': ['T5Model'],
  'transformers_version': '4.0',
}


def test_every_field_that_transformers_has_is_flipped(folders):
  for kind in ('1.1', 'mt5'):
    config = json.loads((folders[kind][0] / 'config.json').read_text())
    assert config.keys() <= FLIPPED.keys()


@pytest.mark.parametrize('kind', ['1.1', '1.0', 'mt5'])
@pytest.mark.parametrize('field', FLIPPED)
def test_a_flipped_field_is_understood_or_refused(folders, tmp_path, kind, field):
  """Either our logits are what transformers computes from the same folder, or loading refuses."""
  folder = copy(folders, kind, tmp_path / 'a')
  value = FLIPPED[field]
  if json.loads((folder / 'config.json').read_text()).get(field) == value:
    value = {'tie_word_embeddings': False, 'dense_act_fn': 'gelu', 'is_gated_act': True}[field]
  edit(folder, **{field: value})
  try:
    mine = ours(folder)
  except errors.InputError as error:
    assert str(folder) in str(error)
    return
  other = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype='float32').eval()
  np.testing.assert_allclose(mine, theirs(other), atol=5e-5)


HARMLESS = {
  name: FLIPPED[name]
  for name in ('dropout_rate', 'initializer_factor', 'use_cache', 'dtype', 'id2label')
} | {  # transformers 4 wrote these
  **dict(do_sample=True, early_stopping=True, num_beams=4, num_beam_groups=2, temperature=0.5),
  **dict(diversity_penalty=0.1, top_k=3, top_p=0.5, typical_p=0.5, repetition_penalty=2.0),
  **dict(length_penalty=2.0, no_repeat_ngram_size=3, encoder_no_repeat_ngram_size=2),
  **dict(bad_words_ids=[[3]], num_return_sequences=2, min_length=3, max_length=9),
  **dict(max_new_tokens=4, forced_bos_token_id=3, forced_eos_token_id=1, suppress_tokens=[3]),
  **dict(begin_suppress_tokens=[4], exponential_decay_length_penalty=[5, 1.1]),
  **dict(remove_invalid_values=True, return_dict_in_generate=True, output_scores=True),
  **dict(bos_token_id=3, sep_token_id=4, num_labels=3, finetuning_task='a', tf_legacy_loss=True),
  **dict(torchscript=True, use_bfloat16=True, _commit_hash='a', _attn_implementation='eager'),
  **dict(_attn_implementation_autoset=True, _attn_implementation_internal='eager'),
  **dict(tie_encoder_decoder=False, add_cross_attention=False, pruned_heads={}),
}


def test_fields_that_do_not_matter_do_not_refuse(folders, tmp_path):
  folder = copy(folders, '1.1', tmp_path / 'a')
  edit(folder, **HARMLESS)
  np.testing.assert_allclose(ours(folder), folders['1.1'][1], atol=1e-5)


def test_null_is_the_default(folders, tmp_path):
  folder = copy(folders, '1.0', tmp_path / 'a')
  config = json.loads((folder / 'config.json').read_text())
  nulls = dict.fromkeys(FLIPPED.keys() - set(SIZES) | {'num_decoder_layers'})
  (folder / 'config.json').write_text(json.dumps(config | nulls))
  assert huggingface.config_of(folder).num_decoder_layers == SIZES['num_layers']
  (folder / 'config.json').write_text(json.dumps(config | nulls | {'num_decoder_layers': 3}))
  np.testing.assert_allclose(ours(folder), folders['1.0'][1], atol=1e-5)


@pytest.mark.parametrize('kind', ['t5', 'mt5'])
def test_an_empty_config_has_transformers_defaults(tmp_path, kind):
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': kind}))
  config = huggingface.config_of(tmp_path)
  other = transformers.AutoConfig.for_model(kind)
  sizes = (config.vocab_size, config.emb_dim, config.head_dim, config.mlp_dim, config.num_heads)
  assert sizes == (other.vocab_size, other.d_model, other.d_kv, other.d_ff, other.num_heads)
  layers = (config.num_encoder_layers, config.num_decoder_layers)
  assert layers == (other.num_layers, other.num_decoder_layers)
  buckets = (other.relative_attention_num_buckets, other.relative_attention_max_distance)
  assert (config.relpos_buckets, config.relpos_max_distance) == buckets
  assert (len(config.mlp_activations) == 2) == other.is_gated_act
  assert config.logits_via_embedding == (kind == 't5')


def without_head(folder: pathlib.Path) -> pathlib.Path:
  weights = safetensors_numpy.load_file(folder / 'model.safetensors')
  weights.pop('lm_head.weight', None)
  meta = {'format': 'pt'}
  safetensors_numpy.save_file(weights, folder / 'model.safetensors', metadata=meta)
  return folder


def test_a_head_that_is_absent_is_the_embedding(folders, tmp_path):
  for kind, scaled in (('1.0', True), ('1.1', False)):
    folder = without_head(copy(folders, kind, tmp_path / kind))
    if not scaled:  # as transformers 5 writes it
      edit(folder, tie_word_embeddings=True, scale_decoder_outputs=False)
    model, _ = huggingface.load(folder)
    assert model.config.logits_via_embedding == scaled
    other = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    np.testing.assert_allclose(ours(folder), theirs(other), atol=5e-5)


@pytest.mark.parametrize('own', [True, False], ids=['own head', 'tied'])
def test_mt5_as_transformers_5_writes_it(tmp_path, own):
  model = model_of('mt5')
  if not own:
    model.lm_head.weight = model.shared.weight
    with torch.no_grad():
      model.shared.weight *= 0.3
  model.save_pretrained(tmp_path)
  names = safetensors_numpy.load_file(tmp_path / 'model.safetensors').keys()
  assert ('lm_head.weight' in names) == own
  np.testing.assert_allclose(ours(tmp_path), theirs(model), atol=5e-5)
  edit(tmp_path, transformers_version='4.40.0')
  with pytest.raises(errors.InputError, match='save the folder anew with transformers 5'):
    huggingface.load(tmp_path)


def test_a_mesh_reads_its_own_slices(folders, monkeypatch):
  model, whole = huggingface.load(folders['1.1'][0])
  specs = nn.get_partition_spec(jax.eval_shape(model.init_params, jax.random.key(0)))
  is_spec = lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec)
  axes = jax.tree.map(tuple, specs, is_leaf=is_spec)
  mesh = partitioning.make_mesh(partitioning.MeshShape(data=2, fsdp=2, model=2))
  shardings = partitioning.parameter_shardings(mesh, axes, whole)
  read, asked = huggingface._read_safetensors, []
  note = lambda path, name, at: asked.append((name, str(at))) or read(path, name, at)
  monkeypatch.setattr(huggingface, '_read_safetensors', note)
  loaded = huggingface.load(folders['1.1'][0], shardings=shardings)[1]
  assert jax.tree.all(jax.tree.map(np.array_equal, loaded, whole))
  assert jax.tree.map(lambda x: x.sharding, loaded) == shardings
  assert len(asked) == len(set(asked))  # nothing twice
  embedding = loaded['token_embedder']['embedding']
  mine = {
    str(tuple(slice(*s.indices(n)[:2]) for s, n in zip(shard.index, embedding.shape)))
    for shard in embedding.addressable_shards
  }
  assert {at for name, at in asked if name == 'shared.weight'} == mine and len(mine) == 4


# --- Out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('shard_bytes', [10**9, 3000])
@pytest.mark.parametrize(
  'config',
  [tiny.DOWNSTREAM, t5.T5Config(38, 10, 4, 2, 3, 6, 14, ('relu',), logits_via_embedding=True)],
  ids=['1.1', '1.0'],
)
def test_transformers_loads_what_we_write(tmp_path, config, shard_bytes):
  model = t5.T5(config)
  params = tiny.params_of(model)
  huggingface.save(tmp_path / 'a', model, params, shard_bytes=shard_bytes)
  count = len(list((tmp_path / 'a').glob('*.safetensors')))
  assert (count == 1) == (shard_bytes == 10**9)
  other, said = transformers.T5ForConditionalGeneration.from_pretrained(
    tmp_path / 'a', output_loading_info=True
  )
  assert not said['missing_keys'] and not said['unexpected_keys']
  batch = {k: BATCH[k] for k in ('encoder_input_tokens', 'decoder_input_tokens')}
  np.testing.assert_allclose(
    model.apply({'params': params}, batch), theirs(other.eval()), atol=2e-5
  )
  again, back = huggingface.load(tmp_path / 'a')
  assert again == model
  assert jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), back, params))


def ends_in(count: int, path: pathlib.Path, vocabulary: Vocabulary) -> pathlib.Path:
  """A sentencepiece file with its own extra ids, as T5X's cc_all.32000.100extra."""
  pieces = sentencepiece_model_pb2.ModelProto.FromString(open(vocabulary.path, 'rb').read())
  for i in reversed(range(count)):
    kind = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    pieces.pieces.add(piece=f'▁<extra_id_{i}>', score=0.0, type=kind)
  path.write_bytes(pieces.SerializeToString())
  return path


@pytest.mark.parametrize('inside', [False, True], ids=['pieces', '100extra'])
def test_transformers_tokenizes_as_the_vocabulary_that_goes_with_the_model(tmp_path, inside):
  vocabulary = tiny_data.vocabulary(tmp_path)
  if inside:
    vocabulary = Vocabulary(str(ends_in(11, tmp_path / 'extra.model', vocabulary)), 11)
  config = dataclasses.replace(tiny.DOWNSTREAM, vocab_size=vocabulary.size + 3)
  model = t5.T5(config)
  huggingface.save(tmp_path / 'hf', model, tiny.params_of(model), vocabulary)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'hf')
  for text in ('the red cat', 'a  big old horse, sees', 'é', ''):
    assert tokenizer(text).input_ids == [*vocabulary.encode(text), vocabulary.eos_id]
  for i in (0, 10):
    assert tokenizer.convert_tokens_to_ids(f'<extra_id_{i}>') == vocabulary.sentinel(i)
  assert len(tokenizer) == vocabulary.size
  again = huggingface.vocabulary_of(tmp_path / 'hf')
  assert again.size == vocabulary.size and (again.sha256 == vocabulary.sha256) == (not inside)


@pytest.mark.parametrize(
  'inside, given, expected',
  [
    *((7, '{"extra_ids": 0}', 7), (0, '{"extra_ids": 7}', 7), (0, '{"extra_ids": null}', 100)),
    *((0, '{}', 100), (0, '{"extra_ids": 0}', 'extra_ids is 0'), (3, '{"extra_ids": 0}', 'is 3')),
    *((0, '{"extra_ids": "100"}', "extra_ids = '100'"), (0, '{"extra_ids": true}', 'True')),
    (0, '[]', 'tokenizer_config.json is not an object'),
  ],
)
def test_extra_ids_are_those_of_the_tokenizer_or_of_its_file(tmp_path, inside, given, expected):
  vocabulary = tiny_data.vocabulary(tmp_path)
  (tmp_path / 'hf').mkdir()
  ends_in(inside, tmp_path / 'hf' / 'spiece.model', vocabulary)
  (tmp_path / 'hf' / 'tokenizer_config.json').write_text(given)
  if isinstance(expected, str):
    with pytest.raises(errors.InputError, match=expected):
      huggingface.vocabulary_of(tmp_path / 'hf')
  else:
    found = huggingface.vocabulary_of(tmp_path / 'hf')
    assert (found.extra_ids, found.pieces) == (expected, vocabulary.pieces)


def test_a_vocabulary_without_rows_in_the_model_is_refused(tmp_path):
  vocabulary = tiny_data.vocabulary(tmp_path)
  model = t5.T5(dataclasses.replace(tiny.DOWNSTREAM, vocab_size=vocabulary.size - 1))
  with pytest.raises(errors.InputError, match=r'has \d+ ids, the model \d+ embedding rows'):
    huggingface.save(tmp_path / 'hf', model, tiny.params_of(model), vocabulary)
  assert not (tmp_path / 'hf').exists()


# --- What is wrong --------------------------------------------------------------------------------


def damaged(folder: pathlib.Path, how: str) -> str:
  path = folder / 'model.safetensors'
  if how == 'truncated':
    path.write_bytes(path.read_bytes()[:-40])
    return 'model.safetensors is damaged'
  if how == 'missing leaf':
    weights = safetensors_numpy.load_file(path)
    del weights['encoder.block.1.layer.0.SelfAttention.q.weight']
    safetensors_numpy.save_file(weights, path)
    return 'encoder.block.1.layer.0.SelfAttention.q.weight is missing'
  if how == 'another leaf':
    safetensors_numpy.save_file(
      safetensors_numpy.load_file(path) | {'encoder.adapter.weight': np.ones((2, 2), np.float32)},
      path,
    )
    return 'encoder.adapter.weight is not part of the model'
  if how == 'another embedding':
    more = {'encoder.embed_tokens.weight': np.ones((38, 10), np.float32)}
    safetensors_numpy.save_file(safetensors_numpy.load_file(path) | more, path)
    return 'encoder.embed_tokens.weight is not shared.weight'
  if how == 'integers':
    weights = safetensors_numpy.load_file(path)
    safetensors_numpy.save_file(
      weights | {'shared.weight': weights['shared.weight'].astype(np.int8)}, path
    )
    return 'shared.weight is I8, which is not a float'
  if how == 'a shard is gone':
    path.unlink()
    index = {'weight_map': {'shared.weight': 'model-00001-of-00002.safetensors'}}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    return 'model-00001-of-00002.safetensors, which is not there'
  if how == 'no weights':
    path.unlink()
    return 'has none of model.safetensors, flax_model.msgpack, pytorch_model.bin'
  if how == 'no config':
    (folder / 'config.json').unlink()
    return 'config.json cannot be read'
  if how == 'code in the pickle':
    path.unlink()

    class Evil:
      def __reduce__(self):
        return pathlib.Path.touch, (folder / 'ran',)

    torch.save({'shared.weight': Evil()}, folder / 'pytorch_model.bin')
    return 'pytorch_model.bin cannot be read as weights alone'
  (folder / 'flax_model.msgpack').write_bytes(b'\x93not')
  path.unlink()
  return 'flax_model.msgpack is damaged'


@pytest.mark.parametrize(
  'how',
  [
    *('truncated', 'missing leaf', 'another leaf', 'another embedding', 'integers'),
    *('a shard is gone', 'no weights', 'no config', 'code in the pickle', 'msgpack'),
  ],
)
def test_what_is_wrong_is_one_sentence_with_the_file(folders, tmp_path, how):
  folder = copy(folders, '1.1', tmp_path / 'a')
  says = damaged(folder, how)
  with pytest.raises(errors.InputError) as caught:
    huggingface.load(folder)
  assert says in str(caught.value) and str(folder) in str(caught.value)
  assert not (folder / 'ran').exists()


def test_nothing_is_written_over_something(folders, tmp_path):
  model, params = huggingface.load(folders['1.1'][0])
  before = sorted(folders['1.1'][0].iterdir())
  with pytest.raises(errors.InputError, match='is not empty'):
    huggingface.save(folders['1.1'][0], model, params)
  assert sorted(folders['1.1'][0].iterdir()) == before
  odd = t5.T5(dataclasses.replace(model.config, decoder_bidirectional=True))
  with pytest.raises(errors.InputError, match='decoder_bidirectional = True has no form'):
    huggingface.save(tmp_path / 'b', odd, params)
  assert not (tmp_path / 'b').exists()


INDEX = {
  '[]': 'has no weight_map',
  '{"weight_map": null}': 'has no weight_map',
  '{"weight_map": ["a"]}': 'has no weight_map',
  '{"weight_map": {"shared.weight": null}}': 'has no weight_map',
  '{"weight_map": {"shared.weight": 3}}': 'has no weight_map',
  '{"weight_map": {"shared.weight": "../a/one.safetensors"}}': 'has no weight_map',
  '{"weight_map": {"shared.weight": ".."}}': 'has no weight_map',
  '{"weight_map": {"lm_head.weight": "one.safetensors"}}': (
    'names lm_head.weight in one.safetensors, which does not have it'
  ),
}


@pytest.mark.parametrize('text', INDEX)
def test_an_index_names_weights_that_their_shards_have(folders, tmp_path, text):
  folder = copy(folders, '1.0', tmp_path / 'a')
  (folder / 'model.safetensors').rename(folder / 'one.safetensors')
  index = folder / 'model.safetensors.index.json'
  index.write_text(text)
  with pytest.raises(errors.InputError, match=INDEX[text]) as caught:
    huggingface.load(folder)
  assert str(index) in str(caught.value)


def test_an_index_may_name_copies_of_the_embedding(folders, tmp_path):
  folder = copy(folders, '1.0', tmp_path / 'a')
  names = [*safetensors_numpy.load_file(folder / 'model.safetensors')]
  (folder / 'model.safetensors').rename(folder / 'one.safetensors')
  where = dict.fromkeys([*names, 'encoder.embed_tokens.weight'], 'one.safetensors')
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': where}))
  np.testing.assert_allclose(ours(folder), folders['1.0'][1], atol=1e-5)


CONFIGS = {  # what config.json must not say
  'num_decoder_layers': (0, 'num_decoder_layers is 0'),
  'feed_forward_proj': (['a'], r"feed_forward_proj = \['a'\]"),
  'model_type': ({}, 'model_type = {}'),
  'tie_word_embeddings': ('no', "tie_word_embeddings = 'no'"),
  'pruned_heads': ({'0': [1]}, 'pruned_heads'),
}


@pytest.mark.parametrize('field', CONFIGS)
def test_a_config_that_is_odd_is_refused(folders, tmp_path, field):
  folder = copy(folders, '1.1', tmp_path / 'a')
  edit(folder, **{field: CONFIGS[field][0]})
  with pytest.raises(errors.InputError, match=CONFIGS[field][1]):
    huggingface.load(folder)


def test_a_head_that_is_lost_is_not_the_embedding(folders, tmp_path):
  for kind in ('1.1', 'mt5'):
    folder = without_head(copy(folders, kind, tmp_path / kind))
    with pytest.raises(errors.InputError, match='lm_head.weight is missing'):
      huggingface.load(folder)


BIN = {
  'integers': (lambda weights: weights | {'a': torch.ones(2, dtype=torch.int8)}, 'a is torch.int8'),
  'a list': (lambda weights: [*weights.values()], 'is no dict of tensors'),
  'a checkpoint': (lambda weights: {'state_dict': weights}, 'is no dict of tensors'),
}


@pytest.mark.parametrize('how', BIN)
def test_a_bin_holds_floats_by_name(folders, tmp_path, how):
  folder = copy(folders, '1.1', tmp_path / 'a')
  weights = safetensors_torch.load_file(folder / 'model.safetensors')
  (folder / 'model.safetensors').unlink()
  change, says = BIN[how]
  torch.save(change(weights), folder / 'pytorch_model.bin')
  with pytest.raises(errors.InputError, match=says):
    huggingface.load(folder)


@pytest.mark.parametrize('kind', ['1.0', '1.1'])
@pytest.mark.parametrize(
  'name',
  [
    *('lm_head.weight', 'shared.weight', 'decoder.embed_tokens.weight'),
    *('encoder.block.1.layer.0.SelfAttention.q.weight', 'encoder.final_layer_norm.weight'),
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
  ],
)
@pytest.mark.parametrize('rank', [0, 1, 3])
def test_a_weight_of_another_rank_is_refused(folders, tmp_path, kind, name, rank):
  folder = copy(folders, kind, tmp_path / 'a')
  path = folder / 'model.safetensors'
  odd = {name: np.ones((2, 3, 4)[:rank], np.float32)}
  safetensors_numpy.save_file(safetensors_numpy.load_file(path) | odd, path)
  with pytest.raises(errors.InputError, match=str(folder)):
    huggingface.load(folder)


@pytest.mark.parametrize('leaf', ['text', 3, np.ones(2, np.int8)], ids=['text', 'number', 'int8'])
def test_a_msgpack_holds_floats(folders, tmp_path, leaf):
  folder = copy(folders, '1.1', tmp_path / 'a')
  (folder / 'model.safetensors').unlink()
  content = serialization.msgpack_serialize({'shared': {'embedding': leaf}})
  (folder / 'flax_model.msgpack').write_bytes(content)
  with pytest.raises(errors.InputError, match='shared/embedding is no array of floats'):
    huggingface.load(folder)


def refuse(*_, **__):
  raise PermissionError(13, 'Permission denied')


@pytest.mark.parametrize('what', ['is_file', 'exists', 'is_dir'])
def test_a_folder_that_may_not_be_read_is_one_sentence(folders, monkeypatch, what):
  folder = folders['1.1'][0]
  monkeypatch.setattr(pathlib.Path, what, refuse)
  with pytest.raises(errors.InputError, match=r'cannot be read \(Permission denied\)'):
    huggingface.is_folder(folder)
    huggingface.load(folder)


def test_a_disk_that_is_full_is_one_sentence(tmp_path, monkeypatch):
  def full(*_, **__):
    raise safetensors.SafetensorError('No space left on device')

  monkeypatch.setattr(huggingface.safetensors_numpy, 'save_file', full)
  model = t5.T5(tiny.DOWNSTREAM)
  with pytest.raises(errors.InputError, match=r'cannot be written \(No space left on device\)'):
    huggingface.save(tmp_path / 'a', model, tiny.params_of(model))

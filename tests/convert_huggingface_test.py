"""Hugging Face's folders become our models with transformers' logits, and go home again."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
from safetensors import torch as safetensors_torch  # noqa: E402, needs torch

SIZES = dict(
  vocab_size=38, d_model=10, d_kv=6, d_ff=14, num_layers=2, num_decoder_layers=3, num_heads=4
)
KINDS = {
  '1.0': dict(feed_forward_proj='relu'),
  '1.1': dict(feed_forward_proj='gated-gelu', tie_word_embeddings=False),
  'flan': dict(feed_forward_proj='gated-gelu', tie_word_embeddings=False, dropout_rate=0.2),
}


def model_of(kind: str, **changes):
  """Random weights, of a size that makes logits of order 1."""
  config = transformers.T5Config(**(SIZES | KINDS[kind] | changes))
  torch.manual_seed(3)
  model = transformers.T5ForConditionalGeneration(config).eval()
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


@pytest.mark.parametrize('form', ['sharded', 'msgpack', 'bin', 'sharded bin', 'bfloat16'])
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
  elif form == 'bin':
    torch.save(weights, tmp_path / 'a' / 'pytorch_model.bin')
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
  'output_hidden_states': True,
  'id2label': {'0': 'a'},
  'rope_theta': 3.0,
  'architectures': ['T5Model'],
  'transformers_version': '4.0',
}


def test_every_field_that_transformers_has_is_flipped(folders):
  config = json.loads((folders['1.1'][0] / 'config.json').read_text())
  assert config.keys() <= FLIPPED.keys()


@pytest.mark.parametrize('kind', ['1.1', '1.0'])
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
  other = transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype='float32').eval()
  np.testing.assert_allclose(mine, theirs(other), atol=5e-5)


def test_fields_that_do_not_matter_do_not_refuse(folders, tmp_path):
  folder = copy(folders, '1.1', tmp_path / 'a')
  harmless = ('dropout_rate', 'initializer_factor', 'use_cache', 'dtype', 'id2label')
  edit(folder, **{field: FLIPPED[field] for field in harmless})
  np.testing.assert_allclose(ours(folder), folders['1.1'][1], atol=1e-5)


def test_a_head_that_is_absent_is_the_embedding(folders, tmp_path):
  from safetensors import numpy as st

  for kind, scaled in (('1.0', True), ('1.1', False)):
    folder = copy(folders, kind, tmp_path / kind)
    weights = st.load_file(folder / 'model.safetensors')
    weights.pop('lm_head.weight', None)
    st.save_file(weights, folder / 'model.safetensors', metadata={'format': 'pt'})
    model, _ = huggingface.load(folder)
    assert model.config.logits_via_embedding == scaled
    other = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    np.testing.assert_allclose(ours(folder), theirs(other), atol=5e-5)


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


@pytest.mark.parametrize('inside', [False, True], ids=['pieces', '100extra'])
def test_transformers_tokenizes_as_the_vocabulary_that_goes_with_the_model(tmp_path, inside):
  vocabulary = tiny_data.vocabulary(tmp_path)
  if inside:  # as in T5X's cc_all.32000.100extra
    pieces = sentencepiece_model_pb2.ModelProto.FromString(open(vocabulary.path, 'rb').read())
    for i in reversed(range(11)):
      kind = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
      pieces.pieces.add(piece=f'▁<extra_id_{i}>', score=0.0, type=kind)
    path = tmp_path / 'extra.model'
    path.write_bytes(pieces.SerializeToString())
    vocabulary = Vocabulary(str(path), 11)
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


def test_a_vocabulary_without_rows_in_the_model_is_refused(tmp_path):
  vocabulary = tiny_data.vocabulary(tmp_path)
  model = t5.T5(dataclasses.replace(tiny.DOWNSTREAM, vocab_size=vocabulary.size - 1))
  with pytest.raises(errors.InputError, match=r'has \d+ ids, the model \d+ embedding rows'):
    huggingface.save(tmp_path / 'hf', model, tiny.params_of(model), vocabulary)
  assert not (tmp_path / 'hf').exists()


# --- What is wrong --------------------------------------------------------------------------------


def damaged(folder: pathlib.Path, how: str) -> str:
  path = folder / 'model.safetensors'
  from safetensors import numpy as st

  if how == 'truncated':
    path.write_bytes(path.read_bytes()[:-40])
    return 'model.safetensors is damaged'
  if how == 'missing leaf':
    weights = st.load_file(path)
    del weights['encoder.block.1.layer.0.SelfAttention.q.weight']
    st.save_file(weights, path)
    return 'encoder.block.1.layer.0.SelfAttention.q.weight is missing'
  if how == 'another leaf':
    st.save_file(st.load_file(path) | {'encoder.adapter.weight': np.ones((2, 2), np.float32)}, path)
    return 'encoder.adapter.weight is not part of the model'
  if how == 'another embedding':
    more = {'encoder.embed_tokens.weight': np.ones((38, 10), np.float32)}
    st.save_file(st.load_file(path) | more, path)
    return 'encoder.embed_tokens.weight is not shared.weight'
  if how == 'integers':
    weights = st.load_file(path)
    st.save_file(weights | {'shared.weight': weights['shared.weight'].astype(np.int8)}, path)
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

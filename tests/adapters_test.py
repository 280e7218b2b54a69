"""An adapter is one phi: written once, saved whole, refused where it does not belong."""

import json
import os
import pathlib
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import saved_runs
import tiny_data

import hyperjax
from hyperjax import adapters, decoding, episodes, peft
from hyperjax.errors import InputError

EXAMPLES = [('red apple', 'green'), ('one two', 'three'), ('the dog', 'eats')]
INPUTS = ['a big cat', 'plum', 'four five six seven', 'white horse reads', 'bird', 'near the fish']


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.getbasetemp()


@pytest.fixture(scope='module')
def model(root):
  return hyperjax.load(saved_runs.hyper(root))


@pytest.fixture(scope='module')
def adapter(model):
  return model.adapt(EXAMPLES[:2], 'the cat task')


def equal(first: peft.Phi, second: peft.Phi) -> bool:
  """Bitwise, with dtypes."""

  def same(x, y):
    return x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()

  names = peft.leaf_names(first), peft.leaf_names(second)
  return names[0] == names[1] and jax.tree.all(jax.tree.map(same, first, second))


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- Adapt and predict -----------------------------------------------------------------------------


def test_phi_is_the_hypermodels_for_the_context_of_the_examples(model, adapter):
  run, vocabulary = model.run, model.run.vocabulary
  shots = episodes.examples(vocabulary, [(x, [y]) for x, y in EXAMPLES[:2]])
  context, cut = episodes.context(vocabulary, vocabulary.encode('the cat task'), shots, 21)
  assert cut == 0
  tokens = np.pad(context, (0, 21 - len(context)))[None]
  phi = run.model.generate(run.params, {'hyper_input_tokens': jnp.asarray(tokens)})
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), phi, adapter.phi)


def test_predictions_depend_on_the_adapter_and_not_on_the_batch(model, adapter):
  answers = model.predict(INPUTS, adapter)
  assert answers != model.predict(INPUTS)
  assert answers != model.predict(INPUTS, model.adapt(EXAMPLES[2:]))
  assert len(set(answers)) > 2
  assert model.predict(INPUTS[::-1], adapter, batch_size=4) == answers[::-1]
  assert [model.predict([x], adapter)[0] for x in INPUTS] == answers
  assert model.predict([], adapter) == []


def test_strategies_and_lengths_reach_the_decoder(model, adapter):
  beams = model.predict(INPUTS, adapter, decoding.Beam(3))
  assert len(beams) == len(INPUTS)
  short, full = model.predict(INPUTS, adapter, max_length=1), model.predict(INPUTS, adapter)
  assert short != full
  assert all(y.startswith(first) for first, y in zip(short, full))
  sampling = decoding.Sampling(2.0)
  draw = lambda seed: model.predict(INPUTS, adapter, sampling, seed=seed)
  assert draw(1) == draw(1) != draw(2)
  with pytest.raises(InputError, match='max_length is 0'):
    model.predict(INPUTS, adapter, max_length=0)
  with pytest.raises(InputError, match='rows'):
    model.predict(INPUTS, adapter, batch_size=0)


def test_a_shared_phi_is_the_same_whatever_the_examples(root):
  shared = hyperjax.load(saved_runs.hyper(root, 'shared'))
  with pytest.warns(UserWarning, match='examples and definition change nothing'):
    one, other = shared.adapt(EXAMPLES[:1]), shared.adapt(each for each in EXAMPLES[1:])
  assert equal(one.phi, other.phi)
  assert shared.predict(INPUTS, one) != shared.predict(INPUTS)


# -- On disk ---------------------------------------------------------------------------------------


def test_a_saved_adapter_gives_bitwise_the_same(root, model, adapter, tmp_path):
  adapter.save(tmp_path / 'new' / 'adapter')
  loaded = adapters.load_adapter(tmp_path / 'new' / 'adapter')
  assert equal(loaded.phi, adapter.phi)
  assert loaded.provenance == adapter.provenance
  again = hyperjax.load(saved_runs.hyper(root))
  assert again.predict(INPUTS, loaded) == model.predict(INPUTS, adapter)
  assert sorted(contents(tmp_path / 'new' / 'adapter')) == ['adapter.json', 'adapter.safetensors']


def test_the_record_says_where_phi_came_from(root, model, adapter, tmp_path):
  adapter.save(tmp_path)
  record = json.loads((tmp_path / 'adapter.json').read_text())
  said = record['provenance']
  assert (said['run'], said['step'], said['examples']) == ('prefix-0', saved_runs.STEP, 2)
  assert said['vocabulary_sha256'] == saved_runs.vocabulary(root).sha256
  assert said['examples_sha256'] != model.adapt(EXAMPLES[:2]).provenance['examples_sha256']
  names = [name.replace('/', '.') for name in peft.leaf_names(adapter.phi)]
  assert sorted(record['leaves']) == sorted(names)
  assert record['leaves']['decoder.attention.prefix.key'] == ['float32', [1, 1, 3, 2, 6]]
  leaves = safetensors.numpy.load_file(tmp_path / 'adapter.safetensors')
  assert sorted(leaves) == sorted(names)


def test_every_kind_of_leaf_survives(tmp_path):
  half = jnp.arange(24, dtype=jnp.bfloat16).reshape(2, 1, 3, 2, 2) / 7
  mask, gate = jnp.array([[True, False, True]]), jnp.ones((2, 1, 2), jnp.float16)
  prefix = peft.Prefix(half, half + 1, mask, gate)
  low_rank = peft.LowRank(jnp.ones((1, 1, 4, 2)), jnp.zeros((1, 1, 2, 5)))
  phi = peft.Phi(
    encoder=peft.LayerPhi(mlp=peft.MlpPhi(wo=low_rank)),
    decoder=peft.LayerPhi(peft.AttentionPhi(prefix)),
    memory=peft.Memory(jnp.ones((1, 3, 4)), mask),
  )
  adapters.Adapter(phi, {}).save(tmp_path)
  assert equal(adapters.load_adapter(tmp_path).phi, phi)


def damage(kind: str, folder: pathlib.Path) -> str:
  """Damages a saved adapter; returns what the error must name."""
  weights, record = folder / 'adapter.safetensors', folder / 'adapter.json'
  content = weights.read_bytes()
  if kind == 'cut short':
    weights.write_bytes(content[:-9])
  elif kind == 'empty':
    weights.write_bytes(b'')
  elif kind == 'flipped':
    weights.write_bytes(content[:-5] + bytes([content[-5] ^ 4]) + content[-4:])
  elif kind == 'no weights':
    weights.unlink()
  elif kind == 'no record':
    record.unlink()
    return 'adapter.json'
  elif kind == 'half a record':
    record.write_text(record.read_text()[:40])
    return 'adapter.json'
  elif kind == 'not ours':
    safetensors.numpy.save_file(safetensors.numpy.load(content), weights, {'format': 'pt'})
  elif kind == 'other leaves':
    leaves = safetensors.numpy.load(content)
    leaves['decoder.attention.prefix.kex'] = leaves.pop('decoder.attention.prefix.key')
    told = {'format': 1, 'leaves': adapters._structure(leaves), 'sha256': adapters._digest(leaves)}
    safetensors.numpy.save_file(leaves, weights, {'hyperjax': json.dumps(told)})
    record.write_text(json.dumps(told))
  elif kind == 'next format':
    told = json.dumps({'format': 2})
    safetensors.numpy.save_file(safetensors.numpy.load(content), weights, {'hyperjax': told})
  return 'adapter.safetensors'


@pytest.mark.parametrize(
  'kind',
  [
    *('cut short', 'empty', 'flipped', 'no weights', 'no record', 'half a record', 'not ours'),
    *('other leaves', 'next format'),
  ],
)
def test_a_damaged_adapter_is_refused_by_file(adapter, tmp_path, kind):
  adapter.save(tmp_path)
  with pytest.raises(InputError, match=damage(kind, tmp_path)) as error:
    adapters.load_adapter(tmp_path)
  assert str(tmp_path) in str(error.value) and '\n' not in str(error.value)


def test_a_record_of_another_adapter_is_told(model, adapter, tmp_path):
  adapter.save(tmp_path)
  other = model.adapt(EXAMPLES[2:])
  other.save(tmp_path / 'other')
  shutil.copy(tmp_path / 'other' / 'adapter.json', tmp_path)
  with pytest.warns(UserWarning, match='adapter.json'):
    assert equal(adapters.load_adapter(tmp_path).phi, adapter.phi)


@pytest.mark.parametrize('survived', [0, 1])
def test_a_write_that_fails_leaves_a_whole_adapter(model, adapter, tmp_path, monkeypatch, survived):
  """The first move decides: before it the old adapter is there, after it the new one."""
  adapter.save(tmp_path)
  new, real = model.adapt(EXAMPLES[2:]), os.replace
  moves = []

  def replace(source, target):
    moves.append(target)
    if len(moves) > survived:
      raise OSError(28, 'No space left on device')
    real(source, target)

  monkeypatch.setattr(os, 'replace', replace)
  with pytest.raises(InputError, match='No space left'):
    new.save(tmp_path)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    found = adapters.load_adapter(tmp_path)
  assert equal(found.phi, (new if survived else adapter).phi)
  assert sorted(contents(tmp_path)) == ['adapter.json', 'adapter.safetensors']


def test_a_write_that_fails_leaves_no_empty_folder(adapter, tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(28, 'No space left')))
  with pytest.raises(InputError, match='No space left'):
    adapter.save(tmp_path / 'adapter')
  assert not (tmp_path / 'adapter').exists()


def test_an_adapter_replaces_adapters_only(model, adapter, tmp_path):
  adapter.save(tmp_path / 'here')
  model.adapt(EXAMPLES[2:]).save(tmp_path / 'here')
  assert not equal(adapters.load_adapter(tmp_path / 'here').phi, adapter.phi)
  (tmp_path / 'thesis.txt').write_text('chapter 1')
  for place in (tmp_path, tmp_path / 'thesis.txt'):
    with pytest.raises(InputError, match='is no adapter'):
      adapter.save(place)
  assert (tmp_path / 'thesis.txt').read_text() == 'chapter 1'


# -- Where it does not belong ----------------------------------------------------------------------


def test_an_adapter_of_another_backbone_is_refused(root, adapter):
  other = hyperjax.load(saved_runs.hyper(root, seed=5))
  with pytest.raises(InputError, match=r'another backbone.*prefix-0.*prefix-5'):
    other.predict(INPUTS, adapter)


def test_runs_over_one_backbone_share_adapters(root, model, adapter):
  """Who wrote phi does not matter, nor does a run without a hypermodel."""
  answers = model.predict(INPUTS, adapter)
  for run in (saved_runs.hyper(root, 'lora'), saved_runs.backbone(root)):
    assert hyperjax.load(run).predict(INPUTS, adapter) == answers


def test_an_adapter_of_another_vocabulary_or_structure_is_refused(model, adapter):
  said = adapter.provenance | {'vocabulary_sha256': 'other'}
  with pytest.raises(InputError, match='vocabulary_sha256 other'):
    model.predict(INPUTS, adapters.Adapter(adapter.phi, said))
  longer = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), adapter.phi)
  with pytest.raises(InputError, match='layers'):
    model.predict(INPUTS, adapters.Adapter(longer, adapter.provenance))
  with pytest.raises(InputError, match='another backbone'):
    model.predict(INPUTS, adapters.Adapter(adapter.phi, {}))


@pytest.mark.parametrize(
  'examples,definition,word',
  [
    ([], None, 'nothing to adapt to'),
    ([], '', 'nothing to adapt to'),
    ([], ' ', 'nothing to adapt to'),
    ([('a', 'b'), ('a',)], None, 'example 2 of 2'),
    ([('a', 3)], None, 'example 1 of 1'),
    (['ab'], None, 'example 1 of 1'),
    ([('a', ' ')], None, 'empty input or output'),
    ([('a', '\udcff')], None, 'example 1 of 1'),
    ([], 'a \udcff', 'definition'),
  ],
)
def test_examples_that_are_no_pairs_of_texts_are_refused(model, examples, definition, word):
  with pytest.raises(InputError, match=word):
    model.adapt(examples, definition)


def test_a_run_without_a_hypermodel_predicts_but_does_not_adapt(root):
  model = hyperjax.load(saved_runs.backbone(root))
  assert len(model.predict(INPUTS)) == len(INPUTS)
  with pytest.raises(InputError, match='no hypermodel'):
    model.adapt(EXAMPLES)


def test_a_context_that_is_too_long_keeps_whole_examples_and_says_so(model):
  words = ' '.join(tiny_data.WORDS[:9])
  with pytest.warns(UserWarning, match=r'2 of the 3 parts .* 21 tokens'):
    cut = model.adapt([('plum', 'grape'), (words, words), ('cat', 'dog')])
  assert cut.provenance['parts_cut'] == 2
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    model.adapt([('plum', 'grape')])


@pytest.mark.parametrize(
  'inputs,words',
  [
    ('plum', "'plum', give a list of texts"),  # not an answer to each of its letters
    (['plum', 3], 'input 2 of 2 is 3'),
    (['plum', None], 'input 2 of 2 is None'),
    (['\udcff'], 'input 1 of 1'),
  ],
)
def test_inputs_that_are_no_texts_are_refused(model, adapter, inputs, words):
  with pytest.raises(InputError, match=words):
    model.predict(inputs, adapter)


def test_inputs_that_are_too_long_keep_their_tail_and_say_so(model, adapter):
  long = ' '.join(tiny_data.WORDS[:20])
  with pytest.warns(UserWarning, match='1 of 2 inputs have more than 9 tokens'):
    answers = model.predict([long, 'plum'], adapter)
  ids = model.run.vocabulary.encode(long)
  tail = model.run.vocabulary.decode(ids[-9:])
  assert np.array_equal(model.run.vocabulary.encode(tail), ids[-9:])
  assert model.predict([tail], adapter) == answers[:1]
  with pytest.raises(InputError, match='input 2 of 2 is empty'):
    model.predict(['plum', ' '], adapter)

"""`python -m hyperjax.convert`: from each form to each, and back to the same weights."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest
import tiny_runs
from flax import linen as nn
from verbs_test import python

import hyperjax
from hyperjax import runs
from hyperjax.convert import __main__ as verb
from hyperjax.convert import huggingface, t5x
from hyperjax.errors import InputError
from hyperjax.models import t5


def command(**flags) -> list[str]:
  return ['hyperjax.convert', *(f'--{name}={value}' for name, value in flags.items())]


@pytest.fixture
def convert(capsys):
  """Calls the verb in this process, and gives its exit status, stdout and stderr."""
  if 'from' not in verb.FLAGS:
    verb.define_flags()

  def call(**flags) -> tuple[int, str, str]:
    for flag in verb.FLAGS.get_key_flags_for_module(verb.__name__):
      flag.unparse()
    verb.FLAGS(command(**flags))
    try:
      verb.main()
    except InputError as error:
      return 1, '', str(error)
    told = capsys.readouterr()
    return 0, told.out, told.err

  return call


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> pathlib.Path:
  with tiny_runs.quick(tmp_path_factory.getbasetemp()):
    yield tmp_path_factory.getbasetemp()


@pytest.fixture(scope='module')
def vocabulary(root) -> str:
  return tiny_runs.world(root)[1].path


def test_a_backbone_goes_home_and_comes_back_with_its_vocabulary(root, convert, tmp_path):
  """hyperjax -> Hugging Face -> T5X's Orbax -> T5X -> hyperjax."""
  backbone = tiny_runs.backbone(root)
  places = [tmp_path / name for name in ('hf', 'orbax/checkpoint_6', 'own/checkpoint_6', 'run')]
  forms = ['huggingface', 'orbax', 't5x', 'hyperjax']
  extra_ids = runs.load(str(backbone)).vocabulary.extra_ids
  of = {'from': 'hyperjax', 'input': backbone}
  for form, place in zip(forms, places, strict=True):
    more = {'vocabulary': places[0] / 'spiece.model', 'extra_ids': extra_ids}
    more = more if form == 'hyperjax' else {}
    status, told, error = convert(**of, to=form, output=place, **more)
    assert status == 0, error
    assert 'T5 of 1+3 layers' in told and f'{place}: ' in told
    of = {'from': 't5x' if form == 'orbax' else form, 'input': place}
  before, after = runs.load(str(backbone)), runs.load(str(places[-1]))
  assert tiny_runs.equal(before.params['downstream'], after.params['downstream'])
  assert before.model.downstream == after.model.downstream and after.model.hypermodel is None
  assert (after.step, after.vocabulary.sha256) == (6, before.vocabulary.sha256)
  loaded = [hyperjax.load(str(each)) for each in (backbone, places[-1])]
  one, other = (model.predict(['a big cat'], max_length=4) for model in loaded)
  assert one == other


def test_weights_can_be_written_in_bfloat16(root, convert, tmp_path):
  backbone = tiny_runs.backbone(root)
  of = {'from': 'hyperjax', 'input': backbone, 'dtype': 'bfloat16'}
  status, _, error = convert(**of, to='t5x', output=tmp_path / 'checkpoint_3')
  assert status == 0, error
  config = runs.load(str(backbone)).model.downstream.config
  half = t5x.load(tmp_path / 'checkpoint_3', config)['token_embedder']['embedding']
  whole = runs.load_part(str(backbone), 'downstream')[0]['token_embedder']['embedding']
  assert np.array_equal(half, whole.astype('bfloat16').astype('float32'))
  assert not np.array_equal(half, whole)


@pytest.mark.parametrize(
  'change, said',
  [
    ({'input': ''}, '--input is missing'),
    ({'input': 'nowhere'}, 'nowhere is not a T5X checkpoint'),
    ({'from': 'huggingface', 'input': 'tests'}, 'tests/config.json cannot be read'),
    ({'from': 'hyperjax', 'input': 'tests'}, 'tests is not a run of hyperjax'),
    ({'from': 'huggingface', 'mlp_activations': 'relu'}, '--mlp_activations is for T5X'),
    ({'output': 'tests'}, 'tests is not empty'),
    ({'from': 'huggingface', 'step': 3}, '--step is for runs and T5X'),
    ({'step': 3}, r'checkpoint_2 is not a T5X checkpoint of step 3'),
    ({'to': 't5x'}, 'leave --vocabulary out'),
    ({'output': 'gs://bucket/x'}, '--output=gs://bucket/x: only T5X checkpoints'),
    ({'from': 'huggingface', 'input': 'gs://b/x'}, '--input=gs://b/x: only T5X checkpoints'),
    ({'input': 's3://b/x'}, 's3:// is not read'),
    ({}, 'has no sentencepiece file .* give --vocabulary'),
    ({'vocabulary': 'setup.py'}, 'setup.py is not a sentencepiece model'),
    ({'extra_ids': 9000}, r'has \d+ ids, the model \d+ embedding rows'),
    ({'mlp_activations': 'sigh,linear'}, r"mlp_activations is \('sigh', 'linear'\)"),
  ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
  root, vocabulary, convert, tmp_path, change, said
):
  source, output = tmp_path / 'checkpoint_2', tmp_path / 'out'
  backbone = runs.load(str(tiny_runs.backbone(root)))
  t5x.save(source, backbone.params['downstream'], backbone.model.downstream.config)
  given = {'from': 't5x', 'input': source, 'to': 'hyperjax', 'output': output}
  if change and 'vocabulary' not in change:
    given['vocabulary'] = vocabulary
  status, _, error = convert(**given | change)
  assert status == 1 and len(error.splitlines()) == 1
  assert re.search(said, error), error
  assert not output.exists()


def test_the_verb_runs_and_says_what_is_wrong():
  done = python('-m', *command(to='t5x', output='x', input='nowhere', **{'from': 't5x'}))
  assert (done.returncode, done.stdout) == (1, '')
  assert done.stderr.startswith('error: nowhere is not a T5X checkpoint')
  assert len(done.stderr.splitlines()) == 1


def test_a_step_of_a_model_dir_is_chosen_and_what_t5x_does_not_tell_is_warned_of(
  root, convert, tmp_path
):
  run = runs.load(str(tiny_runs.backbone(root)))
  config = dataclasses.replace(run.model.downstream.config, mlp_activations=('silu', 'linear'))
  params = run.params['downstream']
  huggingface.save(tmp_path / 'hf', t5.T5(config), params)
  of = {'from': 'huggingface', 'input': tmp_path / 'hf', 'to': 't5x'}
  for step in (3, 12):
    status, _, error = convert(**of, output=tmp_path / 'own' / f'checkpoint_{step}')
    assert status == 0 and '--mlp_activations=silu,linear' in error
  of = {'from': 't5x', 'input': tmp_path / 'own', 'to': 'huggingface', 'output': tmp_path / 'back'}
  status, told, error = convert(**of, step=3, mlp_activations='silu,linear')
  assert (status, error) == (0, '') and told.rstrip().endswith('step 3')
  assert huggingface.config_of(tmp_path / 'back') == config


def test_a_vocabulary_far_smaller_than_the_table_is_told(root, vocabulary, convert, tmp_path):
  run = runs.load(str(tiny_runs.backbone(root)))
  folder = tmp_path / 'hf'
  config = dataclasses.replace(run.model.downstream.config, vocab_size=run.vocabulary.size + 128)
  params = nn.unbox(t5.T5(config).init_params(jax.random.key(0)))
  huggingface.save(folder, t5.T5(config), params, run.vocabulary)
  of = {'from': 'huggingface', 'input': folder, 'to': 'hyperjax', 'output': tmp_path / 'run'}
  status, _, error = convert(**of)
  assert status == 0 and error.startswith('warning: the model has') and len(error.splitlines()) == 1

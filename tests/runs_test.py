"""A run is read back from its folder alone, or refused with the name of what is wrong."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_runs
from tiny_runs import STEPS

from hyperjax import errors, fingerprints, runs

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module', autouse=True)
def root(tmp_path_factory):
  with tiny_runs.quick(tmp_path_factory.getbasetemp()):
    yield tmp_path_factory.getbasetemp()


@pytest.fixture
def pair(root, tmp_path) -> pathlib.Path:
  """Copies of a run and of the one whose weights it froze, `hyper` and `backbone`."""
  for run in (tiny_runs.hyper(root), tiny_runs.backbone(root)):
    shutil.copytree(run, tmp_path / 'pair' / run.name)
  return tmp_path / 'pair'


def edit(path: pathlib.Path, **changes) -> None:
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_is_loaded_without_tensorflow_seqio_and_gin(root):
  # absl cannot be taken away: orbax imports it.
  place = str(tiny_runs.hyper(root))
  code = (
    'import sys, json\n'
    "for name in ('tensorflow', 'seqio', 'gin', 'tasks'):\n"
    '  sys.modules[name] = None\n'
    'import numpy as np\nfrom hyperjax import fingerprints, runs\n'
    f'run = runs.load({place!r})\n'
    'print(json.dumps([run.step, run.vocabulary.size, fingerprints.fingerprint(run.params)]))'
  )
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', code], env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-2000:]
  run = runs.load(place)
  vocabulary = tiny_runs.world(root)[1]
  marks = fingerprints.fingerprint(run.params)
  assert json.loads(done.stdout) == [STEPS, vocabulary.size, marks]
  assert run.model.hypermodel == tiny_runs.hypermodel(root)
  assert run.model.downstream.config == tiny_runs.config(root)
  assert run.lengths == tiny_runs.LENGTHS and run.vocabulary.sha256 == vocabulary.sha256
  assert run.record['markers'] == {'x': vocabulary.x_id, 'y': vocabulary.y_id}


def test_a_checkpoint_s_own_path_names_its_step(root):
  place = tiny_runs.hyper(root)
  params, step = runs.load_params(str(place / f'checkpoint_{STEPS}'))
  assert step == STEPS and tiny_runs.equal(params, runs.load_params(str(place))[0])
  with pytest.raises(errors.InputError, match=f'no checkpoint of step 4, only of {STEPS}'):
    runs.load(str(place / 'checkpoint_4'))


def test_runs_that_move_together_still_find_each_other(root, pair, tmp_path):
  moved = tmp_path / 'elsewhere'
  pair.rename(moved)
  shutil.rmtree(moved / 'hyper' / 'train')
  os.rename(tiny_runs.backbone(root), tmp_path / 'hidden')  # so that the absolute path is wrong
  try:
    params = runs.load(str(moved / 'hyper')).params
    backbone = runs.load(str(moved / 'backbone')).params
  finally:
    os.rename(tmp_path / 'hidden', tiny_runs.backbone(root))
  assert tiny_runs.equal(params['downstream'], backbone['downstream'])


def test_a_run_that_moves_alone_finds_the_frozen_weights_where_they_were(root, pair, tmp_path):
  alone = tmp_path / 'far' / 'away' / 'hyper'
  shutil.copytree(pair / 'hyper', alone)
  there = runs.load(str(tiny_runs.hyper(root))).params
  assert tiny_runs.equal(runs.load(str(alone)).params, there)


def test_a_part_is_read_without_the_other(root, pair):
  shutil.rmtree(pair / 'backbone')
  os.rename(tiny_runs.backbone(root), root / 'hidden')
  try:
    params, step = runs.load_part(str(pair / 'hyper'), 'hypermodel')
    with pytest.raises(errors.InputError) as caught:
      runs.load(str(pair / 'hyper'))
  finally:
    os.rename(root / 'hidden', tiny_runs.backbone(root))
  assert step == STEPS and 'queries' in params
  assert str(caught.value) == (
    f'{pair / "hyper"} needs the frozen downstream it was trained with: {root / "backbone"} is not '
    f'there, nor at {pair / "backbone"}; put it back'
  )


def test_frozen_weights_that_changed_are_named_by_their_leaf(root, pair):
  shutil.rmtree(pair / 'backbone')
  tiny_runs.pretrain(root, pair / 'backbone', seed=1)
  with pytest.raises(
    errors.InputError, match='frozen weights of .*hyper: leaf downstream/decoder/'
  ):
    runs.load(str(pair / 'hyper'))


def test_a_frozen_checkpoint_that_is_gone_is_named_by_its_step(pair):
  os.rename(pair / 'backbone' / f'checkpoint_{STEPS}', pair / 'backbone' / 'checkpoint_9')
  with pytest.raises(errors.InputError, match=f'frozen downstream.*no checkpoint of step {STEPS}'):
    runs.load(str(pair / 'hyper'))


def test_a_vocabulary_that_was_exchanged_is_refused(root, pair):
  other = pair / 'hyper' / 'vocabulary.model'
  other.write_bytes(other.read_bytes() + b'\0')
  with pytest.raises(
    errors.InputError, match='vocabulary.model is not the vocabulary that model.j'
  ):
    runs.load(str(pair / 'hyper'))
  other.unlink()
  with pytest.raises(errors.InputError, match='vocabulary.model cannot be read'):
    runs.load(str(pair / 'hyper'))


def test_a_model_json_that_is_not_one(pair, tmp_path):
  path = pair / 'hyper' / 'model.json'
  record = json.loads(path.read_text())
  downstream = record['downstream']
  cases = [
    (dict(format=2), 'is not of format 1'),
    (dict(downstream=None), 'model.json: downstream is None, which is not a model'),
    (dict(vocabulary={}), 'model.json: vocabulary.file is None, expected str'),
    (dict(vocabulary=record['vocabulary'] | {'extra_ids': '9'}), "extra_ids is '9', expected int"),
    (dict(lengths={'inputs': 9}), 'model.json: lengths.targets is None, expected int'),
    (dict(lengths=7), 'model.json: lengths.inputs is None'),
    (dict(hypermodel=downstream), 'model.json: hypermodel is .* which writes no phi'),
    (dict(downstream=downstream | {'class': 'os.system'}), 'os.system cannot be built'),
    (dict(downstream=downstream | {'tail': 1}), "unexpected keyword argument 'tail'"),
  ]
  for changes, says in cases:
    path.write_text(json.dumps(record | changes))
    with pytest.raises(errors.InputError, match=says):
      runs.load(str(pair / 'hyper'))
  del record['vocabulary']
  path.write_text(json.dumps(record))
  with pytest.raises(errors.InputError, match='model.json has no vocabulary'):
    runs.load(str(pair / 'hyper'))
  path.write_text('{"format": 1,')
  with pytest.raises(errors.InputError, match='model.json, line 1.*not JSON'):
    runs.load(str(pair / 'hyper'))
  path.unlink()
  with pytest.raises(
    errors.InputError, match='hyper is not a run of hyperjax: it has no model.json'
  ):
    runs.load(str(pair / 'hyper'))


def test_a_model_dir_that_cannot_be_written_is_named(root, tmp_path):
  (tmp_path / 'file').write_text('')
  model, vocabulary = runs.load(str(tiny_runs.backbone(root))).model, tiny_runs.world(root)[1]
  record = runs.record_of(model, vocabulary, tiny_runs.LENGTHS, 'sni', ('downstream',))
  with pytest.raises(errors.InputError, match='file/run/model-info.txt cannot be written'):
    runs.write(str(tmp_path / 'file' / 'run'), record, vocabulary, 'report', None)


def test_a_run_may_go_on_with_other_memory_and_dropout_and_nothing_else(root, pair):
  place = str(pair / 'hyper')
  record = runs.read_record(place)
  trunk = record['hypermodel']['trunk']
  trunk['remat'], trunk['dropout_rate'], record['mixture'] = 'full', 0.5, 'another'
  runs.check_record(place, record)
  trunk['emb_dim'], record['vocabulary']['sha256'] = 99, 'x'
  with pytest.raises(
    errors.InputError, match='run: hypermodel.trunk.emb_dim, vocabulary.sha256 di'
  ):
    runs.check_record(place, record)


def test_numbers_of_a_run_are_the_same_however_they_are_read(root):
  place = str(tiny_runs.hyper(root))
  params, _ = runs.load_params(place)
  for part in ('hypermodel', 'downstream'):
    assert tiny_runs.equal(runs.load_part(place, part)[0], params[part])
  assert all(np.isfinite(leaf).all() for leaf in np.asarray(params['hypermodel']['queries']))

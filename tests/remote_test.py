"""A run whose model_dir is in a bucket: written, broken off, gone on, loaded, as one on a disk."""

import pathlib

import pytest
import tiny_runs

pytest.importorskip('gcsfs')

import fake_gcs

from hyperjax import checkpoints, errors, runs

PLACE = 'gs://bucket/runs/a'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.getbasetemp()
  with tiny_runs.quick(root):
    yield root


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """Its folder on this disk."""
  with fake_gcs.serving(tmp_path) as (url, _):
    for name in ('STORAGE_EMULATOR_HOST', 'TENSORSTORE_GCS_HTTP_URL'):
      monkeypatch.setenv(name, url)
    monkeypatch.setenv('NO_GCE_CHECK', 'true')
    (tmp_path / 'bucket').mkdir()
    yield tmp_path / 'bucket'


def saving(model_dir):
  return checkpoints.Checkpoints(model_dir, save_period=2, keep=2)


def test_a_run_in_a_bucket_is_the_run_on_a_disk(root, bucket, tmp_path):
  tiny_runs.bigram(root, tmp_path / 'whole', saving=saving)
  with pytest.raises(KeyboardInterrupt):
    broken = tiny_runs.Data(tiny_runs.live(root), 6, tiny_runs.interrupt)
    tiny_runs.bigram(root, PLACE, saving=saving, data=broken)
  there = bucket / 'runs' / 'a'
  assert steps(there) == [2, 4]
  (there / 'checkpoint_6' / 'trainable').mkdir(parents=True)
  (there / 'checkpoint_6' / 'trainable' / 'half').write_text('a save that was broken off')
  assert checkpoints.Checkpoints(PLACE).steps() == [2, 4]

  tiny_runs.bigram(root, PLACE, saving=saving)
  assert steps(there) == [4, 6] and not (there / 'checkpoint_6' / 'trainable' / 'half').exists()
  own, whole = (folder / 'train' / 'metrics.jsonl' for folder in (there, tmp_path / 'whole'))
  assert own.read_text() == whole.read_text()  # none of what was logged before is lost
  assert len(list((there / 'train').glob('events.out.*'))) == 2

  loaded = [runs.load_params(path) for path in (PLACE, str(tmp_path / 'whole'))]
  assert tiny_runs.equal(*loaded)
  assert runs.is_run(PLACE) and runs.located(f'{PLACE}/checkpoint_4') == (PLACE, 4)

  hyper = tmp_path / 'hyper'  # whose frozen part is in the bucket
  tiny_runs.pretrain(root, 'gs://bucket/backbone', total_steps=1)
  tiny_runs.train(root, hyper, downstream_checkpoint='gs://bucket/backbone', total_steps=1)
  assert 'gs://bucket/backbone' in (hyper / 'model-info.txt').read_text()
  assert runs.load(str(hyper)).step == 1
  assert runs.load('gs://bucket/backbone').vocabulary.size == tiny_runs.world(root)[1].size


def steps(folder: pathlib.Path) -> list[int]:
  """Of the checkpoints that are whole."""
  whole = folder.glob('checkpoint_*/commit_success.txt')
  return sorted(int(path.parent.name.removeprefix('checkpoint_')) for path in whole)


def test_a_bucket_that_is_not_there_is_one_sentence(root, bucket):
  with pytest.raises(errors.InputError, match='gs://nobody/a/model-info.txt cannot be written'):
    tiny_runs.bigram(root, 'gs://nobody/a')


def test_a_storage_that_nothing_here_reads_is_one_sentence(root):
  with pytest.raises(errors.InputError, match='s3://x is neither here nor in a bucket'):
    tiny_runs.bigram(root, 's3://x')


def test_what_another_process_writes_to_a_bucket_is_seen(bucket):
  there = bucket / 'runs' / 'a'
  there.mkdir(parents=True)
  (there / 'config.gin').write_text('')
  keeper = checkpoints.Checkpoints(PLACE)
  assert keeper.steps() == [] and not runs.is_run(PLACE)
  (there / 'checkpoint_2').mkdir()
  (there / 'checkpoint_2' / 'commit_success.txt').write_text('')
  (there / 'model.json').write_text('{}')
  assert keeper.steps() == [2] and runs.is_run(PLACE)

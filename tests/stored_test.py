"""Stored episodes are the live ones, bit by bit, however they were written and are read."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import tiny_data
import tiny_runs
from trainer_test import Data, every, interrupt, steps
from verbs_test import python

from hyperjax import data, errors, inspect, stored

ROOT = pathlib.Path(__file__).parent.parent
COUNT, SIZE = 53, 11


@pytest.fixture(scope='module', autouse=True)
def root(tmp_path_factory):
  with tiny_runs.quick(tmp_path_factory.getbasetemp()):
    yield tmp_path_factory.getbasetemp()


@pytest.fixture(scope='module')
def place(root):
  """The first episodes of `tiny_runs.live`; to be read only."""
  stored.write(tiny_runs.live(root), root / 'stored', COUNT, SIZE)
  return root / 'stored'


@pytest.fixture
def own(root, tmp_path):
  """The same, to be broken."""
  stored.write(tiny_runs.live(root), tmp_path / 'own', COUNT, SIZE)
  return tmp_path / 'own'


def same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    assert a[key].dtype == b[key].dtype
    np.testing.assert_array_equal(a[key], b[key])


def equal(a, b) -> bool:
  arrays = lambda e: [e['hyper_inputs'], *e['inputs'], *e['targets']]
  assert a.keys() == b.keys() and len(a['inputs']) == len(b['inputs'])
  pairs = zip(arrays(a), arrays(b), strict=True)
  numbers = all(a[key] == b[key] for key in ('task_id', 'cut'))
  return numbers and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def change(path: pathlib.Path, **values) -> None:
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- Records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(('top', 'bytes_each'), [(2**16, 2), (2**16 + 1, 4)])
def test_a_record_is_its_episode(top, bytes_each):
  ids = lambda *values: np.array(values, np.int32)
  episode = {
    'task_id': 70001,
    'hyper_inputs': ids(),
    'inputs': (ids(5, 6, top - 1), ids(), ids(9)),
    'targets': (ids(1), ids(top - 1, 1), ids()),
    'cut': 3,
  }
  record = stored.encoded(episode, stored.token_dtype(top))
  assert len(record) == 4 * (3 + 7) + bytes_each * 7
  assert equal(stored.decoded(record, stored.token_dtype(top)), episode)


def test_a_vocabulary_of_many_ids_is_stored_whole(root, tmp_path):
  _, vocabulary = tiny_runs.world(root)
  large = type(vocabulary)(vocabulary.path, extra_ids=70_000)
  live = lambda: tiny_runs.live(root, vocabulary=large, mixture='c4_caclm', arguments=SMALL)
  manifest = stored.write(live(), tmp_path / 'large', 7)
  assert manifest['token_dtype'] == 'uint32'
  episodes = stored.StoredEpisodes(tmp_path / 'large')
  assert max(episodes(0, 0)['hyper_inputs']) == large.size - 1 > 2**16
  assert all(equal(episodes(0, n), live().episode(n)) for n in range(7))


SMALL = {'window': 13, 'b_length': 2, 'c_lengths': (2, 3), 'min_segment': 2}


# --- Batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize('block', [7, 64])
def test_batches_are_the_live_ones_whoever_asks(root, place, monkeypatch, block):
  monkeypatch.setattr(stored, 'BLOCK', block)
  live = lambda: tiny_runs.live(root, batch_size=12)
  read = lambda: stored.Stored(str(place), live())
  from_zero = list(itertools.islice(live().starting_at(0), 8))
  for step in (0, 3, 7):
    whole = next(read().starting_at(step))
    same(whole, from_zero[step])
    for count in (2, 3):
      parts = [next(read().starting_at(step, i, count)) for i in range(count)]
      same({key: np.concatenate([part[key] for part in parts]) for key in whole}, whole)


def test_what_is_told_of_stored_episodes_is_what_is_told_of_live_ones(root, place):
  live = tiny_runs.live(root)
  for told in (stored.Stored(str(place), tiny_runs.live(root)), live):
    batches = told.starting_at(2)
    _ = next(batches), batches.close()
  lines = inspect.told(live, examples=3, episodes=COUNT, tasks=2)
  assert inspect.told(stored.Stored(str(place), live), 3, COUNT, 2) == lines


def test_what_was_read_is_counted_by_task(root, place):
  made = stored.Stored(str(place), tiny_runs.live(root))
  used = next(made.starting_at(5))['task_id']
  statistics = made.statistics()
  for i, counts in enumerate(statistics.values()):
    assert counts['episodes'] >= np.sum(used == i)
  live = tiny_runs.live(root).statistics()
  assert list(statistics) == list(live)
  unused = lambda counts: {k: v for k, v in counts.items() if k not in inspect.OF_A_RUN}
  assert [*map(unused, statistics.values())] == [*map(unused, live.values())]


def test_a_wrong_context_is_stored_as_one(root, tmp_path):
  wrong = lambda: tiny_runs.live(root, wrong_context=True)
  stored.write(wrong(), tmp_path, 9)
  same(next(stored.Stored(str(tmp_path), wrong()).starting_at(1)), next(wrong().starting_at(1)))
  with pytest.raises(errors.InputError, match='wrong_context is True there and False here'):
    stored.Stored(str(tmp_path), tiny_runs.live(root)).starting_at(0)


def test_episodes_repeat_after_the_last_and_it_is_said_once(root, place, capsys):
  read = stored.Stored(str(place), tiny_runs.live(root))
  episodes = read.episodes
  assert equal(episodes(0, COUNT - 1), tiny_runs.live(root).episode(COUNT - 1))
  assert capsys.readouterr().out == ''
  for n in (COUNT, COUNT + 1, 7 * COUNT + 3):
    assert equal(episodes(0, n), tiny_runs.live(root).episode(n % COUNT))
  said = f'all {COUNT} episodes of {place} are used: they repeat from the first\n'
  assert capsys.readouterr().out == said


# --- Runs -----------------------------------------------------------------------------------------


def test_a_run_on_stored_episodes_is_the_run_on_live_ones_also_when_it_breaks_off(
  root, place, tmp_path
):
  run = lambda then: tiny_runs.bigram(
    root,
    tmp_path,
    data=then(stored.Stored(str(place), tiny_runs.live(root))),
    saving=every(2),
  )
  with pytest.raises(KeyboardInterrupt):
    run(lambda read: Data(read, 4, interrupt))
  assert steps(tmp_path) == [2]
  run(lambda read: read)
  assert tiny_runs.lines(tmp_path) == tiny_runs.lines(tiny_runs.bigrams(root))


OTHERS = [
  ({'seed': 4}, 'seed is 0 there and 4 here'),
  ({'split': 'validation'}, "split is 'train' there and 'validation' here"),
  ({'targets_per_context': 1}, 'targets_per_context is 2 there and 1 here'),
  ({'lengths': tiny_runs.LENGTHS | {'inputs': 8}}, 'lengths.inputs is 9 there and 8 here'),
  ({'arguments': {'instances': 5}}, 'mixture.instances is 6 there and 5 here'),
  ({'mixture': 'sni_def', 'arguments': {'instances': 6}}, 'mixture.positives is 2 there and 0'),
  (
    {'mixture': 'c4_clm', 'arguments': None},
    r"mixture.class is '.*Instructions' .* and '.*c4.Clm'",
  ),
]


@pytest.mark.parametrize(('changes', 'said'), OTHERS)
def test_a_run_of_other_episodes_is_told_what_differs(root, place, changes, said):
  read = stored.Stored(str(place), tiny_runs.live(root, **changes))
  with pytest.raises(errors.InputError, match=said) as caught:
    read.starting_at(0)
  assert str(place / 'manifest.json') in str(caught.value) and '\n' not in str(caught.value)


def test_a_run_with_another_vocabulary_is_told_so(root, place, tmp_path):
  _, vocabulary = tiny_runs.world(root)
  for changes, said in (
    ({'extra_ids': 12}, 'vocabulary.extra_ids is 11 there and 12 here'),
    ({'path': str(tiny_data.train_vocabulary(tmp_path / 'v.model', vocab_size=61))}, '.sha256 is'),
  ):
    other = type(vocabulary)(**({'path': vocabulary.path, 'extra_ids': 11} | changes))
    with pytest.raises(errors.InputError, match=said):
      stored.Stored(str(place), tiny_runs.live(root, vocabulary=other)).starting_at(0)
  copy = tmp_path / 'copy.model'  # what a file is called does not matter
  copy.write_bytes(pathlib.Path(vocabulary.path).read_bytes())
  live = tiny_runs.live(root, vocabulary=type(vocabulary)(str(copy), 11))
  next(stored.Stored(str(place), live).starting_at(0))


def test_the_mixture_is_what_it_is_and_not_what_it_is_called(root, place):
  from hyperjax import mixtures

  mixture = mixtures.get('sni_def_2pos', {'instances': 6})
  live = tiny_runs.live(root, mixture=mixture, arguments=None)
  next(stored.Stored(str(place), live).starting_at(0))


# --- What is missing or damaged -------------------------------------------------------------------


def shard(place: pathlib.Path, index: int, count: int = 5) -> pathlib.Path:
  return place / f'episodes-{index:05}-of-{count:05}.array_record'


def refused(root, place, said) -> None:
  with pytest.raises(errors.InputError, match=said):
    stored.Stored(str(place), tiny_runs.live(root)).starting_at(0)


def test_shards_are_checked_before_anything_is_read(root, own):
  path, other = shard(own, 2), shard(own, 4)
  good = path.read_bytes()
  path.write_bytes(good[:-7])
  refused(root, own, rf'00002-of-00005.array_record is damaged \({len(good) - 7} bytes instead of')
  path.unlink()
  refused(root, own, '00002-of-00005.array_record is missing')
  path.write_bytes(bytes(len(good)))
  refused(root, own, '00002-of-00005.array_record is damaged')
  assert len(other.read_bytes()) == len(good)  # 9 episodes instead of 11, in as many blocks
  path.write_bytes(other.read_bytes())
  refused(root, own, '00002-of-00005.array_record is damaged .9 episodes instead of 11')
  path.write_bytes(good)
  next(stored.Stored(str(own), tiny_runs.live(root)).starting_at(0))


def test_a_changed_byte_is_found_when_it_is_read(root, own):
  path, live = shard(own, 1), tiny_runs.live(root)
  good = path.read_bytes()
  records = {n: stored.encoded(live.episode(n), 'uint16') for n in range(SIZE, 2 * SIZE)}
  n, record = next((n, each) for n, each in records.items() if good.count(each) == 1)
  path.write_bytes(good.replace(record, record[:-1] + bytes([record[-1] ^ 1])))
  episodes = stored.Stored(str(own), live).episodes
  assert all(equal(episodes(0, other), live.episode(other)) for other in records if other != n)
  with pytest.raises(errors.InputError, match='00001-of-00005.array_record is damaged'):
    episodes(0, n)


def test_folders_that_hold_no_or_unfinished_or_unknown_episodes(root, own, tmp_path):
  refused(root, tmp_path / 'absent', 'absent has no manifest')
  change(own / 'manifest.json', format=7)
  refused(root, own, 'manifest.json has format 7, this hyperjax reads 1')
  (own / 'manifest.json').write_text('{"format": 1}')
  refused(root, own, 'manifest.json has no shards')
  (own / 'manifest.json').unlink()
  refused(root, own, 'own is not complete: run its hyperjax.cache command again')


# --- Writing --------------------------------------------------------------------------------------


def test_a_manifest_says_what_was_stored(root, place):
  manifest = json.loads((place / 'manifest.json').read_text())
  live = tiny_runs.live(root)
  drawn = [live.episode(n) for n in range(COUNT)]
  ids = Counter(episode['task_id'] for episode in drawn)
  cut = Counter(episode['task_id'] for episode in drawn if episode['cut'])
  assert manifest['tasks'] == list(tiny_data.TRAIN) and cut
  for i, (name, counts) in enumerate(manifest['statistics'].items()):
    assert name == manifest['tasks'][i]
    own = {'episodes': ids[i], 'contexts_cut': cut[i]}
    assert counts == live.episodes.statistics[name] | own
  for feature, told in manifest['feature_lengths'].items():
    own = [[e[feature]] if feature == 'hyper_inputs' else e[feature] for e in drawn]
    sizes = [len(tokens) for arrays in own for tokens in arrays]
    assert told['mean'] == pytest.approx(np.mean(sizes))
    assert (told['median'], told['longest']) == (np.median(sizes), max(sizes))
  files = manifest['shards']
  assert [each['file'] for each in files] == [path.name for path in sorted(place.glob('*.array*'))]
  assert [each['episodes'] for each in files] == [11, 11, 11, 11, 9]
  assert [each['bytes'] for each in files] == [(place / e['file']).stat().st_size for e in files]
  assert manifest['mixture']['instances'] == 6 and manifest['vocabulary']['extra_ids'] == 11
  assert str(root) not in (place / 'manifest.json').read_text()


@pytest.mark.parametrize('lengths', [[3], [2, 9], [1, 1, 1, 8, 8], [4, 4, 5, 5, 5, 7]])
def test_a_summary_of_counts_is_that_of_what_was_counted(lengths):
  told = stored._summary(Counter(lengths))
  assert told['mean'] == pytest.approx(np.mean(lengths))
  assert (told['median'], told['longest']) == (np.median(lengths), max(lengths))


def test_what_is_whole_is_left_alone_and_what_is_not_is_written_again(root, own):
  before = tiny_runs.files(own)
  shard(own, 0).write_bytes(b'no shard')
  shard(own, 1).unlink()
  shard(own, 2).with_suffix('.json').unlink()
  (own / '.episodes-00003.0.tmp').write_bytes(b'of a run that was killed')
  kept = shard(own, 3).stat().st_mtime_ns
  shards = stored.Shards.of(own, COUNT, SIZE)
  assert shards.unfinished() == [0, 1, 2]
  stored.write(tiny_runs.live(root), own, COUNT, SIZE)
  assert tiny_runs.files(own) == before and shard(own, 3).stat().st_mtime_ns == kept


def test_other_episodes_are_not_written_over_these(root, place, tmp_path):
  before = tiny_runs.files(place)
  for changes, said in OTHERS:
    with pytest.raises(errors.InputError, match=said) as caught:
      stored.write(tiny_runs.live(root, **changes), place, COUNT, SIZE)
    assert 'give a folder of its own to --output' in str(caught.value)
  with pytest.raises(errors.InputError, match='episodes is 53 there and 54 here, shard_size is 11'):
    stored.write(tiny_runs.live(root), place, COUNT + 1)
  folder = tmp_path / 'data'
  tiny_data.repository(folder / 'sni', instances=8)
  with pytest.raises(errors.InputError, match='data are other ones than it was begun with'):
    stored.write(tiny_runs.live(root, data_dir=folder, arguments={'instances': 6}), place, 53, 11)
  assert tiny_runs.files(place) == before
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'chapter.txt').write_text('1')
  with pytest.raises(errors.InputError, match='thesis is not empty'):
    stored.write(tiny_runs.live(root), tmp_path / 'thesis', 3)


def test_there_are_never_more_shards_than_a_process_may_open(tmp_path):
  assert stored.Shards.of(tmp_path, 100).count == 1
  assert stored.Shards.of(tmp_path, 10**8).count <= stored.MOST_SHARDS
  with pytest.raises(errors.InputError, match='1000 files.* give --shard_size=2'):
    stored.Shards.of(tmp_path, 1000, 1)


def test_a_disk_that_is_full_is_one_sentence_and_leaves_no_shard(root, tmp_path):
  code = f"""
import pathlib, resource, signal, sys
sys.path.insert(0, 'tests')
import tiny_runs
from hyperjax import stored
live = tiny_runs.live(pathlib.Path({str(tmp_path)!r}))
stored.begin(live, stored.Shards.of({str(tmp_path / 'out')!r}, 4000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
  stored.write(live, {str(tmp_path / 'out')!r}, 4000)
except stored.InputError as error:
  print(error)
"""
  done = python('-c', code)
  assert 'array_record cannot be written' in done.stdout, done.stderr
  assert len(done.stdout.splitlines()) == 1
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['settings.json']


# --- The verb -------------------------------------------------------------------------------------

MANY, FEW = 9000, 150  # episodes, and those of a shard


def flags(root: pathlib.Path, output: pathlib.Path, *more: str) -> list[str]:
  folder, vocabulary = tiny_runs.world(root)
  given = ['--mixture=sni_def_2pos', f'--data_dir={folder}', f'--vocabulary={vocabulary.path}']
  given += ['--extra_ids=11', f'--lengths={json.dumps(tiny_runs.LENGTHS)}', f'--output={output}']
  given += ['--targets_per_context=2', '--arguments={"instances": 6}']
  return ['-m', 'hyperjax.cache', *given, f'--shard_size={FEW}', *more]


def watched(given: list[str], episodes: int) -> str:
  """The verb's program, which fails where more is written than asked, or JAX is imported."""
  return f"""
import sys
from hyperjax import cache, cli
counts, add = [], cache.Progress.add
cache.Progress.add = lambda self, count: (counts.append(count), add(self, count))
sys.argv = ['cache', *{given}]
cache.define_flags()
try:
  cli.run(cache.main)
except SystemExit as end:
  assert not end.code
assert sum(counts) == {episodes}, counts
found = {{'jax', 'flax', 'grain', 'gin', 'tensorflow'}} & set(sys.modules)
assert not found, found
"""


@pytest.fixture(scope='module')
def many(root):
  """What nobody interrupts, written in this process."""
  stored.write(tiny_runs.live(root), root / 'many', MANY, FEW)
  return tiny_runs.files(root / 'many')


def test_a_killed_verb_goes_on_and_any_number_of_workers_writes_the_same(root, many, tmp_path):
  output = tmp_path / 'out'
  command = [sys.executable, *flags(root, output, f'--episodes={MANY}')]
  options = {'cwd': ROOT, 'env': os.environ | {'PYTHONPATH': str(ROOT)}, 'text': True}
  killed = subprocess.Popen([*command, '--workers=2'], stdout=subprocess.PIPE, **options)
  while len(list(output.glob('episodes*.json'))) < 3:
    assert killed.poll() is None
    time.sleep(0.001)
  killed.kill()
  killed.communicate()  # its workers, who hold the pipe too, have ended
  left = tiny_runs.files(output)
  assert killed.returncode == -signal.SIGKILL and 'manifest.json' not in left
  whole = [name for name in left if name.endswith('.json')]
  assert 4 <= len(whole) < MANY // FEW and all(left[name] == many[name] for name in whole)
  done = python(*flags(root, output, f'--episodes={MANY}', '--workers=1'))
  assert done.returncode == 0, done.stderr
  assert f'of {MANY // FEW} shards are there already' in done.stdout
  assert f'episode {MANY:,}/{MANY:,}: ' in done.stdout and '0.0 min left' in done.stdout
  assert tiny_runs.files(output) == many


def test_a_finished_verb_does_nothing_again_and_refuses_other_arguments(root, tmp_path):
  output = tmp_path / 'out'
  run = lambda *more: python(*flags(root, output, '--episodes=500', *more))
  done = run('--workers=3')
  assert done.returncode == 0 and '500 episodes of 3 tasks' in done.stdout, done.stderr
  before = tiny_runs.files(output)
  done = run()
  assert (done.returncode, done.stdout) == (0, f'{output} has these 500 episodes already\n')
  done = run('--seed=3')
  assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
  assert 'error: ' in done.stderr and 'seed is 0 there and 3 here' in done.stderr
  assert tiny_runs.files(output) == before
  shard(output, 1, 4).write_bytes(b'')
  done = run()
  assert done.returncode == 0 and '00001-of-00004.array_record is damaged' in done.stdout
  assert tiny_runs.files(output) == before


def test_a_run_s_gin_files_name_what_is_stored_and_read(root, place, tmp_path):
  folder, vocabulary = tiny_runs.world(root)
  values = {
    'MODEL_DIR': str(tmp_path / 'run'),
    'MIXTURE_OR_TASK_NAME': 'sni_def_2pos',
    'MIXTURE_ARGUMENTS': {'instances': 6},
    'DATA_DIR': str(folder),
    'VOCABULARY': vocabulary.path,
    'INITIAL_CHECKPOINT_PATH': 'none',
    'TASK_FEATURE_LENGTHS': tiny_runs.LENGTHS,
    'TARGETS_PER_CONTEXT': 2,
    'BATCH_SIZE': 8,
  }
  files = ['models/demo', 'runs/mtf', 'hypermodels/hypert5_prefix']
  given = [f'--gin_file=gin/{name}.gin' for name in files]
  given += [f'--gin.{name}={value!r}' for name, value in values.items()]
  given.append('--gin.vocabulary.Vocabulary.extra_ids=11')
  output = tmp_path / 'out'
  read = ['--gin_file=gin/data/stored.gin', f'--gin.EPISODES_DIR={str(output)!r}']
  more = [f'--output={output}', f'--episodes={COUNT}', f'--shard_size={SIZE}']
  done = python('-c', watched([*given, *read, *more], COUNT))
  assert (done.returncode, done.stderr) == (0, '')
  assert tiny_runs.files(output) == tiny_runs.files(place)
  done = python('-m', 'hyperjax.inspect', *given, *read, '--gin.RANDOM_SEED=5')
  assert done.returncode == 1 and 'seed is 0 there and 5 here' in done.stderr
  done = python('-m', 'hyperjax.inspect', *given, *read, '--episodes=9', '--examples=1')
  assert done.returncode == 0 and 'episode 0: ' in done.stdout, done.stderr


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    ([], '--output is missing'),
    (['--output=x', '--mixture=sni'], '--episodes is missing'),
    (['--output=x', '--episodes=3'], '--mixture is missing'),
    (['--output=x', '--episodes=0'], '--episodes'),
    (['--output=x', '--episodes=3', '--mixture=sni', '--pipeline_options=a'], 'give --runner=beam'),
    (['--output=x', '--episodes=3', '--gin_file=a.gin', '--seed=3'], 'leave --seed out'),
    (['--output=x', '--episodes=3', '--gin_file=a.gin'], "gin file 'a.gin' is found neither"),
  ],
)
def test_bad_flags_are_one_sentence(given, said):
  done = python('-m', 'hyperjax.cache', *given)
  assert done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1
  assert not (ROOT / 'x').exists()


def test_a_worker_s_error_is_one_sentence(root, tmp_path):
  output = tmp_path / 'out'
  stored.begin(tiny_runs.live(root), stored.Shards.of(output, 300, FEW))
  shard(output, 1, 2).mkdir()  # no file can have that name
  done = python(*flags(root, output, '--episodes=300', '--workers=2'))
  assert done.returncode == 1 and '00001-of-00002.array_record cannot be written' in done.stderr
  assert len(done.stderr.splitlines()) == 1 and not (output / 'manifest.json').exists()


def test_beam_writes_the_same_in_its_own_environment(root, tmp_path):
  interpreter = os.environ.get('HYPERJAX_BEAM_PYTHON')  # docs/architecture.md
  if not interpreter:
    pytest.skip('HYPERJAX_BEAM_PYTHON names no Python that has Apache Beam')
  stored.write(tiny_runs.live(root), tmp_path / 'own', 500, FEW)
  given = flags(root, tmp_path / 'beam', '--episodes=500', '--runner=beam')
  processes = '--direct_running_mode=multi_processing --direct_num_workers=2'
  options = f'--pipeline_options=--runner=DirectRunner {processes}'
  environment = os.environ | {'PYTHONPATH': str(ROOT)}
  done = subprocess.run([interpreter, *given, options], env=environment, capture_output=True)
  assert done.returncode == 0, done.stderr
  assert tiny_runs.files(tmp_path / 'beam') == tiny_runs.files(tmp_path / 'own')


def test_without_beam_its_runner_is_one_sentence(root, tmp_path):
  given = flags(root, tmp_path / 'out', '--episodes=3', '--runner=beam')[2:]
  code = 'import sys\nsys.modules["apache_beam"] = None\n' + watched(given, 0)
  done = python('-c', code)
  assert 'error: --runner=beam needs Apache Beam, in an environment of its own' in done.stderr
  assert not list((tmp_path / 'out').glob('episodes*'))


def test_a_seqio_task_is_not_stored(root, place, tmp_path):
  pytest.importorskip('seqio')
  live = data.Live('c4_v310_clm', vocabulary=tiny_runs.world(root)[1])
  with pytest.raises(errors.InputError, match='is a seqio task, which has no episodes by index'):
    stored.write(live, tmp_path / 'out', 3)
  with pytest.raises(errors.InputError, match='is a seqio task, which has no episodes by index'):
    stored.Stored(str(place), live).starting_at(0)
  with pytest.raises(errors.InputError, match="no mixture 'sni_de' .did you mean sni_def"):
    stored.write(data.Live('sni_de', vocabulary=tiny_runs.world(root)[1]), tmp_path / 'out', 3)
  assert not (tmp_path / 'out').exists()


def test_workers_share_the_work_and_import_no_jax_which_a_fork_does_not_bear(root, tmp_path):
  given = flags(root, tmp_path / 'out', '--episodes=300', '--workers=2')[2:]
  done = python('-c', watched(given, 300))
  assert done.returncode == 0 and '300 episodes' in done.stdout, done.stderr

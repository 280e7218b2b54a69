"""`python -m hyperjax.train` in a process of its own: killed, stopped, gone on, and what it says."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import tiny_data
import tiny_runs

from hyperjax import checkpoints, data

ROOT = pathlib.Path(__file__).parent.parent
STEPS, PERIOD = 240, 20


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.getbasetemp()


def start(root: pathlib.Path, model_dir: pathlib.Path, *more: str) -> subprocess.Popen:
  """A pretraining run from shipped gin files, at a tiny size."""
  folder, vocabulary = tiny_runs.world(root)
  sizes = {'vocab_size': 80, 'emb_dim': 12, 'num_heads': 2, 'head_dim': 5, 'mlp_dim': 14}
  macros = {
    'MODEL_DIR': str(model_dir),
    'VOCABULARY': vocabulary.path,
    'vocabulary.Vocabulary.extra_ids': vocabulary.extra_ids,
    'TRAIN_STEPS': STEPS,
    'SAVE_PERIOD': PERIOD,
    'KEEP': 2,
    'WARMUP_STEPS': 5,
    'BATCH_SIZE': 6,
    'MIXTURE_ARGUMENTS': {'window': 13, 'min_segment': 4},
    'TASK_FEATURE_LENGTHS': {'inputs': 9, 'targets': 5},
    **{f't5.preset.{name}': value for name, value in sizes.items()},
  }
  files = ('gin/models/t5_1_1_tiny.gin', 'gin/runs/pretrain.gin')
  environment = {
    **os.environ,
    'HYPERJAX_DATA': str(folder),
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(root / 'compiled_by_verbs'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'PYTHONPATH': str(ROOT),
  }
  command = [sys.executable, '-m', 'hyperjax.train', *(f'--gin_file={path}' for path in files)]
  command += [f'--gin.{name}={value!r}' for name, value in macros.items()] + list(more)
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def steps(model_dir: pathlib.Path) -> list[int]:
  return checkpoints.Checkpoints(model_dir).steps()


def wait_for_step(run: subprocess.Popen, model_dir: pathlib.Path, step: int) -> None:
  while max(steps(model_dir), default=0) < step:
    assert run.poll() is None, run.communicate()
    time.sleep(0.01)


def test_a_run_that_is_killed_and_stopped_equals_one_that_is_not(root, tmp_path):
  whole, other = tmp_path / 'whole', tmp_path / 'other'
  run = start(root, other)
  wait_for_step(run, other, 3 * PERIOD)
  run.kill()
  run.communicate()
  killed = max(steps(other))
  assert run.returncode == -signal.SIGKILL and 3 * PERIOD <= killed < STEPS

  run = start(root, other)
  wait_for_step(run, other, killed + PERIOD)
  run.terminate()
  out, err = run.communicate()
  assert run.returncode == 0, err
  stopped = int(re.search(r'asked to stop: step (\d+) is saved in ', out)[1])
  assert killed < stopped == max(steps(other)) < STEPS

  runs = [start(root, other), start(root, whole)]
  for run in runs:
    out, err = run.communicate()
    said = re.sub(r'W.* Waiting for previous save .*\n', '', err)  # Orbax's word on a slow disk
    assert (run.returncode, said) == (0, ''), err  # nothing of what Orbax tells at INFO
    last = (
      rf'step {STEPS}/{STEPS}: loss \d\.\d+, [\d.]+ examples/s, \d+ target tokens/s, 0.0 min left'
    )
    assert re.search(last, out)
    phases = ('imports', 'distributed', 'data', 'weights', 'compile', 'first step')
    each = ', '.join(rf'{name} \d+\.\d' for name in phases)
    assert re.search(rf'start-up, in seconds: {each}; \d+\.\d in all\n', out)
  texts = [(path / 'train' / 'metrics.jsonl').read_text() for path in (other, whole)]
  assert texts[0] == texts[1] and len(texts[0].splitlines()) == STEPS
  trained = [checkpoints.load_trainable(path)[0] for path in (other, whole)]
  assert tiny_runs.equal(*trained) and steps(whole) == [STEPS - PERIOD, STEPS]
  written = {path.name for path in whole.iterdir() if path.is_file()}
  assert written >= {'config.gin', 'model.json', 'model-info.txt', 'vocabulary.model'}


def test_what_is_wrong_is_one_line_on_stderr(root, tmp_path):
  run = start(root, tmp_path / 'run', '--gin.t5.preset.sizee=45')
  out, err = run.communicate()
  assert run.returncode == 1 and out == ''
  assert re.fullmatch(r"error: gin of preset: .*unexpected keyword argument 'sizee'\n", err)
  assert not (tmp_path / 'run').exists()


def test_a_run_on_any_seqio_task_goes_on_bitwise(root, tmp_path):
  seqio = pytest.importorskip('seqio')
  import tensorflow as tf

  from tasks import assembled

  with tiny_runs.quick(root):
    vocabulary = assembled.seqio_vocabulary(tiny_runs.world(root)[1])
    rows = [{'inputs': f'{a} {b}', 'targets': b} for a in tiny_data.WORDS for b in ('red', a)]

    def read(split, shuffle_files=False, seed=None):
      return tf.data.Dataset.from_tensor_slices(
        {key: [row[key] for row in rows] for key in ('inputs', 'targets')}
      )

    seqio.TaskRegistry.add(
      'somebody_else_s',
      source=seqio.FunctionDataSource(read, splits=['train']),
      preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
      output_features={
        key: seqio.Feature(vocabulary=vocabulary, add_eos=key == 'targets')
        for key in ('inputs', 'targets')
      },
    )

    def run(name, then=None):
      live = tiny_runs.live(
        root,
        mixture='somebody_else_s',
        lengths={'inputs': 6, 'targets': 4},
        targets_per_context=1,
        vocabulary=None,
        arguments=None,
      )
      saving = lambda model_dir: checkpoints.Checkpoints(model_dir, save_period=2)
      given = live if then is None else Stopped(live)
      tiny_runs.bigram(root, tmp_path / name, data=given, saving=saving)

    run('whole')
    with pytest.raises(KeyboardInterrupt):
      run('broken', then='stop')
    assert steps(tmp_path / 'broken') == [2]
    run('broken')
    lines = [tiny_runs.lines(tmp_path / name) for name in ('broken', 'whole')]
    assert lines[0] == lines[1] and len({line['loss'] for line in lines[0]}) == tiny_runs.STEPS


class Stopped:
  """A Data that breaks off at its fourth step."""

  def __init__(self, live: data.Live):
    self.live = live

  def __getattr__(self, name):
    return getattr(self.live, name)

  def starting_at(self, step, *part):
    for number, batch in enumerate(self.live.starting_at(step, *part), start=1):
      if number == 4:
        raise KeyboardInterrupt
      yield batch

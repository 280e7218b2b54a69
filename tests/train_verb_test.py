"""`python -m hyperjax.train` in a process of its own: stopped, gone on, and what it says."""

import pathlib
import re
import subprocess
import sys
import time

import pytest
import tiny_data
import tiny_runs

from hyperjax import checkpoints

ROOT = pathlib.Path(__file__).parent.parent
STEPS, PERIOD = 240, 20


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.getbasetemp()


def start(root: pathlib.Path, model_dir: pathlib.Path, *more: str) -> subprocess.Popen:
  """A pretraining run from shipped gin files, at a tiny size."""
  sizes = {'TRAIN_STEPS': STEPS, 'SAVE_PERIOD': PERIOD}
  flags = tiny_runs.flags(root, MODEL_DIR=str(model_dir), **sizes)
  command = [sys.executable, '-m', 'hyperjax.train', *flags, *more]
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  return subprocess.Popen(command, cwd=ROOT, env=tiny_runs.environment(root), **pipes)


def steps(model_dir: pathlib.Path) -> list[int]:
  return checkpoints.Checkpoints(model_dir).steps()


def wait_for_step(run: subprocess.Popen, model_dir: pathlib.Path, step: int) -> None:
  while max(steps(model_dir), default=0) < step:
    assert run.poll() is None, run.communicate()
    time.sleep(0.01)


def test_a_run_that_is_stopped_equals_one_that_is_not(root, tmp_path):
  whole, other = tmp_path / 'whole', tmp_path / 'other'
  run = start(root, other)
  wait_for_step(run, other, PERIOD)
  run.terminate()
  out, err = run.communicate()
  assert run.returncode == 0, err
  stopped = int(re.search(r'asked to stop: step (\d+) is saved in ', out)[1])
  assert PERIOD <= stopped == max(steps(other)) < STEPS

  runs = [start(root, other), start(root, whole)]
  for run in runs:
    out, err = run.communicate()
    said = re.sub(r'W.* Waiting for previous save .*\n', '', err)  # Orbax's word on a slow disk
    assert (run.returncode, said) == (0, ''), err  # nothing of what Orbax tells at INFO
    last = (
      rf'step {STEPS}/{STEPS}: loss \d\.\d+, [\d.]+ examples/s, \d+ target tokens/s, 0.0 min left'
    )
    assert re.search(last, out) and 'attention: XLA (cpu)\n' in out
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
      given = live if then is None else tiny_runs.Data(live, 4, tiny_runs.interrupt)
      tiny_runs.bigram(root, tmp_path / name, data=given, saving=saving)

    run('whole')
    with pytest.raises(KeyboardInterrupt):
      run('broken', then='stop')
    assert steps(tmp_path / 'broken') == [2]
    run('broken')
    lines = [tiny_runs.lines(tmp_path / name) for name in ('broken', 'whole')]
    assert lines[0] == lines[1] and len({line['loss'] for line in lines[0]}) == tiny_runs.STEPS

"""`python -m hyperjax.compile`: gin files and a machine's name in, a forecast out, no other file."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import gin
from hyperjax import bindings, compile, trainer

ROOT = pathlib.Path(__file__).parent.parent
FILES = (*('gin/models/t5_1_1_tiny.gin', 'gin/hypermodels/hypert5_prefix.gin', 'gin/runs/mtf.gin'),)
SMALL = (
  *(f'--gin.t5.preset.{name}={size}' for name, size in dict(emb_dim=16, mlp_dim=24).items()),
  *('--gin.t5.preset.num_encoder_layers=1', '--gin.t5.preset.vocab_size=72'),
  "--gin.TASK_FEATURE_LENGTHS={'hyper_inputs': 22, 'inputs': 9, 'targets': 5}",
  *('--gin.BATCH_SIZE=8', '--gin.TARGETS_PER_CONTEXT=2'),
)


def verb(*arguments: str, files=FILES) -> subprocess.CompletedProcess:
  command = [sys.executable, '-m', 'hyperjax.compile', *(f'--gin_file={path}' for path in files)]
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  return subprocess.run(
    [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
  )


def test_a_run_is_compiled_without_its_files_and_its_numbers_are_saved(tmp_path):
  output = tmp_path / 'forecast.json'
  mesh = ('--gin.partitioning.MeshShape.data=1', '--gin.partitioning.MeshShape.fsdp=4')
  done = verb('--topology=cpu:4', f'--output={output}', *SMALL, *mesh)
  assert done.returncode == 0, done.stderr
  report = json.loads(output.read_text())
  assert done.stderr == '' and done.stdout.startswith(
    'train on cpu:4: 4 devices, mesh data=1, fsdp=4, model=1\nbatch 8 (2 a context; hyper_inputs 22'
  )
  assert report['fits'] is None and report['mesh'] == {'data': 1, 'fsdp': 4, 'model': 1}
  assert (report['dtype'], report['remat'], report['batch_size']) == ('float32', None, 8)
  assert f'{report["parameters"]["trained"]:,} trained' in done.stdout
  assert report['attention'] == 'attention: XLA (cpu)' and report['attention'] in done.stdout
  assert report['memory']['peak'] > report['memory']['trained'] > 0
  assert report['work']['collectives']['all-gather']['count'] > 0
  assert report['leaves'][0]['bytes'] >= report['leaves'][-1]['bytes'] > 0


def test_a_plan_is_told_and_saved_before_the_compiler_ends(tmp_path):
  output = tmp_path / 'forecast.json'
  done = verb('--topology=2*cpu:2', '--until=plan', f'--output={output}', *SMALL)
  assert (done.returncode, done.stderr) == (0, '')
  report = json.loads(output.read_text())
  assert report['until'] == 'plan' and report['memory']['peak'] > 0
  assert report['mesh']['data'] == 4 and report['work']['between_slices']['all-reduce']['sent'] > 0
  assert done.stdout.count('\n') > 10 and 'between slices:' in done.stdout


def test_the_command_of_a_training_run_compiles_it_too():
  given = ("--gin.MODEL_DIR='runs/a'", "--gin.VOCABULARY='v'", "--gin.DATA_DIR='d'")
  done = verb('--topology=cpu:2', '--what=predict', *SMALL, *given, '--gin.MAX=3')
  assert 'nothing reads the macro MAX' in done.stderr
  done = verb('--topology=cpu:2', '--what=predict', *SMALL, *given)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('predict on cpu:2') and 'phi ' in done.stdout


@pytest.mark.parametrize(
  'arguments, says',
  [
    ((), '--topology is missing: v5e:2x4, '),
    (('--topology=v9:2',), "--topology is 'v9:2'; give a kind of chip, "),
    (('--topology=cpu:2', '--until=run'), "--until is 'run'; give one of code, plan"),
    (('--topology=cpu:2', '--what=guess'), "--what is 'guess'; give one of train, "),
    (('--topology=cpu:2', '--gin.BATCH_SIZE=7'), 'batch of size 7 cannot be split over data=2'),
  ],
)
def test_what_is_wrong_is_one_sentence(arguments, says):
  done = verb(*arguments)
  assert (done.returncode, done.stdout) == (1, '')
  assert done.stderr.startswith(f'error: {says}') and done.stderr.count('\n') == 1


# -- What gin says of a run ------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def test_macros_that_compiling_does_not_read_need_not_be_given():
  bindings.parse(FILES, ["MODEL_DIR = 'mine'"], ['.'], compile.UNREAD)
  assert bindings.macros(['MODEL_DIR', 'VOCABULARY', 'OTHER']) == {
    'MODEL_DIR': 'mine',
    'VOCABULARY': '',
  }
  built = bindings.build(trainer.train, dict.fromkeys(('data', 'evaluation', 'saving')))
  assert built['data'] is None and built['total_steps'] == 10_000
  assert built['hypermodel'].downstream.emb_dim == 128


def test_sizes_are_those_of_the_class_that_gin_would_build():
  given = ['train/data.Live.batch_size = 6', 'train/data.Live.targets_per_context = 3']
  bindings.parse(FILES, given, ['.'], compile.UNREAD)
  names = ('batch_size', 'targets_per_context', 'lengths', 'nothing')
  assert bindings.peek(trainer.train, 'data', names) == {
    'batch_size': 6,
    'targets_per_context': 3,
    'lengths': {'hyper_inputs': 1024, 'inputs': 384, 'targets': 128},
  }

"""Several processes are one run: same losses, one stops with the others, any number goes on."""

import contextlib
import json
import random
import re
import signal

import jax
import pytest
import tiny_runs
from absl import flags

from hyperjax import errors, processes
from scripts import chaos

STEPS, PERIOD = 60, 10
SEED_OF_VICTIM = {random.Random(seed).randrange(2): seed for seed in range(9)}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.getbasetemp()


def run(root, model_dir, count: int, devices: int, **macros) -> chaos.Run:
  """So many processes of so many devices each, over which the batch of 8 and kernels are split."""
  sizes = {'BATCH_SIZE': 8, 't5.preset.emb_dim': 16, 't5.preset.vocab_size': 80}
  sizes |= {'t5.preset.mlp_dim': 24, 'TRAIN_STEPS': STEPS, 'SAVE_PERIOD': PERIOD, 'EVAL_PERIOD': 30}
  given = tiny_runs.flags(root, **(sizes | macros))
  given += ['--gin.EVALUATION=@trainer.Evaluation()', '--gin.EVAL_STEPS=3']
  return chaos.Run(given, model_dir, count, tiny_runs.environment(root, devices))


def mesh(data: int, fsdp: int) -> dict[str, int]:
  return {'partitioning.MeshShape.data': data, 'partitioning.MeshShape.fsdp': fsdp}


def test_processes_stop_together_are_lost_together_and_go_on_in_any_number(root, tmp_path):
  shape = mesh(2, 2)
  whole = run(root, tmp_path / 'whole', 1, 4, **shape)
  alone = whole.start()
  path = tmp_path / 'other'

  two = run(root, path, 2, 2, **shape)
  with two.alive() as life:
    life.wait_for('step', random.Random(0), window=0)
    life.processes[1].send_signal(signal.SIGTERM)
    assert [process.wait() for process in life.processes] == [0, 0], two.said()
  stopped = int(re.search(r'asked to stop: step (\d+) is saved in ', two.log(0).read_text())[1])
  assert 0 < stopped < STEPS

  four = run(root, path, 4, 1, **shape)
  found = chaos.kill(four, 'step', random.Random(2), window=0)
  said = [four.log(i).read_text() for i in range(4) if i != found['process']]
  assert all(is_told(text) for text in said), said
  assert found['others_ended'] < 60

  run(root, path, 1, 4, **shape).finish()
  assert [process.wait() for process in alone] == [0], whole.said()
  ours, theirs = (tiny_runs.lines(one.model_dir) for one in (four, whole))
  assert [line['step'] for line in ours] == [line['step'] for line in theirs]
  for one, other in zip(ours, theirs):
    assert one == pytest.approx(other, rel=1e-5), one['step']


def is_told(text: str) -> bool:
  """In our words; or in JAX's, which ends a process itself when it misses process 0 first."""
  ours, jax_s = 'error: another process of this run has ended (', 'indicates that another task died'
  return (ours in text and 'Traceback' not in text) or jax_s in text


def test_two_processes_of_which_each_is_killed_once_give_the_bits_of_one_with_two_devices(
  root, tmp_path
):
  whole = run(root, tmp_path / 'whole', 1, 2, **mesh(2, 1))
  killed = run(root, tmp_path / 'killed', 2, 1, **mesh(2, 1))
  for victim in (0, 1):
    found = chaos.kill(killed, 'step', random.Random(SEED_OF_VICTIM[victim]), window=0)
    assert found['process'] == victim and found['others_ended'] < 60
    assert is_told(killed.log(1 - victim).read_text()), killed.said()
  killed.finish()
  whole.finish()
  assert killed.checkpoints() == whole.checkpoints()
  texts = [(one.model_dir / 'train' / 'metrics.jsonl').read_text() for one in (whole, killed)]
  assert texts[0] == texts[1] and json.loads(texts[0].splitlines()[-1])['step'] == STEPS


FLAGS = ['--coordinator_address=here:80', '--process_count=2', '--process_index=1']


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    (FLAGS[:2], '--process_index must be given too'),
    (FLAGS[2:], '--coordinator_address and --process_count must be given too'),
    (['--coordinator_address=here', *FLAGS[1:]], 'here is not HOST:PORT'),
    ([*FLAGS[:2], '--process_index=2'], '--process_index=2 must be less than --process_count=2'),
  ],
)
def test_flags_that_do_not_fit_are_told(given, said):
  with parsed(given), pytest.raises(errors.InputError, match=re.escape(said)):
    processes.start()


@contextlib.contextmanager
def parsed(given: list[str]):
  values = flags.FlagValues()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(processes, 'FLAGS', values)
    processes.define_flags(values)
    values(['train', *given])
    yield


@pytest.mark.parametrize(
  'given', [[], ['--coordinator_address=x:1', '--process_count=1', '--process_index=0']]
)
def test_one_process_joins_nobody(given, monkeypatch):
  monkeypatch.setattr(jax.distributed, 'initialize', pytest.fail)
  for name in processes.CLUSTERS.values():
    monkeypatch.delenv(name, raising=False)
  with parsed(given):
    processes.start()


@pytest.mark.parametrize('name', processes.CLUSTERS.values())
@pytest.mark.parametrize(('count', 'several'), [('1', False), ('3', True), ('', False)])
def test_a_cluster_is_told_by_its_environment(name, count, several):
  assert processes.is_cluster({name: count, 'JAX_PLATFORMS': 'cpu'}) is several


def test_processes_that_do_not_find_each_other_say_so(monkeypatch):
  def initialize(**arguments):
    assert arguments['num_processes'] == 2 and arguments['process_id'] == 1
    raise RuntimeError('DEADLINE_EXCEEDED: nobody came\nand more')

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  said = 'the processes of this run did not find each other (DEADLINE_EXCEEDED: nobody came): start'
  with parsed(FLAGS), pytest.raises(errors.InputError, match=re.escape(said)):
    processes.start()

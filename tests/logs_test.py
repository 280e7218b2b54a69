"""What a run tells: scalars that TensorBoard reads, exact lines, and a line for people."""

import json
import struct
import subprocess
import sys

import pytest
from tensorboardX.proto import event_pb2

from hyperjax import logs, phases

METRICS = {'loss': 2.5, 'accuracy': 0.1, 'weight': 30.0, 'learning_rate': 1e-3}


def events(folder) -> list:
  """The events of all files, oldest first: length, its checksum, an event, its checksum."""
  found = []
  for path in sorted(folder.glob('events.*')):
    content = path.read_bytes()
    while content:
      (length,) = struct.unpack('<Q', content[:8])
      found.append(event_pb2.Event.FromString(content[12 : 12 + length]))
      content = content[16 + length :]
  return found


def scalars(folder) -> dict[tuple[str, int], float]:
  return {
    (value.tag, event.step): value.simple_value
    for event in events(folder)
    for value in event.summary.value
  }


def lines(folder) -> list[dict]:
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture
def at(monkeypatch):
  """Sets the clock."""
  now = [100.0]
  monkeypatch.setattr(logs.time, 'monotonic', lambda: now[0])
  return lambda seconds: now.__setitem__(0, 100.0 + seconds)


def test_a_start_is_told_by_its_phases(tmp_path, at, capsys):
  start = phases.Phases()
  for second, name in ((2.0, 'imports'), (5.5, 'weights'), (6.0, 'imports'), (6.25, 'first step')):
    at(second)
    start.ended(name)
  log = logs.open_log(str(tmp_path), 0, 60, batch_size=8)
  log.started(1, start)
  log.close()
  said = 'start-up, in seconds: imports 2.5, weights 3.5, first step 0.2; 6.2 in all'
  assert said in capsys.readouterr().out
  assert scalars(tmp_path / 'train')['timing/start_up/first_step_seconds', 1] == 0.25


def test_rates_are_t5x_s_and_leave_compilation_and_evaluation_out(tmp_path, at, capsys):
  log = logs.open_log(str(tmp_path), 0, 60, batch_size=8)
  at(9.0)
  log.compiled(1, 9.0)
  for second in (0.5, 1.0):
    at(9.0 + second)
    log.step(int(2 * second), METRICS)
  log.evaluation(2, {'eval/loss': 1.5, 'eval/phi_norm/decoder/attention/prefix/key': 0.3})
  at(99.0)
  log.evaluation(2, {'eval/loss': 1.5})
  at(101.0)
  log.step(3, METRICS)
  log.close()
  found = scalars(tmp_path / 'train')
  assert found['timing/compilation_seconds', 1] == 9.0
  timing = {tag: value for (tag, step), value in found.items() if step == 2 and 'timing' in tag}
  assert timing == pytest.approx(
    {
      'timing/seconds': 1.0,
      'timing/steps_per_second': 2.0,
      'timing/seqs_per_second': 16.0,
      'timing/seqs_per_second_per_core': 2.0,
      'timing/target_tokens_per_second': 60.0,
      'timing/target_tokens_per_second_per_core': 7.5,
      'timing/uptime': 10.0,
    }
  )
  assert found['loss', 2] == 2.5 and found['learning_rate', 2] == pytest.approx(1e-3)
  assert found['eval/loss', 2] == 1.5 and ('loss', 1) not in found and ('weight', 2) not in found
  assert found['timing/steps_per_second', 3] == 0.5
  out = capsys.readouterr().out
  assert 'step 2: eval/loss 1.5000\n' in out  # one norm a site would fill the screen
  assert 'step 3/60: loss 2.5000, 4.0 examples/s, 15 target tokens/s, 1.9 min left\n' in out
  assert [line['step'] for line in lines(tmp_path / 'train')] == [1, 2, 2, 2, 3]


def test_a_terminal_shows_a_bar_with_loss_rates_and_time_left(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  log = logs.open_log(str(tmp_path), 0, 2, batch_size=8)
  for number in (1, 2):
    log.step(number, METRICS)
  log.close()
  shown = capsys.readouterr()
  assert 'step 2/2' not in shown.out
  for part in ('loss 2.5000', 'examples/s', 'target tokens/s', '2/2 [00:00<00:00'):
    assert part in shown.err


def test_what_a_broken_off_run_wrote_after_its_checkpoint_is_dropped(tmp_path, at):
  log = logs.open_log(str(tmp_path), 0, 9, 8)
  for number in (1, 2, 3):
    at(2.0 * number)
    log.step(number, METRICS | {'loss': number / 3})
  log.close()
  with open(tmp_path / 'train' / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 2, "los')
  log = logs.open_log(str(tmp_path), 2, 9, 8)
  log.step(3, METRICS)
  log.close()
  assert [line['loss'] for line in lines(tmp_path / 'train')] == [1 / 3, 2 / 3, 2.5]
  starts = [e.step for e in events(tmp_path / 'train') if e.session_log.status == 1]
  assert starts[-1] == 3  # TensorBoard forgets events from there on, and keeps those of step 2


def test_one_process_of_many_writes(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(logs.jax, 'process_index', lambda: 1)
  log = logs.open_log(str(tmp_path), 0, 9, 8)
  log.compiled(1, 1.0)
  log.step(1, METRICS)
  log.evaluation(1, METRICS)
  log.flush()
  log.close()
  logs.say('hello')
  assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def test_tensorboard_reads_the_events_and_tensorflow_is_not_needed(tmp_path):
  code = (
    "import sys\nsys.modules['tensorflow'] = None\nfrom hyperjax import logs\n"
    f'log = logs.open_log({str(tmp_path)!r}, 0, 1, 8)\nlog.step(1, {METRICS!r})\nlog.close()\n'
  )
  subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)
  reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
  accumulator = reader.EventAccumulator(str(tmp_path / 'train'))
  accumulator.Reload()
  assert [event.value for event in accumulator.Scalars('loss')] == [2.5]

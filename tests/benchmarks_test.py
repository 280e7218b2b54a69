"""Benchmarks run, compare like with like, and print one JSON line; their times are not tested."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import tiny_data

ROOT = pathlib.Path(__file__).parent.parent


def line_of(script: str, **options) -> dict:
  """The JSON line that a benchmark prints."""
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  arguments = [f'--{name}={value}' for name, value in options.items()]
  done = subprocess.run(
    [sys.executable, str(ROOT / 'benchmarks' / script), *arguments],
    capture_output=True,
    text=True,
    check=False,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  (line,) = done.stdout.splitlines()
  return json.loads(line)


# -- A training step ------------------------------------------------------------------------------

SIZES = {'size': 'tiny', 'vocab': 211, 'batch': 3, 'inputs': 11, 'targets': 7, 'context': 13}


@pytest.fixture(scope='module')
def train_step() -> dict:
  return line_of('train_step.py', **SIZES, alternations=2, matmul=64)


def test_train_step_runs_the_same_model_on_both_sides(train_step):
  assert SIZES.items() <= train_step.items()
  assert train_step['logits_difference'] < 1e-4
  # The loss of the start, after one update, and after two.
  ours, theirs = train_step['losses']['here'], train_step['losses']['torch']
  assert len(ours) == 3 and ours[0] > ours[1] > ours[2]
  assert ours == pytest.approx(theirs, rel=1e-4)
  assert train_step['losses']['hyper'][-1] < train_step['losses']['hyper'][0]


def test_train_step_divides_what_it_says(train_step):
  line = train_step
  assert all(len(times) == 2 for times in line['times'].values())
  torch, here, hyper = (line['times'][name] for name in ('torch', 'here', 'hyper'))
  assert line['ratio'] == pytest.approx((here[0] / torch[0] + here[1] / torch[1]) / 2)
  assert line['hyper_over_plain'] == pytest.approx((hyper[0] / here[0] + hyper[1] / here[1]) / 2)
  rate = line['step_gflop'] / line['seconds']
  assert line['share_of_matmul_rate'] == pytest.approx(rate / line['matmul_gflops'])


def test_train_step_counts_what_the_shapes_say(train_step):
  # tiny: 2 and 2 layers, d 128, n h = 4 x 32, mlp 256.
  square, mlp = 128 * 128, 3 * 128 * 256
  encoder = 3 * 11 * (4 * square + mlp)
  decoder = 3 * 7 * (6 * square + mlp) + 3 * 11 * 2 * square
  attended = 3 * 128 * (11 * 11 + 7 * 7 + 7 * 11)
  flops = 6 * (2 * (encoder + decoder) + 3 * 7 * 128 * 211) + 12 * 2 * attended
  assert train_step['step_gflop'] * 1e9 == pytest.approx(flops)


# -- A training step on a GPU ---------------------------------------------------------------------


def test_gpu_step_runs_the_same_model_on_both_sides_of_any_machine(tmp_path):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  output = tmp_path / 'found.json'
  sizes = ('--tiny', '--vocab=211', '--turns=1', '--steps=2', '--matmul=64', '--compile=0')
  done = subprocess.run(
    [sys.executable, str(ROOT / 'benchmarks/gpu_step.py'), *sizes, f'--output={output}'],
    capture_output=True,
    text=True,
    check=False,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  assert '| tiny | 3 | hyperjax | ' in done.stdout and 'attention: XLA (cpu)' in done.stdout
  found = json.loads(output.read_text())
  ours, theirs = found['losses']['here'], found['losses']['torch']
  assert ours == pytest.approx(theirs, rel=1e-5) and ours[0] > ours[1] > ours[2]
  (row,) = found['rows']
  here = row['here']
  assert here['tokens_per_second'] == pytest.approx(row['tokens'] / here['seconds'])
  share = row['gflop'] / here['seconds'] / row['matmul_gflops']
  assert here['share_of_matmul_rate'] == pytest.approx(share)
  # tiny: 2 and 2 layers, n h = 4 x 32; contexts 14, inputs 12, targets 8, a prefix of 16 in each.
  pairs = 14 * 14 + 32 * (32 + 14) + 12 * (12 + 16) + 8 * (8 + 16 + 12)
  attended = 12 * 2 * 3 * 128 * pairs
  model = row['measured']['here'][0]['model_gflop']
  assert model * 1e9 == pytest.approx(row['gflop'] * 1e9 - attended, rel=1e-9)


def test_load_checkpoint_loads_what_it_wrote_in_every_layout():
  line = line_of('load_checkpoint.py', size='tiny', vocab=212, dtypes='bfloat16')
  assert [each['kind'] for each in line['written']] == ['t5x', 'orbax', 'huggingface']
  places = {(each['kind'], each['mesh']) for each in line['loaded']}
  assert len(places) == len(line['loaded']) == 6
  # tiny: 2 and 2 layers, d 128, n h = 4 x 32, mlp 256; and 13 norms, 2 position biases.
  count = 2 * 212 * 128 + (2 * 4 + 2 * 8) * 128 * 128 + 4 * 3 * 128 * 256 + 12 * 128 + 2 * 32 * 4
  for each in line['loaded']:
    assert each['bytes'] == line['bytes']['bfloat16'] == 2 * count and each['mb_per_second'] > 0
  assert line['worst_ratio'] == max(each['ratio'] for each in line['loaded'])


# -- Generation -----------------------------------------------------------------------------------


def test_generate_counts_the_tokens_of_answers_that_are_equal():
  sizes = {'size': 'tiny', 'vocab': 211, 'batch': 3, 'inputs': 11, 'outputs': 7, 'beams': 2}
  line = line_of('generate.py', **sizes, alternations=2)
  assert sizes.items() <= line.items()
  for search in ('greedy', 'beam'):
    found = line[search]
    here, torch = (found['times'][name] for name in ('here', 'torch'))
    assert len(here) == len(torch) == 2
    assert found['tokens_per_second'] == pytest.approx(3 * 7 / ((here[0] + here[1]) / 2))
    assert found['torch_tokens_per_second'] == pytest.approx(3 * 7 / ((torch[0] + torch[1]) / 2))
    assert found['ratio'] == pytest.approx((torch[0] / here[0] + torch[1] / here[1]) / 2)
    assert found['compile_seconds'] > 0


# -- Episodes -------------------------------------------------------------------------------------


def test_data_counts_episodes_of_batches_that_are_equal():
  sizes = {'batch': 3, 'batches': 5}
  line = line_of('data.py', **sizes, tasks=2, alternations=2, mixtures='sni_def_2pos')
  assert sizes.items() <= line.items()
  (found,) = line['mixtures'].values()
  assert (found['tasks'], found['episodes']) == (2, 15)
  for name in ('live', 'stored', 'written'):
    first, second = found['times'][name]
    assert found[name] == pytest.approx(15 / ((first + second) / 2))
  live, stored = found['times']['live'], found['times']['stored']
  ratio = (live[0] / stored[0] + live[1] / stored[1]) / 2
  assert found['stored_over_live'] == pytest.approx(ratio)


# -- What grows -----------------------------------------------------------------------------------


def test_compile_time_divides_what_it_says():
  line = line_of('compile_time.py', few=1, many=2, rows=1, sizes=2, turns=1)
  many, few = (line['compile_seconds'][layers] for layers in ('2', '1'))
  assert line['compile_ratio'] == pytest.approx(many / few)
  assert line['step_seconds'].keys() == {'1', '2'} and line['rows_ratio'].keys() == {'2 over 1'}


# -- Buckets --------------------------------------------------------------------------------------


def test_buckets_leave_out_what_they_say(tmp_path):
  tiny_data.repository(tmp_path / 'sni')
  words = tiny_data.vocabulary(tmp_path)
  given = {'data': tmp_path, 'vocabulary': words.path, 'mixture': 'sni_def_2pos', 'size': 'tiny'}
  small = {'batch_sizes': 4, 'batches': 2, 'step_batch': 1, 'steps': 1, 'alternations': 1}
  line = line_of('buckets.py', **given, **small)
  found = line['by_batch_size']['4']
  assert found['batches_by_lengths'] == {'512x128x32': 2}  # all episodes are short
  assert found['places_saved'] == pytest.approx(1 - (512 + 128 + 32) / (1024 + 384 + 128))
  filled = [(1 - found['padding'][name]) for name in ('with', 'without')]
  assert filled[1] == pytest.approx(filled[0] * (1 - found['places_saved']))

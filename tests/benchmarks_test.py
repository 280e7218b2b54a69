"""Benchmarks run, compare like with like, and print one JSON line; their times are not tested."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

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

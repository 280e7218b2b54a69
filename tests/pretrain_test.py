"""What the demo ships is one run that stands alone."""

import json
import shutil

import pytest
import tiny_runs

from hyperjax import runs
from scripts.demo import pretrain


@pytest.fixture(scope='module', autouse=True)
def root(tmp_path_factory):
  with tiny_runs.quick(tmp_path_factory.getbasetemp()):
    yield tmp_path_factory.getbasetemp()


def test_a_shipped_run_holds_both_models_and_needs_nothing_else(root, tmp_path):
  legs = [tmp_path / name for name in ('backbone', 'hyper')]
  for leg, source in zip(legs, (tiny_runs.backbone(root), tiny_runs.hyper(root)), strict=True):
    shutil.copytree(source, leg)
    (leg / 'config.gin').write_text(f"MODEL_DIR = '{leg}'\n")
  whole = runs.load(str(legs[1]))
  assert list(whole.record['trainable']) == ['hypermodel']
  target = tmp_path / 'elsewhere' / 'shipped'
  pretrain.ship(legs, target)
  for leg in legs:
    shutil.rmtree(leg)
  shipped = runs.load(str(target))
  assert tiny_runs.equal(shipped.params, whole.params) and shipped.model == whole.model
  assert (shipped.step, shipped.vocabulary.sha256) == (whole.step, whole.vocabulary.sha256)
  for part in ('downstream', 'hypermodel'):
    assert tiny_runs.equal(runs.load_part(str(target), part)[0], whole.params[part])
  assert (target / 'hyper.gin').read_text() == "MODEL_DIR = 'runs/hyper'\n"
  lines = [json.loads(line) for line in (target / 'hyper.jsonl').read_text().splitlines()]
  assert lines == []  # six steps, none of them a tenth
  there = str(tmp_path).encode()
  assert not any(there in path.read_bytes() for path in target.rglob('*') if path.is_file())
  assert not any('opt_state' in str(path) for path in target.rglob('*'))

"""Makes the demo's checkpoint: hours on a CPU, minutes on an accelerator; resumable.

    .venv/bin/python -m scripts.demo.pretrain --output=runs/demo_checkpoint

Two runs of `hyperjax.train`, the second from the first: a language model on docstrings
(gin/demo/pretrain.gin), and HyperT5-Prefix+ on CACLM and the training tasks (gin/demo/joint.gin),
whose backbone the demo freezes. What the demo needs goes to scripts/demo/checkpoint: trained
leaves without optimiser state, the curve, the config and a manifest of the data.
"""

import argparse
import json
import pathlib
import shlex
import shutil
import subprocess
import sys

from hyperjax import checkpoints, files
from scripts.demo import data

HERE = pathlib.Path(__file__).parent
SHIPPED = HERE / 'checkpoint'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', default='runs/demo_checkpoint', help='folder of the runs')
  parser.add_argument('--pretrain_steps', type=int, default=1000)
  parser.add_argument('--joint_steps', type=int, default=30_000)
  arguments = parser.parse_args()
  output = pathlib.Path(arguments.output)
  folder = data.prepare(output / 'data')
  backbone, joint = output / 'backbone', output / 'joint'
  train(folder, 'pretrain', backbone, arguments.pretrain_steps)
  train(folder, 'joint', joint, arguments.joint_steps, backbone)
  ship(joint, SHIPPED / joint.name)
  shutil.copy(folder / 'manifest.json', SHIPPED / 'data-manifest.json')


def train(folder, name: str, model_dir, steps: int, start=None, *bindings: str) -> list[str]:
  """Runs a gin file of gin/demo as a user would; returns the command."""
  command = [
    sys.executable,
    '-m',
    'hyperjax.train',
    f'--gin_file=gin/demo/{name}.gin',
    f'--gin.MODEL_DIR="{model_dir}"',
    f'--gin.DATA_DIR="{folder}"',
    f'--gin.VOCABULARY="{folder / "vocabulary.model"}"',
    f'--gin.TRAIN_STEPS={steps}',
    *([f'--gin.INITIAL_CHECKPOINT_PATH="{start}"'] if start else []),
    *bindings,
  ]
  print('\n$', told(command), flush=True)
  if subprocess.run(command, check=False).returncode:
    sys.exit(f'error: the run in {model_dir} failed; what it said is above')
  return command


def told(command: list[str]) -> str:
  """A command as one would type it."""
  return shlex.join(['python', *command[1:]])


def ship(run: pathlib.Path, target: pathlib.Path) -> None:
  """Copies of a run what evaluation and warm starts read: no optimiser state, no events."""
  shutil.rmtree(target, ignore_errors=True)
  target.mkdir(parents=True)
  for name in ('model.json', 'config.gin', 'model-info.txt', 'vocabulary.model'):
    shutil.copy(run / name, target / name)
  step = checkpoints.Checkpoints(run).latest_step()
  skipped = shutil.ignore_patterns('opt_state', 'extra')
  shutil.copytree(run / f'checkpoint_{step}', target / f'checkpoint_{step}', ignore=skipped)
  curve = [json.loads(line) for line in (run / 'train/metrics.jsonl').read_text().splitlines()]
  keys = ('step', 'loss', 'accuracy', 'phi_cosine', 'eval/loss', 'eval/accuracy')
  thin = [{k: round(v, 5) for k, v in row.items() if k in keys} for row in curve]
  thin = [row for row in thin if row['step'] % 10 == 0 or 'eval/loss' in row]
  files.write_text(target / 'curve.jsonl', ''.join(json.dumps(row) + '\n' for row in thin))


if __name__ == '__main__':
  main()

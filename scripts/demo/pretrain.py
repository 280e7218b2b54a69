"""Makes the demo's checkpoint: hours on a CPU, minutes on an accelerator; resumable.

    .venv/bin/python -m scripts.demo.pretrain --output=runs/demo_checkpoint

Three runs of `hyperjax.train`, each from the one before: a language model on docstrings
(gin/demo/pretrain.gin), HyperT5-Prefix+ on CACLM and the training tasks (gin/demo/joint.gin), and
the hypermodel alone over that backbone (gin/demo/hypermodel.gin). What the demo needs goes to
scripts/demo/checkpoint: the weights of both as one run, curves, configs and a manifest of the data.
"""

import argparse
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from hyperjax import files, runs
from scripts.demo import data

HERE = pathlib.Path(__file__).parent
SHIPPED = HERE / 'checkpoint'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', default='runs/demo_checkpoint', help='folder of the runs')
  parser.add_argument('--pretrain_steps', type=int, default=1000)
  parser.add_argument('--joint_steps', type=int, default=2100)
  parser.add_argument('--hypermodel_steps', type=int, default=3600)
  arguments = parser.parse_args()
  output = pathlib.Path(arguments.output)
  folder = data.prepare(output / 'data')
  backbone, joint, hypermodel = (output / name for name in ('backbone', 'joint', 'hypermodel'))
  train(folder, 'pretrain', backbone, arguments.pretrain_steps)
  train(folder, 'joint', joint, arguments.joint_steps, backbone)
  both = f'--gin.HYPERMODEL_CHECKPOINT_PATH="{joint}"'
  train(folder, 'hypermodel', hypermodel, arguments.hypermodel_steps, joint, both)
  ship([joint, hypermodel], SHIPPED / 'joint')
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


def ship(legs: Sequence[pathlib.Path], target: pathlib.Path) -> None:
  """Writes the weights that the last of some runs ends with as a run of its own.

  Of every run it has the config and the curve. Paths of this machine are left out.
  """
  last = runs.load(str(legs[-1]))
  shutil.rmtree(target, ignore_errors=True)
  runs.save(target, last.model, last.params, last.vocabulary, last.lengths, last.step)
  for note in target.rglob('commit_success.txt'):  # Orbax's, for other file systems: where it wrote
    note.unlink()
  for leg in legs:
    config = (leg / 'config.gin').read_text()
    for place in {str(leg.resolve().parent), str(leg.parent), str(pathlib.Path.cwd())}:
      config = config.replace(place, 'runs')
    files.write_text(target / f'{leg.name}.gin', config)
    files.write_text(target / f'{leg.name}.jsonl', curve(leg))


def curve(run: pathlib.Path) -> str:
  """Every tenth line of a run's metrics, and its evaluations; JSON lines."""
  lines = [json.loads(line) for line in (run / 'train/metrics.jsonl').read_text().splitlines()]
  keys = ('step', 'loss', 'accuracy', 'phi_cosine', 'eval/loss', 'eval/accuracy')
  thin = [{k: round(v, 5) for k, v in line.items() if k in keys} for line in lines]
  thin = [line for line in thin if line['step'] % 10 == 0 or 'eval/loss' in line]
  return ''.join(json.dumps(line) + '\n' for line in thin)


if __name__ == '__main__':
  main()

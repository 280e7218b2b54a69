"""The demo: from raw text to a scored, saved adapter, by the verbs that a user would run.

    python -m scripts.demo.run [--data=FOLDER] [--output=runs/demo]

Language-model pretraining, CACLM hyperpretraining, MTF of HyperT5-Prefix and of its baseline, the
shared prefix, evaluation on held-out tasks, `adapt` and `predict`. It starts from the shipped
checkpoint, which `python -m scripts.demo.pretrain` made, and trains a little further; on other data
it starts from nothing. Every number that it prints is measured in this run; report.json holds them.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time

from hyperjax import cli, files
from hyperjax.errors import InputError
from hyperjax.sources import natural_instructions
from hyperjax.vocabulary import Vocabulary
from scripts.demo import data, measure, picture
from scripts.demo.pretrain import SHIPPED, told, train

HELD_OUT_PER_TASK, HELD_OUT = 20, 500
"""At least so many instances of each held-out task, and in all."""


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', help="data packs to use instead of the demo's own")
  parser.add_argument('--output', default='runs/demo', help='where everything goes')
  arguments = parser.parse_args()
  try:
    run(pathlib.Path(arguments.output).resolve(), arguments.data)
  except InputError as error:
    cli.fail(str(error))


def run(output: pathlib.Path, pack: str | None) -> None:
  """All stages; the runs of an earlier demo in `output` are replaced."""
  start = time.monotonic()
  stages = ('pretrain', 'hyperpretrain', 'mtf', 'shared_prefix', 'adapter')
  for name in stages:
    shutil.rmtree(output / name, ignore_errors=True)
  say('Data')
  folder = data.folder(output, pack)
  plan = SHIPPED_PLAN if pack is None else scratch_plan(folder)
  commands = {name: plan.train(name, folder, output) for name in stages[:-1]}
  say('Evaluation')
  count = len(natural_instructions.find(str(folder)).names('test'))
  report = measure.measure(output, folder, max(HELD_OUT_PER_TASK, -(-HELD_OUT // count)))
  adapter = answer_one_task(output, folder, report)
  report |= adapter
  report['commands'] = {name: told(command) for name, command in commands.items()}
  report['seconds'] = round(time.monotonic() - start, 1)
  files.write_json(output / 'report.json', report)
  picture.draw(output, SHIPPED if pack is None else None)
  print(measure.table(report))
  if not plan.shipped:
    steps = ', '.join(f'{name} {count}' for name, count in plan.steps.items())
    print(f'\nSteps, from nothing: {steps}. That shows the way, not what these data can give.')
  print(f'\n{output}/report.json and {output}/curves.png; {report["seconds"]:.0f} s in all')


def say(what: str) -> None:
  print(f'\n== {what}', flush=True)


class Plan:
  """Steps of each stage, and where each starts."""

  def __init__(
    self,
    steps: dict[str, int],
    shipped: bool,
    bindings: tuple[str, ...] = (),
    lengths: dict[str, int] | None = None,  # None: those of gin/demo
  ):
    self.steps, self.shipped, self.bindings, self.lengths = steps, shipped, bindings, lengths

  def train(self, name: str, folder: pathlib.Path, output: pathlib.Path) -> list[str]:
    """Trains one stage."""
    say(TITLES[name])
    if self.shipped and name == 'pretrain':
      print('(to show it: all that follows starts from the shipped checkpoint, not from this)')
    backbone = SHIPPED / 'joint' if self.shipped else output / 'pretrain'
    hypermodel = {
      'hyperpretrain': SHIPPED / 'joint' if self.shipped else None,
      'mtf': SHIPPED / 'joint' if self.shipped else output / 'hyperpretrain',
    }
    bindings = list(self.bindings)
    if self.lengths and name != 'pretrain':
      bindings.append(f'--gin.TASK_FEATURE_LENGTHS={self.lengths}')
    if hypermodel.get(name):
      bindings.append(f'--gin.HYPERMODEL_CHECKPOINT_PATH="{hypermodel[name]}"')
    start = None if name == 'pretrain' else backbone
    return train(folder, name, output / name, self.steps[name], start, *bindings)


TITLES = {
  'pretrain': 'Language-model pretraining of a tiny T5 (CLM), from nothing',
  'hyperpretrain': 'Hyperpretraining (CACLM): the hypermodel learns, the backbone is frozen',
  'mtf': 'Multi-task fine-tuning of HyperT5-Prefix, the backbone frozen',
  'shared_prefix': 'The baseline: one prefix for all tasks, the same batches and steps',
}
SHIPPED_PLAN = Plan(
  {'pretrain': 60, 'hyperpretrain': 40, 'mtf': 100, 'shared_prefix': 100}, shipped=True
)


def scratch_plan(folder: pathlib.Path) -> Plan:
  """Of other data: every stage starts from the one before, with a row an id of their vocabulary."""
  rows = -(-Vocabulary(str(folder / 'vocabulary.model')).size // 32) * 32
  return Plan(
    {'pretrain': 150, 'hyperpretrain': 60, 'mtf': 60, 'shared_prefix': 60},
    shipped=False,
    bindings=(f'--gin.t5.preset.vocab_size={rows}', '--gin.BATCH_SIZE=32'),
    lengths={'hyper_inputs': 320, 'inputs': 96, 'targets': 16},
  )


def answer_one_task(output: pathlib.Path, folder: pathlib.Path, report: dict) -> dict:
  """`adapt` and `predict` on the held-out task that its context helps most, as a user would."""
  say('adapt and predict on one held-out task: of all, the one that its context helps most')
  task = measure.example_task(output, folder, report)
  shots, inputs = output / 'shots.jsonl', output / 'inputs.jsonl'
  answers, adapter = output / 'answers.jsonl', output / 'adapter'
  write_lines(shots, [{'input': x, 'output': y} for x, y in task['shots']])
  write_lines(inputs, [{'input': x} for x, _ in task['queries']])
  begin = time.monotonic()
  verb(
    'adapt', model_dir=output / 'mtf', examples=shots, definition=task['definition'], output=adapter
  )
  seconds = time.monotonic() - begin
  print(f'({seconds:.1f} s, most of it to start Python, load the model and compile)')
  verb('predict', model_dir=output / 'mtf', adapter=adapter, inputs=inputs, output=answers)
  print(f'{task["name"]}: {task["definition"]}')
  for line, (_, reference) in zip(answers.read_text().splitlines(), task['queries'], strict=True):
    row = json.loads(line)
    print(f'  {row["input"]!r} -> {row["prediction"]!r} (reference {reference!r})')
  return {'adapt_seconds': round(seconds, 2), 'example_task': task['name']}


def write_lines(path: pathlib.Path, rows: list[dict]) -> None:
  files.write_text(path, ''.join(json.dumps(row) + '\n' for row in rows))


def verb(name: str, **flags) -> None:
  """Runs `python -m hyperjax.<name>`."""
  command = [sys.executable, '-m', f'hyperjax.{name}']
  command += [f'--{flag}={value}' for flag, value in flags.items()]
  print('\n$', told(command), flush=True)
  if subprocess.run(command, check=False).returncode:
    raise InputError(f'hyperjax.{name} failed; what it said is above')


if __name__ == '__main__':
  main()

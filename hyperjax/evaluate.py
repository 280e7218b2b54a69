"""`python -m hyperjax.evaluate --gin_file=gin/runs/evaluate.gin`: a run's row of a table."""

import csv
import io
import os
from typing import Any

from hyperjax import cli, data, decoding, evaluation, files, runs
from hyperjax.errors import InputError


def evaluate(
  model_dir: str,
  mixture: Any,
  split: str = 'test',
  step: int | None = None,
  context: str = 'own',
  arguments: dict[str, Any] | None = None,
  data_dir: str | None = None,
  limit: int | None = None,
  batch_size: int = 32,
  strategy: decoding.Strategy = decoding.Greedy(),
  max_length: int | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """Answers a mixture's held-out tasks and writes the scores beside the run.

  Args:
    context: whose context phi is written from: 'own', 'wrong' (another task's) or 'none'.
    limit: instances per task.

  Returns:
    what model_dir/inference_eval/<mixture>-<context>-<step>.json holds; a .csv lies beside it.
  """
  if context not in evaluation.CONTEXTS:
    known = ', '.join(evaluation.CONTEXTS)
    raise InputError(f'CONTEXT is {context!r}; give one of {known}')
  run = runs.load(model_dir, step)
  live = data.Live(
    mixture,
    lengths=run.lengths,
    batch_size=1,
    vocabulary=run.vocabulary,
    data_dir=data_dir,
    arguments=arguments,
  )
  tasks = live.evaluation_tasks(split, seed, limit)
  contexts = evaluation.CONTEXTS[context]
  result = evaluation.evaluate(run, tasks, contexts, strategy, batch_size, max_length)
  report = {
    'model_dir': run.model_dir,
    'step': run.step,
    'mixture': live.name,
    'split': split,
    'context': context,
    'seed': seed,
    'instances': sum(len(task.inputs) for task in tasks),
    'contexts_cut': sum(task.cut > 0 for task in tasks),
    'scores': result.scores,
    'predictions': {
      task.name: own for task, own in zip(tasks, result.predictions, strict=True)
    },
  }
  name = f'{live.name}-{split}-{context}-{run.step}'
  place = os.path.join(run.model_dir, 'inference_eval', name)
  files.write_json(f'{place}.json', report)
  files.write_text(f'{place}.csv', table(report, ','))
  print(table(report, None))
  print(f'{place}.json')
  return report


def table(report: dict[str, Any], delimiter: str | None) -> str:
  """A line a task and a last one for all instances; delimiter None: aligned for reading."""
  metrics = list(report['scores'])
  rows = [['task', *metrics]]
  names = report['scores'][metrics[0]]['tasks']
  for name in names:
    rows.append([name, *(f'{report["scores"][m]["tasks"][name]:.1f}' for m in metrics)])
  rows.append(['all instances', *(f'{report["scores"][m]["all"]:.2f}' for m in metrics)])
  if delimiter is not None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator='\n').writerows(rows)
    return text.getvalue()
  intervals = [report['scores'][m]['interval'] for m in metrics]
  rows.append(['95 % interval', *(f'{low:.1f}-{high:.1f}' for low, high in intervals)])
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = [
    row[0].ljust(widths[0]) + ''.join(cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:]))
    for row in rows
  ]
  return '\n'.join(lines)


def main() -> None:
  cli.parse_gin()
  cli.call(evaluate)


if __name__ == '__main__':
  # gin names this function by its module, which is not __main__.
  from hyperjax import evaluate as verb

  cli.define_gin_flags()
  cli.run(verb.main)

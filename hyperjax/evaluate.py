"""`python -m hyperjax.evaluate --gin_file=gin/runs/evaluate.gin`: a run's row of a table."""

import csv
import io
import os
from typing import Any

from hyperjax import cli, data, decoding, evaluation, files, records, runs
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
  strategy: decoding.Strategy = decoding.GREEDY,
  max_length: int | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """Answers a mixture's held-out tasks and writes the scores beside the run.

  Args:
    context: whose context phi is written from: 'own', 'wrong' (another task's) or 'none'.
    limit: instances per task.
    seed: of the shots that contexts show (one set of them a task), of who gets whose context, and
      of sampling.

  Returns:
    what model_dir/inference_eval/<mixture>-<split>-<context>-seed<seed>-<step>.json holds; a .csv
    lies beside it.
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
  result = evaluation.evaluate(run, tasks, contexts, strategy, batch_size, max_length, seed)
  report = {
    'model_dir': run.model_dir,
    'step': run.step,
    'mixture': live.name,
    'split': split,
    'arguments': arguments or {},
    'context': context,
    'seed': seed,
    'limit': limit,
    'strategy': records.to_json(strategy),
    'max_length': max_length,
    'instances': sum(len(task.inputs) for task in tasks),
    'inputs_truncated': sum(task.inputs_truncated for task in tasks),
    'contexts_cut': sum(task.cut > 0 for task in tasks),
    'scores': result.scores,
    'tasks': {
      task.name: {
        'category': task.category or '',
        'instances': len(task.inputs),
        'inputs_truncated': task.inputs_truncated,
        'context_parts_cut': task.cut,
        'predictions': predictions,
      }
      for task, predictions in zip(tasks, result.predictions, strict=True)
    },
  }
  name = f'{live.name}-{split}-{context}-seed{seed}-{run.step}'
  place = os.path.join(run.model_dir, 'inference_eval', name)
  files.write_json(f'{place}.json', report)
  rows = table(report)
  files.write_text(f'{place}.csv', as_csv(rows))
  print(as_text(rows))
  if report['contexts_cut'] or report['inputs_truncated']:
    print(
      f'cut to the lengths of the run: {report["contexts_cut"]} of {len(tasks)} contexts, '
      f'{report["inputs_truncated"]} of {report["instances"]} inputs'
    )
  print(f'{place}.json')
  return report


INTERVALS = {'95 %, more instances': 'interval', '95 %, more tasks': 'interval_of_tasks'}
"""Rows of the table: what the mean might be on further instances of these tasks, or on others."""


def table(report: dict[str, Any]) -> list[list[str]]:
  """Rows of cells: a head, a task each, and all instances with their intervals."""
  scores, tasks = report['scores'], report['tasks']
  rows = [['task', 'category', 'instances', *scores]]
  for name, task in tasks.items():
    own = (f'{scores[metric]["tasks"][name]:.2f}' for metric in scores)
    rows.append([name, task['category'], str(task['instances']), *own])
  every = (f'{scores[metric]["all"]:.2f}' for metric in scores)
  rows.append(['all instances', '', str(report['instances']), *every])
  for name, key in INTERVALS.items():
    intervals = [scores[metric][key] for metric in scores]
    rows.append([name, '', '', *(f'{low:.2f} to {high:.2f}' for low, high in intervals)])
  return rows


def as_csv(rows: list[list[str]]) -> str:
  """The rows as a CSV file."""
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(rows)
  return text.getvalue()


def as_text(rows: list[list[str]]) -> str:
  """The rows in columns."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
    '  '.join(
      cell.ljust(width) if i < 2 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths))
    ).rstrip()
    for row in rows
  )


def main() -> None:
  cli.parse_gin()
  cli.call(evaluate)


if __name__ == '__main__':
  # gin names this function by its module, which is not __main__.
  from hyperjax import evaluate as verb

  cli.define_gin_flags()
  cli.run(verb.main)

"""`python -m hyperjax.evaluate --gin_file=gin/runs/evaluate.gin`: a run's row of a table."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hyperjax import cli, data, decoding, evaluation, files, records, runs
from hyperjax.episodes import EvaluationTask
from hyperjax.errors import InputError


def evaluate(
  model_dir: str,
  mixture: Any,
  split: str | None = None,
  step: int | None = None,
  context: str = 'own',
  arguments: dict[str, Any] | None = None,
  data_dir: str | None = None,
  limit: int | None = None,
  batch_size: int = 32,
  strategy: decoding.Strategy = decoding.GREEDY,
  max_length: int | None = None,
  seed: int | Sequence[int] | None = None,
) -> dict[str, Any]:
  """Answers a mixture's held-out tasks and writes the scores beside the run.

  Args:
    split: None: the mixture's own ('validation' of P3, 'test' of others).
    context: whose context phi is written from: 'own', 'wrong' (another task's) or 'none'.
    limit: instances per task.
    batch_size: rows of the decoder: answers that are written, or options that are ranked.
    strategy: of answers that are written.
    seed: of the examples that contexts show, of who gets whose context, and of sampling; of several
      the mean and the worst are told. None: the mixture's own (MetaICL has five, others 0).

  Returns:
    what model_dir/inference_eval/<mixture>-<split>-<context>-seed<seed>-<step>.json holds, or of
    several seeds …-seeds<seed>_<seed>…; a .csv lies beside it. Arguments, limits and strategies
    that are not the default add six letters to the name.
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
  split = live.eval_split if split is None else split
  seeds = live.seeds if seed is None else (seed,) if isinstance(seed, int) else tuple(seed)
  if not seeds or len(set(seeds)) < len(seeds):
    raise InputError(f'RANDOM_SEED is {list(seeds)}; give one number, or several different ones')
  head = {
    'model_dir': run.model_dir,
    'step': run.step,
    'mixture': live.name,
    'recipe': live.recipe,
    'split': split,
    'arguments': arguments or {},
    'context': context,
    'limit': limit,
    'strategy': records.to_json(strategy),
    'max_length': max_length,
    'average': live.average,
  }
  place = os.path.join(run.model_dir, 'inference_eval', f'{live.name}-{split}-{context}')
  if varied := _varied(head if isinstance(mixture, str) else head | {'arguments': live.recipe}):
    place += f'-{varied}'
  reports = []
  for one, tasks in zip(seeds, _all_tasks(live, split, seeds, limit)):
    answered = evaluation.evaluate(
      run, tasks, evaluation.CONTEXTS[context], strategy, batch_size, max_length, one, live.average
    )
    reports.append({**head, 'seed': one, **_told(answered)})
    files.write_json(f'{place}-seed{one}-{run.step}.json', reports[-1])
    files.write_text(f'{place}-seed{one}-{run.step}.csv', as_csv(table(reports[-1])))
    if len(seeds) > 1:
      print(f'seed {one}: {_means(reports[-1]["scores"])}', flush=True)
  if len(seeds) == 1:
    report, rows, name = reports[0], table(reports[0]), f'seed{seeds[0]}'
  else:
    report = {**head, **over_seeds(reports)}
    rows, name = table_over_seeds(report), f'seeds{"_".join(map(str, seeds))}'
    files.write_json(f'{place}-{name}-{run.step}.json', report)
    files.write_text(f'{place}-{name}-{run.step}.csv', as_csv(rows))
  print(as_text(rows))
  print(_said(live.recipe))
  for note in _notes(reports):
    print(note)
  print(f'{place}-{name}-{run.step}.json')
  return report


def _varied(head: dict[str, Any]) -> str:
  """A few letters for choices that the name of a report does not tell; none if there are none."""
  choices = {key: head[key] for key in ('arguments', 'limit', 'max_length') if head[key]}
  if head['strategy'] != records.to_json(decoding.GREEDY):
    choices['strategy'] = head['strategy']
  if not choices:
    return ''
  return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()[:6]


def _all_tasks(
  live: data.Live, split: str, seeds: Sequence[int], limit: int | None
) -> Iterator[list[EvaluationTask]]:
  """The tasks for each seed; all of them are made once before, so that none fails after hours."""
  first = live.evaluation_tasks(split, seeds[0], limit)
  names = {task.name for task in first}
  for seed in seeds[1:]:
    others = {task.name for task in live.evaluation_tasks(split, seed, limit)}
    if others != names:
      raise InputError(
        f'the tasks for seed {seed} are not those for seed {seeds[0]}: {sorted(others ^ names)[0]}'
        ' is there for one of them only; give the files of all seeds, or fewer RANDOM_SEED'
      )
  yield first
  for seed in seeds[1:]:
    yield live.evaluation_tasks(split, seed, limit)


def _told(result: evaluation.Result) -> dict[str, Any]:
  """What a report holds of the answers for one seed; tasks of one name are one task."""
  tasks: dict[str, dict[str, Any]] = {}
  for task, predictions in zip(result.tasks, result.predictions, strict=True):
    none = {'category': task.category or '', 'answers': _how(task), 'contexts': 0, 'instances': 0}
    none |= {
      'empty': 0,
      'inputs_truncated': 0,
      'context_parts_cut': 0,
      'shots_missing': 0,
      'predictions': [],
    }
    own = tasks.setdefault(task.name, none)
    own['contexts'] += 1
    own['instances'] += len(task.inputs)
    own['empty'] = max(own['empty'], task.empty)
    own['inputs_truncated'] += task.inputs_truncated
    own['context_parts_cut'] = max(own['context_parts_cut'], task.cut)
    own['shots_missing'] = max(own['shots_missing'], task.shots_missing)
    own['predictions'] += predictions
  return {
    'instances': sum(each['instances'] for each in tasks.values()),
    'empty': sum(each['empty'] for each in tasks.values()),
    'inputs_truncated': sum(task.inputs_truncated for task in result.tasks),
    'contexts': len(result.tasks),
    'contexts_cut': sum(task.cut > 0 for task in result.tasks),
    'contexts_with_fewer_shots': sum(task.shots_missing > 0 for task in result.tasks),
    'scores': result.scores,
    'tasks': tasks,
  }


def _how(task: EvaluationTask) -> str:
  """How a task is answered, in the words of a mixture's `answer`."""
  if task.options is None:
    return 'generate'
  return 'rank_mean' if task.normalize_by_target_length else 'rank'


def _said(recipe: dict[str, Any]) -> str:
  """The mixture and its choices in one line: 'P3: prompts held_out, shots 16, contexts task, …'."""
  told = lambda value: f'({_said(value)})' if isinstance(value, dict) else value
  said = [
    f'{key} {told(value)}' for key, value in recipe.items() if key != 'class' and value is not None
  ]
  return f'{recipe["class"].rpartition(".")[2]}: {", ".join(said)}'


def _means(scores: dict[str, Any]) -> str:
  return ', '.join(f'{metric} {own["all"]:.2f}' for metric, own in scores.items())


def _notes(reports: list[dict[str, Any]]) -> Iterator[str]:
  """What was cut or missing, over all seeds."""
  total = lambda key: sum(report[key] for report in reports)
  contexts, instances = total('contexts'), total('instances')
  if total('contexts_cut') or total('inputs_truncated'):
    yield (
      f'cut to the lengths of the run: {total("contexts_cut")} of {contexts} contexts, '
      f'{total("inputs_truncated")} of {instances} inputs'
    )
  if empty := max(report['empty'] for report in reports):
    yield f'{empty} questions without an input or an answer are not asked'
  if fewer := total('contexts_with_fewer_shots'):
    yield f'{fewer} of {contexts} contexts show fewer examples than asked for: there are no more'


INTERVALS = {'95 %, more instances': 'interval', '95 %, more tasks': 'interval_of_tasks'}
"""Rows of the table: what the mean might be on further instances of these tasks, or on others (by
categories: on further categories)."""


def table(report: dict[str, Any]) -> list[list[str]]:
  """Rows of cells: a head, a task each, the means (and medians, where these are averaged) of their
  categories, the mean of all with its intervals."""
  scores, tasks = list(report['scores'].values()), report['tasks']
  rows = [['task', 'category', 'instances', *report['scores']]]
  for name, task in tasks.items():
    cells = [_cell(own['tasks'].get(name)) for own in scores]
    rows.append([name, task['category'], str(task['instances']), *cells])
  categories = _categories(report)
  for name in categories if len(categories) > 1 else ():
    kinds = {'mean': 'categories'} | ({'median': 'medians'} if 'medians' in scores[0] else {})
    for what, key in kinds.items():
      rows.append([f'{name}: {what}', '', '', *(_cell(own[key].get(name)) for own in scores)])
  if 'all_of_medians' in scores[0]:
    rows.append(['mean of medians', '', '', *(_cell(own['all_of_medians']) for own in scores)])
  rows.append([_all(report), '', str(report['instances']), *(_cell(own['all']) for own in scores)])
  for name, key in INTERVALS.items():
    rows.append([name, '', '', *(_range(own[key]) for own in scores)])
  return rows


def _cell(score: float | None) -> str:
  return '' if score is None else f'{score:.2f}'


def _range(interval: Sequence[float] | None) -> str:
  return '' if interval is None else f'{interval[0]:.2f} to {interval[1]:.2f}'


def _all(report: dict[str, Any]) -> str:
  """The name of the row of means, which says how many there are: some may have been left out."""
  if report['average'] == 'instances':
    return 'all instances'
  if report['average'] == 'tasks':
    return f'mean of {len(report["tasks"])} tasks'
  return f'mean of {len(_categories(report))} means'


def _categories(report: dict[str, Any]) -> list[str]:
  return list(dict.fromkeys(task['category'] for task in report['tasks'].values()))


def over_seeds(reports: list[dict[str, Any]]) -> dict[str, Any]:
  """Of each metric, and of each of its tasks: the score by seed, its mean, worst and deviation."""

  def spread(values: list[float]) -> dict[str, Any]:
    by_seed = {str(report['seed']): value for report, value in zip(reports, values, strict=True)}
    deviation = float(np.std(values, ddof=1))
    return {
      'mean': float(np.mean(values)),
      'worst': min(values),
      'std': deviation,
      'seeds': by_seed,
    }

  first = reports[0]
  return {
    'seeds': [report['seed'] for report in reports],
    'instances': first['instances'],
    'scores': {
      metric: {
        **spread([report['scores'][metric]['all'] for report in reports]),
        **{
          kind: {
            name: spread([report['scores'][metric][kind][name] for report in reports])
            for name in own[kind]
          }
          for kind in ('tasks', 'categories', 'medians')
          if kind in own
        },
        **{
          kind: spread([report['scores'][metric][kind] for report in reports])
          for kind in ('all_of_medians',)
          if kind in own
        },
      }
      for metric, own in first['scores'].items()
    },
    'tasks': {
      name: {key: task[key] for key in ('category', 'answers', 'instances')}
      for name, task in first['tasks'].items()
    },
  }


def table_over_seeds(report: dict[str, Any]) -> list[list[str]]:
  """`table`, of each score the mean over the seeds, the worst, and the standard deviation."""
  scores, tasks = report['scores'], report['tasks']
  heads = [f'{metric}{what}' for metric in scores for what in ('', ' (worst)', ' (std)')]
  rows = [['task', 'category', 'instances', *heads]]
  cells = lambda own: [_cell(own.get(key)) for key in ('mean', 'worst', 'std')]
  for name, task in tasks.items():
    every = (cell for own in scores.values() for cell in cells(own['tasks'].get(name, {})))
    rows.append([name, task['category'], str(task['instances']), *every])
  for what, kind in (('mean', 'categories'), ('median', 'medians')):
    for name in _categories(report) if len(_categories(report)) > 1 else ():
      some = [cell for own in scores.values() for cell in cells(own.get(kind, {}).get(name, {}))]
      if any(some):
        rows.append([f'{name}: {what}', '', '', *some])
  if any('all_of_medians' in own for own in scores.values()):
    every = (cell for own in scores.values() for cell in cells(own.get('all_of_medians', {})))
    rows.append(['mean of medians', '', '', *every])
  every = (cell for own in scores.values() for cell in cells(own))
  rows.append([_all(report), '', str(report['instances']), *every])
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

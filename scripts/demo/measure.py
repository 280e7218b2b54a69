"""What the demo measures: CACLM losses, held-out ROUGE-L of each row, and their intervals."""

import pathlib
from typing import Any

import numpy as np

from hyperjax import data, evaluation, metrics, runs
from hyperjax.episodes import EvaluationTask

CACLM = {'window': 176, 'b_length': 8, 'c_lengths': (12, 16), 'min_segment': 24}
TASKS = {'shots': 6, 'instances': 70}


def measure(output: pathlib.Path, folder: pathlib.Path, per_task: int) -> dict[str, Any]:
  """All figures of report.json that come from the trained runs."""
  report: dict[str, Any] = {'caclm_loss': {}, 'held_out_rouge_l': {}, 'intervals': {}}
  _caclm(runs.load(output / 'hyperpretrain'), folder, report)
  mtf = runs.load(output / 'mtf')
  tasks = _tasks(mtf, folder, per_task)
  report['contexts_cut'] = sum(task.cut > 0 for task in tasks)
  room = mtf.lengths['inputs']
  report['inputs_cut'] = sum(len(tokens) > room for task in tasks for tokens in task.inputs)
  answers = {
    'hypert5_prefix': _answers(mtf, tasks, evaluation.own),
    'wrong_context': _answers(mtf, tasks, evaluation.others),
    'shared_prefix': _answers(runs.load(output / 'shared_prefix'), tasks, evaluation.own),
    'no_phi': _answers(mtf, tasks, evaluation.nobody),
    'majority_label': evaluation.majority_label(tasks),
    'copy_from_context': evaluation.copy_from_context(tasks),
  }
  _held_out(tasks, answers, report)
  return report


def _caclm(run: runs.Run, folder: pathlib.Path, report: dict[str, Any], batches: int = 12) -> None:
  """The loss of C given B with the right context, another document's, and none."""

  def live(wrong: bool) -> data.Live:
    return data.Live(
      'c4_caclm',
      'validation',
      run.lengths,
      batch_size=64,
      targets_per_context=4,
      vocabulary=run.vocabulary,
      data_dir=str(folder),
      arguments=CACLM,
      wrong_context=wrong,
    )

  sums = {
    'with_context': evaluation.losses(run, live(False), batches),
    'wrong_context': evaluation.losses(run, live(True), batches),
    'no_context': evaluation.losses(run, live(False), batches, with_phi=False),
  }
  report['caclm_loss'] = {name: round(evaluation.mean_loss(s), 4) for name, s in sums.items()}
  right, wrong = sums['with_context'], sums['wrong_context']
  # Per context: its four targets are alike. The gain in nats a token, and its interval.
  contexts = np.arange(len(right)) // 4
  gain = (wrong[:, 0] - right[:, 0]) / right[:, 1].mean()
  report['caclm_gain'] = round(float(gain.mean()), 4)
  report['intervals']['caclm_gain'] = _rounded(metrics.interval(gain, contexts))


def _tasks(run: runs.Run, folder: pathlib.Path, per_task: int) -> list[EvaluationTask]:
  live = data.Live(
    'sni_def_2pos',
    lengths=run.lengths,
    batch_size=1,
    vocabulary=run.vocabulary,
    data_dir=str(folder),
    arguments=TASKS,
  )
  return live.evaluation_tasks('test', limit=per_task)


def _answers(run: runs.Run, tasks, contexts) -> list[list[str]]:
  return evaluation.evaluate(run, tasks, contexts, batch_size=32).predictions


def _held_out(tasks, answers: dict[str, list[list[str]]], report: dict[str, Any]) -> None:
  references = [ys for task in tasks for ys in task.references]
  names = [task.name for task in tasks for _ in task.references]
  scores = {}
  for row, predictions in answers.items():
    flat = [y for each in predictions for y in each]
    scores[row] = metrics.rouge_l_each(flat, references)
    report['held_out_rouge_l'][row] = round(float(scores[row].mean()), 2)
    report['intervals'][row] = _rounded(metrics.interval(scores[row]))
  for other in ('wrong_context', 'shared_prefix'):
    difference = scores['hypert5_prefix'] - scores[other]
    name = f'hypert5_prefix minus {other}'
    report['intervals'][name] = _rounded(metrics.interval(difference))
    report['intervals'][f'{name}, by task'] = _rounded(metrics.interval(difference, names))
  report['held_out_instances'], report['held_out_tasks'] = len(references), len(tasks)
  own = metrics.means(scores['hypert5_prefix'], names)
  wrong = metrics.means(scores['wrong_context'], names)
  report['tasks'] = {
    name: {'hypert5_prefix': round(own[name], 1), 'wrong_context': round(wrong[name], 1)}
    for name in own
  }


def _rounded(interval: tuple[float, float]) -> list[float]:
  return [round(interval[0], 4), round(interval[1], 4)]


def example_task(output: pathlib.Path, folder: pathlib.Path, report: dict) -> dict[str, Any]:
  """The held-out task on which the right context helps most, as text: shots and queries."""
  from hyperjax.sources import natural_instructions

  gain = {
    name: own['hypert5_prefix'] - own['wrong_context'] for name, own in report['tasks'].items()
  }
  name = max(gain, key=lambda task: gain[task])
  card = natural_instructions.find(str(folder)).card('test', name)
  pairs = [(each.input, each.outputs[0]) for each in card.instances]
  shots = [(each.input, each.outputs[0]) for each in card.positives[:2]] + pairs[-6:]
  return {'name': name, 'definition': card.definition, 'shots': shots, 'queries': pairs[:5]}


def table(report: dict[str, Any]) -> str:
  """The report as a page of text."""
  lines = ['', 'CACLM loss, nats per token (held-out documents)']
  for row, value in report['caclm_loss'].items():
    lines.append(f'  {row:20} {value:8.4f}')
  low, high = report['intervals']['caclm_gain']
  lines.append(
    f'  {"right over wrong":20} {report["caclm_gain"]:8.4f}   95 % [{low:.4f}, {high:.4f}]'
  )
  tasks, count = report['held_out_tasks'], report['held_out_instances']
  lines += ['', f'ROUGE-L on {count} instances of {tasks} held-out tasks']
  if any(cut := (report['contexts_cut'], report['inputs_cut'])):
    lines.append(f'  ({cut[0]} of {tasks} contexts and {cut[1]} of {count} inputs were cut to fit)')
  for row, value in report['held_out_rouge_l'].items():
    low, high = report['intervals'][row]
    lines.append(f'  {row:20} {value:8.2f}   95 % [{low:.2f}, {high:.2f}]')
  for other in ('wrong_context', 'shared_prefix'):
    gain = report['held_out_rouge_l']['hypert5_prefix'] - report['held_out_rouge_l'][other]
    name = f'hypert5_prefix minus {other}'
    low, high = report['intervals'][name]
    line = f'  over {other:15} {gain:8.2f}   95 % [{low:.2f}, {high:.2f}]'
    low, high = report['intervals'][f'{name}, by task']  # instances of a task share its context
    lines.append(f'{line}, drawing whole tasks [{low:.2f}, {high:.2f}]')
  return '\n'.join(lines)

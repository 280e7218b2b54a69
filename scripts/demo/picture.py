"""The demo's picture: loss against steps of every stage, shipped training and this run's."""

import json
import pathlib

import matplotlib
import numpy as np

matplotlib.use('Agg')
from matplotlib import pyplot

SMOOTHED = 15
"""Points in a mean."""

STAGES = {
  'pretrain': 'language model',
  'hyperpretrain': 'CACLM',
  'mtf': 'MTF: HyperT5-Prefix',
  'shared_prefix': 'MTF: shared prefix',
}

LEGS = {
  'joint': 'HyperT5-Prefix+: CACLM and tasks',
  'hypermodel': 'then the hypermodel alone, other mixture',
}
"""Curves of the shipped checkpoint."""


def draw(output: pathlib.Path, shipped: pathlib.Path | None) -> None:
  """Writes curves.png: the stages of this run; left of them what made the shipped checkpoint."""
  panels = 1 if shipped is None else 2
  figure, axes = pyplot.subplots(
    1, panels, figsize=(5.5 * panels, 4.2), layout='constrained', squeeze=False
  )
  if shipped is not None:
    for name, label in LEGS.items():
      plot(axes[0, 0], shipped / 'joint' / f'{name}.jsonl', label)
    axes[0, 0].set_title('the shipped checkpoint')
  for name, label in STAGES.items():
    plot(axes[0, -1], output / name / 'train' / 'metrics.jsonl', label)
  axes[0, -1].set_title('this run')
  for each in axes.flat:
    each.set_xlabel('step')
    each.set_ylabel('training loss (nats per target token)')
    each.grid(alpha=0.3)
    each.legend(frameon=False)
  figure.savefig(output / 'curves.png', dpi=120)
  pyplot.close(figure)


def plot(axes, path: pathlib.Path, label: str) -> None:
  """One curve: each step faint, the mean of its neighbourhood strong."""
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  rows = [row for row in rows if 'loss' in row]
  steps, losses = [row['step'] for row in rows], [row['loss'] for row in rows]
  near = np.ones(min(SMOOTHED, len(losses)))
  means = np.convolve(losses, near, 'same') / np.convolve(np.ones(len(losses)), near, 'same')
  (line,) = axes.plot(steps, means, label=label)
  axes.plot(steps, losses, color=line.get_color(), alpha=0.2, linewidth=0.8)

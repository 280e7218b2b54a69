"""Costs that should not grow, and one that should: compile time by depth, step time by rows.

    python benchmarks/compile_time.py

prints one JSON line. HyperT5-Prefix on a frozen T5, trained with AdamW, on this machine's CPU.
`compile_ratio` is the time to trace and compile a step of 24 layers a stack over that of 2, the
median of the turns' own ratios: no cache, the two in turn. `rows_ratio` is the time of a step of
twice the rows over twice that of a step: 1 is linear, less is what a step costs without any rows.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec

from hyperjax import objectives, optim, step
from hyperjax.hypermodels import hypert5
from hyperjax.models import t5

LENGTHS = {'hyper_inputs': 128, 'inputs': 64, 'targets': 16}


def batch_of(rows: int) -> dict[str, np.ndarray]:
  """Tokens without padding, and a context for every row."""
  tokens = lambda feature: np.full((rows, LENGTHS[feature]), 5, np.int32)
  return {
    'hyper_input_tokens': tokens('hyper_inputs'),
    'encoder_input_tokens': tokens('inputs'),
    'decoder_input_tokens': tokens('targets'),
    'decoder_target_tokens': tokens('targets'),
    'decoder_loss_weights': np.ones((rows, LENGTHS['targets']), np.float32),
  }


def pieces(layers: int) -> tuple[Callable, Callable[[], tuple[step.TrainState, Any]]]:
  """A fresh jitted step of a model of this depth, and what makes its state and frozen weights."""
  config = t5.preset('tiny', num_encoder_layers=layers, num_decoder_layers=layers, vocab_size=512)
  model = step.Model(t5.T5(config), hypert5.HyperT5(config, config))
  specs = nn.get_partition_spec(jax.eval_shape(model.init_params, jax.random.key(0)))
  axes = jax.tree.map(tuple, specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
  tx = optim.AdamW().transformation(step.split(axes, ['hypermodel'])[0], total_steps=1000)
  objective = objectives.CrossEntropy()
  update = step.jit_step(
    functools.partial(step.train_step, model=model, objective=objective, tx=tx)
  )

  def start() -> tuple[step.TrainState, Any]:
    params = nn.unbox(model.init_params(jax.random.key(0)))
    trained, frozen = step.split(params, ['hypermodel'])
    return step.TrainState(jnp.zeros((), jnp.int32), trained, tx.init(trained)), frozen

  return update, start


def compile_seconds(layers: int, rows: int) -> float:
  """To trace and compile a step that nothing is known of."""
  jax.clear_caches()
  update, start = pieces(layers)
  state, frozen = jax.eval_shape(start)
  began = time.perf_counter()
  update.lower(state, frozen, batch_of(rows)).compile()
  return time.perf_counter() - began


def stepper(layers: int) -> Callable[[int], float]:
  """Seconds of a step, by its rows."""
  update, start = pieces(layers)
  state, frozen = jax.jit(start)()

  def run(rows: int) -> float:
    nonlocal state
    began = time.perf_counter()
    state, _ = jax.block_until_ready(update(state, frozen, batch_of(rows)))
    return time.perf_counter() - began

  return run


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """Everything that the JSON line says."""
  jax.config.update('jax_enable_compilation_cache', False)
  few, many = options.few, options.many
  compiled = {layers: [] for layers in (few, many)}  # in turn, so that a busy machine slows both
  for _ in range(options.turns):
    for layers, times in compiled.items():
      times.append(compile_seconds(layers, options.rows))
  run = stepper(few)
  sizes = [options.rows * 2**i for i in range(options.sizes)]
  steps = {rows: [] for rows in sizes}
  for turn in range(options.turns * 3 + 1):  # the first compiles, and is not counted
    for rows, times in steps.items():
      times += [run(rows)] * (turn > 0)
  ratio = lambda above, below: [a / b for a, b in zip(above, below, strict=True)]
  return {
    **vars(options),
    'compile_seconds': {layers: statistics.median(times) for layers, times in compiled.items()},
    'compile_ratio': statistics.median(ratio(compiled[many], compiled[few])),
    'step_seconds': {rows: statistics.median(times) for rows, times in steps.items()},
    'rows_ratio': {
      f'{2 * rows} over {rows}': statistics.median(ratio(steps[2 * rows], steps[rows])) / 2
      for rows in sizes[:-1]
    },
  }


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--few', type=int, default=2, help='layers of a stack')
  parser.add_argument('--many', type=int, default=24, help='layers of a stack')
  parser.add_argument('--rows', type=int, default=4, help='of the smallest batch')
  parser.add_argument('--sizes', type=int, default=4, help='of batches, each twice the one before')
  parser.add_argument('--turns', type=int, default=3)
  print(json.dumps(measure(parser.parse_args(arguments))))


if __name__ == '__main__':
  sys.exit(main())

"""What buckets save: the share of padding in real batches, and steps a second with and without.

    python benchmarks/buckets.py --data=shared/data --vocabulary=…/spiece.model

prints one JSON line. Both runs make the same steps on the same episodes in turn, after each has
compiled its programs; a ratio is the median of those of the alternations.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections import Counter
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from hyperjax import data, objectives, optim, step, vocabulary
from hyperjax.hypermodels import hypert5
from hyperjax.models import t5

LENGTHS = {'hyper_inputs': 1024, 'inputs': 384, 'targets': 128}
BUCKETS = (
  {'hyper_inputs': 512, 'inputs': 128, 'targets': 32},
  {'hyper_inputs': 1024, 'inputs': 128, 'targets': 32},
  {'hyper_inputs': 1024, 'inputs': 256, 'targets': 64},
)
TOKENS = ('hyper_input_tokens', 'encoder_input_tokens', 'decoder_target_tokens')


def tokens(batch) -> tuple[int, int]:
  """(tokens, places for tokens) of a batch."""
  arrays = [batch[name] for name in TOKENS if name in batch]
  return sum(int((x != 0).sum()) for x in arrays), sum(x.size for x in arrays)


def padding(live: data.Live, batches: int) -> dict[str, Any]:
  """The share of padding with and without buckets, and how often each bucket is used."""
  sums, used = {'with': Counter(), 'without': Counter()}, Counter()
  for name, buckets in (('with', live.buckets), ('without', None)):
    live.buckets = buckets
    stream = live.starting_at(0)
    for _ in range(batches):
      batch = next(stream)
      filled, places = tokens(batch)
      sums[name].update(filled=filled, places=places)
      if buckets:
        used['x'.join(str(batch[each].shape[1]) for each in TOKENS if each in batch)] += 1
    live.buckets = buckets or live.buckets
  share = {name: 1 - each['filled'] / each['places'] for name, each in sums.items()}
  saved = 1 - sums['with']['places'] / sums['without']['places']
  return {'padding': share, 'places_saved': saved, 'batches_by_lengths': dict(used)}


def stepper(config: t5.T5Config):
  """The library's step with AdamW, of HyperT5-Prefix on a frozen T5 of the same size."""
  model = step.Model(t5.T5(config), hypert5.HyperT5(config, config))
  params = jax.jit(lambda key: nn.unbox(model.init_params(key)))(jax.random.key(0))
  trained, frozen = step.split(params, ['hypermodel'])
  specs = nn.get_partition_spec(jax.eval_shape(model.init_params, jax.random.key(0)))
  axes = jax.tree.map(tuple, specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
  tx = optim.AdamW().transformation(step.split(axes, ['hypermodel'])[0], total_steps=1000)
  update = step.jit_step(
    functools.partial(step.train_step, model=model, objective=objectives.CrossEntropy(), tx=tx)
  )
  state = step.TrainState(jnp.zeros((), jnp.int32), trained, tx.init(trained))

  def run(batches) -> float:
    nonlocal state
    for batch in batches:
      state, metrics = update(state, frozen, batch)
    return float(metrics['loss'])

  return run


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """Everything that the JSON line says."""
  words = vocabulary.Vocabulary(options.vocabulary)
  make = lambda batch, buckets: data.Live(
    options.mixture,
    lengths=LENGTHS,
    batch_size=batch,
    vocabulary=words,
    data_dir=options.data,
    buckets=buckets,
  )
  found = {
    size: padding(make(size, BUCKETS), options.batches)
    for size in map(int, options.batch_sizes.split(','))
  }
  config = t5.preset(options.size, vocab_size=-(-words.size // 8) * 8)
  runs = {name: stepper(config) for name in ('with', 'without')}
  given = {}
  for name, buckets in (('with', BUCKETS), ('without', None)):
    stream = make(options.step_batch, buckets).starting_at(0)
    given[name] = [next(stream) for _ in range(options.steps)]
  times: dict[str, list[float]] = {name: [] for name in runs}
  losses: dict[str, list[float]] = {name: [] for name in runs}
  for alternation in range(options.alternations + 1):  # the first compiles, and is not counted
    for name, run in runs.items():
      began = time.perf_counter()
      losses[name].append(run(given[name]))
      times[name] += [time.perf_counter() - began] * (alternation > 0)
  ratios = [a / b for a, b in zip(times['without'], times['with'], strict=True)]
  assert all(abs(a / b - 1) < 1e-3 for a, b in zip(losses['with'], losses['without'])), losses
  return {
    'mixture': options.mixture,
    'buckets': BUCKETS,
    'by_batch_size': found,
    'step_batch': options.step_batch,
    'steps_per_second': {
      name: options.steps / statistics.median(each) for name, each in times.items()
    },
    'ratio': statistics.median(ratios),
    'ratios': ratios,
  }


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', required=True, help='as DATA_DIR')
  parser.add_argument('--vocabulary', required=True, help='a sentencepiece file')
  parser.add_argument('--mixture', default='sni')
  parser.add_argument('--size', default='tiny', help='a T5 1.1 preset')
  parser.add_argument('--batch_sizes', default='8,32,256', help='whose padding is counted')
  parser.add_argument('--batches', type=int, default=40)
  parser.add_argument('--step_batch', type=int, default=8)
  parser.add_argument('--steps', type=int, default=6)
  parser.add_argument('--alternations', type=int, default=3)
  print(json.dumps(measure(parser.parse_args(arguments))))


if __name__ == '__main__':
  sys.exit(main())

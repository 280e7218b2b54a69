"""A training step of T5 1.1 on this machine's CPU: ours, transformers', and the hypertuning one.

    python benchmarks/train_step.py

prints one JSON line. In every alternation each of them runs one step on the same batch: ours and
PyTorch's from the same weights, with AdamW (weight decay on matrices), without dropout, in float32,
on as many threads as there are cores. Their logits and the losses of every step must agree.

The arithmetic of a step is the sum of 6 t w over its matrices and 12 b n h q s over its attentions:
a matrix of w weights costs 2 w forward for each of the t tokens that it reads, and twice that in
two gradients; an attention of b rows, n heads of size h, q queries and s keys costs 4 b n h q s
forward and twice that backward. Frozen weights have no gradient (4 t w). Embedding, norms, softmax,
loss and optimiser are not counted. The share is that arithmetic over the time, and over the rate at
which two float32 matrices of `--matmul` rows multiply, here or in PyTorch, whichever is faster.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import linen as nn
from jax.sharding import PartitionSpec

from hyperjax import objectives, optim, step
from hyperjax.convert import huggingface
from hyperjax.hypermodels import hypert5
from hyperjax.models import t5

LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.01
Step = Callable[[], float]  # runs to its end; its loss


def random_batch(sizes: argparse.Namespace) -> dict[str, np.ndarray]:
  """Tokens without padding, and a context for every row."""
  rng = np.random.default_rng(0)

  def tokens(length: int) -> np.ndarray:
    return rng.integers(3, sizes.vocab, (sizes.batch, length), np.int32)

  targets = tokens(sizes.targets)
  return {
    'hyper_input_tokens': tokens(sizes.context),
    'encoder_input_tokens': tokens(sizes.inputs),
    'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
    'decoder_target_tokens': targets,
    'decoder_loss_weights': np.ones(targets.shape, np.float32),
  }


# -- The three steps ------------------------------------------------------------------------------


def our_step(model: step.Model, params, batch, trainable: str) -> Step:
  """The library's own step with AdamW; it donates these parameters."""
  trained, frozen = step.split(params, [trainable])
  specs = nn.get_partition_spec(jax.eval_shape(model.init_params, jax.random.key(0)))
  axes = jax.tree.map(tuple, specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
  axes, _ = step.split(axes, [trainable])
  adamw = optim.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY, clip=None)
  tx = adamw.transformation(axes, total_steps=1000)
  state = step.TrainState(jnp.zeros((), jnp.int32), trained, tx.init(trained))
  objective = objectives.CrossEntropy()
  update = step.jit_step(
    functools.partial(step.train_step, model=model, objective=objective, tx=tx)
  )

  def run() -> float:
    nonlocal state
    state, metrics = jax.block_until_ready(update(state, frozen, batch))
    return float(metrics['loss'])

  return run


def torch_model(config: t5.T5Config, params) -> transformers.T5ForConditionalGeneration:
  """The same T5 in transformers, with our weights."""
  with tempfile.TemporaryDirectory() as folder:
    huggingface.save(folder, t5.T5(config), params)
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder, use_cache=False)
  return model.train()


def torch_arguments(batch) -> dict[str, torch.Tensor]:

  def tensor(key: str) -> torch.Tensor:
    return torch.from_numpy(batch[key]).long()

  return {
    'input_ids': tensor('encoder_input_tokens'),
    'decoder_input_ids': tensor('decoder_input_tokens'),
    'labels': tensor('decoder_target_tokens'),
  }


def torch_step(model, batch) -> Step:
  """The usual PyTorch step, with the AdamW that is one pass over the weights."""
  groups = [
    {'params': [p for p in model.parameters() if p.ndim > 1], 'weight_decay': WEIGHT_DECAY},
    {'params': [p for p in model.parameters() if p.ndim == 1], 'weight_decay': 0.0},
  ]
  optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)
  arguments = torch_arguments(batch)

  def run() -> float:
    optimizer.zero_grad()
    loss = model(**arguments).loss
    loss.backward()
    optimizer.step()
    return loss.item()

  return run


# -- Arithmetic and time --------------------------------------------------------------------------


def encoder_flops(config: t5.T5Config, rows: int, inputs: int, prefix: int = 0) -> tuple[int, int]:
  """Forward operations of (matrices, attentions) over rows of `inputs` tokens."""
  kv = config.num_heads * config.head_dim
  layer = 4 * config.emb_dim * kv + 3 * config.emb_dim * config.mlp_dim
  attention = 4 * rows * kv * inputs * (inputs + prefix)
  layers = config.num_encoder_layers
  return layers * 2 * rows * inputs * layer, layers * attention


def decoder_flops(
  config: t5.T5Config, rows: int, inputs: int, targets: int, prefix: int = 0, logits: bool = True
) -> tuple[int, int]:
  """Forward operations of (matrices, attentions), with keys and values of the encoder's output."""
  kv = config.num_heads * config.head_dim
  own = 6 * config.emb_dim * kv + 3 * config.emb_dim * config.mlp_dim
  memory = 2 * config.emb_dim * kv
  attention = 4 * rows * kv * targets * (targets + prefix + inputs)
  layers = config.num_decoder_layers
  matrices = layers * 2 * rows * (targets * own + inputs * memory)
  if logits:
    matrices += 2 * rows * targets * config.emb_dim * config.vocab_size
  return matrices, layers * attention


def plain_flops(config: t5.T5Config, sizes: argparse.Namespace, prefix=0, trained=True) -> int:
  """Operations of a step of the downstream model; with frozen weights when not `trained`."""
  parts = [
    encoder_flops(config, sizes.batch, sizes.inputs, prefix),
    decoder_flops(config, sizes.batch, sizes.inputs, sizes.targets, prefix),
  ]
  return sum((3 if trained else 2) * matrices + 3 * attention for matrices, attention in parts)


def hyper_flops(config: t5.T5Config, hyper: hypert5.HyperT5, sizes: argparse.Namespace) -> int:
  """Operations of a hypertuning step: all of the hypermodel, the frozen model's activations."""
  p = hyper.method.length
  d, kv = config.emb_dim, config.num_heads * config.head_dim
  layers = config.num_encoder_layers + config.num_decoder_layers
  heads = 2 * sizes.batch * p * (4 * d * d + 2 * d * kv * layers)  # key and value in each stack
  trunk = [
    encoder_flops(config, sizes.batch, sizes.context),
    decoder_flops(config, sizes.batch, sizes.context, 2 * p, logits=False),
  ]
  return 3 * (heads + sum(map(sum, trunk))) + plain_flops(config, sizes, p, trained=False)


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
  start = time.perf_counter()
  result = function()
  return time.perf_counter() - start, result


def matmuls(rows: int) -> list[Callable[[], Any]]:
  """The product of two float32 matrices of this many rows, here and in PyTorch."""
  ours, theirs = jnp.ones((rows, rows)), torch.ones((rows, rows))
  multiply = jax.jit(jnp.matmul)
  return [lambda: multiply(ours, ours).block_until_ready(), lambda: theirs @ theirs]


def cores() -> int:
  """Cores that this process may run on."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


# -- The benchmark --------------------------------------------------------------------------------


def agreement(model: step.Model, params, theirs, batch) -> float:
  """The largest difference between our logits and transformers'.

  Raises:
    AssertionError: above 1e-3 for logits of order 1.
  """
  ours = np.asarray(jax.jit(model.logits)(params, batch))
  with torch.no_grad():
    logits = theirs(**torch_arguments(batch)).logits.numpy()
  difference = float(np.max(np.abs(ours - logits)))
  assert difference < 1e-3, f'logits differ by {difference}'
  return difference


def measure(sizes: argparse.Namespace) -> dict[str, Any]:
  """Everything that the JSON line says."""
  torch.set_num_threads(cores())
  config = t5.preset(sizes.size, vocab_size=sizes.vocab)
  batch = random_batch(sizes)
  hyper = hypert5.HyperT5(config, config)
  both = step.Model(t5.T5(config), hyper)
  plain = step.Model(t5.T5(config))
  params = jax.jit(lambda key: nn.unbox(both.init_params(key)))(jax.random.key(0))
  downstream = {'downstream': params['downstream']}
  theirs = torch_model(config, params['downstream'])
  copied = functools.partial(jax.tree.map, jnp.array)
  steps = {
    'torch': torch_step(theirs, batch),
    'here': our_step(plain, copied(downstream), batch, 'downstream'),
    'hyper': our_step(both, copied(params), batch, 'hypermodel'),
  }
  difference = agreement(plain, downstream, theirs, batch)
  products = matmuls(sizes.matmul)
  times: dict[str, list[float]] = {name: [] for name in (*steps, 'matmul')}
  losses: dict[str, list[float]] = {name: [] for name in steps}
  for alternation in range(sizes.alternations + 1):  # the first compiles, and is not counted
    for name, run in steps.items():
      taken, loss = seconds(run)
      losses[name].append(loss)
      times[name] += [taken] * (alternation > 0)
    fastest = min(seconds(product)[0] for product in products * 3)
    times['matmul'] += [fastest] * (alternation > 0)
    assert abs(losses['here'][-1] / losses['torch'][-1] - 1) < 1e-3, f'losses differ: {losses}'
  return result(sizes, config, hyper, times, losses) | {'logits_difference': difference}


def result(sizes, config, hyper, times, losses) -> dict[str, Any]:
  """Medians, shares, and ratios: each the median of the alternations' own, which a drift spares."""
  median = {name: statistics.median(values) for name, values in times.items()}
  rate = 2 * sizes.matmul**3 / median['matmul']
  flops = {'here': plain_flops(config, sizes), 'hyper': hyper_flops(config, hyper, sizes)}
  over_torch = [a / b for a, b in zip(times['here'], times['torch'], strict=True)]
  over_plain = [a / b for a, b in zip(times['hyper'], times['here'], strict=True)]
  return {
    **vars(sizes),
    'prefix': hyper.method.length,
    'cores': cores(),
    'versions': {module.__name__: module.__version__ for module in (jax, torch, transformers)},
    'seconds': median['here'],
    'torch_seconds': median['torch'],
    'ratio': statistics.median(over_torch),
    'ratios': over_torch,
    'matmul_gflops': rate / 1e9,
    'step_gflop': flops['here'] / 1e9,
    'share_of_matmul_rate': flops['here'] / median['here'] / rate,
    'hyper_seconds': median['hyper'],
    'hyper_over_plain': statistics.median(over_plain),
    'hyper_gflop': flops['hyper'] / 1e9,
    'hyper_share_of_matmul_rate': flops['hyper'] / median['hyper'] / rate,
    'times': times,
    'losses': losses,
  }


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--size', default='small', help='a T5 1.1 preset')
  parser.add_argument('--vocab', type=int, default=32128)
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--inputs', type=int, default=128, help='encoder tokens')
  parser.add_argument('--targets', type=int, default=32, help='decoder tokens')
  parser.add_argument('--context', type=int, default=256, help='tokens that the hypermodel reads')
  parser.add_argument('--alternations', type=int, default=5)
  parser.add_argument('--matmul', type=int, default=2048, help='rows of the matrices')
  print(json.dumps(measure(parser.parse_args(arguments))))


if __name__ == '__main__':
  sys.exit(main())

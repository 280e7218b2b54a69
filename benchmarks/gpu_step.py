"""A training step of HyperT5-Prefix on this machine's accelerator: ours, and PyTorch's.

    python benchmarks/gpu_step.py --output=gpu_step.json     # on a machine with a GPU
    python benchmarks/gpu_step.py --tiny                     # anywhere: that it runs, and agrees

prints a Markdown table, and writes all that it measured. A hypermodel as large as the downstream
model trains (float32 weights, AdamW) and writes a prefix for each context; the downstream model is
frozen, in bfloat16, in which both compute. PyTorch's has the modules of transformers, compiled by
torch.compile, and scaled_dot_product_attention, for transformers' T5 takes no prefix. Every
measurement is a process of its own, so that its peak memory is its own; libraries take turns. A
library that runs out of memory has a row that says so.

First, with tiny models and the same weights, three steps of both must give the same losses in
float32, and on a GPU ours in bfloat16 with cuDNN and without.

Contexts have 512 to 1024 tokens, inputs 32 to 384, targets 2 to 128, padded to the longest:
`tokens_per_second` counts real ones. `gflop` is the arithmetic of train_step.py, with attention,
padding, and nothing for what is computed anew; `model_gflop` that of hyperjax/flops.py, of products
with parameters only. The share is gflop over the time, and over the best rate of the two libraries
at multiplying two bfloat16 matrices of `--matmul` rows, timed after every step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', '')  # whatever there is; train_step.py is for CPUs
os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.95')

import jax
import jax.numpy as jnp
import numpy as np
import torch
import train_step
import transformers
from flax import linen as nn
from torch.nn import functional
from torch.utils import checkpoint

from hyperjax import flops, objectives, step
from hyperjax.hypermodels import hypert5
from hyperjax.models import attention, t5

LENGTHS = {'context': (512, 1024), 'inputs': (32, 384), 'targets': (2, 128)}
TINY_LENGTHS = {'context': (9, 14), 'inputs': (5, 12), 'targets': (2, 8)}
BATCH = {'tiny': 3, 'small': 32, 'base': 16, 'large': 16, 'xl': 8}
REMAT = {'large': 'full', 'xl': 'full'}  # in both libraries: each layer's input is kept


def padded_batch(options: argparse.Namespace) -> dict[str, np.ndarray]:
  """Random tokens of random lengths, a context for every row."""
  rng, rows = np.random.default_rng(0), options.batch

  def tokens(least: int, most: int) -> np.ndarray:
    length = rng.integers(least, most + 1, (rows, 1))
    length[0] = most
    drawn = rng.integers(3, options.vocab, (rows, most), np.int32)
    return np.where(np.arange(most) < length, drawn, 0)

  context, inputs, targets = (tokens(*options.lengths[name]) for name in LENGTHS)
  return {
    'hyper_input_tokens': context,
    'encoder_input_tokens': inputs,
    'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
    'decoder_target_tokens': targets,
    'decoder_loss_weights': (targets > 0).astype(np.float32),
  }


def real_tokens(batch: dict[str, np.ndarray]) -> int:
  """Of contexts, inputs and targets."""
  kinds = ('hyper_input_tokens', 'encoder_input_tokens', 'decoder_target_tokens')
  return sum(int((batch[kind] > 0).sum()) for kind in kinds)


# -- Ours -----------------------------------------------------------------------------------------


def our_model(options: argparse.Namespace, dtype: str = 'bfloat16') -> step.Model:
  changes = {'dtype': dtype, 'remat': options.remat, 'attention': options.attention}
  config = t5.preset(options.size, vocab_size=options.vocab, **changes)
  return step.Model(t5.T5(config), hypert5.HyperT5(config, config))


def our_params(model: step.Model) -> dict[str, Any]:
  """At random; the frozen part in the dtype of computation."""
  dtype = jnp.dtype(model.downstream.config.dtype)

  def made(key):
    params = nn.unbox(model.init_params(key))
    return params | {'downstream': jax.tree.map(lambda x: x.astype(dtype), params['downstream'])}

  return jax.jit(made)(jax.random.key(0))


def model_flops(model: step.Model, params, batch) -> int:
  """6N of what trains and 4N of what a gradient passes through, of hyperjax/flops.py."""
  trained, frozen = step.split(params, ['hypermodel'])

  def loss(trained, frozen, batch):
    rng, objective = jax.random.key(0), objectives.CrossEntropy()
    return step.loss_fn(trained, frozen, batch, None, rng, model, objective)[0]

  marks = zip((trained, frozen, batch), (flops.TRAINED, flops.FROZEN, flops.NOTHING))
  flat = [mark for tree, mark in marks for _ in jax.tree.leaves(tree)]
  return flops.count(jax.make_jaxpr(loss)(trained, frozen, batch).jaxpr, flat).with_gradients


def ours(options: argparse.Namespace) -> dict[str, Any]:
  """What is measured of our step."""
  model, batch = our_model(options), padded_batch(options)
  params = our_params(model)
  operations = model_flops(model, jax.eval_shape(lambda: params), batch)
  run = train_step.our_step(model, params, batch, 'hypermodel')
  del params
  with attention.overheard() as kernels:
    compiling, _ = train_step.seconds(run)
  # Of random numbers: equal ones heat less, and so multiply faster than any step could.
  multiplied = jax.random.normal(jax.random.key(0), (options.matmul,) * 2, jnp.bfloat16)
  multiply = jax.jit(jnp.matmul)
  found = timed(options, run, lambda: multiply(multiplied, multiplied).block_until_ready())
  peak = (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use')
  return found | {
    'device': jax.local_devices()[0].device_kind,
    'attention': attention.in_words(kernels),
    'first_seconds': compiling,
    'peak_bytes': peak,
    'model_gflop': operations / 1e9,
  }


# -- PyTorch's ------------------------------------------------------------------------------------


class Head(torch.nn.Module):
  """States to keys, or values, of all layers of a stack: c p d -> l c n p h."""

  def __init__(self, config: t5.T5Config, layers: int):
    super().__init__()
    d = config.emb_dim
    self.heads = config.num_heads
    self.norm = torch.nn.LayerNorm(d, eps=1e-6)
    self.wi = torch.nn.Linear(d, d, bias=False)
    shape = layers, d, config.num_heads * config.head_dim
    self.kernel = torch.nn.Parameter(0.1 * torch.randn(shape) / d**0.5)

  def forward(self, states):
    y = torch.einsum('cpm,lmf->lcpf', torch.tanh(self.wi(self.norm(states))), self.kernel)
    return y.unflatten(-1, (self.heads, -1)).transpose(2, 3)


class TorchHyperT5(torch.nn.Module):
  """HyperT5-Prefix over two models of transformers, and the loss of a batch."""

  def __init__(self, trunk, downstream, config: t5.T5Config, prefix: int, remat: bool):
    super().__init__()
    self.trunk, self.downstream, self.remat = trunk, downstream, remat
    self.trunk.lm_head = torch.nn.Identity()
    self.queries = torch.nn.Parameter(torch.randn(2 * prefix, config.emb_dim))
    layers = {'encoder': config.num_encoder_layers, 'decoder': config.num_decoder_layers}
    self.heads = torch.nn.ModuleDict(
      {f'{stack}_{leaf}': Head(config, layers[stack]) for stack in layers for leaf in LEAVES}
    )
    self.downstream.requires_grad_(False)
    self.dtype = next(downstream.parameters()).dtype

  def forward(self, batch):
    context = batch['hyper_input_tokens']
    memory = self.read(self.trunk.encoder, self.embedded(self.trunk, context), context > 0)
    queries = self.queries.to(self.dtype).expand(len(context), -1, -1)
    seen = torch.ones(queries.shape[:2], dtype=torch.bool, device=context.device)
    states = self.read(self.trunk.decoder, queries, seen, None, (memory, context > 0))
    phi = {}
    for stack, own in zip(('encoder', 'decoder'), states.chunk(2, dim=1)):
      phi[stack] = tuple(self.heads[f'{stack}_{leaf}'](own) for leaf in LEAVES)
    inputs, targets = batch['encoder_input_tokens'], batch['decoder_target_tokens']
    model = self.downstream
    memory = self.read(
      model.encoder, self.embedded(model, inputs), inputs > 0, None, None, phi['encoder']
    )
    length = targets.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=targets.device).tril()
    shifted = self.embedded(model, batch['decoder_input_tokens'])
    given = (memory, inputs > 0), phi['decoder']
    logits = model.lm_head(self.read(model.decoder, shifted, targets > 0, causal, *given))
    wanted = torch.where(targets > 0, targets, -100).flatten()
    return functional.cross_entropy(logits.flatten(0, 1).float(), wanted)

  def embedded(self, model, tokens):
    return model.shared(tokens).to(self.dtype)

  def read(self, stack, x, seen, causal=None, memory=None, prefix=None):
    """The layers of a stack; `seen` is of its own columns, b t."""
    t, first = x.shape[1], stack.block[0].layer[0].SelfAttention
    columns = seen[:, None, None, :] if causal is None else seen[:, None, None, :] & causal
    bias = first.compute_bias(t, t, device=x.device) + unseen(columns)
    if prefix is not None:
      bias = functional.pad(bias, (prefix[0].shape[3], 0))
    bias, of_memory = bias.to(self.dtype), None
    if memory is not None:
      of_memory = memory[0], unseen(memory[1][:, None, None, :]).to(self.dtype)
    for number, block in enumerate(stack.block):
      front = None if prefix is None else (prefix[0][number], prefix[1][number])
      given = block, x, bias, of_memory, front
      x = checkpoint.checkpoint(layer, *given, use_reentrant=False) if self.remat else layer(*given)
    return stack.final_layer_norm(x).to(self.dtype)


LEAVES = ('key', 'value')


def unseen(columns):
  return torch.where(columns, 0.0, -1e9)


def layer(block, x, bias, memory, prefix):
  """One block of transformers' T5, with a prefix."""
  own = block.layer[0]
  y = own.layer_norm(x).to(x.dtype)
  x = x + attended(own.SelfAttention, y, y, bias, prefix)
  if memory is not None:
    cross = block.layer[1]
    y = cross.layer_norm(x).to(x.dtype)
    x = x + attended(cross.EncDecAttention, y, memory[0], memory[1], None)
  return block.layer[-1](x).to(x.dtype)


def attended(linear, x, source, bias, prefix):
  heads = lambda y: y.unflatten(-1, (linear.n_heads, -1)).transpose(1, 2)
  query, key, value = heads(linear.q(x)), heads(linear.k(source)), heads(linear.v(source))
  if prefix is not None:
    key, value = (torch.cat([a.to(b.dtype), b], dim=2) for a, b in zip(prefix, (key, value)))
  bias = bias.to(query.dtype).expand(len(x), len(query[0]), x.shape[1], key.shape[2])
  y = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
  return linear.o(y.transpose(1, 2).flatten(2))


def torch_config(config: t5.T5Config) -> transformers.T5Config:
  return transformers.T5Config(
    vocab_size=config.vocab_size,
    d_model=config.emb_dim,
    d_kv=config.head_dim,
    d_ff=config.mlp_dim,
    num_layers=config.num_encoder_layers,
    num_decoder_layers=config.num_decoder_layers,
    num_heads=config.num_heads,
    feed_forward_proj='gated-gelu',
    tie_word_embeddings=False,
    dropout_rate=0.0,
    use_cache=False,
  )


def torch_run(model: TorchHyperT5, batch, compiled: bool, device: str) -> train_step.Step:
  """AdamW, fused, with bfloat16 products of float32 weights."""
  trained = [p for p in model.parameters() if p.requires_grad]
  decay = train_step.WEIGHT_DECAY
  groups = [
    {'params': [p for p in trained if p.ndim > 1], 'weight_decay': decay},
    {'params': [p for p in trained if p.ndim == 1], 'weight_decay': 0.0},
  ]
  optimizer = torch.optim.AdamW(groups, lr=train_step.LEARNING_RATE, fused=True)
  given = {name: torch.from_numpy(value).to(device) for name, value in batch.items()}
  given = {name: x.long() for name, x in given.items() if x.dtype == torch.int32}
  loss_of = torch.compile(model) if compiled else model

  def run() -> float:
    optimizer.zero_grad()
    with torch.autocast(device, model.dtype, enabled=model.dtype != torch.float32):
      loss = loss_of(given)
    loss.backward()
    optimizer.step()
    return loss.item()

  return run


def theirs(options: argparse.Namespace) -> dict[str, Any]:
  """What is measured of PyTorch's step."""
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.set_num_threads(train_step.cores())
  model = our_model(options)
  config, prefix = model.downstream.config, model.hypermodel.method.length
  with torch.device(device):
    trunk, downstream = (
      transformers.T5ForConditionalGeneration(torch_config(config)) for _ in range(2)
    )
    given = trunk, downstream.bfloat16(), config, prefix, options.remat is not None
    hyper = TorchHyperT5(*given).train()
  run = torch_run(hyper, padded_batch(options), options.compile, device)
  compiling, _ = train_step.seconds(run)
  multiplied = torch.randn((options.matmul, options.matmul), dtype=torch.bfloat16, device=device)
  if device == 'cuda':
    torch.cuda.reset_peak_memory_stats()
  found = timed(options, run, lambda: (multiplied @ multiplied)[0, 0].item())
  peak = torch.cuda.max_memory_allocated() if device == 'cuda' else None
  return found | {
    'device': torch.cuda.get_device_name() if device == 'cuda' else device,
    'attention': 'scaled_dot_product_attention',
    'first_seconds': compiling,
    'peak_bytes': peak,
  }


# -- The same losses ------------------------------------------------------------------------------


def agreement(options: argparse.Namespace) -> dict[str, Any]:
  """Losses of three steps: of both libraries in float32, and of our kernels in bfloat16.

  Raises:
    AssertionError: they differ by more than the products of a GPU round.
  """
  tiny = argparse.Namespace(**vars(options))
  tiny.size, tiny.vocab, tiny.batch, tiny.lengths = 'tiny', 211, 3, TINY_LENGTHS
  tiny.attention, tiny.remat = None, None
  model, batch = our_model(tiny, 'float32'), padded_batch(tiny)
  params = our_params(model)
  hyper = params['hypermodel']
  table = params['downstream']['decoder']['logits_dense']
  trunk = hyper['t5'] | {'decoder': hyper['t5']['decoder'] | {'logits_dense': table}}
  config = model.downstream.config
  folders = [train_step.torch_model(config, tree) for tree in (trunk, params['downstream'])]
  prefix = model.hypermodel.method.length
  torch_hyper = TorchHyperT5(*folders, config, prefix, remat=False).train()
  own = {'queries': hyper['queries']}
  for stack in ('encoder', 'decoder'):
    for leaf in LEAVES:
      head, name = hyper[f'heads_{stack}'], f'heads.{stack}_{leaf}'
      hidden = head[f'{leaf}_hidden']
      own |= {
        f'{name}.norm.weight': hidden['norm']['scale'],
        f'{name}.kernel': head[f'{leaf}_kernel'],
      }
      own |= {
        f'{name}.norm.bias': hidden['norm']['bias'],
        f'{name}.wi.weight': hidden['wi']['kernel'].T,
      }
  with torch.no_grad():
    for name, value in own.items():
      torch_hyper.get_parameter(name).copy_(torch.from_numpy(np.array(value)))
  both = {
    'here': train_step.our_step(model, params, batch, 'hypermodel'),
    'torch': torch_run(torch_hyper, batch, False, 'cpu'),
  }
  losses = {name: [run() for _ in range(3)] for name, run in both.items()}
  np.testing.assert_allclose(losses['here'], losses['torch'], rtol=2e-3)
  if attention.machine_lacks() is None:
    losses |= kernel_losses(tiny)
  return {'losses': losses}


def kernel_losses(tiny: argparse.Namespace) -> dict[str, list[float]]:
  """Of three steps in bfloat16, by cuDNN where it fits, and by XLA alone."""
  losses = {}
  for kernel in ('what fits', 'xla'):
    tiny.attention = None if kernel == 'what fits' else kernel
    model, batch = our_model(tiny), padded_batch(tiny)
    run = train_step.our_step(model, our_params(model), batch, 'hypermodel')
    losses[kernel] = [run() for _ in range(3)]
  np.testing.assert_allclose(losses['what fits'], losses['xla'], rtol=1e-2)
  return losses


# -- The benchmark --------------------------------------------------------------------------------


def timed(options: argparse.Namespace, run: Callable, multiply: Callable) -> dict[str, Any]:
  """Seconds of steps and of products, in turn; the first are warm-up."""
  times: dict[str, list[float]] = {'step': [], 'matmul': []}
  for number in range(options.steps + 2):
    taken, loss = train_step.seconds(run)
    product = min(train_step.seconds(multiply)[0] for _ in range(5))
    if number >= 2:
      times['step'].append(taken)
      times['matmul'].append(product)
  assert np.isfinite(loss), f'the loss is {loss}'
  return {'times': times, 'loss': loss}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
  'agreement': agreement,
  'here': ours,
  'torch': theirs,
}


def apart(part: str, size: str, given: list[str]) -> dict[str, Any]:
  """One part in a process of its own."""
  command = [sys.executable, __file__, *given, f'--part={part}', f'--sizes={size}']
  done = subprocess.run(command, capture_output=True, text=True)
  lines = done.stdout.splitlines()
  if done.returncode == 0:
    return json.loads(lines[-1])
  if any(word in done.stderr for word in ('RESOURCE_EXHAUSTED', 'OutOfMemoryError')):
    return {'out_of_memory': True}
  raise RuntimeError(f'{part} of {size}: {done.stderr[-3000:]}')


def row(options: argparse.Namespace, size: str, found: dict[str, list[dict]]) -> dict[str, Any]:
  """What a size's measurements say; medians over all steps of a library."""
  options = of_size(options, size)
  batch, model = padded_batch(options), our_model(options)
  sizes = argparse.Namespace(
    batch=options.batch, **{name: most for name, (_, most) in options.lengths.items()}
  )
  operations = train_step.hyper_flops(model.downstream.config, model.hypermodel, sizes)
  whole = {
    side: [one for one in measured if 'out_of_memory' not in one]
    for side, measured in found.items()
  }
  middle = lambda side, kind: statistics.median(
    t for one in whole[side] for t in one['times'][kind]
  )
  rates = [2 * options.matmul**3 / middle(side, 'matmul') for side in whole if whole[side]]
  result: dict[str, Any] = {
    'size': size,
    'batch': options.batch,
    'remat': options.remat,
    'tokens': real_tokens(batch),
    'gflop': operations / 1e9,
    'matmul_gflops': max(rates) / 1e9 if rates else None,
    'measured': found,
  }
  for side, measured in whole.items():
    if not measured:
      result[side] = None
      continue
    seconds = middle(side, 'step')
    result[side] = {
      'seconds': seconds,
      'tokens_per_second': result['tokens'] / seconds,
      'share_of_matmul_rate': operations / seconds / max(rates),
      'peak_bytes': max(one['peak_bytes'] or 0 for one in measured) or None,
      'attention': measured[0]['attention'],
    }
  if result['here'] and result['torch']:
    result['ratio'] = result['torch']['seconds'] / result['here']['seconds']
  return result


HEAD = '| size | batch | library | seconds | tokens/s | share of the matmul rate | peak GiB |'


def table(rows: list[dict[str, Any]]) -> str:
  """Markdown."""
  lines = [HEAD, '|---' * 7 + '|']
  for one in rows:
    for side, name in (('here', 'hyperjax'), ('torch', 'transformers (PyTorch)')):
      start = f'| {one["size"]} | {one["batch"]} | {name} | '
      if (own := one[side]) is None:
        lines.append(start + 'out of memory | | | |')
        continue
      peak = '' if own['peak_bytes'] is None else f'{own["peak_bytes"] / 2**30:.1f}'
      lines.append(
        start + f'{own["seconds"]:.3f} | {own["tokens_per_second"]:,.0f} | '
        f'{own["share_of_matmul_rate"]:.2f} | {peak} |'
      )
  return '\n'.join(lines)


def of_size(options: argparse.Namespace, size: str) -> argparse.Namespace:
  result = argparse.Namespace(**vars(options))
  result.size = size
  result.batch = options.batch or BATCH[size]
  result.remat = REMAT.get(size)
  result.lengths = TINY_LENGTHS if options.tiny else LENGTHS
  return result


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sizes', default='small,base,large,xl', help='T5 1.1 presets')
  parser.add_argument('--tiny', action='store_true', help='a size and lengths for any machine')
  parser.add_argument('--batch', type=int, help=f'targets; by default {BATCH}')
  parser.add_argument('--vocab', type=int, default=32128)
  parser.add_argument('--attention', help='as T5Config.attention; by default what fits')
  parser.add_argument('--steps', type=int, default=10, help='that are timed, in each turn')
  parser.add_argument('--turns', type=int, default=2, help='processes of each library and size')
  parser.add_argument('--matmul', type=int, default=8192, help='rows of the matrices')
  parser.add_argument('--compile', type=int, default=1, help='0: without torch.compile')
  parser.add_argument('--output', help='a JSON file')
  parser.add_argument('--part', choices=PARTS, help='only this, in this process')
  given = sys.argv[1:] if arguments is None else arguments
  options = parser.parse_args(given)
  if options.tiny and '--sizes' not in ' '.join(given):
    options.sizes = 'tiny'
  sizes = options.sizes.split(',')
  if options.part:
    print(json.dumps(PARTS[options.part](of_size(options, sizes[0]))))
    return
  same = apart('agreement', sizes[0], given)
  rows = []
  for size in sizes:
    found: dict[str, list[dict[str, Any]]] = {'here': [], 'torch': []}
    for _ in range(options.turns):
      for side, measured in found.items():
        measured.append(apart(side, size, given))
    rows.append(row(options, size, found))
    print(table(rows[-1:]), rows[-1]['here'] and rows[-1]['here']['attention'], flush=True)
  print(table(rows))
  if options.output:
    versions = {module.__name__: module.__version__ for module in (jax, torch, transformers)}
    whole = {'versions': versions, 'losses': same['losses'], 'rows': rows}
    with open(options.output, 'w', encoding='utf-8') as file:
      json.dump(whole, file)


if __name__ == '__main__':
  sys.exit(main())

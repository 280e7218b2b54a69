"""Generation by T5 1.1 on this machine's CPU: ours and transformers', greedy and with 4 beams.

    python benchmarks/generate.py

prints one JSON line. Both have the same weights, in float32, on as many threads as there are cores,
and answer the same batch in turn; no answer ends early (the logits of EOS and of padding are zero,
which is never the best of thousands), and all tokens must be equal. Rates count the tokens of the
answers, one for each row and step whatever the beams, in warm calls from input to output, encoder
included; compiling ours is timed apart. `ratio` is our rate over transformers', the median of the
alternations' own.
"""

import argparse
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
import numpy as np
import torch
import transformers
from flax import linen as nn

from hyperjax import decoding
from hyperjax.convert import huggingface
from hyperjax.models import t5

EOS, LOGIT_SCALE = 1, 4.0  # far apart, so that rounding does not choose between two tokens
Generate = Callable[[], np.ndarray]  # runs to its end; answers [rows, outputs]


def random_params(model: t5.T5) -> dict[str, Any]:
  """Random weights under which EOS and padding are never the best."""
  params = jax.jit(lambda key: nn.unbox(model.init_params(key)))(jax.random.key(0))
  head = params['decoder']['logits_dense']
  head['kernel'] = (LOGIT_SCALE * head['kernel']).at[:, :2].set(0)
  return params


def on_both_sides(model: t5.T5) -> tuple[Any, transformers.T5ForConditionalGeneration]:
  """(our parameters, transformers' model), read from one Hugging Face folder."""
  with tempfile.TemporaryDirectory() as directory:
    huggingface.save(f'{directory}/t5', model, random_params(model))
    _, params = huggingface.load(f'{directory}/t5')
    return params, transformers.T5ForConditionalGeneration.from_pretrained(f'{directory}/t5').eval()


def ours(model: t5.T5, params, tokens, strategy: decoding.Strategy, outputs: int) -> Generate:

  def run() -> np.ndarray:
    found, _ = decoding.generate(model, params, tokens, strategy=strategy, max_length=outputs)
    return np.asarray(found)

  return run


def compilation(model: t5.T5, params, tokens, strategy: decoding.Strategy, outputs: int):
  arguments = model, params, tokens, None, None, strategy, outputs, EOS
  return lambda: decoding.decode.lower(*arguments).compile()


def theirs(model, tokens: np.ndarray, beams: int, outputs: int) -> Generate:
  arguments: dict[str, Any] = {'input_ids': torch.from_numpy(tokens).long(), 'num_beams': beams}
  arguments['attention_mask'] = torch.ones_like(arguments['input_ids'])

  def run() -> np.ndarray:
    with torch.inference_mode():
      found = model.generate(**arguments, max_new_tokens=outputs, do_sample=False)
    return found[:, 1:].numpy()  # without the start token

  return run


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
  start = time.perf_counter()
  result = function()
  return time.perf_counter() - start, result


def cores() -> int:
  """Cores that this process may run on."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def compare(here: Generate, there: Generate, alternations: int) -> dict[str, Any]:
  """Rates and ratios of two ways to the same answers.

  Raises:
    AssertionError: the answers differ, or one of them ended early.
  """
  times: dict[str, list[float]] = {'here': [], 'torch': []}
  expected = there()
  np.testing.assert_array_equal(here(), expected)  # both are warm now
  assert expected.all() and (expected != EOS).all(), 'an answer ended early'
  for _ in range(alternations):
    for name, run in (('here', here), ('torch', there)):
      taken, answers = seconds(run)
      times[name].append(taken)
      np.testing.assert_array_equal(answers, expected)
  median = {name: statistics.median(values) for name, values in times.items()}
  ratios = [b / a for a, b in zip(times['here'], times['torch'], strict=True)]
  return {
    'tokens_per_second': expected.size / median['here'],
    'torch_tokens_per_second': expected.size / median['torch'],
    'ratio': statistics.median(ratios),
    'ratios': ratios,
    'times': times,
  }


def measure(sizes: argparse.Namespace) -> dict[str, Any]:
  """Everything that the JSON line says."""
  torch.set_num_threads(cores())
  model = t5.T5(t5.preset(sizes.size, vocab_size=sizes.vocab))
  params, torch_model = on_both_sides(model)
  shape = sizes.batch, sizes.inputs
  tokens = np.random.default_rng(0).integers(3, sizes.vocab, shape, np.int32)
  line: dict[str, Any] = {**vars(sizes), 'cores': cores()}
  line['versions'] = {module.__name__: module.__version__ for module in (jax, torch, transformers)}
  for name, strategy in (('greedy', decoding.GREEDY), ('beam', decoding.Beam(sizes.beams))):
    case = model, params, tokens, strategy, sizes.outputs
    taken, _ = seconds(compilation(*case))
    there = theirs(torch_model, tokens, strategy.width, sizes.outputs)
    line[name] = {'compile_seconds': taken} | compare(ours(*case), there, sizes.alternations)
  return line


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--size', default='small', help='a T5 1.1 preset')
  parser.add_argument('--vocab', type=int, default=32128)
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--inputs', type=int, default=128, help='encoder tokens')
  parser.add_argument('--outputs', type=int, default=32, help='tokens of an answer')
  parser.add_argument('--beams', type=int, default=4)
  parser.add_argument('--alternations', type=int, default=7)
  print(json.dumps(measure(parser.parse_args(arguments))))


if __name__ == '__main__':
  sys.exit(main())

"""Decoding: answers of a T5 under phi, token by token with a cache, and scores of given answers.

b batch, c contexts, s input length, t output length, v vocabulary, w beams of a row (innermost),
k candidates of a row (2 w). Beam search is that of Hugging Face transformers 5
(generation/utils.py, `_beam_search`), token for token.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hyperjax import peft
from hyperjax.errors import InputError
from hyperjax.models import t5, transformer

Read = Callable[[jax.Array, transformer.Cache, jax.Array], tuple[jax.Array, transformer.Cache]]
"""(last tokens [rows], cache, mask of its columns) -> (logits of the next ones [rows v], cache)."""


# -- Which token comes next -----------------------------------------------------------------------


@runtime_checkable
class Strategy(Protocol):
  """How answers are searched for; `width` rows are decoded for each answer."""

  @property
  def width(self) -> int: ...

  def search(
    self, read: Read, cache: transformer.Cache, rows: int, length: int, eos_id: int, rng: Any
  ) -> tuple[Int[Array, 'b t'], Float[Array, ' b'], Int[Array, '']]:
    """(tokens, scores, steps made) of `rows` answers of up to `length` tokens."""
    ...


@dataclasses.dataclass(frozen=True)
class Greedy:
  """The most probable token each time; the score is the answer's log-probability."""

  width = 1

  def search(self, read, cache, rows, length, eos_id, rng):
    def choose(logits, step):
      return largest(logits, 1)[1][:, 0]

    return _one_by_one(read, cache, rows, length, eos_id, choose)


GREEDY = Greedy()


@dataclasses.dataclass(frozen=True)
class Sampling:
  """A token at random, from the `top_k` most probable and the fewest that hold `top_p` together.

  None: no such limit. Temperature divides the logits first. The score is the answer's
  log-probability under the model itself. A row's draws do not depend on the other rows.
  """

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None

  width = 1

  def __post_init__(self):
    if not self.temperature > 0:
      raise InputError(f'Sampling.temperature is {self.temperature}; give one above 0, or Greedy()')
    if self.top_k is not None and self.top_k < 1:
      raise InputError(f'Sampling.top_k is {self.top_k}; give 1 or more, or None')
    if self.top_p is not None and not 0 < self.top_p <= 1:
      raise InputError(f'Sampling.top_p is {self.top_p}; give a probability in (0, 1], or None')

  def search(self, read, cache, rows, length, eos_id, rng):
    if rng is None:
      raise InputError('Sampling needs rng: give jax.random.key(seed)')
    keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(rows))

    def choose(logits, step):
      now = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
      return jax.vmap(jax.random.categorical)(now, self.limited(logits / self.temperature))

    return _one_by_one(read, cache, rows, length, eos_id, choose)

  def limited(self, logits: Float[Array, 'b v']) -> Float[Array, 'b v']:
    """The logits with -inf where a token is out of the limits; one at least stays."""
    if self.top_k is not None and self.top_k < logits.shape[-1]:
      least = jax.lax.top_k(logits, self.top_k)[0][:, -1:]
      logits = jnp.where(logits < least, -jnp.inf, logits)
    if self.top_p is not None:
      ordered = -jnp.sort(-logits, axis=-1)
      probs = jax.nn.softmax(ordered)
      kept = jnp.cumsum(probs, axis=-1) - probs < self.top_p  # what comes before holds less than p
      least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
      logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


@dataclasses.dataclass(frozen=True)
class Beam:
  """Beam search; the score is log-probability / length ** length_penalty, EOS counted.

  early_stopping: True ends a row when it has `width` answers. False ends it when its best beam,
  scored at its present length, is no better than the worst of them; 'never' supposes that the beam
  grows to the full length.
  """

  width: int = 4
  length_penalty: float = 1.0
  early_stopping: bool | str = False

  def __post_init__(self):
    if self.width < 1:
      raise InputError(f'Beam.width is {self.width}; give 1 or more')
    if self.early_stopping not in (True, False, 'never'):
      raise InputError(f"Beam.early_stopping is {self.early_stopping!r}; True, False or 'never'")

  def search(self, read, cache, rows, length, eos_id, rng):
    state = _Beams.start(cache, rows, self.width, length)
    body = functools.partial(_beam_step, self, read, eos_id)
    state = jax.lax.while_loop(lambda s: s.goes_on(self), body, state)
    return state.answers[:, 0], state.answer_scores[:, 0], state.step


CHUNK = 128


def largest(x: Float[Array, '*b v'], k: int) -> tuple[Float[Array, '*b k'], Int[Array, '*b k']]:
  """The k largest of the last axis, best first, and their places: jax.lax.top_k, but faster.

  They are in the k chunks whose own largest are the largest. On CPUs XLA takes a maximum several
  times faster than it searches a vocabulary with top_k or argmax.
  """
  chunks = -(-x.shape[-1] // CHUNK)
  if chunks <= k:
    values, places = jax.lax.top_k(x, k)
    return values, places
  missing = [(0, 0)] * (x.ndim - 1) + [(0, chunks * CHUNK - x.shape[-1])]
  x = jnp.pad(x, missing, constant_values=-jnp.inf).reshape(*x.shape[:-1], chunks, CHUNK)
  _, chosen = jax.lax.top_k(x.max(axis=-1), k)
  few = jnp.take_along_axis(x, chosen[..., None], axis=-2)
  values, place = jax.lax.top_k(few.reshape(*few.shape[:-2], k * CHUNK), k)
  chunk = jnp.take_along_axis(chosen, place // CHUNK, axis=-1)
  return values, chunk * CHUNK + place % CHUNK


# -- Generation -----------------------------------------------------------------------------------


def generate(
  model: t5.T5,
  params: dict[str, Any],
  encoder_input_tokens: Int[Any, 'b s'],
  phi: peft.Phi | None = None,
  strategy: Strategy = GREEDY,
  *,
  max_length: int,
  eos_id: int = 1,
  rng: jax.Array | None = None,
) -> tuple[Int[Array, 'b t'], Float[Array, ' b']]:
  """Answers of up to `max_length` tokens, EOS included and 0 behind it, and their scores.

  One compiled loop for the batch, which ends when every row has. Each row's input is read once,
  whatever the beams.

  Args:
    params: the downstream model's parameters.
    encoder_input_tokens: 0 pads, and is not seen.
    phi: row i is answered under context i // (b / c), per leaf.
  """
  if max_length < 1:
    raise InputError(f'max_length is {max_length}; give 1 or more tokens')
  peft.check(phi, model.config, encoder_input_tokens.shape[0])
  tokens, scores, _ = decode(
    model, params, encoder_input_tokens, phi, rng, strategy, max_length, eos_id
  )
  return tokens, scores


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7))
def decode(model, params, encoder_input_tokens, phi, rng, strategy, max_length, eos_id):
  """`generate` without its checks; also gives the number of steps made."""
  b = encoder_input_tokens.shape[0]
  run = functools.partial(model.apply, {'params': params})
  memory = _encode(run, encoder_input_tokens, phi)
  stack = model.config.stack('decoder')
  layers = params['decoder']['layers']
  apart = transformer.take_apart(layers, peft.attribute(phi, 'decoder'), stack.num_layers)
  cache = _cache(run, stack, memory, b, max_length * strategy.width, apart)

  def read(last, cache, mask):
    return run(last[:, None], memory, cache, mask, apart, method=_next)

  return strategy.search(read, cache, b, max_length, eos_id, rng)


def _encode(run, tokens, phi: peft.Phi | None) -> peft.Memory:
  memory = run(tokens, peft.attribute(phi, 'encoder'), method='encode')
  return t5.join_memory(memory, peft.attribute(phi, 'memory'))


def _next(model: t5.T5, last, memory, cache, mask, apart):
  hidden, cache, _ = model.read(last, memory, mask, cache, apart=apart)
  return model.to_logits(hidden)[:, 0], cache


def _cache(run, stack, memory: peft.Memory, rows: int, columns: int, apart) -> transformer.Cache:
  """Room for `columns` columns of each row, and the keys and values of the memory.

  Of the read that computes those XLA keeps nothing else.
  """
  c = memory.mask.shape[0]
  one = transformer.empty_cache(stack, c, 1)
  start = jnp.zeros((c, 1), jnp.int32)
  _, filled, _ = run(start, memory, t5.cached_mask(one, 1), one, apart=apart, method='read')
  empty = transformer.empty_cache(stack, rows, columns)
  both = zip(empty.layers, filled.layers)
  layers = [dataclasses.replace(own, cross_attention=read.cross_attention) for own, read in both]
  return dataclasses.replace(empty, layers=tuple(layers))


# -- Greedy and sampling --------------------------------------------------------------------------


def _one_by_one(read: Read, cache, rows: int, length: int, eos_id: int, choose):
  """One token a step for each row, `choose(logits, step)`, until all rows have ended."""

  def goes_on(state):
    step, _, _, _, ended, _ = state
    return (step < length) & ~jnp.all(ended)

  def body(state):
    step, last, tokens, scores, ended, cache = state
    logits, cache = read(last, cache, t5.cached_mask(cache, 1))
    token = jnp.where(ended, 0, choose(logits, step)).astype(jnp.int32)
    gained = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    gained -= jax.nn.logsumexp(logits, axis=-1)
    tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[:, None], step, axis=1)
    scores = scores + jnp.where(ended, 0, gained)
    return step + 1, token, tokens, scores, ended | (token == eos_id), cache

  start = jnp.zeros(rows, jnp.int32)
  tokens, ended = jnp.zeros((rows, length), jnp.int32), jnp.zeros(rows, bool)
  state = (jnp.int32(0), start, tokens, jnp.zeros(rows), ended, cache)
  step, _, tokens, scores, _, _ = jax.lax.while_loop(goes_on, body, state)
  return tokens, scores, step


# -- Beam search ----------------------------------------------------------------------------------

_NEVER = -1e9  # finite as in transformers: sums of it stay comparable


@peft.pytree
class _Beams:
  """Open beams and the best answers so far, best first; a row that is closed takes no more.

  The beams of a row share its cache, and stay where they were written: `seen` says which columns
  are those of a beam's own past.
  """

  step: Any
  beams: Any  # b w t
  seen: Any  # b w t w, bool
  beam_scores: Any  # b w: log-probability
  answers: Any  # b w t
  answer_scores: Any  # b w: with the length penalty
  answered: Any  # b w, bool: whether there is one yet
  closed: Any  # b, bool
  cache: Any

  @classmethod
  def start(cls, cache: transformer.Cache, rows: int, width: int, length: int) -> '_Beams':
    """Only the first beam counts: the others would repeat it."""
    tokens = jnp.zeros((rows, width, length), jnp.int32)
    scores = jnp.full((rows, width), _NEVER, jnp.float32)
    none = jnp.zeros((rows, width), bool)
    first, closed = scores.at[:, 0].set(0), jnp.zeros(rows, bool)
    seen = jnp.zeros((rows, width, length, width), bool)
    return cls(jnp.int32(0), tokens, seen, first, tokens, scores, none, closed, cache)

  def full(self, strategy: Beam) -> Bool[Array, ' b']:
    """Rows that have all their answers, where that is the end."""
    return jnp.all(self.answered, axis=1) & (strategy.early_stopping is True)

  def goes_on(self, strategy: Beam) -> Bool[Array, '']:
    done = self.closed | self.full(strategy)
    return (self.step < self.beams.shape[-1]) & ~jnp.all(done)


def _beam_step(strategy: Beam, read: Read, eos_id: int, state: _Beams) -> _Beams:
  b, w, length = state.beams.shape
  step = state.step
  last = jax.lax.dynamic_index_in_dim(state.beams, jnp.maximum(step - 1, 0), 2, keepdims=False)
  seen = state.seen.at[:, :, step].set(jnp.eye(w, dtype=bool))
  mask = seen.reshape(b * w, 1, length * w)
  logits, cache = read(last.reshape(b * w), state.cache, mask)
  scores, parents, tokens = _candidates(logits.reshape(b, w, -1), state.beam_scores)
  grown = _of_rows(state.beams, parents)
  grown = jax.lax.dynamic_update_slice_in_dim(grown, tokens[..., None], step, axis=2)
  ends = (tokens == eos_id) | (step + 1 == length)

  beam_scores, picked = jax.lax.top_k(scores + ends * _NEVER, w)

  # Candidates behind the first w are there only so that w beams stay open.
  taken = ends & (jnp.arange(2 * w) < w)[None, :]
  refused = state.closed | state.full(strategy)
  penalised = scores / (step + 1).astype(jnp.float32) ** strategy.length_penalty
  penalised = penalised + (refused[:, None] | ~taken) * _NEVER
  answer_scores, best = jax.lax.top_k(_beside(state.answer_scores, penalised), w)
  answered = _of_rows(_beside(state.answered, taken), best)
  hope = _may_improve(strategy, beam_scores, answer_scores, answered, step + 1, length)
  return _Beams(
    step=step + 1,
    beams=_of_rows(grown, picked),
    seen=_of_rows(seen, _of_rows(parents, picked)),
    beam_scores=beam_scores,
    answers=_of_rows(_beside(state.answers, grown), best),
    answer_scores=answer_scores,
    answered=answered,
    closed=state.closed | ~hope,
    cache=cache,
  )


def _candidates(logits: Float[Array, 'b w v'], beam_scores: Float[Array, 'b w']):
  """The 2 w best continuations of each row: scores, parents and tokens, [b k] each.

  They are among the 2 w best of each beam, so only those are normalised.
  """
  b, w, v = logits.shape
  best, tokens = largest(logits, min(2 * w, v))
  scores = best + (beam_scores - jax.nn.logsumexp(logits, axis=-1))[..., None]
  scores, index = jax.lax.top_k(scores.reshape(b, -1), 2 * w)
  return scores, index // best.shape[-1], _of_rows(tokens.reshape(b, -1), index)


def _may_improve(strategy: Beam, beam_scores, answer_scores, answered, made, length: int):
  """Whether the best open beam of a row may still beat the worst of its answers, [b]."""
  hopeful = strategy.early_stopping == 'never' and strategy.length_penalty > 0
  reached = jnp.float32(length) if hopeful else made.astype(jnp.float32)
  possible = beam_scores[:, 0] / reached**strategy.length_penalty
  worst = jnp.where(jnp.all(answered, axis=1), jnp.min(answer_scores, axis=1), _NEVER)
  return possible > worst


def _of_rows(x: jax.Array, index: Int[Array, 'b k']) -> jax.Array:
  """x[i, index[i]] for every row i."""
  return jax.vmap(lambda row, i: row[i])(x, index)


def _beside(x: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.concatenate([x, y], axis=1)


# -- Scores of given answers ----------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0, static_argnames='mean')
def score(
  model: t5.T5,
  params: dict[str, Any],
  encoder_input_tokens: Int[Any, 'b s'],
  targets: Int[Any, 'a t'],
  phi: peft.Phi | None = None,
  *,
  mean: bool = False,
) -> Float[Array, ' a']:
  """Log-probability of each target, EOS included where it is there; `mean`: per token.

  Rank classification: the choices of a row are contiguous, row i // (a / b) of the inputs is the
  question of target i, and is read once. 0 pads targets.
  """
  run = functools.partial(model.apply, {'params': params})
  peft.check(phi, model.config, encoder_input_tokens.shape[0])
  targets = jnp.asarray(targets)
  memory = _encode(run, encoder_input_tokens, phi)
  shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
  causal = jnp.tril(jnp.ones((1, targets.shape[1], targets.shape[1]), bool))
  phi = peft.attribute(phi, 'decoder')
  hidden, _, _ = run(shifted, memory, causal, phi=phi, method='read')
  log_probs = jax.nn.log_softmax(run(hidden, method='to_logits'))
  each = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
  real = targets > 0
  total = jnp.sum(jnp.where(real, each, 0), axis=1)
  return total / jnp.maximum(real.sum(axis=1), 1) if mean else total


# -- Many inputs, few shapes ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shapes:
  """The sizes that batches are padded to, in rising order: each pair is compiled once."""

  rows: tuple[int, ...]
  lengths: tuple[int, ...]

  def __post_init__(self):
    for name in ('rows', 'lengths'):
      sizes = getattr(self, name)
      if not sizes or min(sizes) < 1 or list(sizes) != sorted(sizes):
        raise InputError(f'Shapes.{name} is {sizes}; give sizes of at least 1 in rising order')

  @classmethod
  def up_to(cls, rows: int, length: int) -> 'Shapes':
    """Up to `rows` rows (1, 8, 16, 32, …) of up to `length` tokens (16, 32, 64, …)."""
    powers = [2**i for i in range(3, 31)]
    return cls(
      (*(n for n in (1, *powers) if n < rows), rows),
      (*(n for n in powers[1:] if n < length), length),
    )

  def padded(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Tokens [rows, length] of the smallest sizes that hold the inputs.

    A longer input keeps its tail. The rows behind the last input repeat it, so that they end when
    it does.
    """
    longest = min(max(map(len, inputs)), self.lengths[-1])
    length = min(n for n in self.lengths if n >= longest)
    tokens = np.zeros((min(n for n in self.rows if n >= len(inputs)), length), np.int32)
    for row, each in zip(tokens, inputs):
      kept = each[max(0, len(each) - length) :]
      row[: len(kept)] = kept
    tokens[len(inputs) :] = tokens[len(inputs) - 1]
    return tokens


def answers(
  model: t5.T5,
  params: dict[str, Any],
  inputs: Sequence[np.ndarray],
  shapes: Shapes,
  phi: peft.Phi | None = None,
  strategy: Strategy = GREEDY,
  *,
  max_length: int,
  eos_id: int = 1,
  rng: jax.Array | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """`generate` for any number of inputs under one context: tokens [n, t] and scores [n].

  Inputs of like length are answered together, in batches of `shapes`. A phi of several contexts has
  one for each input; they are answered in one batch.
  """
  tokens = np.zeros((len(inputs), max_length), np.int32)
  scores = np.zeros(len(inputs), np.float32)
  shapes, batches = _batches(inputs, shapes, phi)
  for number, index in enumerate(batches):
    key = None if rng is None else jax.random.fold_in(rng, number)
    padded = shapes.padded([inputs[i] for i in index])
    found = generate(
      model, params, padded, phi, strategy, max_length=max_length, eos_id=eos_id, rng=key
    )
    tokens[index], scores[index] = (np.asarray(each)[: len(index)] for each in found)
  return tokens, scores


def rank(
  model: t5.T5,
  params: dict[str, Any],
  inputs: Sequence[np.ndarray],
  options: Sequence[Sequence[np.ndarray]],
  shapes: Shapes,
  phi: peft.Phi | None = None,
  *,
  mean: bool = False,
) -> list[np.ndarray]:
  """`score` of the options of any number of inputs: for each input, of each of its options.

  `shapes.rows` counts options. Under one context, or under one for each input; see `answers`.
  """
  widest = max(map(len, options), default=1)
  scores = np.zeros((len(inputs), widest), np.float32)
  shapes = dataclasses.replace(shapes, rows=(max(1, shapes.rows[-1] // widest),))
  shapes, batches = _batches(inputs, shapes, phi)
  for index in batches:
    padded = shapes.padded([inputs[i] for i in index])
    flat = [tokens for i in index for tokens in _filled(options[i], widest)]
    flat += flat[-widest:] * (len(padded) - len(index))
    targets = Shapes.up_to(len(flat), 8 * -(-max(map(len, flat)) // 8)).padded(flat)
    found = score(model, params, padded, targets, phi, mean=mean)
    scores[index] = np.asarray(found).reshape(len(padded), widest)[: len(index)]
  return [own[: len(each)] for own, each in zip(scores, options, strict=True)]


def _filled(options: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
  return [*options, *[options[-1]] * (count - len(options))]


def _batches(
  inputs: Sequence[np.ndarray], shapes: Shapes, phi: peft.Phi | None
) -> tuple[Shapes, Iterator[np.ndarray]]:
  """Which inputs go together, and in which shapes."""
  contexts = 1 if phi is None else peft.num_contexts(phi)
  if contexts > 1:
    if contexts != len(inputs):
      raise InputError(f'phi has {contexts} contexts for {len(inputs)} inputs; expected as many')
    return dataclasses.replace(shapes, rows=(contexts,)), iter([np.arange(contexts)])
  rows, order = shapes.rows[-1], np.argsort([len(each) for each in inputs], kind='stable')
  return shapes, (order[start : start + rows] for start in range(0, len(order), rows))

"""T5: an encoder stack and a decoder stack.

b batch, c contexts, t and s lengths, d model, v vocabulary. Parameter names and 2-D kernels are
T5X's, with the layers stacked on axis 0: encoder/layers/attention/query/kernel is [l, d, n h].
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from hyperjax import peft
from hyperjax.errors import InputError
from hyperjax.models import attention, layers, transformer

DTYPES = ('float32', 'bfloat16', 'float16')


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes of a T5, in T5X's words. The defaults are T5 1.1's (gated GELU, untied logits)."""

  vocab_size: int
  emb_dim: int
  num_heads: int
  num_encoder_layers: int
  num_decoder_layers: int
  head_dim: int
  mlp_dim: int
  mlp_activations: Sequence[str] = ('gelu', 'linear')
  dropout_rate: float = 0.0
  logits_via_embedding: bool = False
  relpos_buckets: int = 32
  relpos_max_distance: int = 128
  # The decoder's position buckets; False is T5's and goes with pretrained weights, also where the
  # causal mask is off.
  decoder_bidirectional: bool = False
  dtype: str = 'float32'  # of activations; master weights are float32
  remat: str | None = None
  # What computes attention, a name in attention.KERNELS; of the machine, so not in model.json.
  attention: str | None = dataclasses.field(default=None, metadata={'recorded': False})

  def __post_init__(self):
    object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))
    sizes = ('vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim')
    stacks = ('num_encoder_layers', 'num_decoder_layers', 'relpos_buckets', 'relpos_max_distance')
    for name in (*sizes, *stacks):
      if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
        raise InputError(f'T5Config.{name} is {getattr(self, name)!r}; give a whole number above 0')
    if self.relpos_buckets < 4:
      raise InputError(f'T5Config.relpos_buckets is {self.relpos_buckets}; give at least 4')
    if self.relpos_max_distance <= self.relpos_buckets // 2:
      raise InputError(
        f'T5Config.relpos_max_distance is {self.relpos_max_distance}; give more than half of the '
        f'{self.relpos_buckets} relpos_buckets'
      )
    unknown = [a for a in self.mlp_activations if a not in layers.ACTIVATIONS]
    if unknown or len(self.mlp_activations) not in (1, 2):
      raise InputError(
        f'T5Config.mlp_activations is {self.mlp_activations}; give one, or two for a gated MLP, '
        f'of {sorted(layers.ACTIVATIONS)}'
      )
    if self.remat is not None and self.remat not in transformer.REMAT_POLICIES:
      known = sorted(transformer.REMAT_POLICIES)
      raise InputError(f'T5Config.remat is {self.remat!r}; give None or one of {known}')
    if self.attention is not None and self.attention not in attention.KERNELS:
      known = sorted(attention.KERNELS)
      raise InputError(f'T5Config.attention is {self.attention!r}; give None or one of {known}')
    if self.dtype not in DTYPES:
      raise InputError(f'T5Config.dtype is {self.dtype!r}; give one of {", ".join(DTYPES)}')
    if not 0 <= self.dropout_rate < 1:
      raise InputError(f'T5Config.dropout_rate is {self.dropout_rate}; give a rate in [0, 1)')

  def stack(self, name: str) -> transformer.StackConfig | None:
    """The config of 'encoder' or 'decoder'."""
    if name not in ('encoder', 'decoder'):
      return None
    decoder = name == 'decoder'
    return transformer.StackConfig(
      num_layers=self.num_decoder_layers if decoder else self.num_encoder_layers,
      emb_dim=self.emb_dim,
      num_heads=self.num_heads,
      num_kv_heads=self.num_heads,
      head_dim=self.head_dim,
      mlp_dim=self.mlp_dim,
      mlp_activations=tuple(self.mlp_activations),
      cross_attention=decoder,
      positions=transformer.RelativePositions(
        self.decoder_bidirectional if decoder else True,
        self.relpos_buckets,
        self.relpos_max_distance,
      ),
      dropout_rate=self.dropout_rate,
      dtype=jnp.dtype(self.dtype),
      remat=self.remat,
      attention=self.attention,
    )


class T5(nn.Module):
  """An encoder-decoder language model that takes phi as an argument.

  Dropout acts where apply() is given a 'dropout' rng.
  """

  config: T5Config

  def setup(self):
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)
    self.token_embedder = layers.Embed(cfg.vocab_size, cfg.emb_dim, dtype)
    self.encoder = transformer.Stack(cfg.stack('encoder'), 'encoder')
    logits = None if cfg.logits_via_embedding else cfg.vocab_size
    self.decoder = transformer.Stack(cfg.stack('decoder'), 'decoder', logits)

  def __call__(self, batch: dict[str, Any], phi: peft.Phi | None = None) -> Float[Array, 'b t v']:
    """Teacher-forced logits (float32).

    Args:
      batch: encoder_input_tokens [b, s] and decoder_input_tokens [b, t]; 0 pads.
      phi: applied to row i from context i // (b / c), per leaf.
    """
    tokens = batch['decoder_input_tokens']
    peft.check(phi, self.config, tokens.shape[0])
    memory = self.encode(batch['encoder_input_tokens'], peft.attribute(phi, 'encoder'))
    memory = join_memory(memory, peft.attribute(phi, 'memory'))
    causal = jnp.tril(jnp.ones((1, tokens.shape[1], tokens.shape[1]), bool))
    if 'decoder_target_tokens' in batch:  # padded targets see nothing and are not seen, as in T5X
      real = batch['decoder_target_tokens'] > 0
      causal = causal & real[:, None, :] & real[:, :, None]
    hidden, _, _ = self.read(tokens, memory, causal, phi=peft.attribute(phi, 'decoder'))
    return self.to_logits(hidden)

  def encode(self, tokens: Int[Array, 'b s'], phi: peft.LayerPhi | None = None) -> peft.Memory:
    """Encodes tokens; 0 pads and is not seen."""
    mask = tokens > 0
    real = mask[:, None, :] & mask[:, :, None]
    hidden, _, _ = self.encoder(self.token_embedder(tokens), real, phi=phi)
    return peft.Memory(hidden, mask)

  def read(
    self,
    inputs: Int[Array, 'b t'] | Float[Array, 'b t d'],
    memory: peft.Memory,
    mask: Bool[Array, '#b #t _'] | None = None,
    cache: transformer.Cache | None = None,
    keep: tuple[int, int] | None = None,
    phi: peft.LayerPhi | None = None,
    apart: tuple[transformer.Layer, ...] | None = None,
  ) -> tuple[Float[Array, 'b t d'], transformer.Cache | None, transformer.KeyValue | None]:
    """Runs the decoder over tokens, or over queries that are embeddings already.

    Args:
      memory: c rows that divide b; row i of the batch reads memory i // (b / c).
      mask: which columns each position sees. None: all of them, without causality. With a cache:
        of the cache's columns, see `cached_mask`.
      cache, keep, apart: see transformer.Stack.
    """
    tokens = jnp.issubdtype(inputs.dtype, jnp.integer)
    x = self.token_embedder(inputs) if tokens else inputs.astype(jnp.dtype(self.config.dtype))
    return self.decoder(x, mask, memory, phi, cache, keep, apart)

  def to_logits(self, hidden: Float[Array, 'b t d']) -> Float[Array, 'b t v']:
    """Logits in float32; tied ones are divided by sqrt(d)."""
    if self.config.logits_via_embedding:
      logits = self.token_embedder.attend(hidden) / jnp.sqrt(self.config.emb_dim).astype(
        hidden.dtype
      )
    else:
      logits = self.decoder.logits(hidden)
    logits = nn.with_logical_constraint(logits, ('batch', 'length', 'vocab'))
    return logits.astype(jnp.float32)

  @nn.nowrap
  def init_params(self, key: jax.Array):
    """Parameters at random, boxed with their logical axes."""
    token = jnp.ones((1, 1), jnp.int32)
    batch = {'encoder_input_tokens': token, 'decoder_input_tokens': token}
    return self.init(key, batch)['params']

  @nn.nowrap
  def logits(self, params, batch, phi=None, rngs=None) -> jax.Array:
    """protocols.Downstream: logits of params['downstream']."""
    return self.apply({'params': params['downstream']}, batch, phi, rngs=rngs)


def join_memory(memory: peft.Memory, context: peft.Memory | None) -> peft.Memory:
  """The encoder's output with an encoded context behind it, for the decoder to attend to both.

  The result has as many rows as the finer of the two; T5's cross-attention has no positions.
  """
  if context is None:
    return memory
  rows = max(memory.states.shape[0], context.states.shape[0])
  wide = lambda x: jnp.repeat(x, rows // x.shape[0], axis=0)
  states = [wide(memory.states), wide(context.states).astype(memory.states.dtype)]
  masks = [wide(memory.mask), wide(context.mask)]
  return peft.Memory(jnp.concatenate(states, axis=1), jnp.concatenate(masks, axis=1))


def cached_mask(cache: transformer.Cache, length: int) -> Bool[Array, '1 t s']:
  """Causality over a cache's columns for the next `length` positions of its own rows."""
  columns = cache.layers[0].self_attention.key.shape[2]
  positions = cache.length + jnp.arange(length)
  return (jnp.arange(columns)[None, :] <= positions[:, None])[None]


# Public T5 1.1 sizes (T5X examples/t5/t5_1_1/*.gin), and small ones for the demo and tests.
_SIZES = {
  'tiny': (128, 4, 32, 256, 2),
  'small': (512, 6, 64, 1024, 8),
  'base': (768, 12, 64, 2048, 12),
  'large': (1024, 16, 64, 2816, 24),
  'xl': (2048, 32, 64, 5120, 24),
  'xxl': (4096, 64, 64, 10240, 24),
}


def preset(size: str, vocab_size: int = 32128, **changes) -> T5Config:
  """T5 1.1 of a public size: small, base, large, xl, xxl (and tiny, which is ours).

  FLAN-T5 and the LM-adapted checkpoints have these sizes too. `changes` replaces any field.
  """
  if size not in _SIZES:
    raise InputError(f'no T5 size {size!r}; give one of {", ".join(_SIZES)}')
  emb_dim, num_heads, head_dim, mlp_dim, num_layers = _SIZES[size]
  config = T5Config(vocab_size, emb_dim, num_heads, num_layers, num_layers, head_dim, mlp_dim)
  return dataclasses.replace(config, **changes)


def preset_1_0(size: str, vocab_size: int = 32128, **changes) -> T5Config:
  """T5 1.0 (ReLU, tied logits) of a public size: small, base, large, 3b, 11b."""
  sizes = {
    'small': (512, 8, 64, 2048, 6),
    'base': (768, 12, 64, 3072, 12),
    'large': (1024, 16, 64, 4096, 24),
    '3b': (1024, 32, 128, 16384, 24),
    '11b': (1024, 128, 128, 65536, 24),
  }
  if size not in sizes:
    raise InputError(f'no T5 1.0 size {size!r}; give one of {", ".join(sizes)}')
  emb_dim, num_heads, head_dim, mlp_dim, num_layers = sizes[size]
  config = T5Config(
    vocab_size,
    emb_dim,
    num_heads,
    num_layers,
    num_layers,
    head_dim,
    mlp_dim,
    mlp_activations=('relu',),
    logits_via_embedding=True,
  )
  return dataclasses.replace(config, **changes)

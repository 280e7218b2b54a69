"""Heads: hidden states in, the leaves of phi out.

c contexts, p prefix length, q queries, d model, m hidden, l layers, k heads, h head dim, r rank.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Float

from hyperjax import peft
from hyperjax.errors import InputError
from hyperjax.models import transformer


class Hidden(nn.Module):
  """LayerNorm, Dense, tanh: the first half of every head (HyperTuning, Figures 7 and 8)."""

  features: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'c q d']) -> Float[Array, 'c q m']:
    if self.features < 1:
      raise InputError(
        f'the hidden width of heads is {self.features}; give hidden=None or 1 or more'
      )
    x = nn.LayerNorm(
      dtype=self.dtype,
      scale_init=nn.with_logical_partitioning(nn.initializers.ones, ('embed',)),
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ('embed',)),
      name='norm',
    )(x)
    init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ('embed', 'mlp'))
    x = nn.Dense(self.features, use_bias=False, dtype=self.dtype, kernel_init=init, name='wi')(x)
    # Whole on each device: XLA leaves out an all-reduce in the gradient of two kernels on end that
    # are both split over embed and over a model axis, beside rows (openxla/xla#40034).
    rows = None if len(x) == 1 else 'contexts'
    return nn.with_logical_constraint(jnp.tanh(x), (rows, 'length', None))


class PrefixHead(nn.Module):
  """Writes the prefix of every layer of one stack from p states, or p learned embeddings.

  It is the last part of HyperT5-Prefix and, over learned embeddings, the reparameterisation MLP of
  prefix tuning. Keys and values have a head each, whose last kernel is [l, m, k h], small at the
  start so that the adapted model starts near the base.
  """

  stack: transformer.StackConfig
  hidden: int
  dtype: Dtype = jnp.float32
  scale: float = 0.1  # of keys and values at the start, per element

  @nn.compact
  def __call__(self, states: Float[Array, 'c p d']) -> peft.LayerPhi:
    s = self.stack

    def leaf(name):
      hidden = Hidden(self.hidden, self.dtype, name=f'{name}_hidden')(states)
      init = nn.initializers.normal(self.scale / self.hidden**0.5)
      init = nn.with_logical_partitioning(init, ('layers', 'embed', 'joined_kv'))
      shape = (s.num_layers, self.hidden, s.num_kv_heads * s.head_dim)
      kernel = self.param(f'{name}_kernel', init, shape, jnp.float32)
      y = jnp.einsum('cpm,lmf->lcpf', hidden, kernel.astype(hidden.dtype))
      return y.reshape(*y.shape[:-1], s.num_kv_heads, s.head_dim)

    return peft.LayerPhi(peft.AttentionPhi(peft.Prefix(leaf('key'), leaf('value'))))


class LoRAHead(nn.Module):
  """Writes the factors of one linear map in every layer, from one state per layer.

  tanh(gate[l]) multiplies one factor. Gates start at zero and the factors do not, so the adapted
  model starts as the base, and the first step already moves the gates.
  """

  features: tuple[int, int]  # in, out
  rank: int
  scale: float
  hidden: int
  axes: tuple[str, str] = ('embed', 'joined_kv')
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, states: Float[Array, 'c l d']) -> peft.LowRank:
    hidden = Hidden(self.hidden, self.dtype, name='hidden')(states)

    def factor(name, features, axis, size):
      init = nn.initializers.normal(size / self.hidden**0.5)
      inner = 'mlp' if axis == 'embed' else 'embed'  # a name may occur once only
      init = nn.with_logical_partitioning(init, (inner, 'rank', axis))
      kernel = self.param(name, init, (self.hidden, self.rank, features), jnp.float32)
      return jnp.einsum('clm,mrf->lcrf', hidden, kernel.astype(hidden.dtype))

    d, f = self.features
    # x has elements of order 1, so x @ a has, and (x @ a) @ b is of the order of the gate.
    a = factor('a', d, self.axes[0], d**-0.5)
    b = factor('b', f, self.axes[1], self.rank**-0.5)
    init = nn.with_logical_partitioning(nn.initializers.zeros, ('layers',))
    gate = jnp.tanh(self.param('gate', init, (states.shape[1],), jnp.float32))
    gate = (gate * self.scale)[:, None, None, None].astype(b.dtype)
    return peft.LowRank(jnp.swapaxes(a, -1, -2), b * gate)


def lora_head(model: peft.ModelShape, site: str, lora: peft.LoRA, hidden: int, **kw: Any):
  """The LoRAHead for a site such as `encoder/attention/query`."""
  _, d, f = peft.linear_shape(model, site)
  wide = {'query': 'joined_kv', 'key': 'joined_kv', 'value': 'joined_kv', 'out': 'joined_kv'}
  inner = wide.get(site.rsplit('/', 1)[1], 'mlp')
  outward = site.endswith(('out', 'wo'))
  axes = (inner, 'embed') if outward else ('embed', inner)
  return LoRAHead((d, f), lora.rank, lora.scale, hidden, axes, **kw)

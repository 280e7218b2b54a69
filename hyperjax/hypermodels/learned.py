"""LearnedPhi: the hypermodel that ignores its context; phi itself is what trains.

Shared prefixes and LoRA of a multi-task run, and single-task PEFT, are this.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from hyperjax import peft
from hyperjax.errors import InputError
from hyperjax.hypermodels import heads
from hyperjax.models import t5


class LearnedPhi(nn.Module):
  """One phi for everyone, c = 1.

  Attributes:
    downstream: the config of the model that phi is for.
    method: PrefixTuning or LoRA.
    hidden: None: the leaves themselves are the parameters. A number: prefixes are written from
      learned embeddings by an MLP of this hidden width (prefix tuning's reparameterisation, the
      same module as HyperT5's head).
    embedding: width of those embeddings; None: the downstream model's emb_dim.
  """

  downstream: t5.T5Config
  method: peft.PrefixTuning | peft.LoRA = peft.PrefixTuning()
  hidden: int | None = None
  embedding: int | None = None

  @nn.compact
  def __call__(self) -> peft.Phi:
    if self.hidden is None:
      return self._leaves()
    if not isinstance(self.method, peft.PrefixTuning):
      raise InputError(
        f'LearnedPhi.hidden is {self.hidden}, which is for prefixes; LoRA has no '
        'reparameterisation: give hidden=None'
      )
    width = self.downstream.emb_dim if self.embedding is None else self.embedding

    def stack(name):
      init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ('prefix', 'embed'))
      states = self.param(f'{name}_embedding', init, (self.method.length, width), jnp.float32)
      head = heads.PrefixHead(self.downstream.stack(name), self.hidden, name=f'{name}_head')
      return head(states[None])

    return peft.Phi(**{name: stack(name) for name in self.method.stacks})

  def _leaves(self) -> peft.Phi:
    """Each leaf a parameter: prefixes small, LoRA's a as a linear map's start and b zero."""

    def leaf(path, spec):
      name = peft.path_name(path)
      if name.endswith('/a'):
        init = nn.initializers.normal(spec.shape[-2] ** -0.5)
      elif name.endswith('/b'):
        init = nn.initializers.zeros
      else:
        init = nn.initializers.normal(0.1)
      boxed = nn.with_logical_partitioning(init, peft.axes_of(name))
      value = self.param(name.replace('/', '.'), boxed, spec.shape, jnp.float32)
      return value * self._scale(name)

    return jax.tree_util.tree_map_with_path(leaf, self.method.spec(self.downstream))

  @nn.nowrap
  def _scale(self, name: str) -> float:
    """alpha / rank for the factor that it is folded into, else 1."""
    return self.method.scale if isinstance(self.method, peft.LoRA) and name.endswith('/b') else 1.0

  @nn.nowrap
  def generate(self, params, batch: dict[str, Any], rngs=None) -> peft.Phi:
    """protocols.Hypermodel: the same phi for any batch."""
    return self.apply({'params': params['hypermodel']}, rngs=rngs)

  @nn.nowrap
  def init_params(self, key: jax.Array):
    """Parameters at random, boxed with their logical axes."""
    return self.init(key)['params']

  @nn.nowrap
  def start_from_phi(self, params, phi: peft.Phi):
    """The same parameters with a given phi of one context as their value (flat form).

    Raises:
      InputError: phi's leaves are not this one's parameters; names the first that differs.
    """
    leaves = dict(zip(peft.leaf_names(phi), jax.tree.leaves(phi), strict=True))
    given = {name.replace('/', '.'): leaf.shape for name, leaf in leaves.items()}
    own = {name: getattr(leaf, 'shape', None) for name, leaf in params.items()}
    for name in sorted(given.keys() | own.keys()):
      if given.get(name) != own.get(name):
        raise InputError(
          f'LearnedPhi cannot start from this phi: {name} is {given.get(name, "absent")} there and '
          f'{own.get(name, "absent")} here; give one context of the same method and model'
        )
    return {
      name.replace('/', '.'): jnp.array(leaf, jnp.float32) / self._scale(name)
      for name, leaf in leaves.items()
    }

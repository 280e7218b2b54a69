"""HyperT5: a T5 whose encoder reads the context and whose decoder reads learned queries.

HyperTuning (ICML 2023), Figures 7 and 8.
c contexts, t context length, q queries, d model, l layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from hyperjax import peft
from hyperjax.errors import InputError
from hyperjax.hypermodels import heads
from hyperjax.models import t5


class HyperT5(nn.Module):
  """Writes a prefix or LoRA weights for `downstream` from a context, in one pass.

  The decoder has no causal mask: every query sees every other. For prefixes there are p queries a
  stack, each written to all layers; for LoRA one query for every layer of each block (encoder,
  decoder, cross-attention), so 3l with the paper's sites.

  Attributes:
    trunk: the hypermodel's own T5, without logits.
    downstream: the config of the model that phi is for.
    method: PrefixTuning or LoRA.
    hidden: width of the heads' hidden layer; None: the trunk's emb_dim, as in the paper.
  """

  trunk: t5.T5Config
  downstream: t5.T5Config
  method: peft.PrefixTuning | peft.LoRA = peft.PrefixTuning()
  hidden: int | None = None

  def setup(self):
    dtype = jnp.dtype(self.trunk.dtype)
    hidden = self.trunk.emb_dim if self.hidden is None else self.hidden
    self.t5 = t5.T5(self.trunk)
    groups = query_groups(self.method, self.downstream)
    # A pretrained decoder expects inputs as large as its embeddings; `start_from` copies rows.
    init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ('prefix', 'embed'))
    shape = (sum(groups.values()), self.trunk.emb_dim)
    self.queries = self.param('queries', init, shape, jnp.float32)
    if isinstance(self.method, peft.PrefixTuning):
      self.heads = {
        name: heads.PrefixHead(self.downstream.stack(name), hidden, dtype)
        for name in self.method.stacks
      }
    else:
      self.heads = {
        site.replace('/', '_'): heads.lora_head(
          self.downstream, site, self.method, hidden, dtype=dtype
        )
        for site in self.method.sites
      }

  def __call__(self, tokens: Int[Array, 'c t']) -> peft.Phi:
    """phi for every context; tokens are 0 where the context is padded."""
    return self.write(self.states(tokens))

  def states(self, tokens: Int[Array, 'c t']) -> Float[Array, 'c q d']:
    """The decoder's output for the queries, which the heads read."""
    memory = self.t5.encode(tokens)
    queries = jnp.broadcast_to(self.queries, (tokens.shape[0], *self.queries.shape))
    states, _, _ = self.t5.read(queries, memory)
    return states

  def write(self, states: Float[Array, 'c q d']) -> peft.Phi:
    """The heads: phi from states."""
    groups = query_groups(self.method, self.downstream)
    parts = np.cumsum(list(groups.values()))[:-1]
    of_group = dict(zip(groups, jnp.split(states, parts, axis=1), strict=True))
    if isinstance(self.method, peft.PrefixTuning):
      return peft.Phi(**{name: head(of_group[name]) for name, head in self.heads.items()})
    leaves: dict[str, Any] = {}
    for site in self.method.sites:
      low_rank = self.heads[site.replace('/', '_')](of_group[_group(site)])
      leaves |= {f'{site}/a': low_rank.a, f'{site}/b': low_rank.b}
    return peft.from_leaves(leaves)

  @nn.nowrap
  def generate(self, params, batch: dict[str, Any], rngs=None) -> peft.Phi:
    """protocols.Hypermodel: phi from batch['hyper_input_tokens'] [c, t]."""
    if 'hyper_input_tokens' not in batch:
      raise InputError(
        'HyperT5 reads hyper_input_tokens, which the batches do not have: '
        'give hyper_inputs a length in TASK_FEATURE_LENGTHS'
      )
    phi = self.apply({'params': params['hypermodel']}, batch['hyper_input_tokens'], rngs=rngs)
    return peft.constrain(phi)

  @nn.nowrap
  def init_params(self, key: jax.Array):
    """Parameters at random, boxed with their logical axes."""
    return self.init(key, jnp.ones((1, 2), jnp.int32))['params']

  @nn.nowrap
  def trunk_misfit(self, backbone) -> str | None:
    """The first leaf that keeps the trunk from starting from a backbone; None: it can."""
    own = jax.eval_shape(lambda key: nn.unbox(self.init_params(key)), jax.random.key(0))
    return _misfit(own['t5'], backbone)

  @nn.nowrap
  def start_from(self, params, backbone):
    """The same parameters with the trunk from a backbone of its sizes, and queries from its table.

    Queries are rows of the embedding table drawn with a fixed seed. All are copies: a step that
    donates its state leaves the backbone's arrays alone.

    Raises:
      InputError: a backbone of other sizes; names the first leaf that differs.
    """
    misfit = _misfit(params['t5'], backbone)
    if misfit is not None:
      raise InputError(
        f'the trunk of HyperT5 cannot start from this backbone: {misfit}; '
        'give HyperT5.trunk the sizes of the backbone'
      )
    table = backbone['token_embedder']['embedding']
    # Rows of the vocabulary's frequent half: the first ids are pad, eos and unk.
    ids, n = np.arange(3, table.shape[0] // 2), len(params['queries'])
    rows = np.random.default_rng(0).choice(ids, n, replace=n > len(ids))
    given = _flat(backbone)
    trunk = jax.tree_util.tree_map_with_path(
      lambda path, own: jnp.array(given[peft.path_name(path)], own.dtype), params['t5']
    )
    queries = jnp.array(table[rows], params['queries'].dtype)
    return {**params, 't5': trunk, 'queries': queries}


def query_groups(method: peft.PrefixTuning | peft.LoRA, model: peft.ModelShape) -> dict[str, int]:
  """Names and numbers of the queries, in their order."""
  if isinstance(method, peft.PrefixTuning):
    return dict.fromkeys(method.stacks, method.length)
  groups: dict[str, int] = {}
  for site in method.sites:
    groups.setdefault(_group(site), peft.linear_shape(model, site)[0])
  return groups


def _misfit(trunk, backbone) -> str | None:
  """The first leaf of the trunk that the backbone does not have in its shape; None: all fit."""
  given = _flat(backbone)
  for name, leaf in _flat(trunk).items():
    found = given[name].shape if name in given else 'absent'
    if found != leaf.shape:
      return f'{name} is {found} there and {leaf.shape} in the trunk'
  return None


def _flat(tree) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {peft.path_name(path): leaf for path, leaf in leaves}


def _group(site: str) -> str:
  """encoder, decoder or cross: the queries that a LoRA site is written from."""
  return 'cross' if 'cross_attention' in site else site.partition('/')[0]

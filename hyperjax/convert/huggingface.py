"""Hugging Face's folders of T5ForConditionalGeneration: config.json, weights, spiece.model.

Read are, in this order, safetensors (sharded too), flax msgpack, and pytorch_model.bin. A field of
config.json that changes what is computed and is not understood is refused.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import serialization
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors_numpy

from hyperjax import files
from hyperjax.convert import leaves
from hyperjax.errors import InputError
from hyperjax.models import t5
from hyperjax.vocabulary import Vocabulary

SHARD_BYTES = 2 * 2**30
"""Of the weight files that `save` writes."""


def load(
  directory: str | os.PathLike[str], dtype: Any = 'float32', shardings: leaves.Tree | None = None
) -> tuple[t5.T5, leaves.Tree]:
  """(the model, its parameters) of a folder.

  Args:
    dtype: of the parameters; one, or a tree of them.
    shardings: where each leaf goes (None: one device); each process reads its own slices. Only
      safetensors are read by slices.

  Raises:
    InputError: no such folder; a config that is not understood; leaves that are missing,
      unexpected, misshapen or damaged.
  """
  directory = pathlib.Path(directory).expanduser()
  found, where = _weights(directory)
  config, kernel = _with_head(_config(directory), found, directory)
  shapes = nn.unbox(jax.eval_shape(t5.T5(config).init_params, jax.random.key(0)))
  ours = _ours(found, config, kernel, where)
  return t5.T5(config), leaves.assemble(ours, shapes, where, dtype, shardings)


def config_of(directory: str | os.PathLike[str]) -> t5.T5Config:
  """The sizes and kind of the model in a folder, as config.json has them.

  Raises:
    InputError: a field that is not understood.
  """
  return _config(pathlib.Path(directory).expanduser())


def save(
  directory: str | os.PathLike[str],
  model: t5.T5,
  params: leaves.Tree,
  vocabulary: Vocabulary | None = None,
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes a folder that transformers loads, with its tokenizer; config.json comes last.

  Raises:
    InputError: the folder is not empty or cannot be written; what transformers has no words for;
      ids without a row in the model.
  """
  directory, config = pathlib.Path(directory).expanduser(), model.config
  content = _config_json(config)
  shapes = nn.unbox(jax.eval_shape(model.init_params, jax.random.key(0)))
  by_name = leaves.named(params)
  given = {name: leaf.shape for name, leaf in by_name.items()}
  leaves.check(given, shapes, 'what is to be written')
  files.check_empty(directory)
  if vocabulary is not None:
    vocabulary.check_fits(config.vocab_size)
  try:
    directory.mkdir(parents=True, exist_ok=True)
    _write_weights(directory, by_name, config, shard_bytes)
    if vocabulary is not None:
      (directory / 'spiece.model').write_bytes(vocabulary.bare())
  except OSError as error:
    raise InputError(f'{directory} cannot be written ({error.strerror or error})') from error
  if vocabulary is not None:
    tokenizer = {'tokenizer_class': 'T5Tokenizer', 'extra_ids': vocabulary.extra_ids}
    files.write_json(directory / 'tokenizer_config.json', tokenizer)
  files.write_json(directory / 'config.json', content)


def vocabulary_of(directory: str | os.PathLike[str]) -> Vocabulary | None:
  """The tokenizer of a folder as a vocabulary; None where it has no spiece.model.

  transformers' T5Tokenizer numbers pieces and extra ids as T5 does.
  """
  directory = pathlib.Path(directory).expanduser()
  config, pieces = directory / 'tokenizer_config.json', directory / 'spiece.model'
  if not pieces.exists():
    return None
  extra_ids = files.read_json(config).get('extra_ids', 100) if config.exists() else 100
  return Vocabulary(str(pieces), extra_ids)


def is_folder(directory: str | os.PathLike[str]) -> bool:
  """Whether this is a Hugging Face folder."""
  return pathlib.Path(directory).expanduser().joinpath('config.json').is_file()


# -- config.json -----------------------------------------------------------------------------------

_SIZES = {  # theirs: ours
  'vocab_size': 'vocab_size',
  'd_model': 'emb_dim',
  'd_kv': 'head_dim',
  'd_ff': 'mlp_dim',
  'num_layers': 'num_encoder_layers',
  'num_heads': 'num_heads',
}
_DEFAULTS = {  # transformers', for what a config.json leaves out
  'vocab_size': 32128,
  'd_model': 512,
  'd_kv': 64,
  'd_ff': 2048,
  'num_layers': 6,
  'num_heads': 8,
  'relative_attention_num_buckets': 32,
  'relative_attention_max_distance': 128,
  'feed_forward_proj': 'relu',
}
_ACTIVATIONS = {
  'relu': ('relu',),
  'gelu_new': ('gelu',),
  'gated-relu': ('relu', 'linear'),
  'gated-gelu': ('gelu', 'linear'),  # theirs too is the tanh form, by this name
  'gated-gelu_new': ('gelu', 'linear'),
  'gated-silu': ('silu', 'linear'),
  'silu': ('silu',),
}
_MUST_BE = {
  'model_type': 't5',
  'layer_norm_epsilon': 1e-6,
  'is_encoder_decoder': True,
  'is_decoder': False,
  'pad_token_id': 0,
  'decoder_start_token_id': 0,
  'eos_token_id': 1,
  'chunk_size_feed_forward': 0,
  'quantization_config': None,
}
_NO_MATTER = {  # of training, of generation's habits, of outputs, of other heads
  *(
    '_name_or_path',
    'architectures',
    'transformers_version',
    'dtype',
    'torch_dtype',
    'n_positions',
  ),
  *('dropout_rate', 'classifier_dropout', 'initializer_factor', 'gradient_checkpointing'),
  *('use_cache', 'output_past', 'output_attentions', 'output_hidden_states', 'return_dict'),
  *('id2label', 'label2id', 'problem_type', 'task_specific_params', 'tokenizer_class', 'prefix'),
}


def _config(directory: pathlib.Path) -> t5.T5Config:
  """config.json as ours. Logits that are not divided by sqrt(d) get a kernel of their own, also
  where it is the embedding: the same numbers."""
  path = directory / 'config.json'
  given = files.read_json(path)
  if not isinstance(given, dict):
    raise InputError(f'{path} is not an object')
  known = {*_SIZES, *_DEFAULTS, *_MUST_BE, *_NO_MATTER}
  known |= {'num_decoder_layers', 'dense_act_fn', 'is_gated_act'}
  known |= {'tie_word_embeddings', 'scale_decoder_outputs'}
  if unknown := sorted(given.keys() - known):
    raise InputError(
      f'{path}: {unknown[0]} = {given[unknown[0]]!r} is not understood, and may change what the '
      'model computes; take it out of the file if it does not'
    )
  for name, value in _MUST_BE.items():
    if name in given and given[name] != value:
      raise InputError(f'{path}: {name} = {given[name]!r}; only {value!r} can be loaded')
  full = _DEFAULTS | {name: value for name, value in given.items() if value is not None}
  activation = full['feed_forward_proj']
  if activation not in _ACTIVATIONS:
    raise InputError(
      f'{path}: feed_forward_proj = {activation!r}; only {", ".join(sorted(_ACTIVATIONS))} '
      'can be loaded'
    )
  acts = _ACTIVATIONS[activation]
  said = {'dense_act_fn': {'gelu': 'gelu_new'}.get(acts[0], acts[0]), 'is_gated_act': len(acts) > 1}
  for name, value in said.items():
    if full.get(name, value) != value:
      raise InputError(
        f'{path}: {name} = {full[name]!r} contradicts feed_forward_proj = {activation!r}'
      )
  scaled = full.get('scale_decoder_outputs', full.get('tie_word_embeddings') is not False)
  try:
    return t5.T5Config(
      **{ours: full[theirs] for theirs, ours in _SIZES.items()},
      num_decoder_layers=full.get('num_decoder_layers') or full['num_layers'],
      mlp_activations=acts,
      logits_via_embedding=bool(scaled),
      relpos_buckets=full['relative_attention_num_buckets'],
      relpos_max_distance=full['relative_attention_max_distance'],
    )
  except InputError as error:
    raise InputError(f'{path}: {error}') from error


def _config_json(config: t5.T5Config) -> dict[str, Any]:
  activations = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
  activation = activations.get(tuple(config.mlp_activations))
  if activation is None or config.decoder_bidirectional:
    what = 'decoder_bidirectional' if config.decoder_bidirectional else 'mlp_activations'
    raise InputError(
      f'T5Config.{what} = {getattr(config, what)!r} has no form in transformers: '
      'save as a T5X checkpoint instead'
    )
  return {
    'architectures': ['T5ForConditionalGeneration'],
    'model_type': 't5',
    **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
    'num_decoder_layers': config.num_decoder_layers,
    'relative_attention_num_buckets': config.relpos_buckets,
    'relative_attention_max_distance': config.relpos_max_distance,
    'feed_forward_proj': activation,
    'tie_word_embeddings': config.logits_via_embedding,
    'is_encoder_decoder': True,
    'layer_norm_epsilon': 1e-6,
    'dropout_rate': config.dropout_rate,
    'pad_token_id': 0,
    'decoder_start_token_id': 0,
    'eos_token_id': 1,
  }


# -- Names -----------------------------------------------------------------------------------------

_BLOCKS = {  # ours: theirs, in their layers 0, 1, 2
  'encoder': {'attention': 'SelfAttention', 'mlp': 'DenseReluDense'},
  'decoder': {
    'self_attention': 'SelfAttention',
    'encoder_decoder_attention': 'EncDecAttention',
    'mlp': 'DenseReluDense',
  },
}
_NORMS = {'encoder_decoder_attention': 'cross_attention'}
_ATTENTION = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
_EMBEDDINGS = ('shared.weight', 'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
_UNUSED = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'


def _names(config: t5.T5Config) -> Iterator[tuple[str, int | None, str, bool]]:
  """(our name, layer, their name, whether theirs is transposed) of every leaf but the logits'."""
  yield 'token_embedder/embedding', None, _EMBEDDINGS[0], False
  one = len(config.mlp_activations) == 1
  mlp = {name: name for name in (('wi',) if one else ('wi_0', 'wi_1'))} | {'wo': 'wo'}
  for stack, blocks in _BLOCKS.items():
    yield f'{stack}/{stack}_norm/scale', None, f'{stack}.final_layer_norm.weight', False
    bias = f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    yield f'{stack}/relpos_bias/rel_embedding', None, bias, True
    for layer in range(getattr(config, f'num_{stack}_layers')):
      for i, (block, theirs) in enumerate(blocks.items()):
        where, ours = f'{stack}.block.{layer}.layer.{i}', f'{stack}/layers'
        norm = f'{ours}/pre_{_NORMS.get(block, block)}_layer_norm/scale'
        yield norm, layer, f'{where}.layer_norm.weight', False
        for own, their in (mlp if block == 'mlp' else _ATTENTION).items():
          yield f'{ours}/{block}/{own}/kernel', layer, f'{where}.{theirs}.{their}.weight', True


# -- Reading ---------------------------------------------------------------------------------------


def _ours(
  found: Mapping[str, leaves.Leaf], config: t5.T5Config, kernel: leaves.Leaf | None, where: str
) -> dict[str, leaves.Leaf]:
  rest = dict(found)
  single: dict[str, leaves.Leaf] = {}
  layers: dict[str, list[leaves.Leaf]] = {}
  missing = []
  for name, layer, theirs, transposed in _names(config):
    leaf = rest.pop(theirs, None)
    if leaf is None:
      missing.append(theirs)
      continue
    leaf = leaf.transpose(1, 0) if transposed and len(leaf.shape) == 2 else leaf
    if layer is None:
      single[name] = leaf
    else:
      layers.setdefault(name, []).append(leaf)
  odd = [f'{name} is missing' for name in missing]
  odd += [f'{name} is not part of the model' for name in sorted(rest)]
  for name, stack in layers.items():
    if len({leaf.shape for leaf in stack}) > 1:
      odd.append(f'{name} has the shapes {sorted({leaf.shape for leaf in stack})}')
  if odd:
    more = f' (and {len(odd) - 5} more)' if len(odd) > 5 else ''
    raise InputError(
      f'{where} does not fit its config.json: {"; ".join(odd[:5])}{more}; copy the folder anew'
    )
  if kernel is not None:
    single['decoder/logits_dense/kernel'] = kernel
  return single | {name: leaves.stack(stack) for name, stack in layers.items()}


def _with_head(
  config: t5.T5Config, found: dict[str, leaves.Leaf], directory: pathlib.Path
) -> tuple[t5.T5Config, leaves.Leaf | None]:
  """(the config, its logits' kernel or None), and `found` without copies of the embedding.

  transformers ties a head that the file does not have; one that it has is its own.
  """
  for name in (*_EMBEDDINGS[1:], _UNUSED):
    copy = found.pop(name, None)
    if copy is None or name == _UNUSED:
      continue
    if _EMBEDDINGS[0] not in found:
      found[_EMBEDDINGS[0]] = copy
    elif not _equal(copy, found[_EMBEDDINGS[0]]):
      raise InputError(
        f'{directory}: {name} is not {_EMBEDDINGS[0]}: only one embedding can be loaded'
      )
  scaled = config.logits_via_embedding
  head, embedding = found.pop('lm_head.weight', None), found.get(_EMBEDDINGS[0])
  if embedding is None or (scaled and (head is None or _equal(head, embedding))):
    return config, None
  if scaled:
    raise InputError(
      f'{directory}: config.json ties the logits to the embedding, and lm_head.weight is another '
      'matrix; set tie_word_embeddings to what the model was trained with'
    )
  return config, (embedding if head is None else head).transpose(1, 0)


def _equal(a: leaves.Leaf, b: leaves.Leaf) -> bool:
  if a.shape != b.shape:
    return False
  rows = a.shape[0]
  blocks = (slice(i, min(i + 1024, rows)) for i in range(0, rows, 1024))
  return all(bool((a.read((s, slice(None))) == b.read((s, slice(None)))).all()) for s in blocks)


def _weights(directory: pathlib.Path) -> tuple[dict[str, leaves.Leaf], str]:
  """The weights by their (PyTorch) names, and the file that they are in."""
  if not directory.is_dir():
    raise InputError(f'{directory} is not a folder; give one with config.json and weights')
  readers: tuple[tuple[str, Callable[[pathlib.Path], dict[str, leaves.Leaf]]], ...] = (
    ('model.safetensors', _of_safetensors),
    ('flax_model.msgpack', _of_msgpack),
    ('pytorch_model.bin', _of_torch),
  )
  for name, read in readers:
    path, index = directory / name, directory / f'{name}.index.json'
    if path.exists():
      return read(path), str(path)
    if index.exists():
      parts = files.read_json(index).get('weight_map', {})
      found: dict[str, leaves.Leaf] = {}
      for part in sorted(set(parts.values())):
        if not (directory / part).exists():
          raise InputError(f'{index} names {part}, which is not there; copy the folder anew')
        found |= read(directory / part)
      return found, str(index)
  names = ', '.join(name for name, _ in readers)
  raise InputError(f'{directory} has none of {names}; give a folder with weights')


def _of_safetensors(path: pathlib.Path) -> dict[str, leaves.Leaf]:
  dtypes = {'F32': np.float32, 'F16': np.float16, 'BF16': jnp.bfloat16, 'F64': np.float64}
  found = {}
  try:
    with safe_open(path, 'np') as file:
      for name in file.keys():
        part = file.get_slice(name)
        kind = part.get_dtype()
        if kind not in dtypes:
          raise InputError(
            f'{path}: {name} is {kind}, which is not a float; give unquantised weights'
          )
        read = functools.partial(_read_safetensors, path, name)
        found[name] = leaves.of(read, part.get_shape(), np.dtype(dtypes[kind]))
  except (SafetensorError, OSError) as error:
    raise InputError(f'{path} is damaged ({error}); copy it anew') from error
  return found


def _read_safetensors(path: pathlib.Path, name: str, slices: leaves.Slices) -> np.ndarray:
  with safe_open(path, 'np') as file:  # opened anew: what it maps stays in memory until it closes
    return file.get_slice(name)[slices]


def _of_msgpack(path: pathlib.Path) -> dict[str, leaves.Leaf]:
  try:
    tree = dict(serialization.msgpack_restore(path.read_bytes()))
  except Exception as error:  # msgpack's, of many kinds
    raise InputError(f'{path} is damaged ({leaves.reason(error)}); copy it anew') from error
  found = {}
  for name, array in leaves.named(tree).items():
    *parts, last = name.split('/')
    leaf = leaves.held(np.asarray(array))
    found['.'.join((*parts, 'weight'))] = leaf.transpose(1, 0) if last == 'kernel' else leaf
  return found


def _of_torch(path: pathlib.Path) -> dict[str, leaves.Leaf]:
  try:
    import torch
  except ImportError:
    raise InputError(
      f'{path} needs torch to be read: install it, or save the model as safetensors'
    ) from None
  try:
    tensors = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
  except Exception as error:  # pickle's, zipfile's, torch's own
    raise InputError(
      f'{path} cannot be read as weights alone ({leaves.reason(error)}); '
      'save the model as safetensors'
    ) from error

  def leaf(tensor: Any) -> leaves.Leaf:
    return leaves.of(lambda at: tensor[at].float().numpy(), tensor.shape, np.dtype('float32'))

  return {name: leaf(tensor) for name, tensor in tensors.items()}


# -- Writing ---------------------------------------------------------------------------------------


def _write_weights(
  directory: pathlib.Path, params: Mapping[str, Any], config: t5.T5Config, shard_bytes: int
) -> None:
  """safetensors in shards of at most `shard_bytes`, and their index where there are several."""
  names = [(theirs, name, layer, turned) for name, layer, theirs, turned in _names(config)]
  if not config.logits_via_embedding:
    names.append(('lm_head.weight', 'decoder/logits_dense/kernel', None, True))
  shards: list[list[Any]] = [[]]
  size = 0
  for entry in names:
    leaf = params[entry[1]]
    own = leaf.nbytes // (1 if entry[2] is None else leaf.shape[0])
    if shards[-1] and size + own > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(entry)
    size += own
  total = sum(leaf.nbytes for leaf in params.values())
  several = len(shards) > 1
  where: dict[str, str] = {}
  for i, shard in enumerate(shards, 1):
    file = f'model-{i:05d}-of-{len(shards):05d}.safetensors' if several else 'model.safetensors'
    arrays = {theirs: _array(params[name], layer, turned) for theirs, name, layer, turned in shard}
    safetensors_numpy.save_file(arrays, directory / file, metadata={'format': 'pt'})
    where |= dict.fromkeys(arrays, file)
  if several:
    index = {'metadata': {'total_size': total}, 'weight_map': where}
    files.write_json(directory / 'model.safetensors.index.json', index)


def _array(leaf: Any, layer: int | None, transposed: bool) -> np.ndarray:
  array = np.asarray(leaf if layer is None else leaf[layer])
  return np.ascontiguousarray(array.T if transposed else array)

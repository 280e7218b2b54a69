"""Hugging Face's folders of T5ForConditionalGeneration: config.json, weights, spiece.model.

Read are, in this order, safetensors (sharded too), flax msgpack, and pytorch_model.bin; mT5's too.
"""

import functools
import os
import pathlib
import zipfile
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
from hyperjax.convert import huggingface_config, leaves
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
  config, kernel = _with_head(*huggingface_config.read(directory), found, directory)
  shapes = nn.unbox(jax.eval_shape(t5.T5(config).init_params, jax.random.key(0)))
  ours = _ours(found, config, kernel, where)
  return t5.T5(config), leaves.assemble(ours, shapes, where, dtype, shardings)


def config_of(directory: str | os.PathLike[str]) -> t5.T5Config:
  """The sizes and kind of the model in a folder, as config.json has them.

  Raises:
    InputError: a field that is not understood.
  """
  return huggingface_config.read(pathlib.Path(directory).expanduser())[0]


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
  content = huggingface_config.fields(config)
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
  except (OSError, SafetensorError) as error:  # safetensors' own where the disk is full
    raise InputError(f'{directory} cannot be written ({_reason(error)})') from error
  if vocabulary is not None:
    tokenizer = {'tokenizer_class': 'T5Tokenizer', 'extra_ids': vocabulary.extra_ids}
    files.write_json(directory / 'tokenizer_config.json', tokenizer)
  files.write_json(directory / 'config.json', content)


def vocabulary_of(directory: str | os.PathLike[str]) -> Vocabulary | None:
  """The tokenizer of a folder as a vocabulary; None where it has no spiece.model.

  transformers' T5Tokenizer numbers pieces and extra ids as T5 does. Where it adds none (mT5's),
  they are those that spiece.model itself ends in.

  Raises:
    InputError: tokenizer_config.json is not understood; there are fewer than 4 extra ids.
  """
  directory = pathlib.Path(directory).expanduser()
  config, pieces = directory / 'tokenizer_config.json', directory / 'spiece.model'
  if not pieces.exists():
    return None
  given = files.read_json(config) if config.exists() else {}
  if not isinstance(given, dict):
    raise InputError(f'{config} is not an object; copy it anew')
  extra_ids = given.get('extra_ids')
  if extra_ids is None:
    return Vocabulary(str(pieces))
  if type(extra_ids) is not int:
    raise InputError(f'{config}: extra_ids = {extra_ids!r}; give a whole number')
  return Vocabulary(str(pieces), extra_ids or Vocabulary(str(pieces)).inside)


def is_folder(directory: str | os.PathLike[str]) -> bool:
  """Whether this is a Hugging Face folder.

  Raises:
    InputError: that cannot be seen, for want of permission.
  """
  try:
    return pathlib.Path(directory).expanduser().joinpath('config.json').is_file()
  except OSError as error:
    raise InputError(f'{directory} cannot be read ({_reason(error)})') from error


def _reason(error: Exception) -> str:
  return getattr(error, 'strerror', None) or leaves.reason(error)


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
    leaf = _turned(leaf) if transposed else leaf
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
  config: t5.T5Config, headless: bool, found: dict[str, leaves.Leaf], directory: pathlib.Path
) -> tuple[t5.T5Config, leaves.Leaf | None]:
  """(the config, its logits' kernel or None), and `found` without copies of the embedding.

  A head that the file does not have is the embedding, where `headless` says that this may be so;
  one that it has is its own.
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
  if head is None and not headless:
    raise InputError(
      f'{directory}: config.json does not tie the logits to the embedding, and lm_head.weight is '
      'missing; copy the folder anew'
    )
  if embedding is None or (scaled and (head is None or _equal(head, embedding))):
    return config, None
  if scaled:
    raise InputError(
      f'{directory}: config.json ties the logits to the embedding, and lm_head.weight is another '
      'matrix; set tie_word_embeddings to what the model was trained with'
    )
  return config, _turned(embedding if head is None else head)


def _turned(leaf: leaves.Leaf) -> leaves.Leaf:
  """A matrix transposed; what is no matrix stays as it is, for leaves.check to list."""
  return leaf.transpose(1, 0) if len(leaf.shape) == 2 else leaf


def _equal(a: leaves.Leaf, b: leaves.Leaf) -> bool:
  if a.shape != b.shape or len(a.shape) != 2:
    return a.shape == b.shape
  rows = a.shape[0]
  blocks = (slice(i, min(i + 1024, rows)) for i in range(0, rows, 1024))
  return all(bool((a.read((s, slice(None))) == b.read((s, slice(None)))).all()) for s in blocks)


def _weights(directory: pathlib.Path) -> tuple[dict[str, leaves.Leaf], str]:
  """The weights by their (PyTorch) names, and the file that they are in."""
  try:
    if not directory.is_dir():
      raise InputError(f'{directory} is not a folder; give one with config.json and weights')
    for name, read in _READERS.items():
      path, index = directory / name, directory / f'{name}.index.json'
      if path.exists():
        return read(path), str(path)
      if index.exists():
        return _of_shards(index, read), str(index)
  except OSError as error:
    raise InputError(f'{error.filename or directory} cannot be read ({_reason(error)})') from error
  raise InputError(f'{directory} has none of {", ".join(_READERS)}; give a folder with weights')


def _of_shards(
  index: pathlib.Path, read: Callable[[pathlib.Path], dict[str, leaves.Leaf]]
) -> dict[str, leaves.Leaf]:
  content = files.read_json(index)
  where = content.get('weight_map') if isinstance(content, dict) else None
  if not isinstance(where, dict) or not all(map(_is_file_name, where.values())):
    raise InputError(
      f'{index} has no weight_map of weights to names of files beside it; copy the folder anew'
    )
  found: dict[str, leaves.Leaf] = {}
  for shard in sorted(set(where.values())):
    if not (index.parent / shard).exists():
      raise InputError(f'{index} names {shard}, which is not there; copy the folder anew')
    own = read(index.parent / shard)
    for name in where:
      # Converters to safetensors drop an embedding's copies, and leave them in the index.
      if where[name] == shard and _torch_name(name) not in (*own, *_EMBEDDINGS):
        raise InputError(
          f'{index} names {name} in {shard}, which does not have it; copy the folder anew'
        )
    found |= own
  return found


def _is_file_name(name: Any) -> bool:
  return isinstance(name, str) and name not in ('', '..') and pathlib.PurePath(name).name == name


def _torch_name(name: str) -> str:
  """PyTorch's for a weight that flax's calls a/b/kernel; PyTorch's own stay."""
  return '.'.join((*name.split('/')[:-1], 'weight')) if '/' in name else name


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
  except SafetensorError as error:
    raise InputError(f'{path} is damaged ({error}); copy it anew') from error
  return found


def _read_safetensors(path: pathlib.Path, name: str, slices: leaves.Slices) -> np.ndarray:
  with safe_open(path, 'np') as file:  # opened anew: what it maps stays in memory until it closes
    return file.get_slice(name)[slices]


def _of_msgpack(path: pathlib.Path) -> dict[str, leaves.Leaf]:
  content = path.read_bytes()
  try:
    arrays = leaves.named(dict(serialization.msgpack_restore(content)))
  except Exception as error:  # msgpack's, of many kinds
    raise InputError(f'{path} is damaged ({leaves.reason(error)}); copy it anew') from error
  found = {}
  for name, array in arrays.items():
    if not jnp.issubdtype(getattr(array, 'dtype', type(array)), jnp.floating):
      raise InputError(f'{path}: {name} is no array of floats; give unquantised weights')
    leaf = leaves.held(np.asarray(array))
    found[_torch_name(name)] = _turned(leaf) if name.endswith('/kernel') else leaf
  return found


def _of_torch(path: pathlib.Path) -> dict[str, leaves.Leaf]:
  try:
    import torch
  except ImportError:
    raise InputError(
      f'{path} needs torch to be read: install it, or save the model as safetensors'
    ) from None
  try:
    # Files from before torch 1.6 are no zip files, and cannot be mapped.
    mmap = zipfile.is_zipfile(path)
    tensors = torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
  except Exception as error:  # pickle's, zipfile's, torch's own
    raise InputError(
      f'{path} cannot be read as weights alone ({leaves.reason(error)}); '
      'save the model as safetensors'
    ) from error
  if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
    raise InputError(f'{path} is no dict of tensors; give what model.state_dict() is')
  for name, tensor in tensors.items():
    if not tensor.is_floating_point():
      raise InputError(
        f'{path}: {name} is {tensor.dtype}, which is not a float; give unquantised weights'
      )

  def leaf(tensor: Any) -> leaves.Leaf:
    return leaves.of(lambda at: tensor[at].float().numpy(), tensor.shape, np.dtype('float32'))

  return {str(name): leaf(tensor) for name, tensor in tensors.items()}


_READERS = {
  'model.safetensors': _of_safetensors,
  'flax_model.msgpack': _of_msgpack,
  'pytorch_model.bin': _of_torch,
}


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

"""Hugging Face's config.json of a T5 or an mT5 <-> T5Config.

A field that changes what is computed and is not understood is refused.
"""

import pathlib
from typing import Any

from hyperjax import files
from hyperjax.errors import InputError
from hyperjax.models import t5

_SIZES = {  # theirs: ours
  'vocab_size': 'vocab_size',
  'd_model': 'emb_dim',
  'd_kv': 'head_dim',
  'd_ff': 'mlp_dim',
  'num_layers': 'num_encoder_layers',
  'num_heads': 'num_heads',
}
_T5: dict[str, Any] = {  # transformers' defaults, for what a config.json leaves out
  'vocab_size': 32128,
  'd_model': 512,
  'd_kv': 64,
  'd_ff': 2048,
  'num_layers': 6,
  'num_heads': 8,
  'relative_attention_num_buckets': 32,
  'relative_attention_max_distance': 128,
  'feed_forward_proj': 'relu',
  'tie_word_embeddings': True,
}
_MT5 = _T5 | {
  'vocab_size': 250112,
  'd_ff': 1024,
  'num_layers': 8,
  'num_heads': 6,
  'feed_forward_proj': 'gated-gelu',
  'tie_word_embeddings': False,  # transformers 4's; 5 writes the field always
}
_DEFAULTS = {'t5': _T5, 'mt5': _MT5}  # by model_type
_ACTIVATIONS = {
  'relu': ('relu',),
  'gelu_new': ('gelu',),
  'gated-relu': ('relu', 'linear'),
  'gated-gelu': ('gelu', 'linear'),  # theirs too is the tanh form, by this name
  'gated-gelu_new': ('gelu', 'linear'),
  'gated-silu': ('silu', 'linear'),
  'silu': ('silu',),
}
_MUST_BE: dict[str, Any] = {
  'layer_norm_epsilon': 1e-6,
  'is_encoder_decoder': True,
  'is_decoder': False,
  'pad_token_id': 0,
  'decoder_start_token_id': 0,
  'eos_token_id': 1,
  'chunk_size_feed_forward': 0,
  'quantization_config': None,
  'tie_encoder_decoder': False,
  'add_cross_attention': False,
  'pruned_heads': {},
  'cross_attention_hidden_size': None,
}
# Of training, of generation's habits, of outputs, of other heads.
_NO_MATTER = {
  '_attn_implementation',
  '_attn_implementation_autoset',
  '_attn_implementation_internal',
  '_commit_hash',
  '_name_or_path',
  'architectures',
  'bad_words_ids',
  'begin_suppress_tokens',
  'bos_token_id',
  'classifier_dropout',
  'diversity_penalty',
  'do_sample',
  'dropout_rate',
  'dtype',
  'early_stopping',
  'encoder_no_repeat_ngram_size',
  'exponential_decay_length_penalty',
  'finetuning_task',
  'forced_bos_token_id',
  'forced_eos_token_id',
  'gradient_checkpointing',
  'id2label',
  'initializer_factor',
  'label2id',
  'length_penalty',
  'max_length',
  'max_new_tokens',
  'min_length',
  'n_positions',
  'no_repeat_ngram_size',
  'num_beam_groups',
  'num_beams',
  'num_labels',
  'num_return_sequences',
  'output_attentions',
  'output_hidden_states',
  'output_past',
  'output_scores',
  'prefix',
  'problem_type',
  'remove_invalid_values',
  'repetition_penalty',
  'return_dict',
  'return_dict_in_generate',
  'sep_token_id',
  'suppress_tokens',
  'task_specific_params',
  'temperature',
  'tf_legacy_loss',
  'tokenizer_class',
  'top_k',
  'top_p',
  'torch_dtype',
  'torchscript',
  'transformers_version',
  'typical_p',
  'use_bfloat16',
  'use_cache',
}
_OTHERS = {  # that are understood
  'model_type',
  'num_decoder_layers',
  'dense_act_fn',
  'is_gated_act',
  'scale_decoder_outputs',
}


def read(directory: pathlib.Path) -> tuple[t5.T5Config, bool]:
  """(config.json as ours, whether the weights may lack a head: it is the embedding then).

  Logits that are not divided by sqrt(d) get a kernel of their own, also where it is the embedding:
  the same numbers.

  Raises:
    InputError: a field that is not understood.
  """
  path = directory / 'config.json'
  given = files.read_json(path)
  if not isinstance(given, dict):
    raise InputError(f'{path} is not an object')
  given = {name: value for name, value in given.items() if value is not None}  # null: the default
  _check(given, path)
  full: dict[str, Any] = _DEFAULTS[given.get('model_type', 't5')] | given
  scaled, headless = _head(full, path)
  activations = _activations(full, path)
  try:
    config = t5.T5Config(
      **{ours: full[theirs] for theirs, ours in _SIZES.items()},
      num_decoder_layers=full.get('num_decoder_layers', full['num_layers']),
      mlp_activations=activations,
      logits_via_embedding=scaled,
      relpos_buckets=full['relative_attention_num_buckets'],
      relpos_max_distance=full['relative_attention_max_distance'],
    )
  except InputError as error:
    raise InputError(f'{path}: {error}') from error
  return config, headless


def _check(given: dict[str, Any], path: pathlib.Path) -> None:
  kind = given.get('model_type', 't5')
  if kind not in list(_DEFAULTS):
    raise InputError(f'{path}: model_type = {kind!r}; only t5 and mt5 can be loaded')
  if unknown := sorted(given.keys() - {*_T5, *_MUST_BE, *_NO_MATTER, *_OTHERS}):
    raise InputError(
      f'{path}: {unknown[0]} = {given[unknown[0]]!r} is not understood, and may change what the '
      'model computes; take it out of the file if it does not'
    )
  for name, value in _MUST_BE.items():
    if given.get(name, value) != value:
      raise InputError(f'{path}: {name} = {given[name]!r}; only {value!r} can be loaded')


def _activations(full: dict[str, Any], path: pathlib.Path) -> tuple[str, ...]:
  activation = full['feed_forward_proj']
  if activation not in list(_ACTIVATIONS):
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
  return acts


def _head(full: dict[str, Any], path: pathlib.Path) -> tuple[bool, bool]:
  """(whether logits are divided by sqrt(d), whether a head may be absent).

  transformers 4 divides where tie_word_embeddings is true. 5 writes true always: a T5's division is
  in scale_decoder_outputs, an mT5 has none.
  """
  for name in ('tie_word_embeddings', 'scale_decoder_outputs'):
    if not isinstance(full.get(name, True), bool):
      raise InputError(f'{path}: {name} = {full[name]!r}; give true or false')
  tied = full['tie_word_embeddings']
  if full.get('model_type') == 'mt5':
    major = str(full.get('transformers_version', '')).partition('.')[0]
    if tied and not (major.isdigit() and int(major) >= 5):
      raise InputError(
        f'{path}: tie_word_embeddings = True divides the logits of an mt5 in transformers 4 and '
        'does not in 5; save the folder anew with transformers 5'
      )
    return False, tied
  scaled = full.get('scale_decoder_outputs', tied)
  return scaled, scaled or 'scale_decoder_outputs' in full


def fields(config: t5.T5Config) -> dict[str, Any]:
  """What config.json says of a model of ours.

  Raises:
    InputError: what transformers has no words for.
  """
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

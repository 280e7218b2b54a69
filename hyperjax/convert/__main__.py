"""`python -m hyperjax.convert`: a T5 between T5X's files, Hugging Face's and runs of hyperjax.

    python -m hyperjax.convert --from=t5x --input=gs://…/checkpoint_1100000 \\
      --to=hyperjax --output=runs/t5 --vocabulary=spiece.model
    python -m hyperjax.convert --from=hyperjax --input=runs/joint \\
      --to=t5x --output=home/checkpoint_0

What model it is, the files tell. Of a run, the downstream model is taken.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from hyperjax import cli
from hyperjax.errors import InputError

FLAGS = flags.FLAGS
READ = ('t5x', 'huggingface', 'hyperjax')
WRITTEN = (*READ, 'orbax')
LENGTHS = {'hyper_inputs': 1024, 'inputs': 384, 'targets': 128}
ROWS = 128
"""Embedding tables are padded to multiples of this."""


def define_flags() -> None:
  """The flags of this verb."""
  flags.DEFINE_enum('from', None, READ, 'Whose files --input has. t5x: its Orbax layout too.')
  flags.DEFINE_enum('to', None, WRITTEN, "Whose files are written. orbax: T5X's default today.")
  flags.DEFINE_string('input', None, 'A checkpoint, a folder, or a run; T5X also gs://….')
  flags.DEFINE_string('output', None, 'A place of its own; T5X also gs://….')
  flags.DEFINE_string('vocabulary', None, "The model's sentencepiece file.")
  flags.DEFINE_integer('extra_ids', 100, 'How many extra ids go with --vocabulary.')
  flags.DEFINE_list('mlp_activations', None, "T5X's: those of the model, where they are not T5's.")
  flags.DEFINE_enum('dtype', 'float32', ('float32', 'bfloat16'), 'Of the weights that are written.')
  flags.DEFINE_integer('step', None, 'Which step of a run; the latest by default.')


def main() -> None:
  """Reads one form, writes another."""
  for name in ('from', 'to', 'input', 'output'):
    if not FLAGS[name].value:
      raise InputError(f'--{name} is missing; --help lists the flags')
  form = str(FLAGS['from'].value)
  if FLAGS.mlp_activations and form != 't5x':
    raise InputError('--mlp_activations is for T5X, whose files do not tell; leave it out')
  if FLAGS.step is not None and form == 'huggingface':
    raise InputError('--step is for runs and T5X; a Hugging Face folder has none: leave it out')
  for flag, other in (('input', form), ('output', FLAGS.to)):
    if '://' in str(FLAGS[flag].value) and other in ('huggingface', 'hyperjax'):
      raise InputError(
        f'--{flag}={FLAGS[flag].value}: only T5X checkpoints are read and written remotely; '
        'give a local folder'
      )
  from hyperjax import files  # imports JAX, which a mistyped flag need not wait for
  from hyperjax.convert import leaves

  if '://' not in FLAGS.output:
    files.check_empty(FLAGS.output)
  found = FINDERS[form](FLAGS.input)
  print(f'{FLAGS.input}: {told(found.model.config)}')
  vocabulary = vocabulary_for(found)
  params = found.load()
  write(found, params, vocabulary)
  if FLAGS.to in ('t5x', 'orbax'):
    warn_of_what_is_not_told(found.model.config)
  count = sum(leaf.size for leaf in leaves.named(params).values())
  print(f'{FLAGS.output}: {count:,} parameters, {FLAGS.dtype}, step {found.step}')


@dataclasses.dataclass(frozen=True)
class Found:
  """A T5 in files: what reads its weights, and its vocabulary (None where they have none)."""

  model: Any
  step: int
  load: Callable[[], dict[str, Any]]
  vocabulary: Callable[[], Any] = lambda: None


def find_t5x(path: str) -> Found:
  """A T5X checkpoint."""
  from hyperjax.convert import t5x
  from hyperjax.models import t5

  checkpoint = t5x.checkpoint(path, FLAGS.step)
  config = checkpoint.config(FLAGS.mlp_activations)
  return Found(t5.T5(config), checkpoint.step, lambda: checkpoint.load(config, FLAGS.dtype))


def find_huggingface(path: str) -> Found:
  """A Hugging Face folder."""
  from hyperjax.convert import huggingface
  from hyperjax.models import t5

  load = lambda: huggingface.load(path, FLAGS.dtype)[1]
  vocabulary = lambda: huggingface.vocabulary_of(path)
  return Found(t5.T5(huggingface.config_of(path)), 0, load, vocabulary)


def find_hyperjax(path: str) -> Found:
  """The downstream model of a run."""
  import jax

  from hyperjax import runs
  from hyperjax.models import t5

  model_dir, step = runs.located(path, FLAGS.step)
  record = runs.read_record(model_dir)
  model = runs.read_model(model_dir, record).downstream
  if not isinstance(model, t5.T5):
    raise InputError(f'{path}: its downstream model is no T5, and nobody else has a form for it')
  params, step = runs.load_part(path, 'downstream', step)
  load = lambda: jax.tree.map(lambda leaf: leaf.astype(FLAGS.dtype), params)
  return Found(model, step, load, lambda: runs.read_vocabulary(model_dir, record))


FINDERS = {'t5x': find_t5x, 'huggingface': find_huggingface, 'hyperjax': find_hyperjax}


def vocabulary_for(found: Found) -> Any:
  """That of --vocabulary or of the files, checked against the model; None: there is no need."""
  from hyperjax.vocabulary import Vocabulary

  given = FLAGS.vocabulary
  if FLAGS.to in ('t5x', 'orbax'):
    if given:
      raise InputError('T5X keeps vocabularies apart from checkpoints; leave --vocabulary out')
    return None
  vocabulary = Vocabulary(given, FLAGS.extra_ids) if given else found.vocabulary()
  if vocabulary is None:
    if FLAGS.to == 'hyperjax':
      raise InputError(
        f'{FLAGS.input} has no sentencepiece file (spiece.model), which a run needs: give '
        '--vocabulary'
      )
    return None
  rows = found.model.config.vocab_size
  vocabulary.check_fits(rows)
  if rows - vocabulary.size >= ROWS:
    print(
      f'warning: the model has {rows:,} embedding rows, the vocabulary {vocabulary.path} '
      f'{vocabulary.size:,} ids; is it the one that the model was trained with?',
      file=sys.stderr,
    )
  return vocabulary


def write(found: Found, params: dict[str, Any], vocabulary: Any) -> None:
  """Writes to --output in the form of --to."""
  from hyperjax import runs, step
  from hyperjax.convert import huggingface, t5x

  if FLAGS.to == 'hyperjax':
    model = step.Model(found.model, None)
    runs.save(FLAGS.output, model, {'downstream': params}, vocabulary, LENGTHS, found.step)
  elif FLAGS.to == 'huggingface':
    huggingface.save(FLAGS.output, found.model, params, vocabulary)
  else:
    t5x.save(FLAGS.output, params, found.model.config, found.step, FLAGS.to)


def warn_of_what_is_not_told(config: Any) -> None:
  """What of a model T5X's files do not hold, where it is not T5's own."""
  usual = ('relu',) if len(config.mlp_activations) == 1 else ('gelu', 'linear')
  if tuple(config.mlp_activations) != usual:
    own = ','.join(config.mlp_activations)
    print(
      f'warning: the files do not tell that the MLP is {own}: T5X needs it in its gin file, and '
      f'to read them here give --mlp_activations={own}',
      file=sys.stderr,
    )
  if config.relpos_max_distance != 128:
    print(
      f'warning: the files do not tell that relpos_max_distance is {config.relpos_max_distance}: '
      'T5X needs it in its gin file',
      file=sys.stderr,
    )


def told(config: Any) -> str:
  """A model in a line."""
  logits = 'tied' if config.logits_via_embedding else 'untied'
  return (
    f'T5 of {config.num_encoder_layers}+{config.num_decoder_layers} layers, {config.emb_dim} wide, '
    f'{config.num_heads} heads of {config.head_dim}, {"/".join(config.mlp_activations)} MLP of '
    f'{config.mlp_dim}, {config.vocab_size:,} rows, {logits} logits'
  )


if __name__ == '__main__':
  define_flags()
  cli.run(main)

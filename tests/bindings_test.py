"""Gin files and bindings: what gin lets pass in silence is refused in one sentence."""

import pytest

import gin
from hyperjax import bindings, errors

FILES = ['gin/models/t5_1_1_tiny.gin', 'gin/runs/mtf.gin', 'gin/hypermodels/hypert5_prefix.gin']
GIVEN = [
  "MODEL_DIR = 'run'",
  "VOCABULARY = 'v.model'",
  "MIXTURE_OR_TASK_NAME = 'sni_def'",
  "INITIAL_CHECKPOINT_PATH = 'backbone'",
]


@pytest.fixture(autouse=True)
def own_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def parsed(*more: str, files=FILES, given=GIVEN) -> str:
  gin.clear_config()
  return bindings.parse(files, [*given, *more], ['.'])


def built(*more: str) -> dict:
  from hyperjax import trainer

  parsed(*more)
  bindings.check_reached(trainer.train, [*GIVEN, *more])
  return bindings.build(trainer.train, {'config': 'text'})


def test_what_gin_binds_is_built_before_the_call():
  arguments = built('t5.preset.emb_dim = 24', 'BATCH_SIZE = 6', 'PREFIX_LENGTH = 3')
  assert arguments['config'] == 'text' and arguments['model_dir'] == 'run'
  assert arguments['downstream'].config.emb_dim == arguments['hypermodel'].trunk.emb_dim == 24
  assert arguments['hypermodel'].method.length == 3 and arguments['data'].batch_size == 6


def test_the_text_of_a_configuration_is_that_configuration(tmp_path):
  text = parsed('t5.preset.emb_dim = 24')
  (tmp_path / 'config.gin').write_text(text)
  assert parsed(files=[str(tmp_path / 'config.gin')], given=[]) == text


@pytest.mark.parametrize(
  'more, says',
  [
    ('BATCHSIZE = 4', 'nothing reads the macro BATCHSIZE; did you mean BATCH_SIZE?'),
    ("BATCH_SIZE = 'x'", "BATCH_SIZE is 'x'; data.Live.batch_size takes int"),
    ('TRAIN_STEPS = None', 'TRAIN_STEPS is None; trainer.train.total_steps takes int'),
    ('TRAIN_STEPS = 1e3', 'TRAIN_STEPS is 1000.0; trainer.train.total_steps takes int'),
    ('ACCUMULATE = True', 'ACCUMULATE is True; trainer.train.accumulate takes int'),
    ("TRAINABLE = 'hypermodel'", "TRAINABLE is 'hypermodel'; .*takes Sequence.str"),
    ("TASK_FEATURE_LENGTHS = {'inputs': '9'}", 'lengths takes Mapping.str, int'),
    ("OPTIMIZER = 'adamw'", "OPTIMIZER is 'adamw'; trainer.train.optimizer takes .*AdamW"),
    ("KEEP_BEST = 'loss'", "KEEP_BEST is 'loss'; checkpoints.Checkpoints.keep_best takes"),
    (
      'MODEL_DIR = runs/a',
      "binding 'MODEL_DIR = runs/a': .*token 'runs' .line 1.; text needs quotes",
    ),
    ('MODEL_DIR = ', "binding 'MODEL_DIR = ':"),
    ('t5.preset.size.x = 4', "No configurable matching 't5.preset.size'"),
    ('t6.preset.size = 4', "No configurable matching 't6.preset'"),
    ('trainer.train.total_step = 4', "doesn't have a parameter named 'total_step'"),
    ('HYPERMODEL = @hypert5.HyperT6()', "No configurable matching reference '@hypert5.HyperT6"),
  ],
)
def test_names_and_types_that_nothing_takes(more, says):
  with pytest.raises(errors.InputError, match=says) as caught:
    parsed(more)
  assert '\n' not in str(caught.value) and ' at 0x' not in str(caught.value)


@pytest.mark.parametrize(
  'more, says',
  [
    ('t5.preset.sizee = 45', "gin of preset: .*unexpected keyword argument 'sizee'"),
    ("t5.preset.size = 'huge'", "no T5 size 'huge'; give one of tiny"),
    ('t5.preset.emb_dim = 0', 'T5Config.emb_dim is 0; give a whole number'),
    ("LEARNING_RATE = 'fast'", "LinearDecay.peak = 'fast' must be a number"),
    ('optim.Adafactor.decay_rate = 0.7', 'nothing in this run reads optim.Adafactor.decay_rate'),
    ('EVAL_PERIOD = 7', 'nothing in this run reads EVAL_PERIOD; leave it out, or bind'),
  ],
)
def test_values_that_cannot_be_built_or_are_never_seen(more, says):
  with pytest.raises(errors.InputError, match=says):
    built(more)


def test_what_a_command_line_binds_is_read_through_other_bindings():
  adafactor = ['OPTIMIZER = @optim.Adafactor()', 'optim.Adafactor.decay_rate = 0.7']
  assert built(*adafactor)['optimizer'].decay_rate == 0.7
  assert built('EVALUATION = @trainer.Evaluation()', 'EVAL_PERIOD = 7')['evaluation'].period == 7
  assert built('train/data.Live.split = "test"')['data'].split == 'test'


@pytest.mark.parametrize(
  'files, says',
  [
    (['gin/models/none.gin'], "gin file 'gin/models/none.gin' is found neither from"),
    (FILES[1:], 'MODEL, MODEL_CONFIG must be set: MODEL is set by a file of gin/models, MODEL_'),
    (FILES[:2], 'HYPERMODEL, TRAINABLE must be set: HYPERMODEL is set by a file of gin/hyper'),
  ],
)
def test_files_that_are_missing(files, says):
  with pytest.raises(errors.InputError, match=says):
    parsed(files=files)


def test_what_a_run_requires_is_named_all_at_once():
  names = 'INITIAL_CHECKPOINT_PATH, MIXTURE_OR_TASK_NAME, MODEL_DIR, VOCABULARY must be set'
  with pytest.raises(errors.InputError, match=f'{names}: for instance --gin.INITIAL'):
    parsed(given=[])


def test_a_file_that_is_wrong_is_named_with_its_line(tmp_path):
  (tmp_path / 'odd.gin').write_text("include 'gin/runs/train.gin'\nBATCH_SIZE = \n")
  with pytest.raises(errors.InputError, match=r'gin file .*odd.gin: .*line 2'):
    parsed(files=[*FILES, str(tmp_path / 'odd.gin')])
  (tmp_path / 'odd.gin').write_text('from __gin__ import dynamic_registration\nimport nowhere\n')
  with pytest.raises(errors.InputError, match="gin file .*odd.gin: .*No module named 'nowhere'"):
    parsed(files=[str(tmp_path / 'odd.gin')])


def test_a_function_that_no_file_binds():
  from hyperjax import trainer

  parsed(files=[], given=[])
  with pytest.raises(
    errors.InputError, match='gin binds nothing to trainer.train: give --gin_file'
  ):
    bindings.build(trainer.train, {})


def test_gin_s_private_names_are_what_they_were():
  parsed()
  assert gin.config._CONFIG['BATCH_SIZE', 'gin.macro'] == {'value': 256}
  reference = gin.config._CONFIG['', 'hyperjax.trainer.train']['model_dir']
  assert isinstance(reference, gin.config.ConfigurableReference)
  assert (reference.scopes, reference.configurable.selector) == (['MODEL_DIR'], 'gin.macro')
  assert list(gin.config.iterate_references({'a': [reference]})) == [reference]
  assert gin.config._REGISTRY['hyperjax.trainer.train'].wrapped.__name__ == 'train'

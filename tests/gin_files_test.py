"""Every shipped gin file parses, builds what it names, and says truly what it requires."""

import math
import pathlib
import re

import jax
import numpy as np
import pytest
import tiny_runs
from flax import linen as nn

import gin
from hyperjax import bindings, errors, evaluate, partitioning, runs, step, trainer
from hyperjax.hypermodels import hypert5, learned
from scripts.tpu import slices

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'gin').rglob('*.gin'))
T5_1_1 = {  # T5X examples/t5/t5_1_1
  'small': (512, 1024, 6, 8),
  'base': (768, 2048, 12, 12),
  'large': (1024, 2816, 16, 24),
  'xl': (2048, 5120, 32, 24),
  'xxl': (4096, 10240, 64, 24),
}
T5_1_0 = {  # T5X examples/t5/t5_1_0
  'small': (512, 2048, 8, 6),
  'base': (768, 3072, 12, 12),
  'large': (1024, 4096, 16, 24),
  '3b': (1024, 16384, 32, 24),
  '11b': (1024, 65536, 128, 24),
}
HYPERMODELS = {
  'none': (type(None), ('downstream',)),
  'hypert5_prefix': (hypert5.HyperT5, ('hypermodel',)),
  'hypert5_lora': (hypert5.HyperT5, ('hypermodel',)),
  'shared_prefix': (learned.LearnedPhi, ('hypermodel',)),
  'shared_prefix_mlp': (learned.LearnedPhi, ('hypermodel',)),
  'shared_lora': (learned.LearnedPhi, ('hypermodel',)),
}


@pytest.fixture(scope='module', autouse=True)
def root(tmp_path_factory):
  with tiny_runs.quick(tmp_path_factory.getbasetemp()):
    yield tmp_path_factory.getbasetemp()
  gin.clear_config()


def of(folder: str) -> list[str]:
  return [path for path in FILES if path.startswith(f'gin/{folder}/')]


def parsed(*files: str, **macros) -> str:
  gin.clear_config()
  return bindings.parse(
    files, [f'{name} = {value!r}' for name, value in macros.items()], [str(ROOT)]
  )


def built(*files: str, verb=trainer.train, **macros) -> dict:
  parsed(*files, **macros)
  return bindings.build(verb, {})


REQUIRED = {
  'MODEL_DIR': 'run',
  'VOCABULARY': 'v.model',
  'INITIAL_CHECKPOINT_PATH': 'backbone',
  'MIXTURE_OR_TASK_NAME': 'sni_def',
  'TRAIN_STEPS': 7,
}


def required(*files: str) -> list[str]:
  """What nothing sets."""
  with pytest.raises(errors.InputError) as caught:
    parsed(*files)
  return re.match(r'gin: ([A-Z_, ]+) must be set', str(caught.value))[1].split(', ')


def test_no_file_is_left_out():
  folders = ('data', 'demo', 'hypermodels', 'models', 'pods', 'runs')
  assert FILES == sorted(path for folder in folders for path in of(folder))
  assert {pathlib.Path(path).stem for path in of('hypermodels')} == set(HYPERMODELS)
  assert not list((ROOT / 'gin').rglob('*.py'))


@pytest.mark.parametrize('path', FILES)
def test_a_header_says_what_a_file_is_and_requires(path):
  text = (ROOT / path).read_text()
  header = ' '.join(line.lstrip('# ') for line in text.splitlines() if line.startswith('#'))
  assert text.startswith('# ') and '.' in header
  if path in of('runs') + of('demo'):
    said = ' '.join(re.findall(r'Requires (.*?)\.(?: |$)', header))
    files = [path] + (['gin/models/t5_1_1_tiny.gin'] if 'gin/models' in said else [])
    files += ['gin/hypermodels/none.gin'] if 'gin/hypermodels' in said else []
    names = set(re.findall(r'\b[A-Z][A-Z_]+\b', said))
    assert set(required(*files)) <= names or not said


@pytest.mark.parametrize('path', of('models'))
def test_a_model_file_has_the_published_sizes(path):
  run = ('gin/runs/mtf.gin', 'gin/hypermodels/hypert5_prefix.gin')
  name = pathlib.Path(path).stem
  if name in ('t5', 'demo'):  # what the others share; tests/demo*
    return
  macros = {name: value for name, value in REQUIRED.items() if name != 'TRAIN_STEPS'}
  arguments = built(path, *run, **macros, DTYPE='bfloat16', REMAT='minimal', DROPOUT_RATE=0.1)
  config = arguments['downstream'].config
  assert arguments['hypermodel'].trunk == arguments['hypermodel'].downstream == config
  assert (config.dtype, config.remat, config.dropout_rate) == ('bfloat16', 'minimal', 0.1)
  family, size = name.rsplit('_', 1)
  if size == 'tiny':
    return
  sizes = (config.emb_dim, config.mlp_dim, config.num_heads, config.num_encoder_layers)
  assert sizes == (T5_1_1 if family == 't5_1_1' else T5_1_0)[size]
  assert config.num_decoder_layers == config.num_encoder_layers and config.vocab_size == 32128
  assert config.head_dim == (128 if size in ('3b', '11b') else 64)
  first = family == 't5_1_0'
  assert config.logits_via_embedding == first
  assert config.mlp_activations == (('relu',) if first else ('gelu', 'linear'))


@pytest.mark.parametrize('hypermodel', HYPERMODELS)
@pytest.mark.parametrize('run', ['mtf', 'hyperpretrain', 'train'])
def test_a_run_file_builds_every_hypermodel(run, hypermodel):
  files = (f'gin/runs/{run}.gin', 'gin/models/t5_1_1_tiny.gin', f'gin/hypermodels/{hypermodel}.gin')
  macros = {name: REQUIRED[name] for name in required(*files)}
  arguments = built(*files, **macros)
  kind, trainable = HYPERMODELS[hypermodel]
  assert type(arguments['hypermodel']) is kind and arguments['trainable'] == trainable
  assert arguments['downstream_checkpoint'] == ('backbone' if run != 'train' else None)
  assert arguments['total_steps'] == {'mtf': 10_000, 'hyperpretrain': 100_000, 'train': 7}[run]


@pytest.mark.parametrize('path', of('demo') + ['gin/runs/pretrain.gin'])
def test_a_whole_run_is_built_from_one_file(path):
  files = [path] + (['gin/models/t5_1_1_tiny.gin'] if 'runs' in path else [])
  arguments = built(*files, **{name: REQUIRED[name] for name in required(*files)})
  model = step.Model(arguments['downstream'], arguments['hypermodel'])
  shapes = jax.eval_shape(lambda key: nn.unbox(model.init_params(key)), jax.random.key(0))
  trained, _ = step.split(shapes, arguments['trainable'])
  assert jax.tree.leaves(trained) and isinstance(arguments['data'], trainer.Data)


@pytest.mark.parametrize('path', of('pods'))
def test_a_pod_file_fits_its_slice_its_model_and_the_paper_s_batch(path):
  header = (ROOT / path).read_text().splitlines()[0]
  name = pathlib.Path(path).stem
  its = slices.named(name)
  what = rf'# {name} \({its.chips} chips, {its.topology.partition(":")[2]}\): HyperT5 (\w+) at '
  size = re.match(what, header)[1]
  for hypermodel in ('hypert5_prefix', 'hypert5_lora'):
    run = [f'gin/models/t5_1_1_{size}.gin', f'gin/hypermodels/{hypermodel}.gin', 'gin/runs/mtf.gin']
    given = built(*run, path, **{macro: REQUIRED[macro] for macro in required(*run)})
    sides = [given['mesh'].data, given['mesh'].fsdp, given['mesh'].model]
    assert math.prod(sides) == its.chips
    config = given['downstream'].config
    assert config.dtype == 'bfloat16' and config.remat in ('full', 'minimal')
    devices = np.array(jax.devices()[:1] * its.chips).reshape(sides)
    mesh = jax.sharding.Mesh(devices, partitioning.MESH_AXES)
    rows, rest = divmod(given['data'].batch_size, given['accumulate'])
    partitioning.check_sizes(mesh, {'batch': rows, 'contexts': rows, 'embed': config.emb_dim})
    assert given['data'].batch_size == 256 and not rest


def test_stored_training_data_take_the_place_of_live_ones(root):
  files = ('gin/runs/mtf.gin', 'gin/models/t5_1_1_tiny.gin', 'gin/hypermodels/none.gin')
  stored_too = (*files, 'gin/data/stored.gin')
  assert required(*stored_too) == sorted([*required(*files), 'EPISODES_DIR'])
  macros = {name: REQUIRED[name] for name in required(*files)} | {'RANDOM_SEED': 3, 'BATCH_SIZE': 6}
  usual, arguments = built(*files, **macros), built(*stored_too, **macros, EPISODES_DIR='episodes')
  live, stored = usual['data'], arguments['data']
  assert isinstance(stored, trainer.Data) and stored.directory == 'episodes'
  assert (stored.name, stored.seed, stored.split) == ('sni_def', 3, 'train')
  assert stored.lengths == live.lengths and stored.batch_size == 6
  assert arguments.keys() == usual.keys()


def test_the_evaluate_verb_is_built(root):
  arguments = built(
    'gin/runs/evaluate.gin', verb=evaluate.evaluate, MODEL_DIR='a', MIXTURE_OR_TASK_NAME='sni'
  )
  assert arguments['model_dir'] == 'a' and arguments['split'] is None


@pytest.mark.parametrize('hypermodel', HYPERMODELS)
def test_frozen_leaves_are_the_checkpoint_s_when_a_run_comes_from_gin_files(
  root, tmp_path, monkeypatch, hypermodel
):
  backbone = tiny_runs.backbone(root)
  folder, vocabulary = tiny_runs.world(root)
  files = ('gin/runs/mtf.gin', 'gin/models/t5_1_1_tiny.gin', f'gin/hypermodels/{hypermodel}.gin')
  gin.clear_config()
  config = tiny_runs.config(root)
  sizes = ('vocab_size', 'emb_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers')
  given = [f't5.preset.{name} = {getattr(config, name)}' for name in (*sizes, 'num_decoder_layers')]
  given += [
    f'MODEL_DIR = {str(tmp_path / "run")!r}',
    f'VOCABULARY = {vocabulary.path!r}',
    f'vocabulary.Vocabulary.extra_ids = {vocabulary.extra_ids}',
    f'DATA_DIR = {str(folder)!r}',
    f'INITIAL_CHECKPOINT_PATH = {str(backbone)!r}',
    "MIXTURE_OR_TASK_NAME = 'sni_def_2pos'",
    'BATCH_SIZE = 4',
  ]
  bindings.parse(files, given, [str(ROOT)])
  caught = []
  monkeypatch.setattr(
    trainer.Loop, 'run', lambda loop, *given: (caught.append(given), (10_000, {}))[1]
  )
  trainer.train(**bindings.build(trainer.train, {}))
  state, frozen, _ = caught[0]
  source = runs.load(str(backbone)).params['downstream']
  kept = state.trainable if hypermodel == 'none' else frozen
  assert kept.keys() == {'downstream'} and tiny_runs.equal(kept['downstream'], source)
  assert tuple(state.trainable) == HYPERMODELS[hypermodel][1]

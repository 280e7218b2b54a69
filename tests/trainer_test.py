"""Runs: interrupted ones go on bitwise, only what trains moves, and nothing bad is saved."""

import dataclasses
import gc
import itertools
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import tiny_data
import tiny_runs
from flax import linen as nn
from safetensors import numpy as safetensors_numpy
from tiny_runs import LENGTHS, STEPS, Data, interrupt

from hyperjax import (
  checkpoints,
  errors,
  fingerprints,
  optim,
  partitioning,
  peft,
  runs,
  step,
  trainer,
)
from hyperjax.convert import huggingface, leaves, t5x
from hyperjax.hypermodels import learned
from hyperjax.models import t5
from hyperjax.vocabulary import Vocabulary


@pytest.fixture(scope='module', autouse=True)
def root(tmp_path_factory):
  with tiny_runs.quick(tmp_path_factory.getbasetemp()):
    yield tmp_path_factory.getbasetemp()


def every(period: int, **options):
  return lambda model_dir: checkpoints.Checkpoints(model_dir, save_period=period, **options)


def steps(model_dir) -> list[int]:
  return checkpoints.Checkpoints(model_dir).steps()


# --- Interrupted is uninterrupted -----------------------------------------------------------------


def terminate(batch):
  os.kill(os.getpid(), signal.SIGTERM)
  return batch


def test_frozen_weights_are_held_once_and_in_the_dtype_of_computation(root, tmp_path, monkeypatch):
  """Also those that the hypermodel's trunk starts from, which are read in full precision."""

  class Stop(Exception):
    pass

  tiny_runs.backbone(root)
  before, caught = jax.live_arrays(), {}  # held, so that nobody else gets their places

  def stop(loop, state, frozen, batches):
    gc.collect()
    old = set(map(id, before))
    caught.update(state=state, frozen=frozen)
    # By place in memory: a shard, once somebody has looked at it, is an array of its own.
    live = [x for x in jax.live_arrays() if id(x) not in old]
    caught['live'] = {x.unsafe_buffer_pointer(): x.nbytes for x in live}
    raise Stop

  monkeypatch.setattr(trainer.Loop, 'run', stop)
  downstream = t5.T5(tiny_runs.config(root, dtype='bfloat16'))
  with pytest.raises(Stop):
    tiny_runs.train(root, tmp_path, downstream=downstream)
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  weights = jax.tree.leaves(caught['frozen'])
  assert size(weights) == 2 * sum(x.size for x in weights)
  beside = sum(caught['live'].values()) - size(caught['state']) - size(weights)
  assert 0 <= beside < size(weights) / 10


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_bitwise(root, tmp_path, capsys):
  with pytest.raises(SystemExit) as caught:
    tiny_runs.train(root, tmp_path, data=Data(tiny_runs.live(root), 3, terminate))
  assert caught.value.code == 0 and steps(tmp_path) == [3]
  assert f'asked to stop: step 3 is saved in {tmp_path}' in capsys.readouterr().out
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
  tiny_runs.train(root, tmp_path)
  whole = tiny_runs.hyper(root)
  assert tiny_runs.lines(tmp_path) == tiny_runs.lines(whole)
  assert len(set(tiny_runs.losses(whole))) == STEPS
  assert tiny_runs.equal(runs.load(str(tmp_path)).params, runs.load(str(whole)).params)
  assert 'hypermodel: trained, continued from step 3' in (tmp_path / 'model-info.txt').read_text()


def test_a_run_that_breaks_off_loses_the_steps_since_its_last_save(root, tmp_path):
  run = lambda data: tiny_runs.bigram(root, tmp_path, data=data, saving=every(2))
  with pytest.raises(KeyboardInterrupt):
    run(Data(tiny_runs.live(root), 4, interrupt))
  assert steps(tmp_path) == [2] and len(tiny_runs.losses(tmp_path)) >= 2
  run(tiny_runs.live(root))
  whole = tiny_runs.bigrams(root)
  assert tiny_runs.lines(tmp_path) == tiny_runs.lines(whole)
  trained = [checkpoints.load_trainable(path)[0] for path in (tmp_path, whole)]
  assert tiny_runs.equal(*trained)


def test_a_run_asked_to_stop_before_its_first_step_stops_there(root, tmp_path, monkeypatch, capsys):
  write = runs.write
  monkeypatch.setattr(runs, 'write', lambda *given: (terminate(None), write(*given)))
  with pytest.raises(SystemExit) as caught:
    tiny_runs.bigram(root, tmp_path)
  assert caught.value.code == 0 and not steps(tmp_path)
  assert 'asked to stop: nothing to save yet' in capsys.readouterr().out


def test_a_finished_run_stays_as_it_is(root, capsys):
  place = tiny_runs.bigrams(root)
  before = tiny_runs.files(place)
  assert tiny_runs.bigram(root, place) == {}
  assert f'is at step {STEPS} already, of {STEPS}' in capsys.readouterr().out
  after = tiny_runs.files(place)
  changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
  assert changed <= {'model-info.txt', 'data-statistics.json'}


# --- What trains ----------------------------------------------------------------------------------


def begin(root, tmp_path, **changes):
  """(state, frozen weights) of a run before its first step."""
  caught = []

  class Stop(Exception):
    pass

  def stop(loop, state, frozen, batches):
    caught.append((state, frozen))
    raise Stop

  with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
    patch.setattr(trainer.Loop, 'run', stop)
    tiny_runs.train(root, tmp_path, **changes)
  return caught[0]


def moved(before, after) -> set[str]:
  """Names of the leaves that differ."""
  old, new = fingerprints.fingerprint(before), fingerprints.fingerprint(after)
  assert old.keys() == new.keys()
  return {name for name in old if old[name] != new[name]}


def test_only_what_trains_moves_and_frozen_leaves_are_the_checkpoint_s(root, tmp_path):
  source = runs.load(str(tiny_runs.backbone(root))).params
  state, frozen = begin(root, tmp_path)
  assert set(state.trainable) == {'hypermodel'} and tiny_runs.equal(frozen, source)
  trained = runs.load(str(tiny_runs.hyper(root))).params
  assert tiny_runs.equal(trained['downstream'], source['downstream'])
  names = moved(state.trainable, {'hypermodel': trained['hypermodel']})
  assert names == set(fingerprints.fingerprint(state.trainable))


def test_a_prefix_of_names_trains_alone(root, tmp_path):
  hyper = str(tiny_runs.hyper(root))
  part = {'trainable': ('hypermodel/queries', 'hypermodel/heads_encoder')}
  tiny_runs.train(root, tmp_path, hypermodel_checkpoint=hyper, total_steps=1, **part)
  before, after = (runs.load(str(path)).params for path in (hyper, tmp_path))
  names = moved(before, after)
  assert {name.split('/')[1] for name in names} == {'queries', 'heads_encoder'}
  assert set(checkpoints.load_trainable(tmp_path)[1]['frozen']) == {'hypermodel', 'downstream'}


def test_a_joint_run_takes_each_part_from_its_checkpoint(root, tmp_path):
  hyper = tiny_runs.hyper(root)
  state, frozen = begin(
    root,
    tmp_path,
    hypermodel_checkpoint=str(hyper / f'checkpoint_{STEPS}'),
    trainable=('hypermodel', 'downstream'),
  )
  assert not frozen and tiny_runs.equal(state.trainable, runs.load(str(hyper)).params)
  report = (tmp_path / 'model-info.txt').read_text()
  assert f'hypermodel: trained, restored from {hyper}, step {STEPS}' in report
  assert f'downstream: trained, restored from {tiny_runs.backbone(root)}, step {STEPS}' in report


def test_a_trunk_starts_from_the_backbone_where_its_sizes_are_equal(root, tmp_path):
  """… and else the report says which leaf is in the way."""
  backbone = fingerprints.fingerprint(runs.load(str(tiny_runs.backbone(root))).params['downstream'])
  trunk = fingerprints.fingerprint(begin(root, tmp_path / 'a')[0].trainable['hypermodel']['t5'])
  assert len(trunk) > 20 and all(backbone[name] == mark for name, mark in trunk.items())
  other = tiny_runs.hypermodel(root, trunk=tiny_runs.config(root, mlp_dim=6))
  begin(root, tmp_path / 'b', hypermodel=other)
  report = lambda name: (tmp_path / name / 'model-info.txt').read_text()
  assert 'hypermodel: trained, initialised, trunk from the downstream model: ' in report('a')
  assert 'trained, initialised, trunk at random (decoder/layers/mlp/wi_0/kernel is ' in report('b')


@pytest.mark.parametrize('method', [peft.LoRA(2), peft.PrefixTuning(2)], ids=['lora', 'prefix'])
def test_one_phi_for_all_tasks_trains(root, tmp_path, method):
  phi = learned.LearnedPhi(tiny_runs.config(root), method)
  tiny_runs.train(root, tmp_path, hypermodel=phi, total_steps=2)
  before = begin(root, tmp_path / 'again', hypermodel=phi)[0].trainable
  after = {'hypermodel': runs.load(str(tmp_path)).params['hypermodel']}
  assert moved(before, after) == set(fingerprints.fingerprint(after))


def test_hyperpretraining_hands_its_hypermodel_on_to_mtf(root, tmp_path):
  caclm = tiny_runs.live(
    root,
    mixture='c4_caclm',
    targets_per_context=1,
    arguments={'window': 28, 'b_length': 5, 'c_lengths': (3, 4), 'min_segment': 4},
  )
  lora = tiny_runs.hypermodel(root, method=peft.LoRA(2))
  first, second = tmp_path / 'hyperpretrain', tmp_path / 'mtf'
  kinds = {'hypermodel': lora, 'optimizer': optim.Adafactor(min_dim_size_to_factor=4)}
  tiny_runs.train(root, first, data=caclm, total_steps=1, **kinds)
  state, _ = begin(root, second, hypermodel_checkpoint=str(first), **kinds)
  assert tiny_runs.equal(state.trainable['hypermodel'], runs.load(str(first)).params['hypermodel'])
  assert 'phi_norm/decoder/attention/query/b' in tiny_runs.lines(first)[0]


def test_frozen_weights_are_kept_in_the_dtype_of_computation(root, tmp_path):
  narrow = tiny_runs.config(root, dtype='bfloat16')
  state, frozen = begin(
    root, tmp_path, downstream=t5.T5(narrow), hypermodel=learned.LearnedPhi(narrow)
  )
  dtypes = lambda tree: {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}
  assert dtypes(frozen) == {'bfloat16'} and dtypes(state.trainable) == {'float32'}
  count = sum(leaf.size for leaf in jax.tree.leaves(frozen))
  report = (tmp_path / 'model-info.txt').read_text()
  assert f'{count:,} parameters, {2 * count / 2**20:,.1f} MiB' in report
  assert {line.split()[2] for line in report.splitlines() if ' frozen, ' in line[90:]} == {
    'bfloat16'
  }


def test_a_changed_frozen_weight_is_found_at_the_end(root, tmp_path, monkeypatch):
  run = trainer.Loop.run

  def tampered(loop, state, frozen, batches):
    frozen['downstream']['table'] = frozen['downstream']['table'] + 1
    return run(loop, state, frozen, batches)

  monkeypatch.setattr(trainer.Loop, 'run', tampered)
  with pytest.raises(
    errors.InputError, match='at the end of the run.* leaf downstream/table holds'
  ):
    tiny_runs.bigram(
      root,
      tmp_path,
      trainable=('downstream/bias',),
      downstream_checkpoint=str(tiny_runs.bigrams(root)),
    )


# --- The same numbers on a mesh and in parts ------------------------------------------------------


@pytest.mark.parametrize(
  'mesh',
  [partitioning.MeshShape(data=4, model=2), partitioning.MeshShape(data=2, fsdp=2, model=2)],
  ids=['data4-model2', 'data2-fsdp2-model2'],
)
def test_a_mesh_changes_no_number(root, tmp_path, mesh):
  tiny_runs.train(root, tmp_path, mesh=mesh)
  whole = tiny_runs.hyper(root)
  np.testing.assert_allclose(tiny_runs.losses(tmp_path), tiny_runs.losses(whole), rtol=2e-5)
  here, there = (runs.load(str(path)).params['hypermodel'] for path in (tmp_path, whole))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), here, there)


def test_accumulation_changes_no_number(root, tmp_path):
  tiny_runs.bigram(root, tmp_path, accumulate=4)
  whole = tiny_runs.losses(tiny_runs.bigrams(root))
  np.testing.assert_allclose(tiny_runs.losses(tmp_path), whole, rtol=1e-5)


# --- Evaluation, and which checkpoints stay -------------------------------------------------------


def held_out(root, period: int, number: int = 2):
  data = tiny_runs.live(root, split='validation', arguments={'instances': 2}, seed=5)
  return trainer.Evaluation(data, period, number)


@pytest.mark.parametrize('mode, kept', [('max', [1, 5, 6]), ('min', [5, 6])])
def test_the_last_the_best_and_every_so_manyth_checkpoint_stay(root, tmp_path, mode, kept):
  tiny_runs.bigram(
    root,
    tmp_path,
    evaluation=held_out(root, 1),
    saving=every(1, keep=1, keep_best=('eval/loss', mode), keep_period=5),
  )
  losses = [line['eval/loss'] for line in tiny_runs.lines(tmp_path) if 'eval/loss' in line]
  assert losses == sorted(losses, reverse=True) and len(losses) == STEPS
  assert steps(tmp_path) == kept


def test_an_evaluation_is_the_loss_of_the_weights_on_batches_of_its_own(root, tmp_path):
  tiny_runs.bigram(root, tmp_path, evaluation=held_out(root, 4))
  lines = [line for line in tiny_runs.lines(tmp_path) if 'eval/loss' in line]
  assert [line['step'] for line in lines] == [4, STEPS]
  assert tiny_runs.losses(tmp_path) == tiny_runs.losses(tiny_runs.bigrams(root))
  params = {'downstream': checkpoints.load_trainable(tmp_path)[0]['downstream']}
  total = weight = 0.0
  for batch in itertools.islice(held_out(root, 4).data.starting_at(0), 2):
    nats = -jax.nn.log_softmax(tiny_runs.Bigram().logits(params, batch))
    target = np.take_along_axis(nats, batch['decoder_target_tokens'][..., None], 2)[..., 0]
    total += np.sum(target * batch['decoder_loss_weights'])
    weight += np.sum(batch['decoder_loss_weights'])
  np.testing.assert_allclose(lines[-1]['eval/loss'], total / weight, rtol=1e-5)


@pytest.mark.parametrize(
  'best, period, says',
  [
    ('eval/loss', None, 'has no EVALUATION'),
    ('eval/loss', 2, 'let EVAL_PERIOD divide SAVE_PERIOD'),
    ('eval/rougeL', 3, 'the metrics are accuracy, cross_ent_loss, grad_norm'),
  ],
)
def test_a_best_checkpoint_needs_a_metric(root, tmp_path, best, period, says):
  ranked = every(3, keep_best=(best, 'min'))
  evaluation = period and held_out(root, period)
  with pytest.raises(errors.InputError, match=says):
    tiny_runs.bigram(root, tmp_path, evaluation=evaluation, saving=ranked)
  assert not steps(tmp_path)


@pytest.mark.parametrize('numbers', [(0, 2), (2, -1)])
def test_an_evaluation_has_a_period_and_batches(root, numbers):
  with pytest.raises(errors.InputError, match='give at least 1'):
    held_out(root, *numbers)


# --- What must not be saved -----------------------------------------------------------------------


def spoil(batch):
  return batch | {'decoder_loss_weights': batch['decoder_loss_weights'] * np.float32(np.nan)}


@pytest.mark.parametrize('period', [1, 2])  # the bad step is to be saved, and is not
def test_a_loss_that_is_not_a_number_ends_the_run_and_saves_nothing(root, tmp_path, period):
  data = Data(tiny_runs.live(root), 3, spoil)
  with pytest.raises(errors.InputError) as caught:
    tiny_runs.bigram(root, tmp_path, data=data, saving=every(period))
  path = tmp_path / 'bad_batch_3.npz'
  assert str(caught.value).startswith(f'loss is nan at step 3, whose batch is in {path}; step 2 is')
  assert np.isnan(np.load(path)['decoder_loss_weights']).any()
  whole = tiny_runs.losses(tiny_runs.bigrams(root))
  assert steps(tmp_path) == [2] and tiny_runs.losses(tmp_path) == whole[:2]
  tiny_runs.bigram(root, tmp_path)  # with better data the run goes on as if nothing had been
  assert tiny_runs.losses(tmp_path) == whole


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_was(root, tmp_path):
  with pytest.raises(errors.InputError, match='step 1 left a weight that is not finite.*nothing'):
    tiny_runs.bigram(root, tmp_path, optimizer=optim.AdamW(1e39), saving=every(1))
  assert not steps(tmp_path)


def test_a_model_dir_that_vanishes_is_told_before_anything_is_saved_there(root, tmp_path):
  path = tmp_path / 'run'

  def vanish(batch):
    while not steps(path):  # its save goes on beside the loop
      time.sleep(0.01)
    shutil.move(path, tmp_path / 'elsewhere')
    return batch

  with pytest.raises(errors.InputError, match=f'{path} is gone, or its model.json: step . was not'):
    tiny_runs.bigram(root, path, data=Data(tiny_runs.live(root), 5, vanish), saving=every(3))
  assert steps(tmp_path / 'elsewhere') == [3]
  assert not (path / 'model.json').exists() and not list(path.glob('checkpoint_*'))
  path.exists() and path.rmdir()
  shutil.move(tmp_path / 'elsewhere', path)
  tiny_runs.bigram(root, path)
  assert tiny_runs.lines(path) == tiny_runs.lines(tiny_runs.bigrams(root))


def test_data_that_end_say_when(root, tmp_path):
  class Short(Data):
    def starting_at(self, step, *part):
      return itertools.islice(super().starting_at(step, *part), 2)

  with pytest.raises(errors.InputError, match='data of sni_def_2pos ended before step 3'):
    tiny_runs.bigram(root, tmp_path, data=Short(tiny_runs.live(root), 0, None))


# --- What does not fit together -------------------------------------------------------------------


def refused(root) -> list:
  """Arguments of a run, and what is said of them."""
  wide = tiny_runs.config(root, mlp_dim=22, head_dim=3)
  odd = tiny_runs.config(root, num_heads=3)
  phi = {'hypermodel': learned.LearnedPhi(tiny_runs.config(root))}
  over = lambda **shape: {'mesh': partitioning.MeshShape(**shape), **phi}
  rows = lambda **changes: {'data': tiny_runs.live(root, **changes)}
  other = tiny_data.train_vocabulary(root / 'other' / 'vocabulary.model', vocab_size=66)
  other = Vocabulary(str(other), tiny_runs.world(root)[1].extra_ids)
  return [
    ({'total_steps': 0}, 'TRAIN_STEPS .total_steps. is 0; give at least 1'),
    ({'trainable': 'hypermodel'}, "trainable is 'hypermodel'; give a tuple"),
    ({'trainable': ('hypermodel/tail',)}, "trainable names 'hypermodel/tail'"),
    ({'hypermodel': None}, "names 'hypermodel', but the parameters have no such part, only downst"),
    ({'accumulate': 3}, 'accumulate=3 does not divide the 4 contexts'),
    ({'loss_normalizing_factor': 0.0}, 'LOSS_NORMALIZING_FACTOR .* is 0.0; give'),
    (
      {'hypermodel': tiny_runs.hypermodel(root, trunk=tiny_runs.config(root, vocab_size=8))},
      'vocabulary.* ids, the model 8 embedding rows',
    ),
    (
      {'hypermodel': tiny_runs.hypermodel(root, method=peft.PrefixTuning(0))},
      r'hypermodel/queries has the shape \[0, 12\]',
    ),
    (
      {'downstream': t5.T5(tiny_runs.config(root, mlp_activations=('silu', 'linear')))},
      'backbone is of another model .*: downstream.config.mlp_activations differ',
    ),
    (rows(vocabulary=other), 'backbone is of another model .*: vocabulary.sha256 differ'),
    ({'downstream': t5.T5(tiny_runs.config(root, vocab_size=64))}, 'vocab_size|embedding'),
    ({'downstream_checkpoint': None}, 'the downstream is frozen.*: give INITIAL_CHECKPOINT_PATH'),
    ({'trainable': ('hypermodel/queries',)}, 'hypermodel is frozen.*: give HYPERMODEL_CHECKPOINT_'),
    (
      {'hypermodel': None, 'hypermodel_checkpoint': str(tiny_runs.hyper(root))},
      'the run has no hypermodel',
    ),
    ({'hypermodel_checkpoint': str(tiny_runs.backbone(root))}, 'backbone has no hypermodel'),
    ({'downstream_checkpoint': 'nowhere'}, 'nowhere is no run of hyperjax'),
    (
      {'downstream': t5.T5(wide), 'hypermodel': learned.LearnedPhi(wide)},
      r'key/kernel is \[3, 12, 10\] and should be \[3, 12, 6\];.* \(and \d+ more\)',
    ),
    (over(data=4) | rows(batch_size=6), 'batch of size 6 cannot be split over data=4'),
    (over(data=4) | rows(targets_per_context=4), 'contexts of size 2 cannot be split over data=4'),
    (
      over(data=1, model=2) | {'downstream': t5.T5(odd), 'hypermodel': learned.LearnedPhi(odd)},
      'axis .* of size .* cannot be split over model=2',
    ),
    (
      rows(lengths={'inputs': 9, 'targets': 5}),
      'hyper_input_tokens, which the batches do not have',
    ),
    (rows(mixture='sni'), 'reads contexts, and those of sni are empty: give a mixture'),
    (rows(data_dir=str(root / 'nowhere')), 'DATA_DIR names .*nowhere, which is not a folder'),
    (
      phi | {'optimizer': optim.AdamW(optim.LinearDecay(1e-3, 9))},
      'warmup_steps = 9 leaves nothing',
    ),
  ]


def test_what_does_not_fit_is_refused_before_anything_is_written(root, tmp_path):
  for changes, says in refused(root):
    with pytest.raises(errors.InputError, match=says):
      tiny_runs.train(root, tmp_path / 'run', **changes)
    assert not (tmp_path / 'run').exists(), changes


def test_another_model_in_the_same_model_dir_is_refused_by_its_fields(root, tmp_path):
  place = tiny_runs.hyper(root)
  before = tiny_runs.files(place)
  longer = tiny_runs.hypermodel(root, method=peft.PrefixTuning(7))
  with pytest.raises(
    errors.InputError, match='hypermodel.method.length differ; give this run a MO'
  ):
    tiny_runs.train(root, place, hypermodel=longer)
  with pytest.raises(errors.InputError, match='hypermodel, trainable differ'):
    tiny_runs.pretrain(root, place)
  with pytest.raises(errors.InputError, match='trainable differ'):
    tiny_runs.train(root, place, trainable=('hypermodel', 'downstream'))
  assert tiny_runs.files(place) == before


def test_a_run_goes_on_over_its_own_frozen_weights_only(root, tmp_path):
  part = {'trainable': ('downstream/bias',)}
  bigrams = str(tiny_runs.bigrams(root))
  tiny_runs.bigram(root, tmp_path / 'run', total_steps=1, downstream_checkpoint=bigrams, **part)
  tiny_runs.bigram(root, tmp_path / 'other', total_steps=1)
  with pytest.raises(
    errors.InputError, match='not those that the run began with .downstream/table'
  ):
    tiny_runs.bigram(root, tmp_path / 'run', downstream_checkpoint=str(tmp_path / 'other'), **part)


# --- Other people's files -------------------------------------------------------------------------


def written(place, kind: str, model: t5.T5, params, vocabulary) -> str:
  """A folder of a model's weights, of step 4 where that is told."""
  there = place / 'theirs' / 'checkpoint_4'
  if kind == 'run':
    runs.save(there.parent, step.Model(model), {'downstream': params}, vocabulary, LENGTHS, 4)
  elif kind == 'huggingface':
    huggingface.save(there, model, params)
  else:
    t5x.save(there, params, model.config, 4, kind)
  return str(there)


@pytest.mark.parametrize('kind', ['t5x', 'orbax', 'huggingface'])
def test_a_run_starts_from_other_peoples_files(root, tmp_path, kind):
  model = t5.T5(tiny_runs.config(root))
  params = runs.load(str(tiny_runs.backbone(root))).params['downstream']
  there = written(tmp_path, kind, model, params, None)
  tiny_runs.train(root, tmp_path / 'run', downstream_checkpoint=there, total_steps=2)
  read = runs.load(str(tmp_path / 'run'))
  assert tiny_runs.equal(read.params['downstream'], params)
  said = (tmp_path / 'run' / 'model-info.txt').read_text()
  assert f'frozen, restored from {there}, step {0 if kind == "huggingface" else 4}' in said
  own = tiny_runs.losses(tiny_runs.hyper(root))[:1]
  assert tiny_runs.losses(tmp_path / 'run')[:1] == own
  other = tiny_runs.config(root, mlp_dim=18)
  with pytest.raises(errors.InputError, match=r'theirs.*(should be|mlp_dim is 14 there, 18 here)'):
    tiny_runs.pretrain(
      root, tmp_path / 'other', downstream=t5.T5(other), downstream_checkpoint=there
    )
  assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize('kind', ['run', 't5x', 'orbax', 'huggingface'])
def test_weights_are_read_to_their_places_in_the_dtype_that_is_used(
  root, tmp_path, kind, monkeypatch
):
  model = t5.T5(tiny_runs.config(root, dtype='bfloat16'))
  params = runs.load(str(tiny_runs.backbone(root))).params['downstream']
  there = written(tmp_path, kind, model, params, tiny_runs.world(root)[1])
  read, load_part = [], runs.load_part

  def noting(*given, **how):
    read.append(load_part(*given, **how))
    return read[-1]

  monkeypatch.setattr(runs, 'load_part', noting)
  mesh = partitioning.MeshShape(data=2, fsdp=2, model=2)
  for trainable in ((), ('downstream',)):  # beside a LearnedPhi, and joint
    _, frozen = begin(
      root,
      tmp_path / f'run{len(trainable)}',
      downstream=model,
      hypermodel=learned.LearnedPhi(model.config),
      trainable=('hypermodel', *trainable),
      downstream_checkpoint=there,
      mesh=mesh,
    )
    ((weights, _),) = read
    read.clear()
    embedding = weights['token_embedder']['embedding']
    assert embedding.dtype == ('float32' if trainable else 'bfloat16')
    assert embedding.sharding.spec == jax.sharding.PartitionSpec('model', 'fsdp')
    cast = lambda leaf, like: leaf.astype(like.dtype)
    assert tiny_runs.equal(weights, jax.tree.map(cast, params, weights))
    if frozen:
      same = lambda a, b: a.sharding == b.sharding and a.dtype == b.dtype
      assert jax.tree.all(jax.tree.map(same, weights, frozen['downstream']))


def test_a_trunk_starts_from_the_backbone_s_full_precision(root, tmp_path):
  narrow = tiny_runs.config(root, dtype='bfloat16')
  hypermodel = tiny_runs.hypermodel(root, trunk=narrow, downstream=narrow)
  state, frozen = begin(root, tmp_path, downstream=t5.T5(narrow), hypermodel=hypermodel)
  params = runs.load(str(tiny_runs.backbone(root))).params['downstream']
  embedding = lambda tree: tree['token_embedder']['embedding']
  assert tiny_runs.equal(embedding(state.trainable['hypermodel']['t5']), embedding(params))
  assert embedding(frozen['downstream']).dtype == 'bfloat16'


@pytest.mark.parametrize('kind', ['run', 't5x', 'orbax', 'huggingface'])
def test_a_wrong_checkpoint_is_refused_by_its_leaves_before_any_is_read(
  root, tmp_path, kind, monkeypatch
):
  """Without gates: `wi` is unexpected, wi_0 and wi_1 are missing; and wo has another shape."""
  model = t5.T5(tiny_runs.config(root, mlp_activations=('relu',), mlp_dim=18))
  init = jax.eval_shape(model.init_params, jax.random.key(0))
  params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), nn.unbox(init))
  there = written(tmp_path, kind, model, params, tiny_runs.world(root)[1])
  monkeypatch.setattr(leaves, '_array', None)
  monkeypatch.setattr(checkpoints, '_read_item', None)
  with pytest.raises(errors.InputError) as caught:
    tiny_runs.train(root, tmp_path / 'run', downstream_checkpoint=there)
  said = str(caught.value)
  assert there in said and not (tmp_path / 'run').exists()
  mlp = 'decoder/layers/mlp'
  for each in (
    ('mlp_dim is 18 there, 14 here', "mlp_activations is ('relu',) there")
    if kind == 'huggingface'  # whose config.json has words for it
    else (
      f'{mlp}/wi_0/kernel is missing',
      f'{mlp}/wi_1/kernel is missing',
      f'{mlp}/wi/kernel is not part of the model',
    )
  ):
    assert each in said
  if kind != 'huggingface':
    assert '(and ' in said
    wide = t5.T5(tiny_runs.config(root, mlp_activations=('relu',)))
    with pytest.raises(
      errors.InputError, match=r'mlp/wo/kernel is \[3, 18, 12\] and should be \[3, 14'
    ):
      tiny_runs.pretrain(root, tmp_path / 'run', downstream=wide, downstream_checkpoint=there)


def test_a_folder_with_leaves_too_few_and_too_many_is_refused_before_training(root, tmp_path):
  model = t5.T5(tiny_runs.config(root))
  params = runs.load(str(tiny_runs.backbone(root))).params['downstream']
  there = written(tmp_path, 'huggingface', model, params, None)
  path = os.path.join(there, 'model.safetensors')
  weights = safetensors_numpy.load_file(path)
  norm = weights.pop('encoder.final_layer_norm.weight')
  safetensors_numpy.save_file(weights | {'encoder.norm.weight': norm}, path)
  with pytest.raises(errors.InputError) as caught:
    tiny_runs.train(root, tmp_path / 'run', downstream_checkpoint=there)
  assert 'encoder.final_layer_norm.weight is missing' in str(caught.value)
  assert 'encoder.norm.weight is not part of the model' in str(caught.value)
  weights['encoder.final_layer_norm.weight'] = norm[:-1]
  safetensors_numpy.save_file(weights, path)
  with pytest.raises(errors.InputError, match=r'encoder_norm/scale is \[11\] and should be \[12\]'):
    tiny_runs.train(root, tmp_path / 'run', downstream_checkpoint=there)
  assert not (tmp_path / 'run').exists()


def test_a_folder_of_another_vocabulary_is_refused(root, tmp_path):
  model, vocabulary = t5.T5(tiny_runs.config(root)), tiny_runs.world(root)[1]
  params = runs.load(str(tiny_runs.backbone(root))).params['downstream']
  other = dataclasses.replace(vocabulary, extra_ids=vocabulary.extra_ids - 1)
  huggingface.save(tmp_path / 'theirs', model, params, other)
  with pytest.raises(errors.InputError, match=r'goes with .*spiece.model of \d+ ids, VOCABULARY'):
    tiny_runs.train(root, tmp_path / 'run', downstream_checkpoint=str(tmp_path / 'theirs'))
  assert not (tmp_path / 'run').exists()


def test_what_is_nobodys_is_told(root, tmp_path):
  (tmp_path / 'something').mkdir()
  with pytest.raises(errors.InputError, match='no run .*, no T5X checkpoint and no Hugging Face'):
    tiny_runs.train(root, tmp_path / 'run', downstream_checkpoint=str(tmp_path / 'something'))

"""Where a run starts: weights restored, at random, or its own last ones, on the mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from hyperjax import checkpoints, fingerprints, runs, step
from hyperjax.errors import InputError
from hyperjax.program import Plan, Program, named, pick, plan

Tree = dict[str, Any]

GIN_NAMES = {'downstream': 'INITIAL_CHECKPOINT_PATH', 'hypermodel': 'HYPERMODEL_CHECKPOINT_PATH'}


@dataclasses.dataclass(frozen=True)
class Setup:
  """What a run is made of, before any array exists.

  `sources` has, for 'downstream' and 'hypermodel', the run that its weights come from, or None.
  `record` is what model.json will hold.
  """

  model_dir: str
  record: Mapping[str, Any]
  program: Program
  sources: Mapping[str, str | None]


@dataclasses.dataclass(frozen=True)
class Start:
  """A state and frozen weights on the mesh, and what is known of them.

  `metadata` goes into every checkpoint: from it and model.json alone a run is loaded.
  """

  state: step.TrainState
  frozen: Tree
  plan: Plan
  metadata: dict[str, Any]
  report: str


def begin(setup: Setup, mesh: Mesh, keeper: checkpoints.Checkpoints) -> Start:
  """The first state of a run, or the last that it saved; frozen weights from where they come from.

  Weights go to the mesh as they are read, in the dtype that they are used in.

  Raises:
    InputError: weights that are missing or do not fit, by leaf; a mesh that does not divide them.
  """
  whole = plan(setup.program, mesh)
  _check_sources(setup, whole)
  own = keeper.latest_step()
  restored = _restored(setup, whole, whole.frozen if own is not None else whole.shapes)
  params, origin = restored.params, restored.origin()
  if own is None:
    params, origin = _completed(setup, whole, restored)
  else:
    origin = dict.fromkeys(whole.trained, f'continued from step {own}')
  frozen = jax.tree.map(
    lambda leaf, like: leaf.astype(like.dtype), pick(params, whole.frozen), whole.frozen
  )
  metadata = {
    'trainable': list(setup.program.trainable),
    'frozen': {part: restored.sources[part] for part in whole.frozen},
    'fingerprint': fingerprints.fingerprint(frozen),
    'seed': setup.program.seed,
  }
  if own is None:
    trained = _put(pick(params, whole.trained), whole.shardings)
    state = jax.jit(whole.first_state, out_shardings=whole.state_shardings)(trained)
  else:
    state = _continued(keeper, whole.state, metadata)
  held = step.join(state.trainable, frozen)
  report = _report(whole, held, {'trained': origin, 'frozen': restored.origin()})
  return Start(state, frozen, whole, metadata, report)


def _check_sources(setup: Setup, plan: Plan) -> None:
  for part in plan.frozen:
    if setup.sources[part] is None:
      raise InputError(
        f'the {part} is frozen and has no weights: give {GIN_NAMES[part]} '
        f'(trainer.train.{part}_checkpoint), or name it in TRAINABLE (trainer.train.trainable)'
      )


def _continued(keeper, state: step.TrainState, metadata: dict[str, Any]) -> step.TrainState:
  state, saved = keeper.restore(state)
  for name, mark in metadata['fingerprint'].items():
    if saved['fingerprint'].get(name) != mark:
      raise InputError(
        f'{keeper.model_dir}: the frozen weights are not those that the run began with ({name} '
        'holds other values): give the same checkpoint, or another MODEL_DIR'
      )
  return state


def _put(tree: Tree, shardings: Tree) -> Tree:
  return jax.tree.map(jax.device_put, tree, pick(shardings, tree))


# -- Values ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Restored:
  """Parts read from other runs: their parameters, and where these are."""

  params: Tree
  sources: dict[str, dict[str, Any]]

  def origin(self) -> dict[str, str]:
    return {
      part: f'restored from {source["path"]}, step {source["step"]}'
      for part, source in self.sources.items()
    }


def _restored(setup: Setup, plan: Plan, parts: Tree) -> _Restored:
  """The parts that have a source, read to their places on the mesh."""
  # A trunk that starts from the backbone gets its full precision, whatever that computes in.
  copied = _starts_from_backbone(setup) and 'hypermodel' in parts
  wanted = plan.shapes if copied else step.join(plan.trained, plan.frozen)
  like = plan.placed(wanted)
  params, sources = {}, {}
  for part in parts:
    path = setup.sources[part]
    if path is not None:
      model = getattr(setup.program.model, part)
      params[part], found = runs.load_part(path, part, model=model, like=like[part])
      runs.check_part(path, part, setup.record)
      sources[part] = runs.source(setup.model_dir, path, found)
  return _Restored(params, sources)


def _starts_from_backbone(setup: Setup) -> bool:
  return setup.sources['hypermodel'] is None and hasattr(
    setup.program.model.hypermodel, 'start_from'
  )


def _completed(setup: Setup, plan: Plan, restored: _Restored) -> tuple[Tree, dict[str, str]]:
  """All parameters, those not restored at random; and where each part is from."""
  params, origin = dict(restored.params), restored.origin()
  random = [part for part in plan.shapes if part not in params]
  init = lambda key: nn.unbox(setup.program.model.init_params(key))
  params |= jax.jit(
    lambda key: {part: init(key)[part] for part in random},
    out_shardings={part: plan.shardings[part] for part in random},
  )(jax.random.key(setup.program.seed))
  origin |= dict.fromkeys(random, 'initialised')
  hypermodel: Any = (
    setup.program.model.hypermodel
  )  # one with a trunk has trunk_misfit and start_from
  backbone = restored.params.get('downstream')
  if backbone is not None and _starts_from_backbone(setup):
    misfit = hypermodel.trunk_misfit(backbone)
    if misfit is None:
      params['hypermodel'] = hypermodel.start_from(params['hypermodel'], backbone)
      origin['hypermodel'] = 'initialised, trunk from the downstream model'
    else:
      origin['hypermodel'] = f'initialised, trunk at random ({misfit})'
  return params, origin


# -- The parameter report --------------------------------------------------------------------------


def _report(plan: Plan, held: Tree, origin: Mapping[str, Mapping[str, str]]) -> str:
  """A line a leaf: shape, dtype, logical axes, trained or frozen, where it is from; and totals."""
  trained = {name for name, _ in named(plan.trained)}
  axes = dict(named(plan.axes, is_leaf=lambda leaf: isinstance(leaf, tuple)))
  lines: list[str] = []
  totals: dict[str, tuple[int, int]] = {}
  for name, leaf in named(held):
    part = name.partition('/')[0]
    how = 'trained' if name in trained else 'frozen'
    what = f'{how}, {origin[how][part]}'
    shape, names = 'x'.join(map(str, leaf.shape)), ','.join(map(str, axes[name]))
    lines.append(f'{name:90} {shape:>18} {leaf.dtype!s:9} ({names}) {what}')
    count, size = totals.get(f'{part}: {what}', (0, 0))
    totals[f'{part}: {what}'] = count + leaf.size, size + leaf.size * leaf.dtype.itemsize
  summary = [
    f'{what}: {count:,} parameters, {size / 2**20:,.1f} MiB'
    for what, (count, size) in totals.items()
  ]
  return '\n'.join(lines) + '\n\n' + '\n'.join(summary) + '\n'

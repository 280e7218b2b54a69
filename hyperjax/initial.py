"""Where a run starts: weights restored, at random, or its own last ones, on the mesh."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from hyperjax import checkpoints, fingerprints, optim, partitioning, runs, step
from hyperjax.errors import InputError

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
  model: step.Model
  trainable: tuple[str, ...]
  sources: Mapping[str, str | None]
  optimizer: optim.AdamW | optim.Adafactor
  total_steps: int
  seed: int


@dataclasses.dataclass(frozen=True)
class Start:
  """A state and frozen weights on the mesh, and what is known of them.

  `metadata` goes into every checkpoint: from it and model.json alone a run is loaded.
  """

  state: step.TrainState
  frozen: Tree
  shardings: step.TrainState
  tx: optax.GradientTransformation
  metadata: dict[str, Any]
  report: str


def begin(setup: Setup, mesh: Mesh, keeper: checkpoints.Checkpoints) -> Start:
  """The first state of a run, or the last that it saved; frozen weights from where they come from.

  Weights go to the mesh as they are read, in the dtype that they are used in.

  Raises:
    InputError: weights that are missing or do not fit, by leaf; a mesh that does not divide them.
  """
  plan = _plan(setup, mesh)
  own = keeper.latest_step()
  restored = _restored(setup, plan, plan.frozen if own is not None else plan.shapes)
  params, origin = restored.params, restored.origin()
  if own is None:
    params, origin = _completed(setup, plan, restored)
  else:
    origin = dict.fromkeys(plan.trained, f'continued from step {own}')
  frozen = jax.tree.map(
    lambda leaf, like: leaf.astype(like.dtype), _pick(params, plan.frozen), plan.frozen
  )
  metadata = {
    'trainable': list(setup.trainable),
    'frozen': {part: restored.sources[part] for part in plan.frozen},
    'fingerprint': fingerprints.fingerprint(frozen),
    'seed': setup.seed,
  }
  tx = setup.optimizer.transformation(_pick(plan.axes, plan.trained), setup.total_steps)
  first = _first_state(tx)
  shardings = partitioning.state_shardings(
    mesh,
    jax.eval_shape(first, plan.trained),
    plan.trained,
    _pick(plan.shardings, plan.trained),
  )
  if own is None:
    trained = _put(_pick(params, plan.trained), plan.shardings)
    state = jax.jit(first, out_shardings=shardings)(trained)
  else:
    state = _continued(keeper, _abstract(jax.eval_shape(first, plan.trained), shardings), metadata)
  held = step.join(state.trainable, frozen)
  report = _report(plan, held, {'trained': origin, 'frozen': restored.origin()})
  return Start(state, frozen, shardings, tx, metadata, report)


def _first_state(tx: optax.GradientTransformation) -> Callable[[Tree], step.TrainState]:
  def first(trained):
    return step.TrainState(jnp.zeros((), jnp.int32), trained, tx.init(trained))

  return first


def _continued(keeper, state: step.TrainState, metadata: dict[str, Any]) -> step.TrainState:
  state, saved = keeper.restore(state)
  for name, mark in metadata['fingerprint'].items():
    if saved['fingerprint'].get(name) != mark:
      raise InputError(
        f'{keeper.model_dir}: the frozen weights are not those that the run began with ({name} '
        'holds other values): give the same checkpoint, or another MODEL_DIR'
      )
  return state


# -- Shapes, axes and shardings --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Plan:
  """All parameters without their values: shapes, logical axes, shardings; and who trains."""

  shapes: Tree
  axes: Tree
  shardings: Tree
  trained: Tree  # the shapes of what trains
  frozen: Tree  # of what does not, in the dtype of computation


def _plan(setup: Setup, mesh: Mesh) -> _Plan:
  key = jax.random.key(setup.seed)
  boxed = jax.eval_shape(setup.model.init_params, key)
  is_spec = lambda leaf: isinstance(leaf, PartitionSpec)
  axes = jax.tree.map(tuple, nn.get_partition_spec(boxed), is_leaf=is_spec)
  shapes = nn.unbox(boxed)
  for name, leaf in _named(shapes):
    if leaf.size == 0:
      raise InputError(
        f'{name} has the shape {list(leaf.shape)}, which holds nothing: '
        'give lengths and widths of at least 1, such as PREFIX_LENGTH'
      )
  trained, frozen = step.split(shapes, setup.trainable)
  for part in frozen:
    if setup.sources[part] is None:
      raise InputError(
        f'the {part} is frozen and has no weights: give {GIN_NAMES[part]} '
        f'(trainer.train.{part}_checkpoint), or name it in TRAINABLE (trainer.train.trainable)'
      )
  shardings = partitioning.parameter_shardings(mesh, axes, shapes)
  return _Plan(shapes, axes, shardings, trained, _cast(frozen, setup.model))


def _pick(tree: Tree, like: Tree) -> Tree:
  """The leaves of `tree` that `like` has."""
  return {k: _pick(tree[k], v) if isinstance(v, dict) else tree[k] for k, v in like.items()}


def _put(tree: Tree, shardings: Tree) -> Tree:
  return jax.tree.map(jax.device_put, tree, _pick(shardings, tree))


def _abstract(shapes: Any, shardings: Any) -> Any:
  one = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  return jax.tree.map(one, shapes, shardings)


def _cast(frozen: Tree, model: step.Model) -> Tree:
  """Shapes of frozen weights in the dtype of computation; trained ones stay float32."""
  dtype = jnp.dtype(getattr(getattr(model.downstream, 'config', None), 'dtype', 'float32'))
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), frozen)


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


def _restored(setup: Setup, plan: _Plan, parts: Tree) -> _Restored:
  """The parts that have a source, read to their places on the mesh."""
  # A trunk that starts from the backbone gets its full precision, whatever that computes in.
  copied = _starts_from_backbone(setup) and 'hypermodel' in parts
  wanted = plan.shapes if copied else step.join(plan.trained, plan.frozen)
  like = _abstract(wanted, plan.shardings)
  params, sources = {}, {}
  for part in parts:
    path = setup.sources[part]
    if path is not None:
      model = getattr(setup.model, part)
      params[part], found = runs.load_part(path, part, model=model, like=like[part])
      runs.check_part(path, part, setup.record)
      sources[part] = runs.source(setup.model_dir, path, found)
  return _Restored(params, sources)


def _starts_from_backbone(setup: Setup) -> bool:
  return setup.sources['hypermodel'] is None and hasattr(setup.model.hypermodel, 'start_from')


def _completed(setup: Setup, plan: _Plan, restored: _Restored) -> tuple[Tree, dict[str, str]]:
  """All parameters, those not restored at random; and where each part is from."""
  params, origin = dict(restored.params), restored.origin()
  random = [part for part in plan.shapes if part not in params]
  init = lambda key: nn.unbox(setup.model.init_params(key))
  params |= jax.jit(
    lambda key: {part: init(key)[part] for part in random},
    out_shardings={part: plan.shardings[part] for part in random},
  )(jax.random.key(setup.seed))
  origin |= dict.fromkeys(random, 'initialised')
  hypermodel: Any = setup.model.hypermodel  # one with a trunk has trunk_misfit and start_from
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


def _report(plan: _Plan, held: Tree, origin: Mapping[str, Mapping[str, str]]) -> str:
  """A line a leaf: shape, dtype, logical axes, trained or frozen, where it is from; and totals."""
  trained = {name for name, _ in _named(plan.trained)}
  axes = dict(_named(plan.axes, is_leaf=lambda leaf: isinstance(leaf, tuple)))
  lines: list[str] = []
  totals: dict[str, tuple[int, int]] = {}
  for name, leaf in _named(held):
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


def _named(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> Sequence[tuple[str, Any]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
  return [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf) for path, leaf in leaves]

"""A run's state on disk: written beside the loop, verified when read, never half a checkpoint.

    model_dir/checkpoint_<step>/       T5X's name; Orbax writes it under another and renames it
      trainable/ opt_state/ extra/     Orbax items; one without arrays is left out
      metadata/metadata                JSON: step, metrics, what the trainer gave, and of every leaf
                                       its dtype, shape and checksum

Frozen weights are not here: the trainer's metadata says where they came from, with a fingerprint.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import re
import sys
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from hyperjax import files, fingerprints, partitioning
from hyperjax.errors import InputError
from hyperjax.fingerprints import check_fingerprint, fingerprint

__all__ = [
  'Checkpoints',
  'Damaged',
  'check_fingerprint',
  'fingerprint',
  'load_trainable',
  'trainable_shapes',
]

State = Any  # a dataclass with the fields step (int32 scalar), trainable, opt_state and extra

_ITEMS = ('trainable', 'opt_state', 'extra')
_STEP_NAMES = ocp.path.step.standard_name_format(step_prefix='checkpoint')


class Damaged(InputError):
  """A checkpoint is there, but cannot be read or does not hold what was written."""


class Checkpoints:
  """The checkpoints of one model_dir, kept by age, by merit and by period at once.

  keep: the newest so many (None: all). keep_best: ('rougeL', 'max') or ('loss', 'min'), also the
  best one by that metric. keep_period: also every step that it divides. There must be one writer
  at a time; an instance that never saves changes nothing in the directory.
  """

  def __init__(
    self,
    model_dir: str | os.PathLike[str],
    save_period: int = 1000,
    keep: int | None = 1,
    keep_best: Sequence[str] | None = None,
    keep_period: int | None = None,
  ):
    self.model_dir = files.place(model_dir)
    self.save_period = _positive('save_period', save_period)
    self.keep = None if keep is None else _positive('keep', keep)
    self.keep_period = None if keep_period is None else _positive('keep_period', keep_period)
    self.keep_best = None if keep_best is None else _metric(keep_best)
    self._manager: ocp.CheckpointManager | None = None

  def due(self, step: int) -> bool:
    """Whether the period asks for this step; `step` is the host's own count, so nothing waits."""
    return step % self.save_period == 0

  def save(
    self,
    state: State,
    metadata: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    force: bool = False,
  ) -> bool:
    """Starts to write `state` if it is due, or forced, and its step is not yet there.

    Returns whether it did, once the arrays are copied: they may be donated. The files are written
    in the background, after those of the save before. InputError if that one or this one cannot be
    written; what was whole before is still there.
    """
    step = int(state.step)
    if not (force or self.due(step)):
      return False
    with self._writing(f'checkpoint_{step}'):
      manager = self._open()
      if step in manager.all_steps():
        return False
    items = _items(state)
    numbers = {name: float(value) for name, value in (metrics or {}).items()}
    content = {
      'step': step,
      'metrics': numbers,
      'leaves': {name: _describe(item) for name, item in items.items()},
      'metadata': metadata,
    }
    args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
    args['metadata'] = ocp.args.JsonSave(_sealed(files.plain(content)))
    with self._writing(f'checkpoint_{step}'):
      ranked = numbers if self.keep_best else None
      return manager.save(step, args=ocp.args.Composite(**args), metrics=ranked, force=True)

  def restore(
    self, target: State, step: int | None = None, fall_back: bool = False
  ) -> tuple[State, Any]:
    """(the state saved at `step`, or at the latest one; its metadata).

    `target` is a state of arrays or of jax.ShapeDtypeStruct with shardings. Structure, shapes and
    dtypes must be those on disk, or InputError names the leaf; the shardings are the target's. If
    the checkpoint is damaged, the error says which older one is whole; with `fall_back` that one
    is restored, and the damaged ones are renamed to damaged_checkpoint_<step>.
    """
    directory = _find(self.model_dir, step)
    try:
      return _restore(directory, target)
    except Damaged as error:
      return self._restore_older(target, directory, error, fall_back)

  def steps(self) -> list[int]:
    """The steps on disk, oldest first; a save in progress does not count yet."""
    return _steps(self.model_dir)

  def latest_step(self) -> int | None:
    """The newest step on disk."""
    return max(self.steps(), default=None)

  def best_step(self) -> int | None:
    """The step on disk with the best `keep_best` metric, of equals the newest."""
    merits = [(self._merit(_saved_metrics(self.model_dir, step)), step) for step in self.steps()]
    return max([(m, step) for m, step in merits if m > -math.inf], default=(None, None))[1]

  def wait(self) -> None:
    """Returns when all that was saved is on disk; InputError if it cannot be written."""
    if self._manager is not None:
      with self._writing('the last checkpoint'):
        self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and ends the threads that write; a later save opens them again."""
    manager, self._manager = self._manager, None
    if manager is not None:
      with self._writing('the last checkpoint'):
        manager.close()

  def _open(self) -> ocp.CheckpointManager:
    if self._manager is None:
      _quiet()
      options = ocp.CheckpointManagerOptions(
        step_prefix='checkpoint',
        preservation_policy=self._policy(),
        # Ranks nothing here, but without it Orbax does not write the metrics for the next start.
        best_fn=self._merit if self.keep_best else None,
        # In a bucket it would delete every folder that has no commit_success.txt: train/, say.
        cleanup_tmp_directories=not files.is_remote(self.model_dir),
      )
      if files.is_remote(self.model_dir) and jax.process_index() == 0:
        _delete_unfinished(self.model_dir)
      self._manager = ocp.CheckpointManager(self.model_dir, options=options)
    return self._manager

  def _policy(self) -> policies.AnyPreservationPolicy:
    # Not best_fn with max_to_keep: that deletes the newest steps when the metric gets worse.
    kept: list[policies.PreservationPolicy] = [policies.LatestN(self.keep)]
    if self.keep_best:
      kept.append(
        policies.BestN(get_metric_fn=self._merit, n=1, keep_checkpoints_without_metrics=False)
      )
    if self.keep_period:
      kept.append(policies.EveryNSteps(self.keep_period))
    return policies.AnyPreservationPolicy(kept)

  def _merit(self, metrics: Mapping[str, float]) -> float:
    """The metric of `keep_best`, higher is better; -inf where it is absent or not finite."""
    if self.keep_best is None:
      return -math.inf
    name, mode = self.keep_best
    value = metrics.get(name, math.nan)
    return (value if mode == 'max' else -value) if math.isfinite(value) else -math.inf

  @contextlib.contextmanager
  def _writing(self, what: str) -> Iterator[None]:
    try:
      yield
    except (InputError, MemoryError, jax.errors.JaxRuntimeError):
      raise
    except Exception as error:
      self._manager = None  # its list of steps is no longer the disk's
      raise InputError(
        f'{what} cannot be written to {self.model_dir} ({_reason(error)}); whole on disk: '
        f'{_listed(self.steps())}. Make room there, or give a model_dir that can be written'
      ) from error

  def _restore_older(
    self, target: State, directory: epath.Path, error: Damaged, fall_back: bool
  ) -> tuple[State, Any]:
    damaged = [directory]
    for step in reversed([s for s in self.steps() if s < _step_of(directory)]):
      older = _find(self.model_dir, step)
      try:
        found = _restore(older, target)
      except Damaged:
        damaged.append(older)
        continue
      if not fall_back:
        raise Damaged(
          f'{error}. {older} is whole: move the damaged one away to go on from there'
        ) from error
      self._set_aside(damaged)
      return found
    raise Damaged(f'{error}. {self.model_dir} holds no older one that is whole') from error

  def _set_aside(self, damaged: Sequence[epath.Path]) -> None:
    self.close()
    multihost_utils.sync_global_devices('every process has restored an older checkpoint')
    if jax.process_index() == 0:
      for directory in damaged:
        directory.rename(directory.parent / f'damaged_{directory.name}')
    multihost_utils.sync_global_devices('damaged checkpoints are set aside')


def trainable_shapes(
  model_dir: str | os.PathLike[str], step: int | None = None
) -> tuple[dict[str, Any], Any]:
  """(jax.ShapeDtypeStruct of the weights that `load_trainable` reads; the metadata)."""
  content = _read_content(_find(files.place(model_dir), step))
  return _shapes(content), content['metadata']


def load_trainable(
  model_dir: str | os.PathLike[str], step: int | None = None, like: Any = None
) -> tuple[dict[str, Any], Any]:
  """(the trained weights at `step`, or at the latest one, as nested dicts; the metadata).

  Reads no optimiser state. `model_dir` may also be one checkpoint_<step>. `like` is a tree of
  jax.ShapeDtypeStruct: which leaves to read, in which dtype, and their shardings (None: one local
  device); without it all are read as they were saved.
  """
  directory = _find(files.place(model_dir), step)
  content = _read_content(directory)
  saved = _shapes(content)
  like = saved if like is None else like
  there, wanted = dict(_leaves(saved)), dict(_leaves(like))
  for name, x in wanted.items():
    if name not in there or there[name].shape != x.shape:
      raise InputError(f'{directory} has no {name} of the shape {list(x.shape)}: {_MEND}')
  target = {name: _abstract(there[name], x.sharding) for name, x in wanted.items()}
  value = _read_item(directory, 'trainable', _nested(target), content)
  held = jax.tree.leaves(value)
  del value  # so that every leaf is freed once it is cast
  cast = [held.pop(0).astype(x.dtype) for x in jax.tree.leaves(like)]
  return jax.tree.unflatten(jax.tree.structure(like), cast), content['metadata']


def _shapes(content: Mapping[str, Any]) -> dict[str, Any]:
  leaves = content['leaves']['trainable'].items()
  one = lambda dtype, shape, _: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
  return _nested({name: one(*leaf) for name, leaf in leaves})


def _restore(directory: epath.Path, target: State) -> tuple[State, Any]:
  content = _read_content(directory)
  items = {name: jax.tree.map(_abstract, item) for name, item in _items(target).items()}
  _check_leaves(directory, content['leaves'], items)
  step = partitioning.put(np.int32(content['step']), _abstract(target.step).sharding)
  values = {name: _read_item(directory, name, item, content) for name, item in items.items()}
  return dataclasses.replace(target, step=step, **values), content['metadata']


def _read_item(directory: epath.Path, name: str, target: Any, content: Any) -> Any:
  """One item, its leaves where `target` wants them, compared with the checksums written beside."""
  try:
    _quiet()
    where = ocp.checkpoint_utils.construct_restore_args(target)
    some = ocp.args.PyTreeRestore(target, restore_args=where, partial_restore=True)
    with ocp.PyTreeCheckpointer() as reader:
      value = reader.restore(directory / name, some)
  except (MemoryError, jax.errors.JaxRuntimeError):
    raise  # ours, not the file's
  except Exception as error:
    why = _reason(error)
    raise Damaged(f'{directory} is damaged: {name} cannot be read ({why})') from error
  for leaf, found in fingerprints.checksums(value).items():
    if found != content['leaves'][name][leaf][2]:
      raise Damaged(f'{directory} is damaged: {name}/{leaf} does not hold what was written')
  return value


@functools.cache
def _quiet() -> None:
  """Keeps off stderr the tracebacks of Orbax's threads; what they tell, an InputError says.

  They come late and from anywhere: logged, unraisable in a loop that is closed by then, or as a
  coroutine that nobody waits for any more.
  """
  for name in ('absl', 'asyncio'):
    logging.getLogger(name).addFilter(lambda record: not _of_orbax(record.getMessage(), record))
  before = sys.unraisablehook

  def unraisable(failure: Any) -> None:
    if not re.search('Event loop is closed|(?i:tensorstore)', str(failure.exc_value)):
      before(failure)

  sys.unraisablehook = unraisable
  warnings.filterwarnings('ignore', "coroutine '.*' was never awaited", RuntimeWarning)


def _of_orbax(message: str, record: logging.LogRecord) -> bool:
  told = f'{message} {record.pathname} {record.exc_info}'
  return bool(record.exc_info) and bool(re.search('orbax|tensorstore', told))


def _check_leaves(directory: epath.Path, saved: Any, items: Mapping[str, Any]) -> None:
  """InputError naming the first leaf that is not on disk as the run wants it, or not in the run."""
  wanted = {f'{name}/{leaf}': x for name, item in items.items() for leaf, x in _leaves(item)}
  there = {f'{name}/{leaf}': x for name, item in saved.items() for leaf, x in item.items()}
  for leaf in sorted(wanted.keys() | there.keys()):
    if leaf not in there:
      raise InputError(f'{directory} has no {leaf}, which this run has: {_MEND}')
    if leaf not in wanted:
      raise InputError(f'{directory} has {leaf}, which this run has not: {_MEND}')
    dtype, shape, _ = there[leaf]
    if (dtype, tuple(shape)) != (str(wanted[leaf].dtype), tuple(wanted[leaf].shape)):
      raise InputError(
        f'{directory} has {leaf} as {dtype}{list(shape)}, this run as '
        f'{wanted[leaf].dtype}{list(wanted[leaf].shape)}: {_MEND}'
      )


_MEND = 'use the model and optimiser that wrote it, or another model_dir'


def _items(state: State) -> dict[str, Any]:
  """The parts of a state that hold arrays."""
  parts = {name: getattr(state, name) for name in _ITEMS}
  return {name: part for name, part in parts.items() if jax.tree.leaves(part)}


def _describe(item: Any) -> dict[str, list[Any]]:
  sums = fingerprints.checksums(item)
  return {leaf: [str(x.dtype), list(x.shape), sums[leaf]] for leaf, x in _leaves(item)}


def _abstract(x: Any, sharding: jax.sharding.Sharding | None = None) -> jax.ShapeDtypeStruct:
  sharding = sharding or getattr(x, 'sharding', None)
  sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _sealed(content: Mapping[str, Any]) -> dict[str, Any]:
  text = json.dumps(content, sort_keys=True)
  return {**content, 'checksum': zlib.crc32(text.encode())}


def _read_content(directory: epath.Path) -> dict[str, Any]:
  try:
    content = json.loads((directory / 'metadata' / 'metadata').read_text())
    checksum = content.pop('checksum')
    if checksum != _sealed(content)['checksum']:
      raise ValueError('its checksum differs')
    return content
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise Damaged(
      f'{directory} is damaged, or was not written by hyperjax: its metadata cannot be read '
      f'({_reason(error)})'
    ) from error


def _saved_metrics(model_dir: epath.Path, step: int) -> dict[str, float]:
  try:
    return _read_content(_find(model_dir, step)).get('metrics', {})
  except InputError:  # damaged, or deleted meanwhile by the run that writes here
    return {}


def _steps(model_dir: epath.Path) -> list[int]:
  with files.reaching(model_dir):
    found = _STEP_NAMES.find_all(model_dir) if model_dir.exists() else ()
    return sorted(checkpoint.step for checkpoint in found)


def _delete_unfinished(model_dir: epath.Path) -> None:
  """Deletes checkpoints that a run broke off writing, in a bucket, where nothing is renamed."""
  with files.reaching(model_dir):
    for path in model_dir.iterdir() if model_dir.exists() else ():
      if re.fullmatch(r'checkpoint_\d+', path.name) and not (path / 'commit_success.txt').exists():
        path.rmtree()


def _find(model_dir: epath.Path, step: int | None) -> epath.Path:
  """The directory of one checkpoint; `model_dir` may be that directory itself."""
  steps = _steps(model_dir)
  if step is None and not steps and re.fullmatch(r'checkpoint_\d+', model_dir.name):
    return model_dir
  if not steps:
    why = 'holds no checkpoint_<step>' if model_dir.exists() else 'does not exist'
    raise InputError(f'{model_dir} {why}: give the model_dir of a run that has saved')
  if step is not None and step not in steps:
    raise InputError(f'{model_dir} has no checkpoint of step {step}, only of {_listed(steps)}')
  return model_dir / f'checkpoint_{steps[-1] if step is None else step}'


def _step_of(directory: epath.Path) -> int:
  return int(directory.name.rsplit('_', 1)[1])


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree


def _leaves(tree: Any) -> list[tuple[str, Any]]:
  return [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def _positive(name: str, value: Any) -> int:
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise InputError(f'Checkpoints.{name} = {value!r} must be a whole number of at least 1')
  return value


def _metric(keep_best: Sequence[str]) -> tuple[str, str]:
  if len(keep_best) != 2 or keep_best[1] not in ('max', 'min'):
    raise InputError(
      f"Checkpoints.keep_best = {keep_best!r} must be a metric and a direction: ('rougeL', 'max')"
    )
  return keep_best[0], keep_best[1]


def _listed(steps: Sequence[int]) -> str:
  return ', '.join(map(str, steps)) or 'none'


def _reason(error: BaseException) -> str:
  """What went wrong, without TensorStore's path to it: the last part of the first cause's words."""
  text = re.split(r' \[[a-z_]+[=_]', str(error.__cause__ or error))[0].rsplit('": ', 1)[-1].strip()
  return (text.splitlines() or [''])[0][:200].rstrip('. ') or type(error).__name__

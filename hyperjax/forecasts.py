"""What a run needs on a machine that need not be there: memory, arithmetic, exchanges, time.

A step is compiled ahead of time from shapes alone; no parameter exists.
"""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.interpreters import partial_eval
from jax.sharding import Mesh

from hyperjax import (
  data,
  decoding,
  flops,
  hlo,
  partitioning,
  peft,
  program,
  schedules,
  step,
  topologies,
)
from hyperjax.errors import InputError
from hyperjax.models import attention

LARGE = 64 * 2**20
"""Bytes of a leaf that should not be whole on every device."""


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The shapes of a run's batches."""

  lengths: Mapping[str, int]
  batch_size: int
  targets_per_context: int = 1

  def __post_init__(self):
    data.check_sizes(self.batch_size, self.targets_per_context, 1, 0)
    data.check_lengths(self.lengths)

  @property
  def contexts(self) -> int:
    return self.batch_size // self.targets_per_context

  def batch(self, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch without values, placed on a mesh as the trainer places one."""
    none = data.NOTHING
    texts = (none,) * self.targets_per_context
    episode: Any = {'task_id': 0, 'hyper_inputs': none, 'inputs': texts, 'targets': texts, 'cut': 0}
    empty = data.batch([episode] * self.contexts, self.lengths)
    partitioning.check_batch(mesh, self.batch_size, self.contexts)
    return program.abstract(empty, partitioning.batch_shardings(mesh, empty, self.contexts))


@dataclasses.dataclass(frozen=True)
class Step:
  """One of a run's programs, traced: what it takes, and what it has to compute."""

  traced: Any  # jax.stages.Traced
  arguments: dict[str, Any]  # kind -> shapes with shardings, in the order of the arguments
  read: list[bool]  # which of their leaves matter: XLA leaves the others out
  total: flops.Flops
  model_flops: int


@dataclasses.dataclass(frozen=True)
class Run:
  """A program on a mesh, with batches of some sizes."""

  program: program.Program
  plan: program.Plan
  sizes: Sizes
  mesh: Mesh

  @classmethod
  def of(cls, own: program.Program, sizes: Sizes, mesh: Mesh) -> 'Run':
    step.check_batch(sizes.batch_size, sizes.contexts, own.accumulate)
    return cls(own, program.plan(own, mesh), sizes, mesh)

  def placed(self) -> contextlib.AbstractContextManager:
    """Arrays are traced on the mesh, by its rules for logical axes."""
    return partitioning.placed(self.mesh, self.sizes.contexts)

  @property
  def params(self) -> dict[str, Any]:
    """All parameters, as a step holds them."""
    return step.join(self.plan.state.trainable, self.plan.placed(self.plan.frozen))

  def train(self) -> Step:
    """The train step, as the trainer compiles it."""
    state, frozen = self.plan.state, self.plan.placed(self.plan.frozen)
    batch = self.sizes.batch(self.mesh)
    # Made before the mesh is set: what is computed at once must not be computed over there.
    advance = self.program.train_step(self.plan)

    def forward(trainable, frozen, batch):
      model, objective = self.program.model, self.program.objective
      rng = jax.random.key(0)
      return step.loss_fn(trainable, frozen, batch, state.extra, rng, model, objective)[0]

    with self.placed():
      traced = advance.trace(state, frozen, batch)
      plain = jax.make_jaxpr(forward)(state.trainable, frozen, batch)
    own = flops.count(plain.jaxpr, _marks(state.trainable, frozen, batch))
    parts = {'step': state.step, 'trained': state.trainable, 'optimizer': state.opt_state}
    jaxpr, read = _pruned(traced.jaxpr)
    parts |= {'frozen': frozen, 'batch': batch}
    return Step(traced, parts, read, flops.count(jaxpr), own.with_gradients)

  def evaluate(self) -> Step:
    """The loss of a batch that is not trained on, as evaluation during training compiles it."""
    given = (self.plan.state.trainable, self.plan.placed(self.plan.frozen))
    batch = self.sizes.batch(self.mesh)
    with self.placed():
      traced = self.program.evaluation_step().trace(*given, batch, self.plan.state.extra)
    parts = {'trained': given[0], 'frozen': given[1], 'batch': batch}
    return _forward(traced, parts, _marks(*given, batch))

  def adapt(self) -> Step:
    """phi from a batch's contexts, as evaluation and hyperjax.adapt compile it."""
    hypermodel = self.program.model.hypermodel
    if hypermodel is None:
      raise InputError('--what=adapt: the run has no hypermodel, so there is nothing that adapts')
    batch = self.sizes.batch(self.mesh)
    given = {name: x for name, x in batch.items() if name == 'hyper_input_tokens'}
    with self.placed():
      traced = jax.jit(hypermodel.generate).trace(self.params, given)
    parts = {'parameters': self.params, 'batch': given}
    return _forward(traced, parts, _all_frozen(self.params, given))

  def predict(self, max_length: int | None = None) -> Step:
    """Greedy answers to a batch under its phi: the loop over tokens, all of them."""
    model, batch = self.program.model, self.sizes.batch(self.mesh)
    phi = None
    if model.hypermodel is not None:
      phi = self._phi(batch)
    own, tokens = self.params['downstream'], batch['encoder_input_tokens']
    length = self.sizes.lengths['targets'] if max_length is None else max_length
    with self.placed():
      traced = decoding.decode.trace(
        model.downstream, own, tokens, phi, None, decoding.GREEDY, length, 1
      )
    parts = {'parameters': own, 'batch': tokens, 'phi': phi}
    return _forward(traced, parts, _all_frozen(own, (tokens, phi)), length)

  def _phi(self, batch: Mapping[str, Any]) -> Any:
    """The phi of a batch's contexts, placed by its logical axes, as generate leaves it."""
    with self.placed():
      phi = jax.eval_shape(self.program.model.generate, self.params, batch)
    rules = partitioning.rules(peft.num_contexts(phi))
    places = partitioning.parameter_shardings(self.mesh, peft.logical_axes(phi), phi, rules)
    return program.abstract(phi, places)


WHAT: dict[str, Callable[[Run], Step]] = {
  'train': Run.train,
  'evaluate': Run.evaluate,
  'adapt': Run.adapt,
  'predict': Run.predict,
}


def _marks(trained: Any, frozen: Any, others: Any) -> list[flops.Mark]:
  marks = zip((trained, frozen, others), (flops.TRAINED, flops.FROZEN, flops.NOTHING))
  return [mark for tree, mark in marks for _ in jax.tree.leaves(tree)]


def _all_frozen(params: Any, others: Any) -> list[flops.Mark]:
  return _marks((), params, others)


def _forward(traced, parts: dict[str, Any], marks: list[flops.Mark], rounds: int = 1) -> Step:
  jaxpr, read = _pruned(traced.jaxpr)
  marks = [mark for mark, one in zip(marks, read, strict=True) if one]
  total = flops.count(jaxpr, marks, rounds)
  return Step(traced, parts, read, total, total.of_parameters)


def _pruned(jaxpr: Any) -> tuple[Any, list[bool]]:
  """A jaxpr without what no result needs, as XLA prunes it; and which inputs are left."""
  return partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))


# -- What compiling tells --------------------------------------------------------------------------


def forecast(
  own: program.Program,
  sizes: Sizes,
  shape: partitioning.MeshShape,
  topology: topologies.Topology,
  what: str = 'train',
  until: str = 'code',
) -> dict[str, Any]:
  """Compiles one of a run's programs for a topology; all numbers of bytes are of one chip.

  Args:
    until: 'code', or 'plan': XLA's plan, much sooner, whose memory is less than the program's.

  Returns:
    what --output holds: see docs/scaling.md.

  Raises:
    InputError: the mesh does not fit the topology, or the run; there is no such program.
  """
  for flag, name, known in (('what', what, WHAT), ('until', until, UNTIL)):
    if name not in known:
      raise InputError(f'--{flag} is {name!r}; give one of {", ".join(known)}')
  if topology.slices > 1 and shape.slices is None:  # CPUs do not say it themselves
    shape = dataclasses.replace(shape, slices=topology.slices)
  slices = shape.slices or topology.slices
  mesh = partitioning.make_mesh(shape, topology.devices)
  began = time.monotonic()
  run = Run.of(own, sizes, mesh)
  with attention.overheard() as kernels:
    made = WHAT[what](run)
  with run.placed():
    lowered = made.traced.lower()
    traced = time.monotonic()
    compiled, lacking = _compiled(lowered, until)
  seconds = {'trace': traced - began, 'compile': time.monotonic() - traced}
  module = None if compiled is None else hlo.parse(compiled.text, mesh.size // slices)
  memory = _memory(made, compiled, lacking)
  hbm = topology.chip.hbm if topology.chip else None
  work = _work(made, module, len(topology.devices))
  report = {
    'what': what,
    'topology': topology.name,
    'chips': len(topology.devices),
    'slices': slices,
    'mesh': dict(mesh.shape),
    'dtype': str(program.dtype_of(own.model)),
    'remat': _field(own, 'remat'),
    'attention': attention.in_words(kernels),
    'batch_size': sizes.batch_size,
    'targets_per_context': sizes.targets_per_context,
    'accumulate': own.accumulate,
    'lengths': dict(sizes.lengths),
    'parameters': {'trained': _total(run.plan.trained), 'frozen': _total(run.plan.frozen)},
    'fits': False if compiled is None and hbm else fits(memory, hbm, until),
    'hbm': hbm,
    'memory': memory,
    'work': work,
    'estimate': _estimate(work, topology),
    'leaves': leaves(run.params),
    'exchanges': [] if module is None else _largest(module.collectives),
    'until': until,
    'compile_seconds': {name: round(each, 1) for name, each in seconds.items()},
  }
  return report | {'warnings': warnings(report), 'suggestions': suggestions(report)}


def fits(memory: Mapping[str, int | None], hbm: int | None, until: str) -> bool | None:
  """Whether a chip's memory holds a program; None where that is not known.

  A plan's temporaries fall short of the program's by up to a third, as far as we compared them.
  """
  if hbm is None:
    return None
  peak, room = memory['peak'] or 0, (memory['temporaries'] or 0) // 3 if until == 'plan' else 0
  return None if peak <= hbm < peak + room else peak <= hbm


UNTIL = {'code': schedules.compiled, 'plan': schedules.planned}


def _compiled(lowered, until: str) -> tuple[schedules.Compiled | None, str | None]:
  """The program, or XLA's word that the device's memory does not hold it."""
  try:
    return UNTIL[until](lowered), None
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return None, str(error)


def _memory(
  made: Step, compiled: schedules.Compiled | None, lacking: str | None
) -> dict[str, int | None]:
  """Bytes of a chip: what the step is given, by kind, and what it needs besides."""
  every = [(kind, leaf) for kind, tree in made.arguments.items() for leaf in jax.tree.leaves(tree)]
  kinds = dict.fromkeys(made.arguments, 0)
  for (kind, leaf), read in zip(every, made.read, strict=True):
    kinds[kind] += _on_chip(leaf) if read else 0
  if compiled is None:
    return {**kinds, 'temporaries': None, 'peak': needed(lacking or '')}
  own = {'results': compiled.results, 'temporaries': compiled.temporaries, 'peak': compiled.peak}
  return {**kinds, **own}


def _on_chip(leaf: jax.ShapeDtypeStruct) -> int:
  shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
  return math.prod(shape) * leaf.dtype.itemsize


def needed(message: str) -> int | None:
  """What a program would have needed, of XLA's 'Used 20.1G of 15.75G hbm' and the like."""
  found = re.search(r'(?:Used|temporaries \()\s*([\d.]+)([KMGT])', message)
  return int(float(found[1]) * 1024 ** (1 + 'KMGT'.index(found[2]))) if found else None


def _work(made: Step, module: hlo.Module | None, chips: int) -> dict[str, Any]:
  return {
    'flops': made.total.total,
    'flops_per_chip': made.total.total / chips,
    'model_flops': made.model_flops,
    'hbm_bytes': None if module is None else module.traffic,
    'collectives': None if module is None else _exchanged(module, crosses=False),
    'between_slices': None if module is None else _exchanged(module, crosses=True),
  }


def _exchanged(module: hlo.Module, crosses: bool) -> dict[str, dict[str, int]]:
  return hlo.by_kind([one for one in module.collectives if one.crosses == crosses])


def _sent(kinds: Mapping[str, Mapping[str, int]]) -> int:
  return sum(kind['sent'] for kind in kinds.values())


def _estimate(work: dict[str, Any], topology: topologies.Topology) -> dict[str, float] | None:
  """Seconds, were each part done at the chip's best rate and none beside another.

  An exchange goes round one ring of chips, both ways.
  """
  chip = topology.chip
  if chip is None or work['collectives'] is None:
    return None
  parts = {
    'compute': work['flops_per_chip'] / chip.flops,
    'hbm': work['hbm_bytes'] / chip.hbm_bandwidth,
    'interconnect': _sent(work['collectives']) / (2 * chip.link_bandwidth),
    'between_slices': _sent(work['between_slices']) / chip.dcn_bandwidth,
  }
  total = sum(parts.values())
  best = work['model_flops'] / len(topology.devices) / chip.flops
  return {**parts, 'step': total, 'model_flops_utilisation': best / total}


def _largest(collectives: list[hlo.Collective], most: int = 8) -> list[dict[str, Any]]:
  ordered = sorted(collectives, key=lambda one: -one.sent)[:most]
  return [dataclasses.asdict(one) | {'sent': round(one.sent)} for one in ordered]


def leaves(params: Any, most: int = 8) -> list[dict[str, Any]]:
  """The largest parameters, and over which axes of the mesh each is split."""
  rows = [
    {
      'name': name,
      'shape': list(leaf.shape),
      'dtype': str(leaf.dtype),
      'split': list(leaf.sharding.spec),
      'bytes': leaf.size * leaf.dtype.itemsize,
      'bytes_per_chip': _on_chip(leaf),
    }
    for name, leaf in program.named(params)
  ]
  return sorted(rows, key=lambda row: -row['bytes'])[:most]


def _total(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _field(own: program.Program, name: str) -> Any:
  """A field of the downstream model's config, and of the trunk's where that differs."""
  configs = (
    getattr(own.model.downstream, 'config', None),
    getattr(own.model.hypermodel, 'trunk', None),
  )
  values = [getattr(config, name, None) for config in configs if config is not None]
  return values[0] if len(set(values)) == 1 else values or None


# -- What to change --------------------------------------------------------------------------------


def warnings(report: Mapping[str, Any]) -> list[str]:
  """Large leaves that every chip holds whole, and parameters that move in a dear way."""
  if report['chips'] == 1:
    return []
  result = [
    f'{leaf["name"]} ({leaf["bytes"] / 2**20:,.0f} MiB) is whole on every chip'
    for leaf in report['leaves']
    if leaf['bytes'] > LARGE and leaf['bytes_per_chip'] == leaf['bytes']
  ]
  moved = {kind: row['sent'] for kind, row in (report['work']['collectives'] or {}).items()}
  reduced = moved.pop('all-reduce', 0)
  if report['mesh']['fsdp'] > 1 and reduced > LARGE and reduced > 2 * sum(moved.values()):
    result.append(
      'XLA gathers parameters by all-reduce, which sends twice as much as all-gather, as where '
      f'fsdp spans all sides of a slice: try partitioning.MeshShape.fsdp below '
      f'{report["mesh"]["fsdp"]}, and more of .data'
    )
  return result


def suggestions(report: Mapping[str, Any]) -> list[str]:
  """What to change, cheapest first, where a run does not fit."""
  if report['fits'] is not False:
    return []
  train = report['what'] == 'train'
  chips, memory, mesh = report['chips'], report['memory'], report['mesh']
  result = []
  if report['dtype'] == 'float32':
    result.append("DTYPE='bfloat16' halves activations and frozen weights")
  if train and report['remat'] is None:
    result.append("REMAT='minimal' keeps only products for the backward pass")
  elif train and report['remat'] != 'full':
    result.append("REMAT='full' keeps only each layer's input for the backward pass")
  held = sum(memory.get(kind) or 0 for kind in ('trained', 'optimizer', 'frozen', 'parameters'))
  if mesh['fsdp'] * mesh['model'] < chips and held > report['hbm'] / 4:
    result.append(
      f'partitioning.MeshShape.data=1 and .fsdp={chips // mesh["model"]} split the '
      f'{amount(held)} of parameters and optimiser over all chips'
    )
  if train and (parts := _parts(report)):
    result.append(f'ACCUMULATE={parts} reads the batch in {parts} parts')
  elif not train and report['batch_size'] > 1:
    result.append('a smaller BATCH_SIZE')
  result.append('a larger --topology, or chips with more memory')
  return result


def _parts(report: Mapping[str, Any]) -> int | None:
  """Twice the parts that a batch is read in, if every device still has a context of each."""
  parts = 2 * report['accumulate']
  contexts = report['batch_size'] // report['targets_per_context']
  rows = report['mesh']['data'] * report['mesh']['fsdp']
  return parts if contexts % (parts * rows) == 0 else None


# -- As text ---------------------------------------------------------------------------------------


def amount(size: int | float | None) -> str:
  """Bytes for people."""
  if size is None:
    return 'unknown'
  power = 30 if size >= 2**27 else 20 if size >= 2**17 else 10
  return f'{size / 2**power:,.{2 if power == 30 else 1}f} {" KMG"[power // 10]}iB'


def as_text(report: Mapping[str, Any]) -> str:
  """The report for people."""
  return '\n'.join(_lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
  memory, work, estimate = report['memory'], report['work'], report['estimate']
  mesh = ', '.join(f'{axis}={size}' for axis, size in report['mesh'].items())
  chip = 'device' if report['hbm'] is None else 'chip'
  yield f'{report["what"]} on {report["topology"]}: {report["chips"]} {chip}s, mesh {mesh}'
  lengths = ', '.join(f'{name} {length}' for name, length in report['lengths'].items())
  batch = f'batch {report["batch_size"]} ({report["targets_per_context"]} a context; {lengths})'
  how = ', '.join(f'{name} {report[name]}' for name in ('accumulate', 'dtype', 'remat'))
  yield f'{batch}, {how}'
  yield report['attention']
  count = report['parameters']
  yield f'parameters: {count["trained"]:,} trained, {count["frozen"]:,} frozen'
  sizes = ((kind, size) for kind, size in memory.items() if kind != 'step')
  yield f'memory of a {chip}: ' + ', '.join(f'{kind} {amount(size)}' for kind, size in sizes)
  if report['hbm'] is not None:
    words = {True: 'fits', False: 'DOES NOT FIT', None: 'may not fit, for a plan tells too little'}
    yield f'  {words[report["fits"]]}: {amount(memory["peak"])} of {amount(report["hbm"])}'
  yield (
    f'arithmetic: {work["flops"] / 1e12:,.3f} Tflop a step ({work["flops_per_chip"] / 1e12:,.3f} a '
    f'{chip}), of the model {work["model_flops"] / 1e12:,.3f} (6N trained, 4N frozen with gradient)'
  )
  if work['hbm_bytes'] is not None:
    yield f'through the memory of a {chip}: {amount(work["hbm_bytes"])}'
    yield from _told(f'exchanges of a {chip}', work['collectives'])
    if report['slices'] > 1:
      yield from _told(f'exchanges of a {chip} between slices', work['between_slices'])
  if estimate is not None:
    names = _PARTS if report['slices'] == 1 else (*_PARTS, 'between_slices')
    parts = ' + '.join(f'{name.replace("_", " ")} {estimate[name]:.3f}' for name in names)
    yield (
      f"estimate of a step, as a sum at the chip's best rates: {estimate['step']:.3f} s = {parts}; "
      f'model flops utilisation {estimate["model_flops_utilisation"]:.0%}'
    )
  yield 'largest parameters:'
  for leaf in report['leaves']:
    split = ', '.join('+'.join(a) if isinstance(a, tuple) else str(a or '-') for a in leaf['split'])
    shape = 'x'.join(map(str, leaf['shape']))
    own, whole = amount(leaf['bytes_per_chip']), amount(leaf['bytes'])
    yield f'  {leaf["name"]:70} {shape:>16} {leaf["dtype"]:8} ({split}) {own} of {whole}'
  seconds = report['compile_seconds']
  yield f'traced in {seconds["trace"]:.1f} s, compiled in {seconds["compile"]:.1f} s'
  for warning in report['warnings']:
    yield f'note: {warning}'
  for suggestion in report['suggestions']:
    yield f'to make it fit: {suggestion}'


def _told(what: str, kinds: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
  yield f'{what}:' + ('' if kinds else ' none')
  for kind, row in kinds.items():
    moved = f'{amount(row["bytes"])}, of it sent {amount(row["sent"])}'
    yield f'  {kind:18} {row["count"]:6,} times, {moved}'


_PARTS = ('compute', 'hbm', 'interconnect')

"""Compiled programs as text: loops go round, exchanges count once, slices of stacks are slices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from hyperjax import hlo

# A loop of 6 rounds as a TPU's text has it: no trip count, an asynchronous all-gather in three
# fusions of one channel, one of them in a loop of its own, a reduce-scatter inside a fusion, stacks
# that are cut and written into.
TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%start (p.0: bf16[1,128,1024]) -> (bf16[1,128,1024], bf16[1,1024,1024], u32[]) {
  %p.0 = bf16[1,128,1024]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} all-gather(%p.0), channel_id=8, replica_groups=mesh['a'=8,'b'=1] {'a'}, dimensions={1}, metadata={op_name="jit(step)/gather" stack_frame_id=1}
  ROOT %custom-call.1 = (bf16[1,128,1024]{2,1,0}, bf16[1,1024,1024]{2,1,0}, u32[]{:S(2)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%done (p.1: bf16[1,128,1024], p.2: bf16[1,1024,1024]) -> bf16[1,1024,1024] {
  %p.1 = bf16[1,128,1024]{2,1,0} parameter(0)
  %p.2 = bf16[1,1024,1024]{2,1,0} parameter(1)
  %all-gather.2 = bf16[1,1024,1024]{2,1,0} all-gather(%p.1), channel_id=8, replica_groups=mesh['a'=8,'b'=1] {'a'}, dimensions={1}
  ROOT %custom-call.2 = bf16[1,1024,1024]{2,1,0} custom-call(%p.2, %all-gather.2), custom_call_target="AsyncCollectiveDone"
}

%go_on (p.9: bf16[1,128,1024]) -> bf16[1,1024,1024] {
  %p.9 = bf16[1,128,1024]{2,1,0:S(1)} parameter(0)
  ROOT %all-gather.3 = bf16[1,1024,1024]{2,1,0:S(1)} all-gather(%p.9), channel_id=8, replica_groups=mesh['a'=8,'b'=1] {'a'}, dimensions={1}
}

%window (w.1: (s32[], bf16[1,128,1024])) -> (s32[], bf16[1,128,1024]) {
  %w.1 = (s32[]{:S(6)}, bf16[1,128,1024]{2,1,0:S(1)}) parameter(0)
  %j.1 = s32[]{:S(6)} get-tuple-element(%w.1), index=0
  %part.2 = bf16[1,128,1024]{2,1,0:S(1)} get-tuple-element(%w.1), index=1
  %fusion.3 = bf16[1,1024,1024]{2,1,0:S(1)} fusion(%part.2), kind=kCustom, calls=%go_on
  ROOT %tuple.3 = (s32[]{:S(6)}, bf16[1,128,1024]{2,1,0:S(1)}) tuple(%j.1, %part.2)
}

%windows (w.2: (s32[], bf16[1,128,1024])) -> pred[] {
  %w.2 = (s32[]{:S(6)}, bf16[1,128,1024]{2,1,0:S(1)}) parameter(0)
  %j.2 = s32[]{:S(6)} get-tuple-element(%w.2), index=0
  %four.1 = s32[]{:T(128)} constant(4)
  ROOT %lt.2 = pred[]{:T(512)} compare(%j.2, %four.1), direction=LT
}

%cut (p.3: bf16[6,128,1024], p.4: s32[]) -> bf16[1,128,1024] {
  %p.3 = bf16[6,128,1024]{2,1,0} parameter(0)
  %p.4 = s32[]{:T(128)S(6)} parameter(1)
  %zero.1 = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.1 = bf16[1,128,1024]{2,1,0} dynamic-slice(%p.3, %p.4, %zero.1, %zero.1), dynamic_slice_sizes={1,128,1024}
}

%write (p.5: f32[6,128,1024], p.6: s32[], p.7: f32[1,128,1024]) -> f32[6,128,1024] {
  %p.5 = f32[6,128,1024]{2,1,0} parameter(0)
  %p.7 = f32[1,128,1024]{2,1,0} parameter(2)
  %p.6 = s32[]{:T(128)S(6)} parameter(1)
  %zero.2 = s32[]{:T(128)} constant(0)
  ROOT %dynamic-update-slice.1 = f32[6,128,1024]{2,1,0} dynamic-update-slice(%p.5, %p.7, %p.6, %zero.2, %zero.2)
}

%add (x.1: f32[], y.1: f32[]) -> f32[] {
  %x.1 = f32[] parameter(0)
  %y.1 = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x.1, %y.1)
}

%all-reduce-scatter.1 (p.8: f32[1,1024,1024]) -> f32[1,128,1024] {
  %p.8 = f32[1,1024,1024]{2,1,0} parameter(0)
  %all-reduce.1 = f32[1,1024,1024]{2,1,0} all-reduce(%p.8), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %zero.3 = s32[] constant(0)
  ROOT %dynamic-slice.2 = f32[1,128,1024]{2,1,0} dynamic-slice(%all-reduce.1, %zero.3, %zero.3, %zero.3), dynamic_slice_sizes={1,128,1024}
}

%body (state.1: (s32[], bf16[6,128,1024], f32[6,128,1024])) -> (s32[], bf16[6,128,1024], f32[6,128,1024]) {
  %state.1 = (s32[]{:T(128)}, bf16[6,128,1024]{2,1,0}, /*index=2*/f32[6,128,1024]{2,1,0}) parameter(0)
  %i.1 = s32[]{:T(128)S(6)} get-tuple-element(%state.1), index=0
  %stack.1 = bf16[6,128,1024]{2,1,0} get-tuple-element(%state.1), index=1
  %sums.1 = f32[6,128,1024]{2,1,0} get-tuple-element(%state.1), index=2
  %layer.1 = bf16[1,128,1024]{2,1,0} fusion(%stack.1, %i.1), kind=kLoop, calls=%cut
  %fusion.1 = (bf16[1,128,1024]{2,1,0:S(1)}, bf16[1,1024,1024]{2,1,0:S(1)}, u32[]{:S(2)}) fusion(%layer.1), kind=kCustom, calls=%start
  %given.1 = bf16[1,128,1024]{2,1,0:S(1)} get-tuple-element(%fusion.1), index=0
  %whole.1 = bf16[1,1024,1024]{2,1,0:S(1)} get-tuple-element(%fusion.1), index=1
  %pair.1 = (s32[]{:S(6)}, bf16[1,128,1024]{2,1,0:S(1)}) tuple(%i.1, %given.1)
  %while.2 = (s32[]{:S(6)}, bf16[1,128,1024]{2,1,0:S(1)}) while(%pair.1), condition=%windows, body=%window
  %fusion.2 = bf16[1,1024,1024]{2,1,0:S(1)} fusion(%given.1, %whole.1), kind=kCustom, calls=%done
  %wide.1 = f32[1,1024,1024]{2,1,0:S(1)} convert(%fusion.2)
  %part.1 = f32[1,128,1024]{2,1,0:S(1)} fusion(%wide.1), kind=kCustom, calls=%all-reduce-scatter.1
  %sums.2 = f32[6,128,1024]{2,1,0} fusion(%sums.1, %i.1, %part.1), kind=kLoop, calls=%write
  %one.1 = s32[]{:T(128)} constant(1)
  %i.2 = s32[]{:T(128)S(6)} add(%i.1, %one.1)
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[6,128,1024]{2,1,0}, f32[6,128,1024]{2,1,0}) tuple(%i.2, %stack.1, %sums.2)
}

%test (state.2: (s32[], bf16[6,128,1024], f32[6,128,1024])) -> pred[] {
  %state.2 = (s32[]{:T(128)}, bf16[6,128,1024]{2,1,0}, f32[6,128,1024]{2,1,0}) parameter(0)
  %six.1 = s32[]{:T(128)} constant(6)
  %i.3 = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.3, %six.1), direction=LT
}

ENTRY %main (x.2: bf16[6,128,1024], y.2: f32[6,128,1024]) -> f32[6,128,1024] {
  %x.2 = bf16[6,128,1024]{2,1,0} parameter(0)
  %y.2 = f32[6,128,1024]{2,1,0} parameter(1)
  %zero.4 = s32[]{:T(128)} constant(0)
  %tuple.2 = (s32[]{:T(128)}, bf16[6,128,1024]{2,1,0}, f32[6,128,1024]{2,1,0}) tuple(%zero.4, %x.2, %y.2)
  %while.1 = (s32[]{:T(128)}, bf16[6,128,1024]{2,1,0}, f32[6,128,1024]{2,1,0}) while(%tuple.2), condition=%test, body=%body
  %gone.1 = f32[6,128,1024]{2,1,0} get-tuple-element(%while.1), index=2
  %permute.1 = f32[6,128,1024]{2,1,0} collective-permute(%gone.1), channel_id=11, source_target_pairs={{0,1},{1,0}}
  ROOT %copy.1 = f32[6,128,1024]{2,1,0} copy(%permute.1)
}
"""
LAYER, WHOLE = 2 * 128 * 1024, 2 * 1024 * 1024  # bfloat16
STACK = 4 * 6 * 128 * 1024  # float32


@pytest.fixture(scope='module')
def module():
  return hlo.parse(TPU)


def test_a_loop_without_a_count_goes_round_as_its_condition_says(module):
  assert module.entry == 'main' and module.runs == {'main': 1, 'body': 6, 'window': 24}


def test_an_exchange_counts_once_a_round_though_three_fusions_hold_it(module):
  found = {one.kind: one for one in module.collectives}
  assert len(found) == len(module.collectives) == 3
  gather, scatter = found['all-gather'], found['reduce-scatter']
  assert (gather.bytes, gather.devices, gather.times) == (WHOLE, 8, 6)
  assert gather.where == 'jit(step)/gather' and gather.sent == 6 * WHOLE * 7 / 8
  assert (scatter.bytes, scatter.devices, scatter.times) == (2 * WHOLE, 8, 6)
  assert found['collective-permute'].sent == STACK
  table = hlo.by_kind(module.collectives)
  assert table['all-gather'] == {'count': 6, 'bytes': 6 * WHOLE, 'sent': 6 * WHOLE * 7 // 8}


def test_traffic_is_what_passes_through_main_memory(module):
  # A round reads a layer of the stack, writes it, reads it to gather, and writes a layer of sums;
  # then the permute and the copy each read and write all sums. S(1) is the chip's fast memory.
  written = 2 * LAYER  # float32
  assert module.traffic == 6 * (3 * LAYER + written) + 4 * STACK + 6 * small(module)


def small(module) -> int:
  """Bytes of the loop's own counter, of which one operand is a constant in main memory."""
  return 4


@pytest.mark.parametrize('stride, rounds', [(1, 7), (2, 4), (3, 3)])
def test_a_loop_goes_on_by_what_its_body_adds(stride, rounds):
  text = f"""\
HloModule m, num_partitions=2

%body (state: (f32[5], u32[])) -> (f32[5], u32[]) {{
  %state = (f32[5], u32[]) parameter(0)
  %x = f32[5]{{0}} get-tuple-element(%state), index=0
  %i = u32[] get-tuple-element(%state), index=1
  %one = u32[] constant(1)
  %rest = u32[] constant({stride - 1})
  %other = f32[5]{{0}} collective-permute(%x), channel_id=1, source_target_pairs={{{{0,1}},{{1,0}}}}
  %next = u32[] add(%i, %one)
  %copy = u32[] copy(%next)
  %after = u32[] add(%rest, %copy)
  ROOT %tuple = (f32[5], u32[]) tuple(%other, %after)
}}

%test (state: (f32[5], u32[])) -> pred[] {{
  %state = (f32[5], u32[]) parameter(0)
  %i = u32[] get-tuple-element(%state), index=1
  %seven = u32[] constant(7)
  ROOT %less = pred[] compare(%i, %seven), direction=LT
}}

ENTRY %main (given: (f32[5], u32[])) -> (f32[5], u32[]) {{
  %given = (f32[5], u32[]) parameter(0)
  ROOT %while = (f32[5], u32[]) while(%given), condition=%test, body=%body
}}
"""
  (found,) = hlo.parse(text).collectives
  assert found.times == rounds


def test_a_copy_that_is_started_moves_its_own_bytes_once():
  text = """\
HloModule m

ENTRY %main (x: f32[8,5]) -> f32[8,5] {
  %x = f32[8,5]{1,0} parameter(0)
  %slice-start.1 = ((f32[8,5]{1,0}), f32[2,5]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:2], [0:5]}
  %slice-done.1 = f32[2,5]{1,0:S(1)} slice-done(%slice-start.1)
  %copy-start.1 = (f32[2,5]{1,0}, f32[2,5]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%slice-done.1)
  ROOT %copy-done.1 = f32[2,5]{1,0} copy-done(%copy-start.1)
}
"""
  assert hlo.parse(text).traffic == 4 * 2 * 5 + 4 * 2 * 5


@pytest.mark.parametrize(
  'groups, devices',
  [
    ("replica_groups=mesh['x'=4,'y'=2] {'x'}", 4),
    ("replica_groups=mesh['x'=4,'y'=3] {'y','x'}", 12),
    ("replica_groups=mesh['x'=8,'y'=3] {'x':(1)2}", 2),
    ("replica_groups=mesh['x'=1,'y'=3,'z'=4], device_ids=([4,3]T(1,0)) {'y'}", 3),
    ('replica_groups=[2,6]<=[12]', 6),
    ('replica_groups=[6,2]<=[2,6]T(1,0)', 2),
    ('replica_groups={{0,1,2},{3,4,5}}', 3),
    ('replica_groups={}', 12),
  ],
)
def test_who_exchanges_with_whom(groups, devices):
  text = f"""\
HloModule m, num_partitions=12

ENTRY %main (x: f32[5]) -> f32[5] {{
  %x = f32[5]{{0}} parameter(0)
  ROOT %all-reduce = f32[5]{{0}} all-reduce(%x), channel_id=1, {groups}, to_apply=%add
}}
"""
  (found,) = hlo.parse(text).collectives
  assert (found.kind, found.bytes, found.devices) == ('all-reduce', 20, devices)
  assert found.sent == pytest.approx(20 * 2 * (devices - 1) / devices)


@pytest.mark.parametrize(
  'text, groups',
  [
    ("replica_groups=mesh['x'=2,'y'=3] {'x'}", [[0, 3], [1, 4], [2, 5]]),
    ("replica_groups=mesh['x'=2,'y'=3] {'y'}", [[0, 1, 2], [3, 4, 5]]),
    ("replica_groups=mesh['x'=6] {'x':(1)2}", [[0, 3], [1, 4], [2, 5]]),
    ("replica_groups=mesh['x'=6] {'x':(3)2}", [[0, 1], [2, 3], [4, 5]]),
    ("replica_groups=mesh['x'=2,'y'=3], device_ids=([3,2]T(1,0)) {'y'}", [[0, 2, 4], [1, 3, 5]]),
    ('replica_groups=[2,3]<=[6]', [[0, 1, 2], [3, 4, 5]]),
    ('replica_groups=[2,3]<=[3,2]T(1,0)', [[0, 2, 4], [1, 3, 5]]),
    ('replica_groups={{0,4},{1,5}}, to_apply=%add', [[0, 4], [1, 5]]),
    ('source_target_pairs={{0,1},{1,0}}', [[0, 1], [1, 0]]),
    ('replica_groups={}, to_apply=%add', [[0, 1, 2, 3, 4, 5]]),
  ],
)
def test_groups_of_devices(text, groups):
  assert hlo.groups(text, 6).tolist() == groups


def test_what_goes_from_slice_to_slice_is_told_apart():
  """On CPUs by who exchanges; on TPUs by what is sent to the hosts of other slices."""
  text = """\
HloModule m, num_partitions=6

ENTRY %main (x: f32[5]) -> f32[5] {
  %x = f32[5]{0} parameter(0)
  %inside = f32[5]{0} all-reduce(%x), channel_id=1, replica_groups=[2,3]<=[6], to_apply=%add
  ROOT %across = f32[5]{0} all-reduce(%inside), channel_id=2, replica_groups=[3,2]<=[2,3]T(1,0), to_apply=%add
}
"""
  crosses = {one.devices: one.crosses for one in hlo.parse(text, 3).collectives}
  assert crosses == {3: False, 2: True}
  assert not any(one.crosses for one in hlo.parse(text).collectives)
  send = """\
HloModule m, num_partitions=3

ENTRY %main (x: f32[5]) -> token[] {
  %x = f32[5]{0} parameter(0)
  %after-all.1 = token[] after-all()
  %send.1 = (f32[5]{0}, u32[]{:S(2)}, token[]) send(%x, %after-all.1), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2:4}x{0:2}",_xla_megascale_transfer_type="KIND"}
  ROOT %send-done.1 = token[] send-done(%send.1), channel_id=1, is_host_transfer=true
}
"""
  for kind, found in (('ALL_REDUCE', ('all-reduce', 20)), ('ALL_GATHER', ('all-gather', 80))):
    (one,) = hlo.parse(send.replace('KIND', kind), 3).collectives
    assert (one.kind, one.bytes) == found and (one.devices, one.crosses) == (4, True)


def test_sizes_of_shapes():
  assert hlo.size('bf16[3,5]{1,0:T(8,128)(2,1)}') == 30
  assert hlo.size('(f32[7], pred[3]{0}, s4[6], u32[], token[])') == 28 + 3 + 3 + 4
  assert hlo.slow('(f32[7]{0:S(1)}, f32[5]{0:T(128)})') == 20


def test_what_a_mesh_of_cpus_gathers_in_a_scan():
  """A program that XLA compiled here: FSDP gathers each layer once, forward."""
  mesh = jax.make_mesh((8,), ('x',), axis_types=(AxisType.Auto,))
  place = lambda *axes: NamedSharding(mesh, P(*axes))
  kernels = jax.ShapeDtypeStruct((5, 16, 24), jnp.float32, sharding=place(None, 'x'))
  rows = jax.ShapeDtypeStruct((32, 16), jnp.float32, sharding=place('x'))

  def run(rows, kernels):
    def body(x, kernel):
      kernel = jax.lax.with_sharding_constraint(kernel, place())
      return jnp.tanh(x @ kernel)[:, :16], None

    return jax.lax.scan(body, rows, kernels)[0]

  text = jax.jit(run, out_shardings=place('x')).lower(rows, kernels).compile().as_text()
  table = hlo.by_kind(hlo.parse(text).collectives)
  assert table == {
    'all-gather': {'count': 5, 'bytes': 5 * 16 * 24 * 4, 'sent': 5 * 16 * 24 * 7 // 2}
  }

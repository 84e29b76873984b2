"""launch/planner/collectives.py and launch/planner/traffic.py on programs by hand."""

from launch.planner import collectives
from launch.planner import hlo
from launch.planner import traffic

# What the TPU compiler writes where a gather goes on beside other work: its
# steps stand in every fusion that they are part of. An all-to-all is started
# before a fusion of 500 cycles; a slice goes to the host's memory. One layer
# of three is peeled off the loop.
_TEXT = """HloModule jit_step, is_scheduled=true

%begin (p: bf16[64,16]) -> bf16[512,16] {
  %p = bf16[64,16]{1,0} parameter(0)
  %all-gather.1 = bf16[512,16]{1,0} all-gather(%p), channel_id=4, replica_groups=[1,8]<=[8], frontend_attributes={chain_id="0"}, metadata={op_name="jit(f)/layers/mlp"}
  ROOT %c1 = bf16[512,16]{1,0} custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (q: bf16[64,16]) -> bf16[512,16] {
  %q = bf16[64,16]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[512,16]{1,0} all-gather(%q), channel_id=4, frontend_attributes={chain_id="0"}
}

%end (r: bf16[64,16]) -> bf16[512,16] {
  %r = bf16[64,16]{1,0} parameter(0)
  %all-gather.3 = bf16[512,16]{1,0} all-gather(%r), channel_id=4, frontend_attributes={chain_id="0"}
  ROOT %c3 = bf16[512,16]{1,0} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"
}

%condition (s: (s32[], bf16[64,16])) -> pred[] {
  %s = (s32[], bf16[64,16]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (t: (s32[], bf16[64,16])) -> (s32[], bf16[64,16]) {
  %t = (s32[], bf16[64,16]) parameter(0)
  %x = bf16[64,16]{1,0} get-tuple-element(%t), index=1
  %all-to-all-start = ((bf16[64,16]{1,0}), bf16[64,16]{1,0}, u32[]{:S(2)}) all-to-all-start(%x), replica_groups={{0,1,2,3}}, metadata={op_name="jit(f)/layers/seq/shard_map/all_to_all"}
  %async-collective-start = bf16[512,16]{1,0} fusion(%x), kind=kCustom, calls=%begin
  %fusion.2 = bf16[512,16]{1,0} fusion(%x), kind=kOutput, calls=%async_collective_fusion.2, backend_config={"estimated_cycles":"500"}
  %async-collective-done = bf16[512,16]{1,0} fusion(%x), kind=kCustom, calls=%end
  %all-to-all-done = bf16[64,16]{1,0} all-to-all-done(%all-to-all-start)
  %back = bf16[64,16]{1,0} all-to-all(%all-to-all-done), replica_groups={{0,1,2,3}}, metadata={op_name="jit(f)/transpose(jvp())/layers/seq/shard_map/all_to_all"}
  ROOT %u = (s32[], bf16[64,16]) tuple(%t, %back)
}

ENTRY %main (z: bf16[64,16], h: bf16[42,64,16]) -> bf16[64,16] {
  %z = bf16[64,16]{1,0} parameter(0)
  %h = bf16[42,64,16]{2,1,0:S(5)} parameter(1)
  %one = s32[] constant(1)
  %first = s32[] copy(%one)
  %state = (s32[], bf16[64,16]) tuple(%first, %z)
  %loop = (s32[], bf16[64,16]) while(%state), condition=%condition, body=%body
  %y = bf16[64,16]{1,0} get-tuple-element(%loop), index=1
  %all-reduce.9 = (f32[512,64]{1,0}, f32[96]{0}) all-reduce(%y), replica_groups={{0,1,2,3}}, to_apply=%sum, metadata={op_name="jit(f)/loss"}
  %dynamic-update-slice-start = ((bf16[42,64,16]{2,1,0:S(5)}, bf16[1,64,16]{2,1,0}), bf16[42,64,16]{2,1,0:S(5)}, u32[]{:S(2)}) dynamic-update-slice-start(%h, %y)
  ROOT %w = bf16[64,16]{1,0:S(1)} copy(%y)
}
"""


def _found():
  return collectives.of(hlo.Program(_TEXT))


def test_a_gather_in_pieces_runs_once_a_layer_beside_the_pieces():
  gathers = [c for c in _found() if c.kind == 'all-gather']
  assert [(c.times, c.devices, c.bytes) for c in gathers] == [(2, 8, 16384)]
  assert (gathers[0].start, gathers[0].end) == (0, 500)


def test_what_is_scheduled_between_start_and_end_hides_a_collective():
  started, whole = [c for c in _found() if c.kind == 'all-to-all']
  assert (started.start, started.end) == (0, 500)
  assert whole.start == whole.end == 500
  assert started.times == whole.times == 2  # From 1 to 3.


def test_all_to_alls_of_the_forward_pass():
  assert collectives.all_to_alls(_found()) == 2


def test_gathers_and_reductions_of_a_sequence():
  sized = collectives.sequence_sized
  assert len(sized(_found(), 1, [64])) == 2  # The gather, and f32[512,64].
  assert sized(_found(), 1, [97]) == []  # Not so many tokens.
  assert sized(_found(), 2**20, [64]) == []  # Too small for one.
  [line] = sized(_found(), 100_000, [64])
  assert line == 'all-reduce of 4, f32[512,64], jit(f)/loss'
  # Exchanges between tokens and heads are what should be there.
  assert not any('all-to-all' in line for line in sized(_found(), 1, [1]))


def test_by_kind():
  rows = collectives.by_kind(_found())
  assert rows['all-to-all of 4'] == dict(count=4, bytes=4 * 64 * 16 * 2)


def test_traffic():
  moved = traffic.moved(hlo.Program(_TEXT))
  # The slice, not the array on the host that it becomes a part of.
  assert moved.host == 64 * 16 * 2
  # Three fusions and two exchanges in each turn of the loop, one reduction;
  # the last copy stays on the die.
  gathered, part = 512 * 16 * 2, 64 * 16 * 2
  assert moved.written == (
    2 * (3 * gathered + 2 * part) + 512 * 64 * 4 + 96 * 4 + 4
  )

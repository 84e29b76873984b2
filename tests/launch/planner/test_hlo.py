"""launch/planner/hlo.py on a program by hand and on one that XLA compiled."""

import jax
import jax.numpy as jnp
import pytest

from launch.planner import collectives
from launch.planner import hlo

# 3 x 5 steps; cut down from what the TPU compiler writes.
_TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%scattered (input: f32[8,128]) -> f32[2,128] {
  %input = f32[8,128]{1,0} parameter(0)
  %all-reduce.1 = f32[8,128]{1,0} all-reduce(%input), replica_groups={{0,4,8,12},{1,5,9,13}}, to_apply=%add
  ROOT %part = f32[2,128]{1,0} dynamic-slice(%all-reduce.1), dynamic_slice_sizes={2,128}
}

%inner_condition (p: (s32[], bf16[4,128])) -> pred[] {
  %p = (s32[], bf16[4,128]) parameter(0)
  %limit = s32[] constant(5)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%inner_body (q: (s32[], bf16[4,128])) -> (s32[], bf16[4,128]) {
  %q = (s32[], bf16[4,128]) parameter(0)
  %x = bf16[4,128]{1,0:T(8,128)(2,1)} fusion(%q), kind=kLoop, calls=%add, metadata={op_name="jit(step)/layers/mlp/up/bti,io->bto/dot_general"}, backend_config={"estimated_cycles":"100"}
  %y = bf16[4,128]{1,0} all-to-all(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (s32[], bf16[4,128]) tuple(%q, %y)
}

%outer_body (r: (s32[], bf16[4,128])) -> (s32[], bf16[4,128]) {
  %r = (s32[], bf16[4,128]) parameter(0)
  %call.7 = bf16[4,128]{1,0} custom-call(%r), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
}}, metadata={op_name="jit(step)/layers/ttt"}
  ROOT %inner = (s32[], bf16[4,128]) while(%r), condition=%inner_condition, body=%inner_body
}

ENTRY %main (z: f32[8,128]) -> f32[2,128] {
  %z = f32[8,128]{1,0} parameter(0)
  %outer = (s32[], bf16[4,128]) while(%z), condition=%other, body=%outer_body, backend_config={"known_trip_count":{"n":"3"}}
  %gather = (f32[2,128]{1,0}, f32[8,128]{1,0}) all-gather-start(%z), replica_groups={{0,1,2,3}}
  %done = f32[8,128]{1,0} all-gather-done(%gather)
  ROOT %cut = f32[2,128]{1,0} fusion(%done), kind=kCustom, calls=%scattered, backend_config={"flag_configs":[],"all-reduce-scatter":1}
}
"""


def test_loops_multiply():
  program = hlo.Program(_TEXT)
  cycles = {
    r.instruction.op_name: (r.times, r.instruction.cycles)
    for r in program.runs()
    if r.instruction.cycles
  }
  assert cycles == {
    'jit(step)/layers/mlp/up/bti,io->bto/dot_general': (15, 100)
  }


def test_kernels_are_known_by_their_names():
  kernels = [r for r in hlo.Program(_TEXT).runs() if r.instruction.kernel]
  assert [(k.instruction.kernel, k.times) for k in kernels] == [('call', 3)]
  assert kernels[0].instruction.op_name == 'jit(step)/layers/ttt'


def test_collectives():
  found = {
    (c.kind, c.devices, c.bytes, c.times)
    for c in collectives.of(hlo.Program(_TEXT))
  }
  assert found == {
    ('all-to-all', 4, 4 * 128 * 2, 15),
    ('all-gather', 4, 8 * 128 * 4, 1),
    ('reduce-scatter', 4, 8 * 128 * 4, 1),
  }


@pytest.mark.parametrize(
  'text, size',
  [
    ('f32[2,3]{1,0}', 24),
    ('(bf16[4]{0}, (pred[8], s32[]))', 20),
    ('token[]', 0),
  ],
)
def test_size(text, size):
  assert hlo.size(text) == size


def test_a_program_of_this_machine():
  def f(x):
    return jax.lax.fori_loop(0, 7, lambda _, x: jnp.sin(x @ x), x)

  text = jax.jit(f).lower(jnp.ones((8, 8))).compile().as_text()
  times = [r.times for r in hlo.Program(text).runs()]
  assert max(times) == 7


def test_what_is_no_program():
  with pytest.raises(ValueError, match='no ENTRY'):
    hlo.Program('nothing')

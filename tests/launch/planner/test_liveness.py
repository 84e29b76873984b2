"""launch/planner/liveness.py on a program whose memory can be counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from launch.planner import advice
from launch.planner import hlo
from launch.planner import liveness

# The loop's body makes %big, reads it, and makes the state anew from it. When
# it runs, %early waits for its end; %dead does not.
_TEXT = """HloModule jit_step, is_scheduled=true

%condition (s: (s32[], f32[8,128])) -> pred[] {
  %s = (s32[], f32[8,128]) parameter(0)
  ROOT %less = pred[] constant(true)
}

%update (a: f32[4,8,128], b: f32[1,8,128]) -> f32[4,8,128] {
  %a = f32[4,8,128]{2,1,0} parameter(0)
  %b = f32[1,8,128]{2,1,0} parameter(1)
  ROOT %d = f32[4,8,128]{2,1,0} dynamic-update-slice(%a, %b)
}

%body (t: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %t = (s32[], f32[8,128]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8,128]{1,0} get-tuple-element(%t), index=1
  %big = f32[32,128]{1,0:T(8,128)} fusion(%x), calls=%g, metadata={op_name="jit(f)/transpose(jvp())/while/body/layers/mlp/up/dot_general"}
  %on_die = f32[64,128]{1,0:S(1)} fusion(%big), calls=%g
  %on_host = f32[64,128]{1,0:S(5)} fusion(%big), calls=%g
  %new = f32[8,128]{1,0} fusion(%big), calls=%g
  ROOT %u = (s32[], f32[8,128]) tuple(%i, %new)
}

ENTRY %main (z: f32[8,128]) -> f32[8,128] {
  %z = f32[8,128]{1,0} parameter(0)
  %dead = f32[8,128]{1,0} fusion(%z), calls=%g
  %early = f32[5,100]{1,0:T(8,128)} fusion(%dead), calls=%g, metadata={op_name="jit(f)/embed"}
  %zero = s32[] constant(0)
  %start = f32[8,128]{1,0} fusion(%dead), calls=%g
  %state = (s32[], f32[8,128]) tuple(%zero, %start)
  %loop = (s32[], f32[8,128]) while(%state), condition=%condition, body=%body
  %y = f32[8,128]{1,0} get-tuple-element(%loop), index=1
  %stack = f32[4,8,128]{2,1,0} broadcast(%early)
  %same = f32[4,8,128]{2,1,0} fusion(%stack, %y), calls=%update
  ROOT %out = f32[8,128]{1,0} fusion(%same, %y), calls=%g
}
"""


def test_what_is_alive_at_the_peak():
  found = liveness.at_peak(hlo.Program(_TEXT))
  tile = 8 * 128 * 4
  # %big, and beside it the state of the loop and %early, which a tile pads.
  # Or the stack, updated in place, and the state.
  assert [(b.bytes, b.type) for b in found] == [
    (4 * tile, 'f32[32,128]'),
    (tile, 'f32[5,100]'),
    (tile, 'f32[8,128]'),
  ]
  assert advice.largest(hlo.Program(_TEXT))[0].endswith(
    'f32[32,128], backward layers/mlp/up/dot_general'
  )


def test_a_program_of_this_machine():
  n = 512

  def f(x):
    y = jnp.sin(x @ x)
    return jnp.sum(jnp.cos(y @ x) @ y)

  compiled = jax.jit(f).lower(jnp.ones((n, n))).compile()
  ours = sum(b.bytes for b in liveness.at_peak(hlo.Program(compiled.as_text())))
  theirs = compiled.memory_analysis().temp_size_in_bytes
  assert ours == pytest.approx(theirs, rel=0.5) and ours >= 2 * n * n * 4

"""launch/planner/liveness.py on a program whose memory is known."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from launch.planner import advice
from launch.planner import hlo
from launch.planner import liveness

# The loop's body defines %big, reads it, and computes the state from it.
# %early is alive during the loop; %dead is not.
_TEXT = (pathlib.Path(__file__).parent / 'data/liveness.hlo').read_text()


def test_buffers_at_the_peak():
  found = liveness.buffers_at_peak(hlo.Program(_TEXT))
  tile = 8 * 128 * 4
  # %big, the state of the loop, and %early, which a tile pads. The stack, which
  # is updated in place, and the state are smaller.
  assert [(b.bytes, b.type) for b in found] == [
    (4 * tile, 'f32[32,128]'),
    (tile, 'f32[5,100]'),
    (tile, 'f32[8,128]'),
  ]
  assert advice.largest_at_peak(hlo.Program(_TEXT))[0].endswith(
    'f32[32,128], backward layers/mlp/up/dot_general'
  )


def test_a_program_of_this_machine():
  n = 512

  def f(x):
    y = jnp.sin(x @ x)
    return jnp.sum(jnp.cos(y @ x) @ y)

  compiled = jax.jit(f).lower(jnp.ones((n, n))).compile()
  program = hlo.Program(compiled.as_text())
  ours = sum(b.bytes for b in liveness.buffers_at_peak(program))
  xlas = compiled.memory_analysis().temp_size_in_bytes
  assert ours == pytest.approx(xlas, rel=0.5) and ours >= 2 * n * n * 4

"""launch/planner/hlo.py on a program by hand and on one that XLA compiled."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from launch.planner import collectives
from launch.planner import hlo

# 3 x 5 iterations; shortened from what the TPU compiler writes.
_TEXT = (pathlib.Path(__file__).parent / 'data/loops.hlo').read_text()


def test_loops_multiply():
  cycles = {
    e.instruction.op_name: (e.times, e.instruction.cycles)
    for e in hlo.Program(_TEXT).executions()
    if e.instruction.cycles
  }
  assert cycles == {
    'jit(step)/layers/mlp/up/bti,io->bto/dot_general': (15, 100)
  }


def test_kernels_are_found_by_their_names():
  executions = hlo.Program(_TEXT).executions()
  [execution] = [e for e in executions if e.instruction.kernel]
  assert (execution.instruction.kernel, execution.times) == ('call', 3)
  assert execution.instruction.op_name == 'jit(step)/layers/ttt'


def test_collectives():
  found = {
    (c.kind, c.devices, c.bytes, c.times)
    for c in collectives.find_collectives(hlo.Program(_TEXT))
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
def test_num_bytes(text, size):
  assert hlo.num_bytes(text) == size


def test_parts_of_types():
  text = '(f32[2]{0}, (s32[], pred[3,4]))'
  assert hlo.tuple_parts(text) == ['f32[2]{0}', '(s32[], pred[3,4])']
  assert hlo.array_types(text) == ['f32[2]', 's32[]', 'pred[3,4]']
  assert hlo.num_elements(text) == [2, 1, 12]


def test_a_program_of_this_machine():
  def f(x):
    return jax.lax.fori_loop(0, 7, lambda _, x: jnp.sin(x @ x), x)

  text = jax.jit(f).lower(jnp.ones((8, 8))).compile().as_text()
  times = [e.times for e in hlo.Program(text).executions()]
  assert max(times) == 7


def test_other_texts_are_refused():
  with pytest.raises(ValueError, match='no ENTRY'):
    hlo.Program('nothing')

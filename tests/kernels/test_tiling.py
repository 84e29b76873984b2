"""How a call is cut for the TPU kernels: what fits, and what is saved."""

import pytest

from pallas_kernels.specs import SPECS
from pallas_kernels.tpu import chip as chips
from pallas_kernels.tpu import plan as plans
from pallas_kernels.ttt_mlp import tpu_replay

CHIPS = {
  'v5e': chips.Chip(128 * 2**20, 1, narrow_arithmetic=False),
  'v5p': chips.Chip(64 * 2**20, 2, narrow_arithmetic=False),
  '7x': chips.Chip(64 * 2**20, 1, narrow_arithmetic=True),
}
STATE_BYTES = 4 * (2 * 128 * 256 + 128 + 2 * 256)  # Of a pack, D 64 K 256.


def make(chip, heads, length, state_bytes=STATE_BYTES, **kwargs):
  sizes = dict(batch=1, head_dim=64, mini_batch=64, dtype='bfloat16')
  return plans.make_plan(
    heads=heads,
    length=length,
    state_bytes=state_bytes,
    stash_bytes=tpu_replay.stash_bytes(64, 256, 64, 'bfloat16'),
    most_packs=(8, 6),
    few_packs_steps=12,
    chip=CHIPS[chip],
    **{**sizes, **kwargs},
  )


@pytest.mark.parametrize('chip', CHIPS)
@pytest.mark.parametrize('heads', [1, 3, 6, 7, 12, 22, 48])
@pytest.mark.parametrize('length', [5, 640, SPECS['paper_63s'].tokens])
def test_steps_cover_all_heads_and_tokens(chip, heads, length):
  plan = make(chip, heads, length)
  assert plan.group % plan.steps == 0
  assert plan.packs * 2 >= heads
  # Empty packs: never half of a step or more.
  assert plan.packs - -(-heads // 2) < max(2, plan.backward_packs)
  for grid in (
    plans.Grid(plan, plan.forward_packs, plan.steps),
    plans.Grid(plan, plan.backward_packs, plan.group, reverse=True),
  ):
    _, shares, steps = grid.shape
    assert shares * grid.packs == plan.packs
    assert (steps - 1) * grid.rows < length <= steps * grid.rows
    assert grid.rows <= max(length, plan.length)
  if chip == 'v5p' and plan.packs > 1:  # Both cores have the same to do.
    assert plan.packs // plan.backward_packs % 2 == 0


@pytest.mark.parametrize('chip', CHIPS)
def test_saved_states_of_a_minute_keep_the_budget(chip):
  plan = make(chip, 12, SPECS['paper_63s'].tokens)
  groups = -(-plan.length // (plan.group * plan.mini_batch))
  assert groups * plan.packs * STATE_BYTES <= 1.5e9


def test_what_vector_memory_cannot_hold_is_refused():
  with pytest.raises(NotImplementedError, match='bytes of vector memory'):
    make('v5p', 12, 6400, state_bytes=2**23)

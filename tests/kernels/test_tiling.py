"""Tiling of a call for the TPU kernels: limits of memory and saved states."""

import pytest

from pallas_kernels.specs import SPECS
from pallas_kernels.tpu import target as targets
from pallas_kernels.tpu import tiling as tilings
from pallas_kernels.ttt_mlp import tpu_replay

TARGETS = {
  'v5e': targets.Target(128 * 2**20, 1, narrow_arithmetic=False),
  'v5p': targets.Target(64 * 2**20, 2, narrow_arithmetic=False),
  'tpu7x': targets.Target(64 * 2**20, 1, narrow_arithmetic=True),
}
STATE_BYTES = 4 * (2 * 128 * 256 + 128 + 2 * 256)  # Per pack, D 64 K 256.


def make(target, heads, length, state_bytes=STATE_BYTES, **kwargs):
  sizes = dict(batch=1, head_dim=64, mini_batch=64, dtype='bfloat16')
  return tilings.make_tiling(
    heads=heads,
    length=length,
    state_bytes=state_bytes,
    residual_bytes=tpu_replay.residual_bytes(64, 256, 64, 'bfloat16'),
    max_packs=(8, 6),
    latency_bound_steps=12,
    target=TARGETS[target],
    **{**sizes, **kwargs},
  )


@pytest.mark.parametrize('target', TARGETS)
@pytest.mark.parametrize('heads', [1, 3, 6, 7, 12, 22, 48])
@pytest.mark.parametrize('length', [5, 640, SPECS['paper_63s'].tokens])
def test_steps_cover_all_heads_and_tokens(target, heads, length):
  tiling = make(target, heads, length)
  assert tiling.group % tiling.steps == 0
  assert tiling.packs * 2 >= heads
  # Empty packs take less than half of a step.
  assert tiling.packs - -(-heads // 2) < max(2, tiling.backward_packs)
  for grid in (
    tilings.Grid(tiling, tiling.forward_packs, tiling.steps),
    tilings.Grid(tiling, tiling.backward_packs, tiling.group, reverse=True),
  ):
    _, shares, steps = grid.shape
    assert shares * grid.packs == tiling.packs
    assert (steps - 1) * grid.rows < length <= steps * grid.rows
    assert grid.rows <= max(length, tiling.length)
  if target == 'v5p' and tiling.packs > 1:  # Both cores have the same to do.
    assert tiling.packs // tiling.backward_packs % 2 == 0


@pytest.mark.parametrize('target', TARGETS)
def test_saved_states_of_a_minute_keep_the_budget(target):
  tiling = make(target, 12, SPECS['paper_63s'].tokens)
  groups = -(-tiling.length // (tiling.group * tiling.mini_batch))
  assert groups * tiling.packs * STATE_BYTES <= 1.5e9


def test_what_vector_memory_cannot_hold_is_refused():
  with pytest.raises(NotImplementedError, match='bytes of vector memory'):
    make('v5p', 12, 6400, state_bytes=2**23)

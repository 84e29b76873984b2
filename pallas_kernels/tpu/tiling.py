"""Sizes of a kernel call: how much of the work one grid step takes."""

from __future__ import annotations

import dataclasses

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np

from pallas_kernels.tpu import chip as chips
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.products import Products

HEAD_DIMS = (32, 64, 128)
# Mini-batches of a grid step of the forward pass, at most, of so many tokens.
_STEP_MINI_BATCHES = 8
_MINI_BATCH = 64
# Packs of a grid step whose chains, side by side, do not fill their latency.
_FEW_PACKS = 4
# The forward pass saves the state every G mini-batches, such that all of them
# take at most this many bytes if the backward pass can recompute G in VMEM.
SAVED_BYTES = 1_500_000_000


@dataclasses.dataclass(frozen=True)
class Plan:
  """Sizes of one call; all static.

  Attributes:
    batch: B.
    length: T, at least one grid step's tokens.
    heads: H.
    head_dim: D.
    mini_batch: C.
    steps: mini-batches of a forward grid step, M.
    group: mini-batches between two saved states, G; a multiple of M.
    packs: packs in all; the last heads are empty where H does not fill them.
    forward_packs: packs of a forward grid step.
    backward_packs: packs of a backward grid step.
    dtype: of the tokens and of the products' operands.
    wide: dtype of states and sums.
    elementwise: dtype of the arithmetic on the hidden layer.
    vmem: bytes of vector memory.
  """

  batch: int
  length: int
  heads: int
  head_dim: int
  mini_batch: int
  steps: int
  group: int
  packs: int
  forward_packs: int
  backward_packs: int
  dtype: jnp.dtype
  wide: jnp.dtype
  elementwise: jnp.dtype
  vmem: int

  @property
  def packing(self) -> Packing:
    return Packing(self.head_dim, self.mini_batch)

  @property
  def few_packs(self) -> bool:
    """Whether a step's packs, side by side, do not fill their latency."""
    return self.forward_packs <= _FEW_PACKS

  def mean(self, x: jax.Array) -> jax.Array:
    """Returns the mean over each head's features, for an idle matrix unit."""
    if self.few_packs:  # A product is done before that many reductions.
      return self.packing.mean_by_product(x, self.products)
    return self.packing.mean(x)

  @property
  def products(self) -> Products:
    return Products(self.dtype, self.wide)


@dataclasses.dataclass(frozen=True)
class Grid:
  """One pass over a plan: its grid, its blocks, and where a block lies.

  The grid is (B, groups of packs, steps in time). `reverse` walks time from
  its end.

  Attributes:
    plan: sizes.
    packs: packs of a step, P.
    steps: mini-batches of a step.
    reverse: whether the first step is the last in time.
  """

  plan: Plan
  packs: int
  steps: int
  reverse: bool = False

  @property
  def shape(self) -> tuple[int, int, int]:
    plan = self.plan
    return (
      plan.batch,
      plan.packs // self.packs,
      -(-plan.length // (self.steps * plan.mini_batch)),
    )

  @property
  def rows(self) -> int:
    """Tokens of a step."""
    return self.steps * self.plan.mini_batch

  @property
  def step_heads(self) -> int:
    """Heads of a step, P R."""
    return self.packs * self.plan.packing.heads

  def time(self, n: jax.Array) -> jax.Array:
    """Returns the place in time of the n-th step."""
    return self.shape[2] - 1 - n if self.reverse else n

  def tokens(self) -> pl.BlockSpec:
    """Block [1, rows, P 128] of [B, T, H D]."""
    return pl.BlockSpec(
      (1, self.rows, self.packs * LANES),
      lambda b, h, n: (b, self.time(n), h),
    )

  def rates(self) -> pl.BlockSpec:
    """Block [1, rows, H] of eta [B, T, H]: the step sizes of all heads."""
    return pl.BlockSpec(
      (1, self.rows, self.plan.heads), lambda b, h, n: (b, self.time(n), 0)
    )

  def rate_gradients(self) -> pl.BlockSpec:
    """Block [1, 1, rows, P R] of [B, groups of packs, T, P R]."""
    return pl.BlockSpec(
      (1, 1, self.rows, self.step_heads),
      lambda b, h, n: (b, h, self.time(n), 0),
    )

  def norm(self) -> pl.BlockSpec:
    """Block [1, P 128] of LayerNorm parameters [1, packs 128]."""
    return pl.BlockSpec((1, self.packs * LANES), lambda b, h, n: (0, h))

  def state(self, shape: tuple[int, ...]) -> pl.BlockSpec:
    """Block of a state [B, packs, ...] or [B, 1, packs 128]."""
    return pl.BlockSpec(
      (1, *self.shares(shape)), lambda b, h, n: (b, *_at(h, shape))
    )

  def saved(self, shape: tuple[int, ...]) -> pl.BlockSpec:
    """Block of saved states [B, N / G, packs, ...] or ... 1, packs 128]."""
    every = np.int32(self.plan.group // self.steps)
    return pl.BlockSpec(
      (1, 1, *self.shares(shape)),
      lambda b, h, n: (b, jax.lax.div(self.time(n), every), *_at(h, shape)),
    )

  def shares(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a state's shape, without B, for the packs of one step."""
    if len(shape) == 2:
      return (shape[0], self.packs * LANES)
    return (self.packs, *shape[1:])

  def compiler_params(self) -> pltpu.CompilerParams:
    # The compiler's own temporaries need some of the vector memory.
    return pltpu.CompilerParams(
      vmem_limit_bytes=int(self.plan.vmem * 0.97),
      dimension_semantics=('parallel', 'parallel', 'arbitrary'),
    )


def _at(share, shape):
  """Returns the block index of a share of a state."""
  return (0, share) if len(shape) == 2 else (share, 0, 0)


def make_plan(
  *,
  batch: int,
  length: int,
  heads: int,
  head_dim: int,
  mini_batch: int,
  dtype: jnp.dtype,
  state_bytes: int,
  stash_bytes: int,
  most_packs: tuple[int, int],
  few_packs_steps: int,
  chip: chips.Chip | None = None,
) -> Plan:
  """Returns the sizes for a call.

  Args:
    batch: B.
    length: T.
    heads: H.
    head_dim: D.
    mini_batch: C.
    dtype: of the tokens.
    state_bytes: of one pack's state.
    stash_bytes: what the backward pass holds for one pack and mini-batch.
    most_packs: packs of a grid step at most, forward and backward. Their
      independent chains fill the latency of a mini-batch; more than needed
      for that only spill registers.
    few_packs_steps: mini-batches of a grid step with few packs, at most. What
      begins and ends a step has less to hide behind there.
    chip: the chip; None takes `chip.current()`.

  Raises:
    NotImplementedError: not even one pack fits into vector memory.
  """
  chip = chip or chips.current()
  wide = jnp.promote_types(dtype, jnp.float32)
  narrow = jnp.dtype(dtype) if dtype == jnp.bfloat16 else wide
  n = -(-length // mini_batch)
  packing = Packing(head_dim, mini_batch)
  packs = -(-heads // packing.heads)
  # Both cores of a chip get the same number of steps if there is one sequence.
  parts = chip.cores if batch % chip.cores else 1
  few = _share(packs, most_packs[0], parts) <= _FEW_PACKS
  most = few_packs_steps if few else _STEP_MINI_BATCHES
  steps = min(most, max(1, most * _MINI_BATCH // mini_batch), n)

  saved = batch * packs * n * state_bytes  # If every mini-batch were saved.
  group = _round_up(-(-saved // SAVED_BYTES), steps)
  # Token windows: q, k, v, d_out in, d_q, d_k, d_v out, two of each; rates.
  width = 7 * 2 * LANES * jnp.dtype(dtype).itemsize + 4 * LANES
  per_mini_batch = mini_batch * width + stash_bytes
  # Windows and scratch of the states take 8 of them.
  budget = int(chip.vmem * 0.9)
  most_group = (budget - 8 * state_bytes) // per_mini_batch
  if most_group < steps:
    raise NotImplementedError(
      f'a group of {steps} mini-batches of {mini_batch} takes'
      f' {8 * state_bytes + steps * per_mini_batch:,} bytes of vector'
      f' memory: the TPU kernels have {budget:,}; use a smaller hidden size'
    )
  group = min(group, most_group // steps * steps)
  room = budget // (group * per_mini_batch + 8 * state_bytes)
  backward_packs = _share(packs, min(most_packs[1], room), parts)
  packs = _round_up(packs, backward_packs)
  return Plan(
    batch=batch,
    # A sequence shorter than a step is filled up; a longer one is not.
    length=max(length, steps * mini_batch),
    heads=heads,
    head_dim=head_dim,
    mini_batch=mini_batch,
    steps=steps,
    group=group,
    packs=packs,
    forward_packs=_divisor(packs, _share(packs, most_packs[0], parts)),
    backward_packs=backward_packs,
    dtype=jnp.dtype(dtype),
    wide=wide,
    elementwise=narrow if chip.narrow_arithmetic else wide,
    vmem=chip.vmem,
  )


def _share(packs: int, most: int, parts: int) -> int:
  """Returns the packs of a step, at most `most`, in a multiple of `parts`."""
  return -(-packs // _round_up(-(-packs // most), min(parts, packs)))


def _divisor(n: int, most: int) -> int:
  """Returns the largest divisor of n that is at most `most`."""
  return max(d for d in range(1, most + 1) if n % d == 0)


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple

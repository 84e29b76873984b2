"""Tiling of a kernel call: the share of the work that one grid step takes."""

from __future__ import annotations

import dataclasses

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np

from pallas_kernels.tpu import target as targets
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.products import Products

HEAD_DIMS = (32, 64, 128)
# Most mini-batches of `_MINI_BATCH` tokens in a grid step of the forward pass.
_STEP_MINI_BATCHES = 8
_MINI_BATCH = 64
# Up to this many packs per grid step, their chains of operations do not hide
# each other's latency.
_LATENCY_BOUND_PACKS = 4
# The forward pass saves the state every G mini-batches, such that all saved
# states take at most this many bytes if the backward pass can recompute G in
# VMEM.
SAVED_BYTES = 1_500_000_000


@dataclasses.dataclass(frozen=True)
class Tiling:
  """Sizes of one call; all static.

  Attributes:
    batch: B.
    length: T, at least one grid step's tokens.
    heads: H.
    head_dim: D.
    mini_batch: C.
    steps: mini-batches of a forward grid step, M.
    group: mini-batches between two saved states, G; a multiple of M.
    packs: total number of packs; the last heads are empty where H does not
      fill them.
    forward_packs: packs of a forward grid step.
    backward_packs: packs of a backward grid step.
    dtype: dtype of the tokens and of the operands of products.
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
  def latency_bound(self) -> bool:
    """Whether a step has too few packs to hide the latency of their chains."""
    return self.forward_packs <= _LATENCY_BOUND_PACKS

  def mean(self, x: jax.Array) -> jax.Array:
    """Returns the mean over each head's features, by the unit that is faster.

    For kernels whose matrix unit would be idle.
    """
    if self.latency_bound:  # A product finishes before so many reductions.
      return self.packing.mean_by_product(x, self.products)
    return self.packing.mean(x)

  @property
  def products(self) -> Products:
    return Products(self.dtype, self.wide)


@dataclasses.dataclass(frozen=True)
class Grid:
  """One pass over a sequence: its grid, its blocks, and their positions.

  The grid is (B, blocks of P packs, steps in time).

  Attributes:
    tiling: sizes.
    packs: packs of a step, P.
    steps: mini-batches of a step.
    reverse: whether the grid visits time from its end to its start.
  """

  tiling: Tiling
  packs: int
  steps: int
  reverse: bool = False

  @property
  def shape(self) -> tuple[int, int, int]:
    tiling = self.tiling
    return (
      tiling.batch,
      tiling.packs // self.packs,
      -(-tiling.length // (self.steps * tiling.mini_batch)),
    )

  @property
  def rows(self) -> int:
    """Tokens of a step."""
    return self.steps * self.tiling.mini_batch

  @property
  def step_heads(self) -> int:
    """Heads of a step, P R."""
    return self.packs * self.tiling.packing.heads

  def time(self, n: jax.Array) -> jax.Array:
    """Returns the position in time of the n-th step to be executed."""
    return self.shape[2] - 1 - n if self.reverse else n

  def tokens(self) -> pl.BlockSpec:
    """Block [1, rows, P 128] of [B, T, H D]."""
    return pl.BlockSpec(
      (1, self.rows, self.packs * LANES),
      lambda b, h, n: (b, self.time(n), h),
    )

  def step_sizes(self) -> pl.BlockSpec:
    """Block [1, rows, H] of eta [B, T, H]: the step sizes of all heads."""
    return pl.BlockSpec(
      (1, self.rows, self.tiling.heads), lambda b, h, n: (b, self.time(n), 0)
    )

  def step_size_gradients(self) -> pl.BlockSpec:
    """Block [1, 1, rows, P R] of [B, blocks of packs, T, P R]."""
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
      (1, *self.state_shape(shape)),
      lambda b, h, n: (b, *_state_index(h, shape)),
    )

  def saved(self, shape: tuple[int, ...]) -> pl.BlockSpec:
    """Block of saved states [B, N / G, packs, ...] or ... 1, packs 128]."""
    every = np.int32(self.tiling.group // self.steps)
    return pl.BlockSpec(
      (1, 1, *self.state_shape(shape)),
      lambda b, h, n: (
        b,
        jax.lax.div(self.time(n), every),
        *_state_index(h, shape),
      ),
    )

  def state_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a state's shape, without B, for the packs of one step."""
    if len(shape) == 2:
      return (shape[0], self.packs * LANES)
    return (self.packs, *shape[1:])

  def compiler_params(self) -> pltpu.CompilerParams:
    # The compiler's own temporaries need some of the vector memory.
    return pltpu.CompilerParams(
      vmem_limit_bytes=int(self.tiling.vmem * 0.97),
      dimension_semantics=('parallel', 'parallel', 'arbitrary'),
    )


def _state_index(pack_block, shape):
  """Returns the index of a block of packs in a state, without B."""
  return (0, pack_block) if len(shape) == 2 else (pack_block, 0, 0)


def make_tiling(
  *,
  batch: int,
  length: int,
  heads: int,
  head_dim: int,
  mini_batch: int,
  dtype: jnp.dtype,
  state_bytes: int,
  residual_bytes: int,
  max_packs: tuple[int, int],
  latency_bound_steps: int,
  target: targets.Target | None = None,
) -> Tiling:
  """Returns the sizes for a call.

  Args:
    batch: B.
    length: T.
    heads: H.
    head_dim: D.
    mini_batch: C.
    dtype: dtype of the tokens.
    state_bytes: size of one pack's state.
    residual_bytes: size of the residuals that the backward pass holds for one
      pack and mini-batch.
    max_packs: most packs of a grid step, (forward, backward). Their
      independent chains hide the latency of a mini-batch; more packs than
      needed for that only spill registers.
    latency_bound_steps: most mini-batches of a grid step with few packs, where
      less work hides the start and the end of a step.
    target: the chip to compile for; None takes `target.current()`.

  Raises:
    NotImplementedError: not even one pack fits into vector memory.
  """
  target = target or targets.current()
  wide = jnp.promote_types(dtype, jnp.float32)
  narrow = jnp.dtype(dtype) if dtype == jnp.bfloat16 else wide
  n = -(-length // mini_batch)
  packing = Packing(head_dim, mini_batch)
  packs = -(-heads // packing.heads)
  # Both cores of a chip get the same number of steps if there is one sequence.
  parts = target.cores if batch % target.cores else 1
  few = _packs_per_step(packs, max_packs[0], parts) <= _LATENCY_BOUND_PACKS
  limit = latency_bound_steps if few else _STEP_MINI_BATCHES
  steps = min(limit, max(1, limit * _MINI_BATCH // mini_batch), n)

  saved = batch * packs * n * state_bytes  # If every mini-batch were saved.
  group = _round_up(-(-saved // SAVED_BYTES), steps)
  # Token blocks: q, k, v, d_out in, d_q, d_k, d_v out, two each; step sizes.
  width = 7 * 2 * LANES * jnp.dtype(dtype).itemsize + 4 * LANES
  per_mini_batch = mini_batch * width + residual_bytes
  # Blocks and scratch of the states take 8 times a state.
  budget = int(target.vmem * 0.9)
  max_group = (budget - 8 * state_bytes) // per_mini_batch
  if max_group < steps:
    raise NotImplementedError(
      f'a group of {steps} mini-batches of {mini_batch} takes'
      f' {8 * state_bytes + steps * per_mini_batch:,} bytes of vector'
      f' memory: the TPU kernels have {budget:,}; use a smaller hidden size'
    )
  group = min(group, max_group // steps * steps)
  fitting = budget // (group * per_mini_batch + 8 * state_bytes)
  backward_packs = _packs_per_step(packs, min(max_packs[1], fitting), parts)
  packs = _round_up(packs, backward_packs)
  return Tiling(
    batch=batch,
    # A sequence shorter than a step is padded; a longer one is not.
    length=max(length, steps * mini_batch),
    heads=heads,
    head_dim=head_dim,
    mini_batch=mini_batch,
    steps=steps,
    group=group,
    packs=packs,
    forward_packs=_divisor(packs, _packs_per_step(packs, max_packs[0], parts)),
    backward_packs=backward_packs,
    dtype=jnp.dtype(dtype),
    wide=wide,
    elementwise=narrow if target.narrow_arithmetic else wide,
    vmem=target.vmem,
  )


def _packs_per_step(packs: int, limit: int, parts: int) -> int:
  """Returns the packs of a step, at most `most`, in a multiple of `parts`."""
  return -(-packs // _round_up(-(-packs // limit), min(parts, packs)))


def _divisor(n: int, limit: int) -> int:
  """Returns the largest divisor of n that is at most `most`."""
  return max(d for d in range(1, limit + 1) if n % d == 0)


def _round_up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple

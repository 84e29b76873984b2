"""Where a kernel is: its grid step, and a mini-batch of a pack in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from pallas_kernels.tpu.packing import lanes
from pallas_kernels.tpu.plan import Grid
from pallas_kernels.tpu.plan import Plan


@dataclasses.dataclass(frozen=True)
class Step:
  """The grid step that runs; made once at the top of a kernel.

  Attributes:
    grid: the pass.
    sequence: number in the batch.
    share: which packs: number of the group of P.
    number: of the step, counted as it runs.
  """

  grid: Grid
  sequence: jax.Array
  share: jax.Array
  number: jax.Array

  @classmethod
  def here(cls, grid: Grid) -> Step:
    """Returns the step of the running kernel."""
    return cls(grid, *map(pl.program_id, range(3)))

  @property
  def first(self) -> jax.Array:
    """Whether it is the first to run for its packs."""
    return self.number == 0

  @property
  def last(self) -> jax.Array:
    """Whether it is the last to run for its packs."""
    return self.number == self.grid.shape[2] - 1

  def valid(
    self, row: jax.Array | int, shape: tuple[int, int]
  ) -> jax.Array | None:
    """Returns which tokens exist, [rows, lanes]; None if all of a block do.

    Args:
      row: the first row, counted in the step's block.
      shape: [rows, lanes].
    """
    grid = self.grid
    if grid.plan.length % grid.rows == 0:
      return None
    row = grid.time(self.number) * grid.rows + row
    rows = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return rows < grid.plan.length - row

  def states(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Returns where in [B, *shape] a state of the step's packs lies."""
    sizes = self.grid.shares(shape)
    axis = 1 if len(shape) == 2 else 0
    where = [slice(None)] * len(shape)
    where[axis] = pl.ds(self.share * sizes[axis], sizes[axis])
    return (self.sequence, *where)

  def windows(self, m: jax.Array | int) -> list[Window]:
    """Returns mini-batch m of each pack."""
    return [Window(self, m, p) for p in range(self.grid.packs)]


@dataclasses.dataclass(frozen=True)
class Window:
  """Mini-batch m of pack p, or of all packs, in the blocks of a grid step.

  Attributes:
    step: the grid step.
    m: number of the mini-batch in the step, a Python int or traced.
    p: number of the pack in the step; None for all of them.
  """

  step: Step
  m: jax.Array | int
  p: int | None = None

  @property
  def plan(self) -> Plan:
    """Sizes of the call."""
    return self.step.grid.plan

  @property
  def rows(self) -> Any:
    """The mini-batch's rows in a block [rows, lanes]."""
    c = self.plan.mini_batch
    if isinstance(self.m, int):
      return slice(self.m * c, (self.m + 1) * c)
    return pl.ds(pl.multiple_of(self.m * c, c), c)

  @property
  def lanes(self) -> slice:
    """The pack's lanes in a block [rows, lanes]."""
    if self.p is None:
      return slice(None)
    return lanes(self.p)

  def read(self, ref: Any) -> jax.Array:
    """Returns the tokens [C, lanes], zeros after the end of the sequence."""
    x = self.read_all(ref)
    valid = self.step.valid(self.m * self.plan.mini_batch, x.shape)
    # A block at the end reaches over the array, where anything may lie.
    return x if valid is None else jnp.where(valid, x, jnp.zeros_like(x))

  def read_all(self, ref: Any) -> jax.Array:
    """Returns the tokens [C, lanes], anything after the end of the sequence."""
    return ref[0, self.rows, self.lanes]

  def write(self, ref: Any, x: jax.Array) -> None:
    """Writes the tokens [C, lanes]."""
    ref[0, self.rows, self.lanes] = x.astype(ref.dtype)

  def before(self) -> Window | None:
    """Returns the mini-batch before in the same step; None for the first."""
    if self.m == 0:
      return None
    return Window(self.step, self.m - 1, self.p)

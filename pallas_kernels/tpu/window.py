"""Positions of a kernel: its grid step, and a mini-batch of a pack in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from pallas_kernels.tpu.packing import lanes
from pallas_kernels.tpu.tiling import Grid
from pallas_kernels.tpu.tiling import Tiling


@dataclasses.dataclass(frozen=True)
class GridStep:
  """The grid step being executed; created once at the top of a kernel.

  Attributes:
    grid: the pass.
    sequence: index of the sequence in the batch.
    pack_block: index of the block of P packs.
    index: index of the step in the order of execution.
  """

  grid: Grid
  sequence: jax.Array
  pack_block: jax.Array
  index: jax.Array

  @classmethod
  def current(cls, grid: Grid) -> GridStep:
    """Returns the step of the running kernel."""
    return cls(grid, *map(pl.program_id, range(3)))

  @property
  def first(self) -> jax.Array:
    """Whether it is the first step executed for its packs."""
    return self.index == 0

  def valid(
    self, row: jax.Array | int, shape: tuple[int, ...]
  ) -> jax.Array | None:
    """Returns a mask [rows, lanes] of existing tokens; None if all exist.

    Args:
      row: first row, counted in the step's block.
      shape: [rows, lanes].
    """
    grid = self.grid
    if grid.tiling.length % grid.rows == 0:
      return None
    row = grid.time(self.index) * grid.rows + row
    rows = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return rows < grid.tiling.length - row

  def state_slices(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Returns the index of the step's packs in a state [B, *shape]."""
    sizes = self.grid.state_shape(shape)
    axis = 1 if len(shape) == 2 else 0
    slices: list[Any] = [slice(None)] * len(shape)
    slices[axis] = pl.ds(self.pack_block * sizes[axis], sizes[axis])
    return (self.sequence, *slices)

  def windows(self, m: jax.Array | int) -> list[Window]:
    """Returns mini-batch m of each pack."""
    return [Window(self, m, p) for p in range(self.grid.packs)]


@dataclasses.dataclass(frozen=True)
class Window:
  """Mini-batch m of pack p, or of all packs, in the blocks of a grid step.

  Attributes:
    grid_step: the grid step.
    m: index of the mini-batch in the step, a Python int or traced.
    p: index of the pack in the step; None for all of them.
  """

  grid_step: GridStep
  m: jax.Array | int
  p: int | None = None

  @property
  def tiling(self) -> Tiling:
    """Sizes of the call."""
    return self.grid_step.grid.tiling

  @property
  def rows(self) -> Any:
    """The mini-batch's rows in a block [rows, lanes]."""
    c = self.tiling.mini_batch
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
    x = self.read_unmasked(ref)
    valid = self.grid_step.valid(self.m * self.tiling.mini_batch, x.shape)
    # The last block extends past the array, where memory is undefined.
    return x if valid is None else jnp.where(valid, x, jnp.zeros_like(x))

  def read_unmasked(self, ref: Any) -> jax.Array:
    """Returns the tokens [C, lanes], undefined after the sequence's end."""
    return ref[0, self.rows, self.lanes]

  def write(self, ref: Any, x: jax.Array) -> None:
    """Writes the tokens [C, lanes]."""
    ref[0, self.rows, self.lanes] = x.astype(ref.dtype)

  def previous(self) -> Window | None:
    """Returns the preceding mini-batch of the step; None for the first."""
    if self.m == 0:
      return None
    return Window(self.grid_step, self.m - 1, self.p)

"""Step sizes, from one lane per head to all lanes of that head.

eta is [T, H], one lane per head; the kernels multiply it with [T, H D]. A
product with ones broadcasts it on the matrix unit. Shuffling lanes would occupy
the unit of the reductions over features, the longest chain of a mini-batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.tiling import Grid
from pallas_kernels.tpu.window import GridStep
from pallas_kernels.tpu.window import Window


def selector_shape(grid: Grid) -> tuple[int, int]:
  """Returns the shape of `selector`."""
  return grid.tiling.heads, grid.packs * LANES


def selector(grid_step: GridStep) -> jax.Array:
  """Returns [H, P 128], 1 where a lane belongs to the head."""
  grid = grid_step.grid
  shape = selector_shape(grid)
  head, lane = (
    jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)
  )
  head_dim = grid.tiling.head_dim
  first = (head - grid_step.pack_block * grid.step_heads) * head_dim
  own_lanes = (lane >= first) & (lane < first + head_dim)
  return jnp.where(own_lanes, 1.0, 0.0).astype(grid.tiling.dtype)


def broadcast(
  eta: Any, selected: jax.Array, out: Any, grid_step: GridStep
) -> None:
  """Writes the step sizes of all lanes, zero where there is no token.

  Args:
    eta: ref [rows, H].
    selected: result of `selector`.
    out: ref [rows, P 128] of the tiling's wide dtype.
    grid_step: the grid step.
  """
  lanes = grid_step.grid.tiling.products.times(eta[...], selected)
  valid = grid_step.valid(0, lanes.shape)
  out[...] = lanes if valid is None else jnp.where(valid, lanes, 0)


def read_window(eta: Any, selected: Any, window: Window) -> jax.Array:
  """Returns the step sizes of a window, zero where there is no token.

  Computed where they are needed, so that the product fills gaps of the matrix
  unit.

  Args:
    eta: ref [rows, H].
    selected: ref of the result of `selector`.
    window: mini-batch of one pack, or of all packs.

  Returns:
    [C, lanes].
  """
  tiling = window.tiling
  lanes = tiling.products.times(eta[window.rows], selected[:, window.lanes])
  valid = window.grid_step.valid(window.m * tiling.mini_batch, lanes.shape)
  return lanes if valid is None else jnp.where(valid, lanes, 0)


def reduce_gradient(products: list[jax.Array], packing: Packing) -> jax.Array:
  """Returns the sums over each head's lanes, [C, P R].

  Args:
    products: gradients per lane, [C, 128] for each pack.
    packing: assignment of heads to lanes.
  """
  sums = [s for product in products for s in packing.sum_per_head(product)]
  shape = (sums[0].shape[0], len(sums))
  lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
  out = jnp.zeros(shape, sums[0].dtype)
  for head, head_sum in enumerate(sums):
    out = jnp.where(lane == head, head_sum, out)
  return out

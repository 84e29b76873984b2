"""Step sizes, from one lane a head to the lanes of that head.

eta is [T, H], a head a lane; the kernels multiply it to [T, H D]. A product
with ones does that on the matrix unit. Shuffling lanes would take the slot of
the reductions over features, the longest chain of a mini-batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.plan import Grid
from pallas_kernels.tpu.window import Step
from pallas_kernels.tpu.window import Window


def selector_shape(grid: Grid) -> tuple[int, int]:
  """Returns the shape of `selector`."""
  return grid.plan.heads, grid.packs * LANES


def selector(step: Step) -> jax.Array:
  """Returns [H, P 128], 1 where a lane belongs to the head."""
  grid = step.grid
  shape = selector_shape(grid)
  head, lane = (
    jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)
  )
  first = (head - step.share * grid.step_heads) * grid.plan.head_dim
  mine = (lane >= first) & (lane < first + grid.plan.head_dim)
  return jnp.where(mine, 1.0, 0.0).astype(grid.plan.dtype)


def spread(rates: Any, selected: jax.Array, out: Any, step: Step) -> None:
  """Writes the step sizes of all lanes, zero where no token is.

  Args:
    rates: ref [rows, H].
    selected: `selector`.
    out: ref [rows, P 128] of the plan's wide dtype.
    step: the grid step.
  """
  lanes = step.grid.plan.products.times(rates[...], selected)
  valid = step.valid(0, lanes.shape)
  out[...] = lanes if valid is None else jnp.where(valid, lanes, 0)


def at(rates: Any, selected: jax.Array, window: Window) -> jax.Array:
  """Returns the step sizes of a window, zero where no token is.

  Made where they are needed, the product fills gaps of the matrix unit.

  Args:
    rates: ref [rows, H].
    selected: ref of `selector`.
    window: of a pack, or of all.

  Returns:
    [C, lanes].
  """
  plan = window.plan
  lanes = plan.products.times(rates[window.rows], selected[:, window.lanes])
  valid = window.step.valid(window.m * plan.mini_batch, lanes.shape)
  return lanes if valid is None else jnp.where(valid, lanes, 0)


def gather(products: list[jax.Array], packing: Packing) -> jax.Array:
  """Returns the sums over each head's lanes, [C, P R].

  Args:
    products: per pack, [C, 128].
    packing: how heads share the lanes.
  """
  sums = [s for product in products for s in packing.sums(product)]
  shape = (sums[0].shape[0], len(sums))
  lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
  out = jnp.zeros(shape, sums[0].dtype)
  for head, total in enumerate(sums):
    out = jnp.where(lane == head, total, out)
  return out

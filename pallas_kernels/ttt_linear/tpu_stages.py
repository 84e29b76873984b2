"""TTT-Linear on packs of heads: the parts that both TPU kernels share.

With one layer the heads of a pack need no separate rows. Their weights are the
diagonal blocks of one matrix, and a product with it serves R heads at once:

    w [128, 128] = | w_a  0  |       k w = | a w_a | b w_b |
                   |  0  w_b |

    y = k w + b       g = dl/dy  (`tpu/inner_loss.py`)       f = eta g
    w' = w - k^T f    b' = b - sum f
    out = q + scale LN(q w' + b') + bias

w and b are centred over the features of a head before the kernel.

Only the products are per pack. Everything else runs on all packs of a step
together, [C, P 128]: reductions run in program order, and one pack's chain of
them would delay the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import lanes
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.tiling import Tiling


class State(NamedTuple):
  """Weights in packs, as refs, values or shapes.

  In HBM a B comes first and P counts all packs.
  """

  w: jax.Array  # [P, 128, 128], zero outside of the heads' blocks
  b: jax.Array  # [1, P 128]


def apply(rows: jax.Array, w: jax.Array, tiling: Tiling) -> jax.Array:
  """Returns rows w of each pack: [rows, P 128], [P, 128, 128]."""
  return jnp.concatenate(
    [tiling.products.times(rows[:, lanes(p)], w[p]) for p in range(w.shape[0])],
    axis=1,
  )


def transpose_packs(rows: jax.Array) -> list[jax.Array]:
  """Returns the rows [C, P 128] of each pack as columns, P x [128, C].

  To be called early: the unit that transposes also computes the reductions, in
  program order.
  """
  return [rows[:, lanes(p)].T for p in range(rows.shape[1] // LANES)]


def add_product(
  w: Any, columns: list[jax.Array], f: jax.Array, sign: int, tiling: Tiling
) -> None:
  """Adds sign columns f of each pack to the ref w [P, 128, 128]."""
  for p, column in enumerate(columns):
    product = tiling.products.times(column, f[:, lanes(p)])
    w[p] = w[p] + sign * keep_diagonal_blocks(product, tiling.packing)


def keep_diagonal_blocks(x: jax.Array, packing: Packing) -> jax.Array:
  """Returns x [128, 128] with zeros outside of the heads' blocks."""
  if packing.heads == 1:
    return x
  blocks = [
    packing.keep_head(r, x[r * packing.head_dim : (r + 1) * packing.head_dim])
    for r in range(packing.heads)
  ]
  return jnp.concatenate(blocks, axis=0)

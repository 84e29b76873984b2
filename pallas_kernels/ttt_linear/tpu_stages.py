"""TTT-Linear on packs of heads: the pieces that both TPU kernels share.

With one layer the heads of a pack need no rows of their own. Their weights lie
on the diagonal of one matrix, and a product with it serves R heads at once:

    w [128, 128] = | w_a  0  |       k w = | a w_a | b w_b |
                   |  0  w_b |

    y = k w + b       g = dl/dy  (`tpu/inner_loss.py`)       f = eta g
    w' = w - k^T f    b' = b - sum f
    out = q + scale LN(q w' + b') + bias

w and b are centred over the features of a head before the kernel.

Only the products are per pack. All else runs on the packs of a step side by
side, [C, P 128]: reductions run in the order they are written, and a pack's
chain of them would keep the others waiting.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.packing import lanes
from pallas_kernels.tpu.packing import Packing
from pallas_kernels.tpu.plan import Plan


class State(NamedTuple):
  """Weights in packs, as refs, values or shapes.

  In HBM a B comes first and P is the number of all packs.
  """

  w: jax.Array  # [P, 128, 128], zero outside of the heads' blocks
  b: jax.Array  # [1, P 128]


def apply(rows: jax.Array, w: jax.Array, plan: Plan) -> jax.Array:
  """Returns rows w of each pack: [rows, P 128], [P, 128, 128]."""
  return jnp.concatenate(
    [plan.products.times(rows[:, lanes(p)], w[p]) for p in range(w.shape[0])],
    axis=1,
  )


def turn(rows: jax.Array) -> list[jax.Array]:
  """Returns the rows [C, P 128] of each pack as columns, P x [128, C].

  Turned before they are needed: the unit that turns them also makes the
  reductions, in the order of the program.
  """
  return [rows[:, lanes(p)].T for p in range(rows.shape[1] // LANES)]


def move(
  w: Any, columns: list[jax.Array], f: jax.Array, sign: int, plan: Plan
) -> None:
  """Adds sign columns f of each pack to the ref w [P, 128, 128]."""
  for p, column in enumerate(columns):
    moved = plan.products.times(column, f[:, lanes(p)])
    w[p] = w[p] + sign * same_head(moved, plan.packing)


def same_head(x: jax.Array, packing: Packing) -> jax.Array:
  """Returns x [128, 128] with zeros outside of the heads' blocks."""
  if packing.heads == 1:
    return x
  blocks = [
    packing.only(r, x[r * packing.head_dim : (r + 1) * packing.head_dim])
    for r in range(packing.heads)
  ]
  return jnp.concatenate(blocks, axis=0)

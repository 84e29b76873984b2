"""Packing of heads into the 128 lanes of a TPU register.

A TPU register has 8 sublanes and 128 lanes, and the matrix unit needs tiles of
at least 128 columns. A head of 64 features would leave half of each empty, so
R = 128 / D heads share the lanes: a pack. The tokens keep their layout: a pack
is contiguous in [B, T, H D]. For R = 2 heads a and b:

    tokens      x                    = | a | b |               [C, 128]

    rows        block_diagonal(x)    = | a | 0 |               [R C, 128]
                                       | 0 | b |

    weights     w1                   = | w1_a |  w1_a [D, K]   [128, K]
                                       | w1_b |

    products    block_diagonal(x) w1 = | a w1_a |              [R C, K]
                                       | b w1_b |
                diagonal(rows w2^T)  = | rows_a w2_a^T | rows_b w2_b^T |
                block_diagonal(x)^T rows = | a^T rows_a |      [128, K]
                                           | b^T rows_b |

Every tile that enters the matrix unit is full, and a sum over the features of
a head is a sum over its D lanes.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.tpu.products import Products

LANES = 128
SUBLANES = 16  # Rows of a bfloat16 register, two to a 32-bit word.


def lanes(p: int) -> slice:
  """Returns the lanes of pack p."""
  return slice(p * LANES, (p + 1) * LANES)


@dataclasses.dataclass(frozen=True)
class Packing:
  """Assignment of R heads to the lanes.

  Attributes:
    head_dim: D, a divisor of 128.
    mini_batch: C.
  """

  head_dim: int
  mini_batch: int

  @property
  def heads(self) -> int:
    """R, heads in a pack."""
    return LANES // self.head_dim

  def keep_head(self, r: int, x: jax.Array) -> jax.Array:
    """Returns x [rows, 128] with zeros in the lanes of all heads but r."""
    if self.heads == 1:
      return x
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    mine = lane >= r * self.head_dim
    if r < self.heads - 1:
      mine = mine & (lane < (r + 1) * self.head_dim)
    return jnp.where(mine, x, jnp.zeros_like(x))

  def merge_heads(self, parts: list[jax.Array]) -> jax.Array:
    """Returns [rows, 128] with the lanes of head r from parts[r].

    Args:
      parts: R arrays [rows, 128], or [rows, 1] to fill the lanes with.
    """
    shape = (parts[0].shape[0], LANES)
    lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    out = jnp.broadcast_to(parts[-1], shape)
    for r in reversed(range(self.heads - 1)):
      out = jnp.where(lane < (r + 1) * self.head_dim, parts[r], out)
    return out

  def block_diagonal(self, x: jax.Array) -> jax.Array:
    """Returns x [C, 128] as [R C, 128], each head in its own rows."""
    return jnp.concatenate(
      [self.keep_head(r, x) for r in range(self.heads)], axis=0
    )

  def head_rows(self, r: int) -> slice:
    """Returns the rows of head r in [R C, ...]."""
    return slice(r * self.mini_batch, (r + 1) * self.mini_batch)

  def diagonal(self, rows: jax.Array) -> jax.Array:
    """Returns the diagonal blocks of rows [R C, 128] as [C, 128]."""
    return self.merge_heads(
      [rows[self.head_rows(r)] for r in range(self.heads)]
    )

  def add_bias(self, rows: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns rows [R C, K] plus each head's row of bias [R, K]."""
    return jnp.concatenate(
      [rows[self.head_rows(r)] + bias[r : r + 1] for r in range(self.heads)],
      axis=0,
    )

  def sum_per_head(self, x: jax.Array) -> list[jax.Array]:
    """Returns the sum over each head's features: R arrays [rows, 1]."""
    return [
      jnp.sum(self.keep_head(r, x), axis=1, keepdims=True)
      for r in range(self.heads)
    ]

  def mean(self, x: jax.Array) -> jax.Array:
    """Returns the mean over each head's features, repeated over its lanes.

    Args:
      x: [rows, P 128]. Reductions run in program order: with those of all
        packs next to each other, none waits for another pack's chain.
    """
    packs = [
      self.sum_per_head(x[:, first : first + LANES])
      for first in range(0, x.shape[1], LANES)
    ]
    return jnp.concatenate(
      [
        self.merge_heads([s * (1 / self.head_dim) for s in sums])
        for sums in packs
      ],
      axis=1,
    )

  def mean_by_product(self, x: jax.Array, products: Products) -> jax.Array:
    """Returns `mean(x)`, computed by the matrix unit."""
    row, column = (
      jax.lax.div(
        jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis),
        np.int32(self.head_dim),
      )
      for axis in (0, 1)
    )
    averaging = jnp.where(row == column, 1 / self.head_dim, 0.0)
    averaging = averaging.astype(products.dtype)
    return jnp.concatenate(
      [
        products.times_parts(x[:, first : first + LANES], averaging)
        for first in range(0, x.shape[1], LANES)
      ],
      axis=1,
    )

  def row_sums(self, dtype: jnp.dtype) -> jax.Array:
    """Returns [SUBLANES, R C], whose product with rows sums those of a head.

    Row r is 1 at the rows of head r; rows R and up are zero.
    """
    shape = (SUBLANES, self.heads * self.mini_batch)
    head, row = (
      jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)
    )
    first = head * self.mini_batch
    mine = (row >= first) & (row < first + self.mini_batch)
    return jnp.where(mine, 1.0, 0.0).astype(dtype)

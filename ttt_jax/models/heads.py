"""Arithmetic inside attention heads on tokens in their natural layout.

Tokens come as [B, T, H * D]. As [B, T, H, 64] a TPU, whose tiles are 8 tokens
by 128 lanes, would leave half of every tile empty and pay a copy each way.
`Heads.view` instead gives [B, T / 8, G, 8, W] with as many whole heads as fit
into W <= 128 lanes: the same memory tile by tile, so that it costs nothing.
What goes on inside a head is then a product with a [W, W] matrix of zeros and
ones, which the matrix unit does on the way: the rotated and normalised queries
of the 5B model cost a fifth of what they do as [B, T, H, 64] (estimate of the
v5p compiler). Elsewhere the plain form is the fast one.

Alphabet: G groups of heads, W lanes of a group.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

_LANES = 128
_SUBLANES = 8

# cos and sin, each [T, D]: see `rope.turns`.
Turns = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Heads:
  """H heads of D features each.

  Attributes:
    number: H.
    dim: D.
  """

  number: int
  dim: int

  @property
  def group(self) -> int:
    """Heads of a group."""
    fitting = max(1, _LANES // self.dim)
    return max(n for n in range(1, fitting + 1) if self.number % n == 0)

  @property
  def width(self) -> int:
    """W."""
    return self.group * self.dim

  def view(self, x: jax.Array) -> jax.Array:
    """[B, T, H * D] -> [B, T / r, G, r, W], r = 8 where it divides T or 1."""
    b, t, _ = x.shape
    rows = _rows(t)
    return x.reshape(b, t // rows, rows, -1, self.width).swapaxes(2, 3)

  def tokens(self, y: jax.Array) -> jax.Array:
    """The inverse of `view`."""
    return y.swapaxes(2, 3).reshape(y.shape[0], -1, self.number * self.dim)

  def groups(self, x: jax.Array) -> jax.Array:
    """[B, T, H * D] -> [B, G, T, W]: groups behind each other, tile by tile."""
    b, t, _ = x.shape
    return self.view(x).swapaxes(1, 2).reshape(b, -1, t, self.width)

  def ungroup(self, y: jax.Array) -> jax.Array:
    """The inverse of `groups`."""
    b, g, t, w = y.shape
    rows = _rows(t)
    return self.tokens(y.reshape(b, g, t // rows, rows, w).swapaxes(1, 2))

  def total(self, y: jax.Array) -> jax.Array:
    """The sum over each head of a view, found in all its lanes."""
    lane = np.arange(self.width) // self.dim

    def plain(y):
      x = y.reshape(*y.shape[:-1], self.group, self.dim)
      x = jnp.broadcast_to(x.sum(axis=-1, keepdims=True), x.shape)
      return x.reshape(y.shape)

    return _times(y, lane[:, None] == lane, plain)

  def spread(self, turns: Turns) -> Turns:
    """cos and sin for each token, [T, D] -> as `rotate` takes them.

    Where many views are rotated by the same table, this is done once.
    """

    def one(x):
      # Not tiled: XLA would repeat a broadcast in each turn of a loop.
      x = jnp.concatenate([x] * self.group, axis=-1)
      return x.reshape(-1, 1, _rows(x.shape[0]), self.width)

    return tuple(map(one, turns))

  def rotate(self, y: jax.Array, turns: Turns) -> jax.Array:
    """Turns the feature pairs (2i, 2i + 1) of a view.

    Args:
      y: a view, in any dtype.
      turns: from `spread`, float32 or wider.

    Returns:
      The view, in the dtype of `turns`.
    """
    # (a, b) -> (-b, a) for every pair.
    swap = np.zeros((self.width, self.width))
    even = np.arange(0, self.width, 2)
    swap[even + 1, even], swap[even, even + 1] = -1, 1

    def plain(y):
      return jnp.stack([-y[..., 1::2], y[..., ::2]], axis=-1).reshape(y.shape)

    cos, sin = turns
    return y * cos + _times(y, swap, plain).astype(sin.dtype) * sin

  def layer_norm(
    self, y: jax.Array, weights: tuple[jax.Array, jax.Array], epsilon: float
  ) -> jax.Array:
    """LayerNorm over the features of each head of a view.

    Args:
      y: a view, in any dtype.
      weights: scale and bias, [D] each.
      epsilon: added to the variance.

    Returns:
      The view, in y's dtype; float32 inside.
    """
    scale, bias = weights
    x = y.astype(jnp.promote_types(y.dtype, scale.dtype))
    x -= self.total(x) / self.dim
    variance = self.total(jnp.square(x)) / self.dim
    x *= jax.lax.rsqrt(variance + epsilon)
    return (x * self.weight(scale) + self.weight(bias)).astype(y.dtype)

  def weight(self, w: jax.Array) -> jax.Array:
    """[H, D], or [D] for all heads, to go with views."""
    w = jnp.broadcast_to(w, (self.number, self.dim))
    return w.reshape(-1, 1, self.width)


def _rows(tokens: int) -> int:
  """Tokens of a tile, or one where they do not fill tiles."""
  return 1 if tokens % _SUBLANES else _SUBLANES


def _times(
  y: jax.Array,
  matrix: np.ndarray,
  plain: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """y [..., W] times a [W, W] of 0 and +-1; `plain` computes the same."""

  def product(y):
    return jnp.matmul(
      y, jnp.asarray(matrix, y.dtype), precision=jax.lax.Precision.HIGHEST
    )

  return jax.lax.platform_dependent(y, tpu=product, default=plain)

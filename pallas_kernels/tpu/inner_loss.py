"""The inner loss on packs of heads: its gradient, and the gradient's gradient.

With y the output of the inner model and e = v - k the target, [C, lanes] of one
pack or several packs,

    l = 1/2 sum (scale x + bias - e)^2,  x = y r,  r = 1 / std(y)
    u = scale (scale x + bias - e)
    g = dl/dy = r (u - x mean(u x)),  g -= mean(g)

y has no mean over the features of a head: the weights that produce it are
centred over them before the kernel, to which LayerNorm is invariant. It stays
so only because the finished gradient g is projected, after its last factor.
With the mean of u projected instead, the rounding error of the weights feeds
back into itself and grows by a factor of e every few mini-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.inner_loss import EPSILON
from pallas_kernels.types import Array
from pallas_kernels.types import Norm

# [C, lanes] -> [C, lanes]: the mean over each head's features in all its lanes.
Mean = Callable[[jax.Array], jax.Array]


class InnerGradient(NamedTuple):
  """The inner gradient of one mini-batch, and its intermediate values."""

  x: Array  # [C, lanes]
  r: Array  # [C, lanes]
  ux: Array  # [C, lanes] mean(u x)
  g: Array  # [C, lanes]


class InnerGradientCotangents(NamedTuple):
  """Cotangents of the inputs of the inner gradient."""

  d_y: jax.Array  # [C, lanes]
  d_error: jax.Array  # [C, lanes], of scale x + bias - (v - k)
  d_norm: Norm


def norm_lanes(norm: Norm, lanes: slice) -> Norm:
  """Returns the parameters in some lanes, from refs [1, P 128]."""
  return Norm(norm.scale[:, lanes], norm.bias[:, lanes])


def normalize(
  y: jax.Array, mean: Mean, factor: float = 1.0
) -> tuple[jax.Array, jax.Array]:
  """Returns y / std(y) and 1 / std(y) for y without a mean, [C, lanes].

  Args:
    y: [C, lanes], `factor` times the inner model's output.
    mean: function that averages over the features of each head.
    factor: factor of y, by which LayerNorm's epsilon is scaled too.
  """
  r = jax.lax.rsqrt(mean(y * y) + factor * factor * EPSILON)
  return y * r, r


def normalize_backward(
  d_x: jax.Array, x: jax.Array, r: jax.Array, mean: Mean
) -> jax.Array:
  """Returns the cotangent of y from that of x = y / std(y)."""
  return r * (d_x - x * mean(d_x * x))


def inner_gradient(
  y: jax.Array,
  k: jax.Array,
  v: jax.Array,
  norm: Norm,
  mean: Mean,
  factor: float = 1.0,
) -> InnerGradient:
  """Returns g = dl/dy of each token; arguments [C, lanes], see `normalize`."""
  x, r = normalize(y, mean, factor)
  u = norm.scale * (norm.scale * x + norm.bias - v + k)
  ux = mean(u * x)
  g = r * (u - x * ux)
  return InnerGradient(x, r, ux, g - mean(g))


def inner_gradient_backward(
  d_g: jax.Array,
  gradient: InnerGradient,
  k: jax.Array,
  v: jax.Array,
  norm: Norm,
  mean: Mean,
) -> InnerGradientCotangents:
  """Returns the cotangents of `inner_gradient`.

      d_g -= mean(d_g)
      d_u = r (d_g - x mean(d_g x))
      d_x = scale^2 d_u - r (mean(u x) d_g + u mean(d_g x))
      d_y = r (d_x - x (mean(d_x x) + mean(d_g g)))

  Args:
    d_g: cotangent of g, [C, lanes].
    gradient: result of `inner_gradient`.
    k: [C, lanes].
    v: [C, lanes].
    norm: LayerNorm parameters [1, lanes].
    mean: function that averages over the features of each head.
  """
  x, r, ux, g = gradient
  d_g = d_g - mean(d_g)
  d_gx = mean(d_g * x)
  d_u = r * (d_g - x * d_gx)
  error = norm.scale * x + norm.bias - v + k
  d_error = norm.scale * d_u
  d_norm = Norm(
    scale=column_sum(d_u * (error + norm.scale * x)),
    bias=column_sum(d_error),
  )
  d_x = norm.scale * d_error - r * (ux * d_g + norm.scale * error * d_gx)
  d_y = r * (d_x - x * (mean(d_x * x) + mean(d_g * g)))
  return InnerGradientCotangents(d_y, d_error, d_norm)


def column_sum(x: jax.Array) -> jax.Array:
  """Returns the sum over tokens, [C, lanes] -> [1, lanes]."""
  return jnp.sum(x, axis=0, keepdims=True)

"""Closed-form derivatives of LayerNorm and of the inner loss's gradient.

With n the normalised z, r the reciprocal standard deviation, and

    P(x) = x - mean(x) - n mean(x n)        all means over D, row by row

LayerNorm's backward pass is d_z = r P(d_n), and the inner loss's gradient
g = r P(d) with d = (n scale + bias - (v - k)) scale. Its own backward pass is
that of a second derivative. All arrays are [..., C, D], scale and bias too:
their cotangents stay per token, and a loop sums them once, at its end.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.inner_loss import normalize
from pallas_kernels.xla.products import row_product


class LossGradient(NamedTuple):
  """The gradient g in z of each token's loss, and its intermediate values."""

  g: jax.Array  # [..., C, D]
  normal: jax.Array  # n, [..., C, D]
  reciprocal: jax.Array  # r, [..., C, 1]
  error: jax.Array  # LN(z) - (v - k), [..., C, D]
  slope: jax.Array  # mean(d n), [..., C, 1]


def loss_gradient(
  z: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
) -> LossGradient:
  """Returns the gradient of `inner_loss.token_loss` in z, [..., C, D] each."""
  normal, reciprocal = normalize(z)
  error = normal * scale + bias - (v - k)
  d = error * scale
  slope = _mean_product(d, normal)
  g = (d - _mean(d) - normal * slope) * reciprocal
  return LossGradient(g, normal, reciprocal, error, slope)


def loss_gradient_backward(
  forward: LossGradient, scale: jax.Array, u: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns cotangents of `loss_gradient`.g in (z, scale, bias).

  The cotangent in bias is also that in k, and minus that in v.

  Args:
    forward: result of `loss_gradient`.
    scale: scale of LayerNorm, [..., C, D].
    u: cotangent of g.
  """
  g, normal, reciprocal, error, slope = forward
  u_slope = _mean_product(u, normal)
  d_d = reciprocal * (u - _mean(u) - normal * u_slope)
  d_bias = d_d * scale
  d_scale = d_d * error + d_bias * normal
  # P depends on n: the derivative in n of -r mean(u n) mean(d n) D.
  d_normal = d_bias * scale - reciprocal * (
    slope * u + u_slope * (error * scale)
  )
  # r = (variance + epsilon)^(-1/2) depends on z too: the last mean.
  along = _mean_product(d_normal, normal) + _mean_product(u, g)
  d_z = reciprocal * (d_normal - _mean(d_normal) - normal * along)
  return d_z, d_scale, d_bias


def layer_norm_backward(
  z: jax.Array, scale: jax.Array, d_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the cotangents of (z, scale, bias), given that of LN(z)."""
  normal, reciprocal = normalize(z)
  d_normal = d_out * scale
  along = _mean_product(d_normal, normal)
  d_z = reciprocal * (d_normal - _mean(d_normal) - normal * along)
  return d_z, d_out * normal, d_out


def _mean(x: jax.Array) -> jax.Array:
  """Returns the mean of each row, [..., 1]."""
  return jnp.mean(x, axis=-1, keepdims=True)


def _mean_product(x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns mean(x y) of each row, [..., 1]."""
  return row_product(x, y) / x.shape[-1]

"""The element-wise parts on [C, D] and their closed-form backward passes.

With n = (z - mean z) / std, r = 1 / std, all means over D:

    read     out = q + s n + b
    gradient of the inner loss in z, times -eta:
             e = s n + b - (v - k)      u = s e
             G = r (u - mean u - n mean(u n))      g = -eta G

Automatic differentiation of them takes twice the instructions.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.inner_loss import normalize
from pallas_kernels.types import Norm


def read(z: jax.Array, q: jax.Array, norm: Norm) -> jax.Array:
  """Returns out = q + LN(z), [C, D] in float32."""
  scale, bias = norm
  return q.astype(jnp.float32) + (normalize(z)[0] * scale + bias)


def read_backward(
  z: jax.Array, d_out: jax.Array, norm: Norm
) -> tuple[jax.Array, Norm]:
  """Returns the cotangents of z and the norm; that of q is d_out."""
  n, r = normalize(z)
  d_out = d_out.astype(jnp.float32)
  d_norm = Norm(jnp.sum(d_out * n, axis=0), jnp.sum(d_out, axis=0))
  return r * _project(d_out * norm.scale, n), d_norm


class Residuals(NamedTuple):
  """Residuals of `step_gradient` for its backward pass."""

  n: jax.Array  # [C, D]
  r: jax.Array  # [C, 1]
  e: jax.Array  # [C, D]
  gradient: jax.Array  # G [C, D]


def step_gradient(
  z: jax.Array, k: jax.Array, v: jax.Array, eta: jax.Array, norm: Norm
) -> tuple[jax.Array, Residuals]:
  """Returns g = -eta dl/dz [C, D] of z = f(k; W), and residuals."""
  scale, bias = norm
  n, r = normalize(z)
  target = v.astype(jnp.float32) - k.astype(jnp.float32)
  e = n * scale + bias - target
  gradient = _project(e * scale, n) * r
  return -eta[:, None] * gradient, Residuals(n, r, e, gradient)


def step_gradient_backward(
  residuals: Residuals, eta: jax.Array, norm: Norm, d_g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, Norm]:
  """Returns the cotangents (d_z, d_e, d_eta, d_norm) of `step_gradient`.

  e enters k with d_e and v with -d_e.

  Args:
    residuals: second result of `step_gradient`.
    eta: [C].
    norm: [D] each.
    d_g: cotangent of g [C, D].
  """
  scale, _ = norm
  n, r, e, gradient = residuals
  u = e * scale
  d_eta = -jnp.sum(d_g * gradient, axis=1)

  # G = r p with p = u - mean u - n mean(u n), which is linear in u.
  d_p = (-eta[:, None] * r) * d_g
  d_p_n = _mean(d_p * n)
  d_u = d_p - _mean(d_p) - n * d_p_n
  d_e = d_u * scale
  d_n = d_e * scale - d_p * _mean(u * n) - u * d_p_n

  # r also scales G: d_r dr/dz = -r n mean(dG G).
  d_r_term = (eta * d_eta)[:, None] * (1 / n.shape[1])
  d_z = r * (d_n - _mean(d_n) - n * (_mean(d_n * n) + d_r_term))
  d_norm = Norm(jnp.sum(d_u * e + d_e * n, axis=0), jnp.sum(d_e, axis=0))
  return d_z, d_e, d_eta, d_norm


def _project(x, n):
  """Returns x without its mean and its part along n."""
  return x - _mean(x) - n * _mean(x * n)


def _mean(x):
  """Returns the mean over D, [C, 1]."""
  return jnp.sum(x, axis=1, keepdims=True) * (1 / x.shape[1])

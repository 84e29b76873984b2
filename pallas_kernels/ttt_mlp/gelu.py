"""GELU in its tanh form, x p(u(x)) with p = (1 + tanh u) / 2, and derivatives.

u(x) = sqrt(2 / pi) (x + 0.044715 x^3). The derivatives of this form are exact;
the paper's code truncates their constants to about 8 digits.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

_RATE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _RATE


def gelu(x: jax.Array) -> jax.Array:
  """Returns GELU of x."""
  return x * (0.5 + 0.5 * jnp.tanh(x * (_RATE + _CUBIC * x * x)))


def gelu_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns GELU and its first derivative, from one tanh."""
  p, slope_p, _ = _gate(x)
  return x * p, p + x * slope_p


def gelu_slope_curvature(
  x: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns GELU and its first two derivatives, from one tanh."""
  p, slope_p, curvature_p = _gate(x)
  return x * p, p + x * slope_p, 2 * slope_p + x * curvature_p


def _gate(x):
  """Returns p and its first two derivatives in x."""
  square = x * x
  tanh = jnp.tanh(x * (_RATE + _CUBIC * square))
  slope_u = _RATE + 3 * _CUBIC * square
  slope_tanh = (1 - tanh) * (1 + tanh)
  return (
    0.5 + 0.5 * tanh,
    0.5 * slope_tanh * slope_u,
    slope_tanh * (3 * _CUBIC * x - tanh * slope_u * slope_u),
  )

"""GELU in its tanh form, for the special-function unit of a GPU.

(1 + tanh u) / 2 is the logistic function of 2u, written with two operations
that the unit approximates fast, 2^x and 1 / sqrt(x): a division and tanh itself
cost several times as much. The functions equal those of
`pallas_kernels/ttt_mlp/gelu.py`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

_RATE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _RATE
_LOG2 = -2 * math.log2(math.e)  # exp(-2u) = 2^(_LOG2 u).


def gelu(x: jax.Array) -> jax.Array:
  """Returns GELU of x."""
  return x * _gate(x)[0]


def gelu_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns GELU and its first derivative."""
  p, square = _gate(x)
  slope_p = p * (1 - p) * (2 * _RATE + 6 * _CUBIC * square)
  return x * p, p + x * slope_p


def gelu_slope_curvature(
  x: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns GELU and its first two derivatives."""
  p, square = _gate(x)
  both = p * (1 - p)
  slope_2u = 2 * _RATE + 6 * _CUBIC * square
  slope_p = both * slope_2u
  curvature_p = 12 * _CUBIC * (x * both) + slope_p * slope_2u * (1 - 2 * p)
  return x * p, p + x * slope_p, 2 * slope_p + x * curvature_p


def _gate(x):
  """Returns p = logistic(2u) and x^2."""
  square = x * x
  power = jnp.exp2(x * (_LOG2 * _RATE + _LOG2 * _CUBIC * square))
  return jnp.square(jax.lax.rsqrt(1 + power)), square

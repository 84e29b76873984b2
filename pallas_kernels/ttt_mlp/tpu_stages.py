"""TTT-MLP on packs of heads: the pieces that both TPU kernels share.

The kernels keep the factor 1/2 of GELU out of the hidden layer, where an
operation costs K / D times as much as among the features. With

    A(z) = 2 gelu(z) = z (1 + tanh u),    c2 = 2 b2,

one mini-batch of the inner loop, f = gelu(x w1 + b1) w2 + b2, reads

    z = k w1 + b1             a = A(z)              slope = A'(z)
    y = a w2^T + c2           r = 1 / std(y)        x = y r
    u = scale (scale x + bias - (v - k))
    g = r (u - x mean(u x)),  g -= mean(g)          half the gradient in f
    f = eta g                 h = slope * (f w2)
    w1' = w1 - k^T h          b1' = b1 - sum h
    w2' = w2 - f^T a          c2' = c2 - 4 sum f
    out = q + scale LN(A(q w1' + b1') w2'^T + c2') + bias

y is twice the network's output and has the same LayerNorm once its epsilon is
multiplied by 4. The mean of y over features is left out of LayerNorm: w2 and
c2 are centred over the features before the kernel, so y has none. That holds
only because the finished gradient g is projected, after its last factor. With
the mean of u projected instead, what rounding leaves in w2 feeds back into
itself and grows by e every few mini-batches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.inner_loss import EPSILON
from pallas_kernels.tpu.packing import Packing

_RATE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _RATE


class State(NamedTuple):
  """Weights of the inner MLP in packs, as refs, values or shapes.

  w2 lies as w1 does. In HBM the axes [B, packs] come first, in VMEM [P].
  """

  w1: jax.Array  # [128, K]
  b1: jax.Array  # [R, K]
  w2: jax.Array  # [128, K]
  c2: jax.Array  # [1, 128]


class Norm(NamedTuple):
  """LayerNorm parameters of one pack."""

  scale: jax.Array  # [1, 128]
  bias: jax.Array  # [1, 128]


class Gradient(NamedTuple):
  """The inner gradient of one mini-batch, and what it was made of."""

  x: jax.Array  # [C, 128] y, normalised
  r: jax.Array  # [C, 128] 1 / std(y)
  ux: jax.Array  # [C, 128] mean(u x)
  g: jax.Array  # [C, 128]


def twice_gelu(z: jax.Array) -> jax.Array:
  """Returns A(z) = 2 gelu(z), tanh form."""
  return z * (1 + jnp.tanh(z * (_RATE + _CUBIC * (z * z))))


def twice_gelu_slope(z: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns A and A'."""
  square = z * z
  tanh = jnp.tanh(z * (_RATE + _CUBIC * square))
  a = z * (1 + tanh)
  return a, (1 + tanh) + a * (1 - tanh) * (_RATE + 3 * _CUBIC * square)


def twice_gelu_curvature(
    z: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns A, A' and A''."""
  square = z * z
  tanh = jnp.tanh(z * (_RATE + _CUBIC * square))
  slope_u = _RATE + 3 * _CUBIC * square
  slope_tanh = (1 + tanh) * (1 - tanh)  # By u.
  slope = slope_tanh * slope_u  # By z.
  curvature = 2 * slope * (1 - tanh * (z * slope_u)) + (
      6 * _CUBIC
  ) * (square * slope_tanh)
  return z * (1 + tanh), (1 + tanh) + z * slope, curvature


def normalize(y: jax.Array, packing: Packing) -> tuple[jax.Array, jax.Array]:
  """Returns y / std(y) and 1 / std(y) for y = 2 f without mean, [C, 128]."""
  r = jax.lax.rsqrt(packing.mean(y * y) + 4 * EPSILON)
  return y * r, r


def inner_gradient(
    y: jax.Array, k: jax.Array, v: jax.Array, norm: Norm, packing: Packing
) -> Gradient:
  """Returns g = 1/2 dl/df of each token from y = 2 f, [C, 128]."""
  x, r = normalize(y, packing)
  u = norm.scale * (norm.scale * x + norm.bias - v + k)
  ux = packing.mean(u * x)
  g = r * (u - x * ux)
  return Gradient(x, r, ux, g - packing.mean(g))


def column_sum(x: jax.Array) -> jax.Array:
  """Returns the sum over tokens, [C, 128] -> [1, 128]."""
  return jnp.sum(x, axis=0, keepdims=True)

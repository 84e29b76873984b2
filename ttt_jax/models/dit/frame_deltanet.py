"""Frame DeltaNet: a linear memory that writes one latent frame at a time.

The linear branch of VideoDeltaNet (Xi et al. 2026) around
`pallas_kernels.frame_delta_rule`: keys and values of a frame pass a depthwise
convolution over rows and columns, then over time, SiLU on all, no rotary
positions; one decay per frame and feature; an output norm with a low-rank gate.
The text of a segment is a frame of its own length, which is not convolved.

Unlike that branch, which scans both directions at once and reads only what its
softmax window does not contain, a mixer scans one direction: the convolution
over time is causal, and queries read the state after their own frame.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pallas_kernels import frame_delta_rule
from pallas_kernels import Permutation
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models.dit import mixer
from ttt_jax.models.dit import projections

_NORMAL = nn.initializers.normal(0.02)
_TAPS = 5  # Of the convolution, along each axis.


class FrameDeltaNet(mixer.Mixer):
  """See the module."""

  scope = 'frame_deltanet'

  def heads(self, config: Any) -> int:
    # Twice attention's features per head: 128 in the 5B model, as published.
    return config.num_heads // math.gcd(config.num_heads, 2)

  def layer(
    self,
    config: Any,
    order: token_order.TokenOrder,
    sharding_plan: sharding.ShardingPlan,
  ) -> FrameDeltaNetLayer:
    return FrameDeltaNetLayer(
      num_heads=self.heads(config),
      rank=config.model_dim // config.num_heads,
      order=order,
      dtype=jnp.dtype(config.dtype),
      implementation=config.implementation,
      sharding_plan=sharding_plan,
      name=self.scope,
    )

  def state_size(self, config: Any, length: int) -> int:
    return config.model_dim**2 // self.heads(config)

  def scan_flops(self, config: Any, order: token_order.TokenOrder) -> float:
    d = config.model_dim // self.heads(config)
    # A, B and the read of each token; the convolutions of k and v.
    tokens = order.length * (3 * d + 2 * (_TAPS**2 + _TAPS))
    # Factorisation, solutions for B and Diag(alpha), step of the state.
    frames = (order.latent_frames + order.segments) * 4 * d * d
    return 2.0 * config.model_dim * (tokens + frames)


def split_frames(
  x: jax.Array, order: token_order.TokenOrder
) -> tuple[jax.Array, jax.Array]:
  """Splits a sequence in scan order into texts and frames.

  Args:
    x: Tokens [B, T, ...].
    order: Order of the tokens.

  Returns:
    Texts [B, S, L, ...] and frames [B, F, P, ...].
  """
  text, size = order.text_length, order.tokens_per_frame
  rest = x[:, text + size :]  # [frames 1..n][text 1][frames n+1..2n]...
  rest = jnp.pad(rest, [(0, 0), (0, text)] + [(0, 0)] * (x.ndim - 2))
  rest = rest.reshape(x.shape[0], order.segments, -1, *x.shape[2:])
  texts = jnp.concatenate([x[:, None, :text], rest[:, :-1, -text:]], axis=1)
  frames = rest[:, :, :-text].reshape(x.shape[0], -1, size, *x.shape[2:])
  first = x[:, None, text : text + size]
  return texts, jnp.concatenate([first, frames], axis=1)


def join_frames(
  texts: jax.Array, frames: jax.Array, order: token_order.TokenOrder
) -> jax.Array:
  """Inverts `split_frames`, of which it is the transpose."""
  shape = (texts.shape[0], order.length, *texts.shape[3:])
  transpose = jax.linear_transpose(
    lambda x: split_frames(x, order), jax.ShapeDtypeStruct(shape, texts.dtype)
  )
  return transpose((texts, frames))[0]


def convolve(
  x: jax.Array, space: jax.Array, time: jax.Array, rows: int
) -> jax.Array:
  """Convolves each feature over rows and columns, then over past frames.

  Args:
    x: Frames [B, F, P, X].
    space: Weights [5 * 5, X] of the tokens around a token.
    time: Weights [5, X] of the frame 4 places before to the frame itself.
    rows: Token rows of a frame.

  Returns:
    [B, F, P, X] in float32 or wider.
  """
  reach = _TAPS // 2
  grid = x.reshape(*x.shape[:2], rows, -1, x.shape[-1])
  around = itertools.product(range(-reach, reach + 1), repeat=2)
  grid = _weighted_sum(grid, space, tuple((0, *place) for place in around))
  past = tuple((frame, 0, 0) for frame in range(1 - _TAPS, 1))
  return _weighted_sum(grid, time, past).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _weighted_sum(
  x: jax.Array, weights: jax.Array, places: tuple[tuple[int, ...], ...]
) -> jax.Array:
  """Sums the neighbours of each token, weighted by place and feature.

  Products of shifted copies, as in `mixer.short_convolution`. Autodiff would
  pad a copy of the gradient per place.

  Args:
    x: Tokens [B, F, R, C, X].
    weights: Weights [n, X].
    places: Frames, rows and columns from a token to each of n neighbours; those
      outside are zero.
  """
  terms = map(jnp.multiply, _neighbours(x, places), weights)
  return functools.reduce(jnp.add, terms)


def _neighbours(x, places):
  """Returns an array like x for each place."""
  least = [min(0, *place) for place in zip(*places)]
  most = [max(0, *place) for place in zip(*places)]
  fill = [(-low, high) for low, high in zip(least, most)]
  padded = jnp.pad(x, [(0, 0), *fill, (0, 0)])
  return [
    jax.lax.dynamic_slice(
      padded, [0, *(i - low for i, low in zip(place, least)), 0], x.shape
    )
    for place in places
  ]


def _weighted_sum_backward(places, residuals, d_y):
  x, weights = residuals
  opposite = tuple(tuple(-i for i in place) for place in places)
  d_x = _weighted_sum(d_y, weights, opposite)
  d_weights = [
    jnp.sum(y * d_y, axis=(0, 1, 2, 3)) for y in _neighbours(x, places)
  ]
  return d_x.astype(x.dtype), jnp.stack(d_weights).astype(weights.dtype)


_weighted_sum.defvjp(
  lambda x, weights, places: (_weighted_sum(x, weights, places), (x, weights)),
  _weighted_sum_backward,
)


class FrameDeltaNetLayer(nn.Module):
  """The frame-wise delta rule over one sequence, [B, T, M] -> [B, T, M].

  Attributes:
    num_heads: Number of heads, H, each with M / H features, D.
    rank: Features of the low-rank projections of decay and gate.
    order: Order of the tokens.
    dtype: Compute type; decays, norms and the state are float32.
    implementation: Implementation of the op; None takes the backend's best.
    sharding_plan: Placement of sequences on the mesh.
    epsilon: Number added to mean squares and to squared lengths.
  """

  num_heads: int
  rank: int
  order: token_order.TokenOrder
  dtype: jnp.dtype
  implementation: str | None = None
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()
  epsilon: float = 1e-6

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    rotary: heads_lib.RotaryTable | None = None,
    permutation: Permutation | None = None,
    length: int | None = None,
    *,
    diagnose: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Scans `x` as `mixer` describes; without positions."""
    del rotary, length  # The order has the same length.
    t, m = x.shape[1:]
    h, order, plan = self.num_heads, self.order, self.sharding_plan
    d = m // h

    def dense(name, features=m, use_bias=False):
      return layers.DenseWeights(
        features, _NORMAL, use_bias=use_bias, name=name
      )

    inputs = [*(dense(name)(m) for name in 'qkv'), dense('beta', h)(m)]
    # Every device computes the features of the decays for its own heads.
    kernel, bias = dense('decay', self.rank)(m)
    inputs.append((jnp.tile(kernel, plan.sp), jnp.tile(bias, plan.sp)))
    convolutions = [
      self.param(f'{name}_{axis}', mixer.convolution_init, (h, taps, d))
      for name in 'kv'
      for axis, taps in (('space', _TAPS**2), ('time', _TAPS))
    ]
    up = self.param('decay_up', _NORMAL, (h, self.rank, d))
    a_log = self.param('a_log', mixer.log_rate_init(1.0), (h,))
    dt_bias = self.param('dt_bias', mixer.step_bias_init, (h, d))
    scale = self.param('norm', nn.initializers.ones, (d,))

    def scan(z, weights, _):
      *convolutions, up, a_log, dt_bias = weights
      z = z[:, : order.length]
      heads = a_log.shape[0]  # Of this device.
      q, k, v, beta, decay = projections.split_projection(
        z, [*[heads * d] * 3, heads, self.rank]
      )
      split = lambda y: mixer.split_heads(y, heads)
      # Recomputed from the projections, which are narrower than its steps.
      features = jax.checkpoint(self._features, prevent_cse=False)
      q, k, v = (
        split(y)
        for y in (
          nn.silu(q),
          features(k, *convolutions[:2]),
          features(v, *convolutions[2:]),
        )
      )
      q, k = (mixer.l2_norm(y, self.epsilon).astype(v.dtype) for y in (q, k))
      beta = nn.sigmoid(split(beta).astype(a_log.dtype))[..., 0]
      g = self._decay(decay, up, a_log, dt_bias)
      out, state = frame_delta_rule(
        q,
        k,
        v,
        beta,
        g,
        frames=_frame_lengths(order),
        implementation=self.implementation,
      )
      padding = [(0, 0), (0, t - order.length), (0, 0)]
      aux = {'state_norm': mixer.state_norm(state)} if diagnose else {}
      return jnp.pad(mixer.join_heads(out), padding), aux

    scan = mixer.in_scan_order(scan, permutation, self.implementation, plan)
    x = x.astype(self.dtype)
    z = projections.qkv_projection(x, inputs, plan)
    with jax.named_scope('mixer_scan'):
      out, aux = plan.by_heads(scan, z, (*convolutions, up, a_log, dt_bias))
    # The gate has the order of the tokens in storage and stays there.
    gate = layers.Dense(self.rank, _NORMAL, use_bias=False, name='gate')(x)
    gate = projections.gate_projection(
      gate, dense('gate_up', use_bias=True)(self.rank), plan
    )
    y = mixer.rms_norm(out.reshape(*out.shape[:-1], -1, d), self.epsilon)
    y = (y * scale).reshape(out.shape) * nn.sigmoid(gate.astype(y.dtype))
    y = projections.output_projection(y.astype(self.dtype), dense('o')(m))
    return y, jax.tree.map(jnp.mean, aux)

  def _features(self, y, space, time):
    """Applies convolution and SiLU to keys or values [B, T, H * D]."""
    flat = lambda w: w.swapaxes(0, 1).reshape(w.shape[1], -1)
    texts, frames = split_frames(y, self.order)
    frames = convolve(frames, flat(space), flat(time), self.order.rows)
    y = join_frames(texts, frames.astype(y.dtype), self.order)
    return nn.silu(y)

  def _decay(self, features, up, a_log, dt_bias):
    """Returns the logarithms of the decays of frames, [B, H, N, D]."""
    # In float32: they add up over the frames.
    texts, frames = (
      y.mean(axis=2, keepdims=True)
      for y in split_frames(features.astype(up.dtype), self.order)
    )
    one = dataclasses.replace(self.order, text_length=1, rows=1, columns=1)
    step = jnp.einsum('bnr,hrd->bhnd', join_frames(texts, frames, one), up)
    return -jnp.exp(a_log)[:, None, None] * nn.softplus(step + dt_bias[:, None])


@functools.cache
def _frame_lengths(order: token_order.TokenOrder) -> tuple[int, ...]:
  """Returns the length of every text and frame in scan order."""
  text, size = order.text_length, order.tokens_per_frame
  segment = (text, *[size] * order.segment_latent_frames)
  return (*segment[:1], size, *segment[1:], *segment * (order.segments - 1))

"""Mamba 2: a linear memory with a learned step size.

The layer of Dao & Gu 2024 (arXiv:2405.21060, section 7.1) around
`pallas_kernels.ssd`. It has no positions: a short convolution gives tokens the
order of their neighbours.
"""

from __future__ import annotations

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pallas_kernels import Permutation
from pallas_kernels import ssd
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models.dit import mixer
from ttt_jax.models.dit import projections

_NORMAL = nn.initializers.normal(0.02)
_CONVOLUTION = 4  # tokens

# Preset: heads per three heads of attention, with the same head dim. 'matched'
# has about 4 M^2 parameters, 'state' the published widths and 6 M^2.
_PRESETS = {'matched': 4, 'state': 6}


class Mamba2(mixer.Mixer):
  """See the module."""

  scope = 'mamba2'
  presets = tuple(_PRESETS)

  def heads(self, config: Any) -> int:
    heads = config.num_heads
    # Powers of two that split attention's heads split these, too.
    unit = math.gcd(heads, 8)
    return _PRESETS[config.mixer_preset] * heads // 3 // unit * unit

  def _sizes(self, config):
    """Returns the heads, the head dim and the state dim, H, P and N."""
    d = config.model_dim // config.num_heads
    return self.heads(config), d, 2 * d

  def layer(
    self,
    config: Any,
    order: token_order.TokenOrder,
    sharding_plan: sharding.ShardingPlan,
  ) -> Mamba2Layer:
    heads, p, n = self._sizes(config)
    return Mamba2Layer(
      num_heads=heads,
      head_dim=p,
      state_dim=n,
      dtype=jnp.dtype(config.dtype),
      implementation=config.implementation,
      sharding_plan=sharding_plan,
      name=self.scope,
    )

  def state_size(self, config: Any, length: int) -> int:
    return math.prod(self._sizes(config))

  def scan_flops(self, config: Any, order: token_order.TokenOrder) -> float:
    heads, p, n = self._sizes(config)
    # The convolutions; writing and reading the state.
    token = _CONVOLUTION * (heads * p + 2 * n) + 2 * heads * p * n
    return 2.0 * order.length * token


class Mamba2Layer(nn.Module):
  """The selective state space over one sequence, [B, T, M] -> [B, T, M].

  Attributes:
    num_heads: Number of heads, H.
    head_dim: Features per head, P.
    state_dim: Directions of the state, N.
    groups: Groups of heads that share their directions.
    dtype: Compute type; step sizes, norms and the state are float32.
    implementation: Implementation of the op; None takes the backend's best.
    sharding_plan: Placement of sequences on the mesh.
    epsilon: Number added to mean squares.
  """

  num_heads: int
  head_dim: int
  state_dim: int
  dtype: jnp.dtype
  groups: int = 1
  implementation: str | None = None
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()
  epsilon: float = 1e-5

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
    del rotary
    t, m = x.shape[1:]
    length = t if length is None else length
    plan = self.sharding_plan
    parts = (self.num_heads, self.groups, self.groups)
    dims = (self.head_dim, self.state_dim, self.state_dim)
    inner = self.num_heads * self.head_dim

    def dense(name, features):
      return layers.DenseWeights(features, _NORMAL, use_bias=False, name=name)

    kernels = [dense(name, n * d)(m) for name, n, d in zip('xbc', parts, dims)]
    convolutions = [
      (
        self.param(
          f'{name}_conv', mixer.convolution_init, (n, _CONVOLUTION, d)
        ),
        self.param(f'{name}_conv_bias', nn.initializers.zeros, (n, d)),
      )
      for name, n, d in zip('xbc', parts, dims)
    ]
    a_log = self.param('a_log', mixer.log_rate_init(1.0), (self.num_heads,))
    dt_bias = self.param('dt_bias', mixer.step_bias_init, (self.num_heads,))
    skip = self.param('skip', nn.initializers.ones, (self.num_heads,))
    scale = self.param('norm', nn.initializers.ones, (inner,))

    def per_device(weight, n):
      """Repeats groups [..., n * d], so that each device has those it needs."""
      weight = weight.reshape(*weight.shape[:-1], n, -1)
      weight = jnp.repeat(weight, max(1, plan.sp // n), axis=-2)
      return weight.reshape(*weight.shape[:-2], -1)

    def scan(z, weights, _):
      convolutions, a_log, dt_bias, skip = weights
      local = [kernel.shape[0] for kernel, _ in convolutions]
      sizes = [n * d for n, d in zip(local, dims)]
      *xbc, dt = projections.split_projection(z, [*sizes, local[0]])
      x, b, c = (
        mixer.split_heads(mixer.short_convolution(y, *convolution), n)
        for y, convolution, n in zip(xbc, convolutions, local)
      )
      dt = nn.softplus(dt.astype(dt_bias.dtype) + dt_bias)
      # Padding neither writes nor decays.
      dt = jnp.where((jnp.arange(t) < length)[:, None], dt, 0).swapaxes(1, 2)
      out, state = ssd(
        x,
        dt,
        -jnp.exp(a_log),
        b,
        c,
        skip,
        implementation=self.implementation,
      )
      aux = {'state_norm': mixer.state_norm(state)} if diagnose else {}
      return mixer.join_heads(out), aux

    scan = mixer.in_scan_order(scan, permutation, self.implementation, plan)
    x = x.astype(self.dtype)
    inputs = [
      (per_device(kernel, n), per_device(bias, n))
      for (kernel, bias), n in zip(kernels, parts)
    ]
    z = projections.qkv_projection(
      x, [*inputs, dense('dt', self.num_heads)(m)], plan
    )
    repeat = lambda w: jnp.repeat(w, max(1, plan.sp // w.shape[0]), axis=0)
    with jax.named_scope('mixer_scan'):
      out, aux = plan.by_heads(
        scan, z, (jax.tree.map(repeat, convolutions), a_log, dt_bias, skip)
      )
    # The gate has the order of the tokens in storage and stays there.
    gate = projections.gate_projection(x, dense('z', inner)(m), plan)
    y = self._group_norm(out * nn.silu(gate.astype(scale.dtype)))
    y *= scale.reshape(plan.sp, 1, 1, -1)
    y = projections.output_projection(
      y.astype(self.dtype), dense('o', m)(inner)
    )
    return y, jax.tree.map(jnp.mean, aux)

  def _group_norm(self, y):
    """Applies RMSNorm to each group's features of [sp, B, T, X]."""
    sp, b, t, x = y.shape
    outer = min(self.groups, sp)
    y = y.reshape(outer, sp // outer, b, t, self.groups // outer, -1)
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    square = jnp.square(y).mean(axis=(1, 5), keepdims=True)
    return (y * jax.lax.rsqrt(square + self.epsilon)).reshape(sp, b, t, x)

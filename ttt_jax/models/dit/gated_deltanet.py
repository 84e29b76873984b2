"""Gated DeltaNet: a linear memory with error correction and decay.

The layer of Yang et al. 2024 (arXiv:2412.06464, section 3.4) around
`pallas_kernels.gated_delta_rule`. Queries and keys have no positions: a short
convolution gives them the order of their neighbours.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pallas_kernels import gated_delta_rule
from pallas_kernels import Permutation
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models.dit import mixer
from ttt_jax.models.dit import projections

_NORMAL = nn.initializers.normal(0.02)
_CONVOLUTION = 4  # tokens

# Preset: attention heads per head; head dims of keys and values in head dims of
# attention. Both double the values, as published. 'matched' has 4 M^2
# parameters; 'state' has the published widths, 3/4 M and 3/2 M, and 6 M^2.
_PRESETS = {'matched': (2, 1, 2), 'state': (4, 3, 6)}


class GatedDeltaNet(mixer.Mixer):
  """See the module."""

  scope = 'gated_deltanet'
  presets = tuple(_PRESETS)

  def _sizes(self, config):
    """Returns the heads and the head dims of keys and values, H, K and V."""
    share, k, v = _PRESETS[config.mixer_preset]
    d = config.model_dim // config.num_heads
    return config.num_heads // share, k * d, v * d

  def check(self, config: Any) -> None:
    super().check(config)
    share = _PRESETS[config.mixer_preset][0]
    if config.num_heads % share:
      raise ValueError(
        f'model.num_heads is {config.num_heads}; for the preset'
        f' {config.mixer_preset!r} of {self.scope} it must be a multiple of'
        f' {share}, for example {-(-config.num_heads // share) * share}'
      )

  def heads(self, config: Any) -> int:
    return self._sizes(config)[0]

  def layer(
    self,
    config: Any,
    order: token_order.TokenOrder,
    sharding_plan: sharding.ShardingPlan,
  ) -> GatedDeltaNetLayer:
    heads, k, v = self._sizes(config)
    return GatedDeltaNetLayer(
      num_heads=heads,
      key_heads=heads,
      key_dim=k,
      value_dim=v,
      dtype=jnp.dtype(config.dtype),
      implementation=config.implementation,
      sharding_plan=sharding_plan,
      name=self.scope,
    )

  def state_size(self, config: Any, length: int) -> int:
    heads, k, v = self._sizes(config)
    return heads * k * v

  def scan_flops(self, config: Any, order: token_order.TokenOrder) -> float:
    heads, k, v = self._sizes(config)
    # The convolutions; reading and writing with a key, reading with a query.
    return 2.0 * order.length * heads * (_CONVOLUTION * (2 * k + v) + 3 * k * v)


class GatedDeltaNetLayer(nn.Module):
  """The gated delta rule over one sequence, [B, T, M] -> [B, T, M].

  Attributes:
    num_heads: Heads of the values, H.
    key_heads: Heads of queries and keys; each serves H / `key_heads`
      neighbouring heads of the values.
    key_dim: Features per head of queries and keys, K.
    value_dim: Features per head of the values, V.
    dtype: Compute type; decays, norms and the state are float32.
    implementation: Implementation of the op; None takes the backend's best.
    sharding_plan: Placement of sequences on the mesh.
    epsilon: Number added to mean squares and to squared lengths.
  """

  num_heads: int
  key_heads: int
  key_dim: int
  value_dim: int
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
    del rotary
    t, m = x.shape[1:]
    length = t if length is None else length
    dims = (self.key_dim, self.key_dim, self.value_dim)
    heads = (self.key_heads, self.key_heads, self.num_heads)

    def dense(name, features):
      return layers.DenseWeights(features, _NORMAL, use_bias=False, name=name)

    widths = [n * d for n, d in zip(heads, dims)]
    inputs = [dense(name, width)(m) for name, width in zip('qkv', widths)]
    inputs += [dense(name, self.num_heads)(m) for name in ('beta', 'decay')]
    convolutions = [
      self.param(f'{name}_conv', mixer.convolution_init, (n, _CONVOLUTION, d))
      for name, n, d in zip('qkv', heads, dims)
    ]
    a_log = self.param('a_log', mixer.log_rate_init(1e-6), (self.num_heads,))
    dt_bias = self.param('dt_bias', mixer.step_bias_init, (self.num_heads,))
    scale = self.param('norm', nn.initializers.ones, (self.value_dim,))
    # A TPU multiplies 128 rows at a time; elsewhere the fewer operations count.
    chunk = 128 if self.sharding_plan.platform == 'tpu' else 64

    def scan(z, weights, _):
      *kernels, a_log, dt_bias = weights
      # Heads of this device.
      local = [kernel.shape[0] for kernel in kernels]
      sizes = [n * d for n, d in zip(local, dims)]
      *qkv, beta, decay = projections.split_projection(
        z, [*sizes, local[-1], local[-1]]
      )
      q, k, v = (
        mixer.split_heads(mixer.short_convolution(y, kernel), n)
        for y, kernel, n in zip(qkv, kernels, local)
      )
      q, k = (
        jnp.repeat(
          mixer.l2_norm(y, self.epsilon), local[-1] // local[0], axis=1
        )
        for y in (q, k)
      )
      beta, decay = (y.astype(a_log.dtype) for y in (beta, decay))
      g = -jnp.exp(a_log) * nn.softplus(decay + dt_bias)
      # Padding neither writes nor decays.
      is_token = (jnp.arange(t) < length)[:, None]
      beta, g = (
        jnp.where(is_token, y, 0).swapaxes(1, 2) for y in (nn.sigmoid(beta), g)
      )
      out, state = gated_delta_rule(
        (q * self.key_dim**-0.5).astype(v.dtype),
        k.astype(v.dtype),
        v,
        beta,
        g,
        chunk=chunk,
        implementation=self.implementation,
      )
      aux = {'state_norm': mixer.state_norm(state)} if diagnose else {}
      return mixer.join_heads(out), aux

    scan = mixer.in_scan_order(
      scan, permutation, self.implementation, self.sharding_plan
    )
    x = x.astype(self.dtype)
    z = projections.qkv_projection(x, inputs, self.sharding_plan)
    with jax.named_scope('mixer_scan'):
      out, aux = self.sharding_plan.by_heads(
        scan, z, (*convolutions, a_log, dt_bias)
      )
    # The gate has the order of the tokens in storage and stays there.
    gate = projections.gate_projection(
      x, dense('z', widths[-1])(m), self.sharding_plan
    )
    split = lambda y: y.reshape(*y.shape[:-1], -1, self.value_dim)
    y = mixer.rms_norm(split(out), self.epsilon) * scale
    y = (y * nn.silu(split(gate).astype(y.dtype))).reshape(out.shape)
    y = projections.output_projection(
      y.astype(self.dtype), dense('o', m)(widths[-1])
    )
    return y, jax.tree.map(jnp.mean, aux)

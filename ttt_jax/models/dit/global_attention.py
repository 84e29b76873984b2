"""Softmax attention over the complete sequence as a mixer.

Each token attends to itself and to the tokens scanned before it, to a band of
`config.window_size` (paper section 4.1: sliding-window attention, 8192 tokens)
or to all of them. Text and video are interleaved in scan order, and rotary
positions are those of the complete video.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pallas_kernels import Permutation
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models import softmax
from ttt_jax.models.dit import attention
from ttt_jax.models.dit import mixer
from ttt_jax.models.dit import projections

_NORMAL = nn.initializers.normal(0.02)


class GlobalAttention(mixer.Mixer):
  """Attention to the tokens scanned before, with attention's own sizes.

  Attributes:
    scope: Name of the layer.
    fields: See `mixer.Mixer`.
  """

  implementations = softmax.IMPLEMENTATIONS

  def __init__(self, scope: str, fields: tuple[str, ...]):
    self.scope = scope
    self.fields = fields

  def _reach(self, config, length):
    """Returns the keys of a query with its own, in a sequence of `length`."""
    if 'window_size' in self.fields:
      return min(length, config.window_size)
    return length

  def layer(
    self,
    config: Any,
    order: token_order.TokenOrder,
    sharding_plan: sharding.ShardingPlan,
  ) -> GlobalAttentionLayer:
    return GlobalAttentionLayer(
      num_heads=config.num_heads,
      reach=self._reach(config, order.length),
      qk_norm_eps=config.qk_norm_eps,
      dtype=jnp.dtype(config.dtype),
      implementation=config.implementation,
      sharding_plan=sharding_plan,
      name=self.scope,
    )

  def state_size(self, config: Any, length: int) -> int:
    # Keys and values.
    return 2 * config.model_dim * self._reach(config, length)

  def scan_flops(self, config: Any, order: token_order.TokenOrder) -> float:
    t = order.length
    reach = self._reach(config, t)
    pairs = t * reach - reach * (reach - 1) / 2
    return 2 * 2.0 * pairs * config.model_dim

  def attended_pairs(self, config: Any, order: token_order.TokenOrder) -> float:
    t = order.length
    return softmax.band_pairs(t, self._reach(config, t))


class GlobalAttentionLayer(nn.Module):
  """Attention over one sequence, [B, T, M] -> [B, T, M].

  Attributes:
    num_heads: Number of heads, H.
    reach: Keys of a query with its own.
    qk_norm_eps: Epsilon of the LayerNorms on queries and keys.
    dtype: Compute type; softmax and norms are float32.
    implementation: Implementation of softmax attention, see `softmax`.
    sharding_plan: Placement of sequences on the mesh.
  """

  num_heads: int
  reach: int
  qk_norm_eps: float
  dtype: jnp.dtype
  implementation: str | None = None
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    rotary: heads_lib.RotaryTable,
    permutation: Permutation | None = None,
    length: int | None = None,
    *,
    diagnose: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Scans `x` as `mixer` describes; the state is keys and values."""
    t, m = x.shape[1:]
    d = m // self.num_heads
    length = t if length is None else length
    reach = self.reach
    plan = self.sharding_plan
    dense = lambda name: layers.DenseWeights(m, _NORMAL, name=name)(m)
    norms = [layers.NormWeights(d, name=f'{name}_norm')() for name in 'qk']
    implementation = softmax.choose(self.implementation, plan.platform)

    def scan(z, _, shared):
      norms, rotary = shared
      heads = heads_lib.HeadPacking(self.num_heads // plan.sp, d)
      q, k, v = attention.normalised_heads(
        z, heads, norms, heads.tile_over_lanes(rotary), self.qk_norm_eps
      )
      # The padding is after all tokens: none attends to it.
      out = softmax.attend_back(q, k, v, d, reach, implementation)
      if not diagnose:
        return out, {}
      kept = slice(max(0, length - reach), length)
      state = (mixer.split_heads(y[:, kept], y.shape[-1] // d) for y in (k, v))
      return out, {'state_norm': mixer.state_norm(*state)}

    scan = mixer.in_scan_order(scan, permutation, self.implementation, plan)
    z = projections.qkv_projection(
      x.astype(self.dtype), [dense(name) for name in 'qkv'], plan
    )
    with jax.named_scope('mixer_scan'):
      out, aux = plan.by_heads(scan, z, shared=(norms, rotary))
    return projections.output_projection(out, dense('o')), jax.tree.map(
      jnp.mean, aux
    )

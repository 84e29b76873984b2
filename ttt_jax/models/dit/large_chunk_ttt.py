"""LaCT: test-time training of a wide SwiGLU in chunks of latent frames.

The layer of Zhang et al. 2025 (arXiv:2505.23884), as in the video model of its
code, around `pallas_kernels.large_chunk_ttt`: no SiLU on q, k and v, no
momentum. Where that model scales the output by a learned factor per token, a
mixer has gates. Queries and keys are normalised per head, so that heads can be
split over devices.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pallas_kernels import large_chunk_ttt
from pallas_kernels import large_chunk_ttt_inner_losses
from pallas_kernels import Permutation
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models.dit import mixer
from ttt_jax.models.dit import projections

_NORMAL = nn.initializers.normal(0.02)
_HEADS = 4  # 768 features per head in the 5B model.
# Step size of a layer whose projection is zero; softplus of the bias is it.
_BASE_LR = 1e-3
_LR_BIAS = math.log(math.expm1(_BASE_LR))
# TPUs store rows in tiles, and chunks that end within one are copied: a fifth
# more cycles of the op at 63 seconds, by the compiler for v5p. So long ones are
# rounded.
_TILE, _LONG = 128, 1024


@dataclasses.dataclass(frozen=True)
class Preset:
  """Sizes of the inner model, and how it is updated.

  Attributes:
    expand: Hidden features per feature of a head, K / D.
    rank: Rank of the parameters of w0 and w2, which are their product plus half
      the identity, as in the paper's comparisons at equal numbers of
      parameters; None is a complete matrix.
    update: Updated weights, see `pallas_kernels.large_chunk_ttt`.
    muon: Whether updates are orthogonalised.
  """

  expand: int = 1
  rank: int | None = 32
  update: str = 'all'
  muon: bool = False


_PRESETS = {
  'matched': Preset(),
  'state': Preset(expand=2, rank=None),
  'last': Preset(update='last'),
  'muon': Preset(muon=True),
}


class LargeChunkTTT(mixer.Mixer):
  """See the module."""

  scope = 'large_chunk_ttt'
  presets = tuple(_PRESETS)
  fields = ('mixer_preset', 'chunk_frames')

  def heads(self, config: Any) -> int:
    return math.gcd(config.num_heads, _HEADS)

  def layer(
    self,
    config: Any,
    order: token_order.TokenOrder,
    sharding_plan: sharding.ShardingPlan,
  ) -> LargeChunkTTTLayer:
    return LargeChunkTTTLayer(
      preset=_PRESETS[config.mixer_preset],
      num_heads=self.heads(config),
      chunk=self.step_tokens(config, order),
      dtype=jnp.dtype(config.dtype),
      implementation=config.implementation,
      sharding_plan=sharding_plan,
      name=self.scope,
    )

  def _matrix(self, config):
    """Returns the preset and the shape [K, D] of w0 and w2."""
    preset = _PRESETS[config.mixer_preset]
    d = config.model_dim // self.heads(config)
    return preset, (preset.expand * d, d)

  def state_size(self, config: Any, length: int) -> int:
    preset, shape = self._matrix(config)
    matrices = 1 if preset.update == 'last' else 3
    return self.heads(config) * matrices * math.prod(shape)

  def step_tokens(self, config: Any, order: token_order.TokenOrder) -> int:
    tokens = config.chunk_frames * order.tokens_per_frame
    return tokens if tokens < _LONG else round(tokens / _TILE) * _TILE

  def scan_flops(self, config: Any, order: token_order.TokenOrder) -> float:
    preset, (k, d) = self._matrix(config)
    # Products of a token with a matrix: q with three; k with two; the gradient
    # of each updated matrix and, for all three, that of the hidden layer.
    products = 6 if preset.update == 'last' else 9
    flops = 2.0 * order.length * products * k * d
    if preset.muon:
      chunks = -(-order.length // self.step_tokens(config, order))
      flops += chunks * 3 * 5 * 2.0 * (2 * d * d * k + d**3)
    return self.heads(config) * flops


class LargeChunkTTTLayer(nn.Module):
  """Large-chunk TTT over one sequence, [B, T, M] -> [B, T, M].

  Attributes:
    preset: Sizes and update of the inner model.
    num_heads: Number of heads, H, each with M / H features, D.
    chunk: Tokens per update, C.
    dtype: Compute type; norms and inner weights are float32.
    implementation: Implementation of the op; None takes the backend's best.
    sharding_plan: Placement of sequences on the mesh.
    epsilon: Number added to mean squares and to squared lengths.
  """

  preset: Preset
  num_heads: int
  chunk: int
  dtype: jnp.dtype
  implementation: str | None = None
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()
  epsilon: float = 1e-6

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
    """Scans `x` as `mixer` describes; also returns the inner losses."""
    t, m = x.shape[1:]
    h, preset = self.num_heads, self.preset
    d = m // h
    length = t if length is None else length
    rates = 1 if preset.update == 'last' else 3
    options: dict[str, Any] = dict(
      chunk=self.chunk, update=preset.update, muon=preset.muon
    )

    def dense(name, features=m):
      return layers.DenseWeights(features, _NORMAL, name=name)(m)

    inputs = [*map(dense, 'qkv'), dense('lr', rates * h)]
    norms = [
      w.reshape(h, d)
      for name in 'qk'
      for w in layers.NormWeights(m, name=f'{name}_norm')()
    ]
    scale = self.param('norm', nn.initializers.ones, (d,))

    def scan(z, weights, rotary):
      *norms, w0, w1, w2 = weights
      heads = w1.shape[0]  # Of this device.
      q, k, v, lr = projections.split_projection(
        z, [*[heads * d] * 3, rates * heads]
      )
      # Recomputed from the projections, which are narrower than its steps.
      normalise = jax.checkpoint(self._normalise, prevent_cse=False)
      q = normalise(q, norms[:2], rotary)
      k = normalise(k, norms[2:], rotary)
      split = lambda y: mixer.split_heads(y, heads)
      eta = nn.softplus(split(lr).astype(w1.dtype) + _LR_BIAS)
      # Padding is not learned.
      eta = jnp.where((jnp.arange(t) < length)[:, None], eta, 0)
      k, v = split(k), split(v)
      out, state = large_chunk_ttt(
        split(q),
        k,
        v,
        eta,
        w0,
        w1,
        w2,
        implementation=self.implementation,
        **options,
      )
      out = mixer.join_heads(out)
      if not diagnose:
        return out, {}
      k, v, eta = (y[:, :, :length] for y in (k, v, eta))
      before, after = large_chunk_ttt_inner_losses(
        k, v, eta, w0, w1, w2, **options
      )
      return out, dict(
        state_norm=mixer.state_norm(*state),
        inner_loss_before=before,
        inner_loss_after=after,
      )

    scan = mixer.in_scan_order(
      scan, permutation, self.implementation, self.sharding_plan
    )
    z = projections.qkv_projection(
      x.astype(self.dtype), inputs, self.sharding_plan
    )
    with jax.named_scope('mixer_scan'):
      out, aux = self.sharding_plan.by_heads(
        scan, z, (*norms, *self._initial_weights(d)), rotary
      )
    y = mixer.rms_norm(out.reshape(*out.shape[:-1], -1, d), self.epsilon)
    y = (y * scale).astype(self.dtype).reshape(out.shape)
    y = projections.output_projection(y, dense('o'))
    return y, jax.tree.map(jnp.mean, aux)

  def _initial_weights(self, d):
    """Returns w0 [H, K, D], w1 [H, D, K] and w2 [H, K, D]."""
    h, k = self.num_heads, self.preset.expand * d

    def param(name, *shape, gain=1.0):
      init = nn.initializers.normal(gain * shape[-1] ** -0.5)
      return self.param(name, init, (h, *shape))

    def matrix(name):
      if self.preset.rank is None:
        return param(name, k, d)
      rank = min(self.preset.rank, -(-d // 4))
      left = param(f'{name}_left', k, rank, gain=0.5)
      right = param(f'{name}_right', rank, d, gain=0.5)
      return left @ right + 0.5 * jnp.eye(k, d)

    return matrix('w0'), param('w1', d, k), matrix('w2')

  def _normalise(self, y, norm, rotary):
    """Normalises, shifts and rotates queries or keys [B, T, H * D].

    The rotation is that of attention's heads.
    """
    scale, bias = norm
    shape = (*y.shape[:2], *scale.shape)
    x = mixer.rms_norm(y.reshape(shape), self.epsilon) * scale + bias
    x = mixer.l2_norm(x, self.epsilon).astype(y.dtype).reshape(y.shape)
    features = rotary[0].shape[-1]
    heads = heads_lib.HeadPacking(y.shape[-1] // features, features)
    x = heads.rotate(heads.pack(x), heads.tile_over_lanes(rotary))
    return heads.unpack(x).astype(y.dtype)

"""One block of the diffusion transformer, and the inputs that blocks share."""

from __future__ import annotations

import functools
from typing import NamedTuple

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models.dit import attention
from ttt_jax.models.dit import config as dit_config
from ttt_jax.models.dit import mixers
from ttt_jax.models.dit import positions
from ttt_jax.models.dit import rope

# Name of a block's input in checkpoint policies.
INPUT = 'block_input'


class Context(NamedTuple):
  """Inputs that all blocks share.

  Attributes:
    time: Time embedding [B, E].
    window_rotary: Rotary table of a window's tokens, [window, D] each.
    scan_rotary: Rotary table of the sequence in scan order, [T', D] each.
  """

  time: jax.Array
  window_rotary: heads_lib.RotaryTable
  scan_rotary: heads_lib.RotaryTable


def make_context(
  config: dit_config.DiTConfig,
  order: token_order.TokenOrder,
  time: jax.Array,
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan(),
) -> Context:
  """Returns the context of blocks for sequences of `order`.

  Args:
    config: Sizes of the network.
    order: Order of the tokens.
    time: Time embedding [B, E].
    sharding_plan: Placement of sequences on the mesh.
  """
  table = functools.partial(
    rope.rotary_cos_sin,
    head_dim=config.model_dim // config.num_heads,
    theta=config.rope_theta,
    dtype=jnp.dtype(config.dtype),
  )
  length = sharding_plan.padded(order.length, config.mini_batch)
  windows = positions.window_positions(order, config.positions, config.base)
  scanned = np.full((length, 3), -1)
  scanned[: order.length] = order.ttt_positions
  return Context(
    time=time, window_rotary=table(windows), scan_rotary=table(scanned)
  )


class MixerBlock(nn.Module):
  """Attention within segments, then the mixer on its output, [B, T', M]."""

  config: dit_config.DiTConfig
  order: token_order.TokenOrder
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()

  @nn.compact
  def __call__(
    self, x: jax.Array, context: Context, *, diagnose: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    config = self.config
    x = attention.SegmentAttention(
      num_heads=config.num_heads,
      qk_norm_eps=config.qk_norm_eps,
      dtype=jnp.dtype(config.dtype),
      sharding_plan=self.sharding_plan,
      implementation=config.attention,
      name='attn',
    )(x, self.order, context.window_rotary)
    layer = mixers.MIXERS[config.mixer].layer(
      config, self.order, self.sharding_plan
    )
    if layer is None:
      return x, {}
    return mixers.BidirectionalMixer(
      mixer=layer, gate_init=config.gate_init, name='gates'
    )(x, self.order, context.scan_rotary, diagnose=diagnose)


class Block(nn.Module):
  """One transformer block: a carry for `nn.scan`."""

  config: dit_config.DiTConfig
  order: token_order.TokenOrder
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()
  diagnose: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, context: Context
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps [B, T', M] to [B, T', M] and a dict of diagnostics."""
    config = self.config
    dtype = jnp.dtype(config.dtype)
    is_text = jnp.asarray(self.order.is_text_padded(x.shape[1]))
    by_tokens = self.sharding_plan.by_tokens

    def modulate(x, name):
      shift, scale, gate = layers.ExpertModulation(
        model_dim=config.model_dim,
        dtype=dtype,
        sharding_plan=self.sharding_plan,
        name=f'{name}_modulation',
      )(context.time, is_text)
      y = layers.LayerNorm(epsilon=config.norm_eps, name=f'{name}_norm')(x)
      return (y * (1 + scale) + shift).astype(dtype), gate

    x = checkpoint_name(by_tokens(x), INPUT)
    # The scope 'seq' is part of parameter paths in checkpoints.
    y, gate = modulate(x, 'seq')
    y, aux = MixerBlock(
      config=config,
      order=self.order,
      sharding_plan=self.sharding_plan,
      name='seq',
    )(y, context, diagnose=self.diagnose)
    x = by_tokens(x + (gate * y).astype(dtype))
    y, gate = modulate(x, 'mlp')
    y = layers.FeedForward(model_dim=config.model_dim, dtype=dtype, name='mlp')(
      y
    )
    return by_tokens(x + (gate * y).astype(dtype)), aux

"""One block of the diffusion transformer, and what all blocks share."""

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
from ttt_jax.models.dit import ttt

# Name of a block's input, for checkpoint policies.
INPUT = 'block_input'


class Context(NamedTuple):
  """What all blocks share, beside their input.

  Attributes:
    time: embedding [B, E].
    window_turns: rotary positions of a window's tokens, [window, D] each.
    turns: those of the sequence in the order read, [T', D] each.
  """

  time: jax.Array
  window_turns: heads_lib.Turns
  turns: heads_lib.Turns


def make_context(
  config: dit_config.DiTConfig,
  order: token_order.TokenOrder,
  time: jax.Array,
  layout: sharding.Layout = sharding.Layout(),
) -> Context:
  """The context of blocks for sequences of `order`, time [B, E]."""
  turns = functools.partial(
    rope.turns,
    head_dim=config.model_dim // config.num_heads,
    theta=config.rope_theta,
    dtype=jnp.dtype(config.dtype),
  )
  length = layout.padded(order.length, config.mini_batch)
  windows = positions.of_windows(order, config.positions, config.base)
  read = np.full((length, 3), -1)
  read[: order.length] = order.ttt_positions
  return Context(time, turns(windows), turns(read))


class SequenceBlock(nn.Module):
  """Local attention, then the global mixer on its output, [B, T', M]."""

  config: dit_config.DiTConfig
  order: token_order.TokenOrder
  layout: sharding.Layout = sharding.Layout()

  @nn.compact
  def __call__(self, x: jax.Array, context: Context, *, diagnose: bool = False):
    config = self.config
    dtype = jnp.dtype(config.dtype)
    x = attention.SegmentAttention(
      config.num_heads,
      config.qk_norm_eps,
      dtype,
      self.layout,
      config.attention,
      name='attn',
    )(x, self.order, context.window_turns)
    if config.mixer == 'none':
      return x, {}
    layer = ttt.TTTLayer(
      config.mixer,
      config.num_heads,
      config.mini_batch,
      config.ttt_base_lr,
      dtype,
      config.implementation,
      self.layout,
      name='ttt',
    )
    return mixers.BidirectionalTTT(layer, config.gate_init, name='gates')(
      x, self.order, context.turns, diagnose=diagnose
    )


class Block(nn.Module):
  """One transformer block: a carry for `nn.scan`."""

  config: dit_config.DiTConfig
  order: token_order.TokenOrder
  layout: sharding.Layout = sharding.Layout()
  diagnose: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, context: Context):
    """[B, T', M] -> [B, T', M] and a dict of diagnostics."""
    config = self.config
    dtype = jnp.dtype(config.dtype)
    is_text = jnp.asarray(self.order.is_text_padded(x.shape[1]))

    def modulated(name):
      shift, scale, gate = layers.ExpertModulation(
        config.model_dim, dtype, self.layout, name=f'{name}_modulation'
      )(context.time, is_text)
      y = layers.LayerNorm(epsilon=config.norm_eps, name=f'{name}_norm')(x)
      return (y * (1 + scale) + shift).astype(dtype), gate

    x = checkpoint_name(self.layout.by_tokens(x), INPUT)
    y, gate = modulated('seq')
    y, aux = SequenceBlock(config, self.order, self.layout, name='seq')(
      y, context, diagnose=self.diagnose
    )
    x = self.layout.by_tokens(x + (gate * y).astype(dtype))
    y, gate = modulated('mlp')
    y = layers.FeedForward(config.model_dim, dtype, name='mlp')(y)
    return self.layout.by_tokens(x + (gate * y).astype(dtype)), aux

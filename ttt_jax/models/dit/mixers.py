"""Mixers: layers that carry information over the complete sequence.

Attention stays inside a segment; a mixer runs on its output and scans all
segments. `mixer.Mixer` is the interface, `MIXERS` contains one entry per mixer,
and `BidirectionalMixer` runs a mixer's layer in both directions and adds its
gates.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import Permutation
from ttt_jax import token_order
from ttt_jax.models import heads
from ttt_jax.models.dit import frame_deltanet
from ttt_jax.models.dit import gated_deltanet
from ttt_jax.models.dit import global_attention
from ttt_jax.models.dit import large_chunk_ttt
from ttt_jax.models.dit import mamba2
from ttt_jax.models.dit import mixer as mixer_lib
from ttt_jax.models.dit import ttt

MIXERS: Mapping[str, mixer_lib.Mixer] = {
  'none': mixer_lib.NoMixer(),
  'ttt_mlp': ttt.TTT('ttt_mlp', base_lr=0.1),
  'ttt_linear': ttt.TTT('ttt_linear', base_lr=1.0),
  'sliding_window': global_attention.GlobalAttention(
    'sliding_window', fields=('window_size',)
  ),
  'full': global_attention.GlobalAttention('full', fields=()),
  'mamba2': mamba2.Mamba2(),
  'gated_deltanet': gated_deltanet.GatedDeltaNet(),
  'frame_deltanet': frame_deltanet.FrameDeltaNet(),
  'large_chunk_ttt': large_chunk_ttt.LargeChunkTTT(),
}


@functools.lru_cache(maxsize=16)
def scan_permutation(
  order: token_order.TokenOrder, reverse: bool, length: int
) -> Permutation:
  """Returns the permutation that puts a padded sequence in scan order.

  Args:
    order: Order of the tokens.
    reverse: Takes `order.reverse_order` instead of `order.forward_order`.
    length: Tokens with the padding after the sequence, which stays in place.
  """
  index = order.reverse_order if reverse else order.forward_order
  return Permutation.from_index(
    np.concatenate([index, np.arange(order.length, length)])
  )


def table(
  config: Any, params: Any, order: token_order.TokenOrder
) -> list[tuple[str, str]]:
  """Returns rows (quantity, value) about a mixer, to print.

  Args:
    config: Sizes of the network.
    params: Its nested parameters or their shapes.
    order: Order of a sequence's tokens.
  """
  mixer = MIXERS[config.mixer]
  if not mixer.scope:
    return [('mixer', config.mixer)]
  leaves = jax.tree.leaves(params['layers']['seq'][mixer.scope])
  preset = f', {config.mixer_preset}' if len(mixer.presets) > 1 else ''
  state = mixer.state_size(config, order.length)
  rows = [
    ('mixer', config.mixer + preset),
    ('mixer parameters', f'{sum(math.prod(x.shape) for x in leaves):,}'),
    ('mixer state per layer', f'{state:,} numbers'),
  ]
  if tokens := mixer.step_tokens(config, order):
    tokens = min(tokens, order.length)
    steps = -(-order.length // tokens)
    noun = 'step' if steps == 1 else 'steps'
    rows.append(
      ('training of the state', f'{steps:,} {noun} of {tokens:,} tokens')
    )
  return rows


class BidirectionalMixer(nn.Module):
  """A mixer that runs forwards, then in reverse, with a gate for each.

    z = x + tanh(a) * mix(x);  out = z + tanh(b) * reverse(mix(reverse(z)))

  (paper section 3.1). Both directions share the mixer's weights. There is one
  gate per channel, direction and kind of token.

  Attributes:
    mixer: Layer of a mixer, which both directions share.
    gate_init: Initial value of a and b.
  """

  mixer: nn.Module
  gate_init: float

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    order: token_order.TokenOrder,
    rotary: heads.RotaryTable,
    *,
    diagnose: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mixes in both directions.

    Args:
      x: Tokens [B, T', M] in storage order.
      order: Order of the tokens; padding after them is not scanned.
      rotary: Rotary table of the tokens in scan order, the same for both
        directions.
      diagnose: Also returns the mixer's diagnostics and the sizes of the gates.

    Returns:
      [B, T', M], and a dict of scalars, empty without `diagnose`.
    """
    b, t, m = x.shape
    is_text = jnp.asarray(order.is_text_padded(t))
    # The mask gets the batch's shape before `where`: if `where` broadcast it
    # over the batch, the gradient would all-reduce a complete activation.
    is_text = jnp.broadcast_to(is_text[None, :, None], x.shape)
    init = nn.initializers.constant(self.gate_init)
    aux = {}
    for direction in ('forward', 'reverse'):
      text, video = (
        jnp.tanh(self.param(f'{direction}_{kind}', init, (m,)))
        for kind in ('text', 'video')
      )
      permutation = scan_permutation(order, direction == 'reverse', t)
      y, diagnostics = self.mixer(
        x, rotary, permutation, order.length, diagnose=diagnose
      )
      # One copy per clip, so that the gradients are first summed by clip.
      text_gate, video_gate = (
        jnp.broadcast_to(gate, (b, 1, m)) for gate in (text, video)
      )
      gate = jnp.where(is_text, text_gate, video_gate)
      x = x + (gate * y).astype(x.dtype)
      if diagnose:
        aux |= {f'{direction}_{name}': a for name, a in diagnostics.items()}
        aux |= {
          f'{direction}_text_gate': jnp.abs(text).mean(),
          f'{direction}_video_gate': jnp.abs(video).mean(),
        }
    return x, aux

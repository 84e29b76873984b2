"""What carries information over the whole sequence, by name.

A mixer maps [B, T, M] in storage order to the same plus what it adds. Local
attention has run before it; `none` leaves it at that.
"""

from __future__ import annotations

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import Permutation
from ttt_jax import token_order
from ttt_jax.models import heads
from ttt_jax.models.dit import ttt

MIXERS = ('none', *ttt.INNER_MODELS)


@functools.lru_cache(maxsize=16)
def scan_permutation(
  order: token_order.TokenOrder, reverse: bool, length: int
) -> Permutation:
  """Returns the order in which a padded sequence is scanned.

  Args:
    order: of the tokens.
    reverse: takes `order.reverse` instead of `order.forward`.
    length: tokens with the padding after the sequence, which stays there.
  """
  index = order.reverse if reverse else order.forward
  return Permutation.from_index(
    np.concatenate([index, np.arange(order.length, length)])
  )


class BidirectionalTTT(nn.Module):
  """A TTT layer read forwards, then backwards, each behind gates.

    z = x + tanh(a) * TTT(x);  out = z + tanh(b) * rev(TTT(rev(z)))

  (paper section 3.1). Both directions share the layer's weights; the gates
  are per channel, per direction and per kind of token.

  Attributes:
    layer: the TTT layer, unbound.
    gate_init: initial alpha.
  """

  layer: ttt.TTTLayer
  gate_init: float

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    order: token_order.TokenOrder,
    turns: heads.Turns,
    *,
    diagnose: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Reads in both directions.

    Args:
      x: [B, T', M] in storage order.
      order: of its tokens; what follows them is not read.
      turns: rotary positions of the tokens in the order read, which are the
        same forwards and backwards.
      diagnose: also compute the inner losses.
    """
    b, t, m = x.shape
    is_text = jnp.asarray(order.is_text_padded(t))
    # With the batch's shape before `where`: broadcast over the batch, the
    # mask would make its gradient all-reduce a whole activation.
    is_text = jnp.broadcast_to(is_text[None, :, None], x.shape)
    aux = {}
    for direction in ('forward', 'reverse'):
      text, video = (
        jnp.tanh(
          self.param(
            f'{direction}_{kind}',
            nn.initializers.constant(self.gate_init),
            (m,),
          )
        )
        for kind in ('text', 'video')
      )
      y, losses = self.layer(
        x,
        turns,
        scan_permutation(order, direction == 'reverse', t),
        order.length,
        diagnose=diagnose,
      )
      # For each clip its own gates: they are then added up by clip, too.
      text_gate, video_gate = (
        jnp.broadcast_to(gate, (b, 1, m)) for gate in (text, video)
      )
      gate = jnp.where(is_text, text_gate, video_gate)
      x = x + (gate * y).astype(x.dtype)
      if diagnose:
        aux |= {f'{direction}_{name}': a for name, a in losses.items()}
        aux |= {
          f'{direction}_text_gate': jnp.abs(text).mean(),
          f'{direction}_video_gate': jnp.abs(video).mean(),
        }
    return x, aux

"""The small layers that everything else in the transformer is made of."""

from __future__ import annotations

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

# PyTorch's nn.Linear stores the transpose; converters turn it.
Dense = functools.partial(
    nn.Dense, kernel_init=nn.initializers.xavier_uniform()
)

# adaLN-Zero: every block starts as the identity.
ZeroDense = functools.partial(nn.Dense, kernel_init=nn.initializers.zeros)

# The two-pass variance: E[x^2] - E[x]^2 loses the digits that parity needs.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)


class ExpertModulation(nn.Module):
  """adaLN with one expert for text and one for video (CogVideoX, sec. 2.2).

  From the time embedding [B, E] it makes a shift, a scale and a gate for
  either kind of token.

  Attributes:
    model_dim: M.
    dtype: compute type.
  """

  model_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(
      self, time: jax.Array, is_text: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns shift, scale, gate, each [B, T, M]; `is_text` is [T]."""
    out = ZeroDense(6 * self.model_dim, dtype=self.dtype, name='dense')(
        nn.silu(time)
    )
    # Order in the checkpoints: the video triple, then the text triple.
    triples = out.reshape(time.shape[0], 2, 3, 1, self.model_dim)
    # The mask gets the batch's shape before `where`: broadcast over the
    # batch, its gradient would all-reduce a whole activation.
    mask = jnp.broadcast_to(
        is_text[None, :, None], (time.shape[0], is_text.size, self.model_dim)
    )
    shift, scale, gate = (
        jnp.where(mask, triples[:, 1, i], triples[:, 0, i]) for i in range(3)
    )
    return shift, scale, gate


class FeedForward(nn.Module):
  """Two dense layers around a tanh GELU, [B, T, M] -> [B, T, M]."""

  model_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = Dense(4 * self.model_dim, dtype=self.dtype, name='up')(x)
    x = nn.gelu(x, approximate=True)
    return Dense(self.model_dim, dtype=self.dtype, name='down')(x)

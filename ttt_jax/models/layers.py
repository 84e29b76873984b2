"""The small layers that everything else in the transformer is made of."""

from __future__ import annotations

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax import sharding


@jax.custom_vjp
def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  """x [..., I] times kernel [I, O] plus bias [O], in x's dtype.

  The gradients of kernel and bias come in their own dtype: autodiff would
  round each device's part to x's dtype before adding the parts up.
  """
  return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


def _affine_forward(x, kernel, bias):
  return affine(x, kernel, bias), (x, kernel, bias)


def _affine_backward(residuals, d_y):
  x, kernel, bias = residuals
  d_x = d_y @ kernel.astype(d_y.dtype).T
  d_kernel = jnp.einsum(
      '...i,...o->io', x, d_y, preferred_element_type=kernel.dtype
  )
  d_bias = jnp.sum(
      d_y, axis=tuple(range(d_y.ndim - 1)), dtype=bias.dtype
  )
  return d_x, d_kernel, d_bias


affine.defvjp(_affine_forward, _affine_backward)


class Dense(nn.Module):
  """Affine layer [..., I] -> [..., features] with float32 parameters.

  PyTorch's nn.Linear stores the transpose; converters turn it.

  Attributes:
    features: O.
    dtype: compute type; that of the input if None.
    kernel_init: initializer of the kernel.
  """

  features: int
  dtype: jnp.dtype | None = None
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param(
        'kernel', self.kernel_init, (x.shape[-1], self.features)
    )
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return affine(x.astype(self.dtype or x.dtype), kernel, bias)


# adaLN-Zero: every block starts as the identity.
ZeroDense = functools.partial(Dense, kernel_init=nn.initializers.zeros)

# The two-pass variance: E[x^2] - E[x]^2 loses the digits that parity needs.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)


class ExpertModulation(nn.Module):
  """adaLN with one expert for text and one for video (CogVideoX, sec. 2.2).

  From the time embedding [B, E] it makes a shift, a scale and a gate for
  either kind of token.

  Attributes:
    model_dim: M.
    dtype: compute type.
    layout: of sequences on the mesh.
  """

  model_dim: int
  dtype: jnp.dtype
  layout: sharding.Layout = sharding.Layout()

  @nn.compact
  def __call__(
      self, time: jax.Array, is_text: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns shift, scale, gate, each [B, T, M]; `is_text` is [T]."""
    out = ZeroDense(6 * self.model_dim, dtype=self.dtype, name='dense')(
        nn.silu(time)
    )
    # At least float32: their gradients are sums over all tokens.
    out = self.layout.by_batch(out)
    out = out.astype(jnp.promote_types(self.dtype, jnp.float32))
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

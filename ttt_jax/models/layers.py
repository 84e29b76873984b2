"""The small layers that everything else in the transformer is made of."""

from __future__ import annotations

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax import sharding

# Rows of a tile, the least that a matrix unit takes.
_SUBLANES = 8


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def affine(
  equation: str, x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> jax.Array:
  """einsum(equation, x, kernel) plus bias, in x's dtype.

  The gradients of kernel and bias come in their own dtype: autodiff would
  round each device's part to x's dtype before adding the parts up.

  Args:
    equation: such as 'bti,io->bto', one letter an axis.
    x: any float array.
    kernel: parameters.
    bias: parameters; its axes are those of the kernel that the result has.
  """
  x_axes, kernel_axes, axes = _axes(equation)
  del x_axes
  shape = [n for n, a in zip(kernel.shape, kernel_axes) if a in axes]
  places = dict(zip((a for a in kernel_axes if a in axes), shape))
  bias = bias.reshape([places.get(a, 1) for a in axes])
  return jnp.einsum(equation, x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


def _axes(equation):
  """'bti,io->bto' -> 'bti', 'io', 'bto'."""
  given, axes = equation.split('->')
  return *given.split(','), axes


def _affine_forward(equation, x, kernel, bias):
  return affine(equation, x, kernel, bias), (x, kernel, bias)


def _affine_backward(equation, residuals, d_y):
  x, kernel, bias = residuals
  x_axes, kernel_axes, axes = _axes(equation)
  d_x = jnp.einsum(
    f'{axes},{kernel_axes}->{x_axes}', d_y, kernel.astype(d_y.dtype)
  )
  d_kernel = jnp.einsum(
    f'{x_axes},{axes}->{kernel_axes}',
    x,
    d_y,
    preferred_element_type=kernel.dtype,
  )
  summed = [i for i, a in enumerate(axes) if a not in kernel_axes]
  d_bias = _sum(d_y, summed, bias.dtype).reshape(bias.shape)
  return d_x, d_kernel, d_bias


def _sum(x, axes, dtype):
  """The sum over some axes, in `dtype`."""
  return jax.lax.platform_dependent(
    x,
    tpu=functools.partial(_sum_by_product, axes=axes, dtype=dtype),
    default=lambda x: jnp.sum(x, axis=axes, dtype=dtype),
  )


def _sum_by_product(x, axes, dtype):
  """A sum with a third of the cycles that XLA's takes on TPUs."""
  ones = jnp.ones([_SUBLANES, *(x.shape[i] for i in axes)], x.dtype)
  # Hidden from XLA, which would make a sum of it, as it would of a single row.
  ones = jax.lax.optimization_barrier(ones)
  rows = jnp.tensordot(
    ones,
    x,
    (list(range(1, ones.ndim)), axes),
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=dtype,
  )
  return rows[0]


affine.defvjp(_affine_forward, _affine_backward)


class DenseWeights(nn.Module):
  """Kernel [I, O] and bias [O], float32.

  PyTorch's nn.Linear stores the transpose; converters turn it.

  Attributes:
    features: O.
    kernel_init: initializer of the kernel.
  """

  features: int
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(self, inputs: int) -> tuple[jax.Array, jax.Array]:
    """The weights of a layer with I = `inputs`."""
    return (
      self.param('kernel', self.kernel_init, (inputs, self.features)),
      self.param('bias', nn.initializers.zeros, (self.features,)),
    )


class Dense(DenseWeights):
  """Affine layer [..., I] -> [..., O].

  Attributes:
    dtype: compute type; that of the input if None.
  """

  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel, bias = super().__call__(x.shape[-1])
    rest = 'abcdefgh'[: x.ndim - 1]
    x = x.astype(self.dtype or x.dtype)
    return affine(f'{rest}i,io->{rest}o', x, kernel, bias)


class NormWeights(nn.Module):
  """Scale and bias [features] of a LayerNorm, float32."""

  features: int

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array]:
    shape = (self.features,)
    return (
      self.param('scale', nn.initializers.ones, shape),
      self.param('bias', nn.initializers.zeros, shape),
    )


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

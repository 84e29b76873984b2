"""Small layers and functions that several networks share."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax import sharding

# Rows of a TPU tile, the least that a matrix unit multiplies.
_SUBLANES = 8


def abstract_params(
  init_fn: Callable[[Any, jax.Array], Any], config: Any
) -> Any:
  """Returns the parameters' shapes as `jax.ShapeDtypeStruct`.

  Nothing is computed and no memory is allocated.

  Args:
    init_fn: Maps (config, key) to parameters.
    config: Sizes of the network.
  """
  shapes = _abstract_params(init_fn, config, jax.config.read('jax_enable_x64'))
  return jax.tree.map(lambda leaf: leaf, shapes)  # The caller's own tree.


@functools.lru_cache(maxsize=16)
def _abstract_params(init_fn, config, enable_x64):
  """Traces once per config: a deep network takes a second or more."""
  del enable_x64  # Only part of the key.
  return jax.eval_shape(lambda: init_fn(config, jax.random.key(0)))


def check_choices(owner: str, config: Any, **choices: Any) -> None:
  """Raises ValueError for a field with a value that is not supported.

  Args:
    owner: Name of the config in messages.
    config: Dataclass of its sizes.
    **choices: Supported values of each field.
  """
  for name, supported in choices.items():
    value = getattr(config, name)
    if value not in supported:
      raise ValueError(
        f'{owner}.{name} is {value!r}; expected one of'
        f' {", ".join(map(str, supported))}'
      )


def check_groups(channels: tuple[int, ...], groups: int) -> None:
  """Raises ValueError unless the groups of the norms divide the channels."""
  for count in channels:
    if count % groups:
      raise ValueError(
        f'block_out_channels {count} is not a multiple of norm_num_groups'
        f' {groups}'
      )


def space_to_depth(x: jax.Array, size: int) -> jax.Array:
  """Turns squares of pixels into channels.

  Args:
    x: Array [B, F, h, w, c].
    size: Side of a square; divides h and w.

  Returns:
    [B, F, h / size, w / size, size * size * c].
  """
  b, f, h, w, c = x.shape
  x = x.reshape(b, f, h // size, size, w // size, size, c)
  x = x.transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, f, h // size, w // size, size * size * c)


def depth_to_space(x: jax.Array, size: int) -> jax.Array:
  """Inverts `space_to_depth`."""
  b, f, h, w, c = x.shape
  x = x.reshape(b, f, h, w, size, size, c // size**2)
  x = x.transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, f, h * size, w * size, c // size**2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def affine(
  equation: str, x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> jax.Array:
  """Returns einsum(equation, x, kernel) plus bias, in x's dtype.

  The gradients of kernel and bias have the parameters' own dtype: autodiff
  would round each device's part to x's dtype before summing the parts.

  Args:
    equation: Einsum such as 'bti,io->bto', with one letter per axis.
    x: Float array.
    kernel: Parameters.
    bias: Parameters; its axes are the axes of the kernel that the result has.
  """
  _, kernel_axes, axes = _axes(equation)
  sizes = dict(zip(kernel_axes, kernel.shape))
  bias = bias.reshape([sizes.get(axis, 1) for axis in axes])
  return jnp.einsum(equation, x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


def _axes(equation):
  """Splits 'bti,io->bto' into 'bti', 'io', 'bto'."""
  operands, axes = equation.split('->')
  return *operands.split(','), axes


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
  """Sums x over some axes, in `dtype`."""
  return jax.lax.platform_dependent(
    x,
    tpu=functools.partial(_sum_by_product, axes=axes, dtype=dtype),
    default=lambda x: jnp.sum(x, axis=axes, dtype=dtype),
  )


def _sum_by_product(x, axes, dtype):
  """Sums on the matrix unit: a third of the cycles of XLA's sum on TPUs."""
  ones = jnp.ones([_SUBLANES, *(x.shape[i] for i in axes)], x.dtype)
  # Hidden from XLA, which would turn the product, or that with a single row of
  # ones, back into a sum.
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

  PyTorch's nn.Linear stores the transposed kernel; converters transpose it.

  Attributes:
    features: Number of outputs, O.
    kernel_init: Initializer of the kernel.
    use_bias: Whether the bias is a parameter; else it is zero.
  """

  features: int
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  use_bias: bool = True

  @nn.compact
  def __call__(self, inputs: int) -> tuple[jax.Array, jax.Array]:
    """Returns the weights of a layer with I = `inputs`."""
    kernel = self.param('kernel', self.kernel_init, (inputs, self.features))
    if not self.use_bias:
      return kernel, jnp.zeros(self.features, kernel.dtype)
    return kernel, self.param('bias', nn.initializers.zeros, (self.features,))


class Dense(DenseWeights):
  """Affine layer [..., I] -> [..., O].

  Attributes:
    dtype: Compute type; None is the type of the input.
  """

  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel, bias = super().__call__(x.shape[-1])
    batch = 'abcdefgh'[: x.ndim - 1]
    x = x.astype(self.dtype or x.dtype)
    return affine(f'{batch}i,io->{batch}o', x, kernel, bias)


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


# For adaLN-Zero: every block is the identity at initialisation.
ZeroDense = functools.partial(Dense, kernel_init=nn.initializers.zeros)

# A two-pass variance: E[x^2] - E[x]^2 loses digits that parity tests require.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)


class ExpertModulation(nn.Module):
  """adaLN with one expert for text and one for video (CogVideoX, sec. 2.2).

  Maps the time embedding [B, E] to a shift, a scale and a gate for each kind of
  token.

  Attributes:
    model_dim: Model dim, M.
    dtype: Compute type.
    sharding_plan: Placement of sequences on the mesh.
  """

  model_dim: int
  dtype: jnp.dtype
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()

  @nn.compact
  def __call__(
    self, time: jax.Array, is_text: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns shift, scale and gate, each [B, T, M].

    Args:
      time: Time embedding [B, E].
      is_text: Mask of the text tokens, [T].
    """
    dense = ZeroDense(6 * self.model_dim, dtype=self.dtype, name='dense')
    out = dense(nn.silu(time))
    # At least float32, since the gradients are sums over all tokens.
    out = self.sharding_plan.by_batch(out)
    out = out.astype(jnp.promote_types(self.dtype, jnp.float32))
    # Order in checkpoints: shift, scale and gate of video, then of text.
    triples = out.reshape(time.shape[0], 2, 3, 1, self.model_dim)
    # The mask gets the batch's shape before `where`: if `where` broadcast it
    # over the batch, the gradient would all-reduce a complete activation.
    mask = jnp.broadcast_to(
      is_text[None, :, None], (time.shape[0], is_text.size, self.model_dim)
    )
    shift, scale, gate = (
      jnp.where(mask, triples[:, 1, i], triples[:, 0, i]) for i in range(3)
    )
    return shift, scale, gate


class FeedForward(nn.Module):
  """Two dense layers with a tanh GELU between them, [B, T, M] -> [B, T, M]."""

  model_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = Dense(4 * self.model_dim, dtype=self.dtype, name='up')(x)
    x = nn.gelu(x, approximate=True)
    return Dense(self.model_dim, dtype=self.dtype, name='down')(x)

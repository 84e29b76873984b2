"""The interface of a mixer: what the rest of the project needs of one.

A mixer is one file with a `Mixer` and its layer, and one line in
`mixers.MIXERS`. Models, trainer, planner and converters use this interface and
never compare names.

A layer is a module that scans a sequence in one direction,

    y, aux = layer(x, rotary, permutation, length, diagnose=...)

with x and y [B, T', M], the rotary table of the tokens in scan order, the
`Permutation` that puts them in scan order (None if they already are), and the
number of tokens before the padding (None: all). Token i of the result depends
on the tokens scanned up to i and on those of its own chunk, if the mixer has
chunks. Padding does not change the state. With
`diagnose`, `aux` contains scalars, among them `state_norm`. Heads are split
over the mesh axis `sp` by `ShardingPlan.by_heads`.

Names of parameters have a meaning elsewhere. One-letter submodules with a
`kernel` [I, O] are the large projections: Muon trains them. All kernels count
as products of every token. Norms, biases, `a_log` and `skip` have no weight
decay.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
import functools
from typing import Any, ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import Permutation
from pallas_kernels import permute_rows
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import layers

# `config` is a `DiTConfig`, whose module imports the mixers.


class Mixer(abc.ABC):
  """One kind of mixer.

  Attributes:
    scope: Name of the layer, the scope of its parameters; also the name of the
      files that contain them next to an exported model.
    fields: Fields of `DiTConfig` with which weights were trained and without
      which they compute something else.
    defaults: Values of `DiTConfig` fields in recipes.
    presets: Values of `DiTConfig.mixer_preset`.
    implementations: Values of `DiTConfig.implementation` except None.
  """

  scope: str
  fields: tuple[str, ...] = ('mixer_preset',)
  defaults: Mapping[str, Any] = {}
  presets: ClassVar[tuple[str, ...]] = ('matched',)
  implementations: ClassVar[tuple[str, ...]] = ('xla', 'reference')

  @abc.abstractmethod
  def layer(
    self,
    config: Any,
    order: token_order.TokenOrder,
    sharding_plan: sharding.ShardingPlan,
  ) -> nn.Module | None:
    """Returns the layer, with the name `scope`; None mixes nothing.

    Args:
      config: Sizes of the network.
      order: Order of the tokens; scans in both directions visit text and frames
        in the same pattern.
      sharding_plan: Placement of sequences on the mesh.
    """

  @abc.abstractmethod
  def state_size(self, config: Any, length: int) -> int:
    """Returns the numbers that a layer keeps after `length` tokens."""

  @abc.abstractmethod
  def scan_flops(self, config: Any, order: token_order.TokenOrder) -> float:
    """Returns the operations of one scan of one clip, without kernels.

    Args:
      config: Sizes of the network.
      order: Order of the clip's tokens.
    """

  def step_tokens(
    self, config: Any, order: token_order.TokenOrder
  ) -> int | None:
    """Returns the tokens that share a training step of the state.

    Args:
      config: As for `scan_flops`.
      order: As for `scan_flops`.

    Returns:
      None for a mixer whose state is not trained.
    """
    del config, order

  def attended_pairs(self, config: Any, order: token_order.TokenOrder) -> float:
    """Returns the pairs of tokens of softmax attention for one head.

    Args:
      config: As for `scan_flops`.
      order: As for `scan_flops`.

    Returns:
      Pairs that its TPU kernel computes; 0 for every other mixer.
    """
    del config, order
    return 0.0

  def heads(self, config: Any) -> int:
    """Returns the heads that the mesh axis `sp` must divide."""
    return config.num_heads

  def check(self, config: Any) -> None:
    """Raises ValueError for fields of the config that do not fit the mixer."""
    layers.check_choices(
      f'mixer {config.mixer}: model',
      config,
      mixer_preset=self.presets,
      implementation=(None, *self.implementations),
    )


class NoMixer(Mixer):
  """Attention within segments alone."""

  scope = ''
  fields = ()
  defaults = {'ttt_base_lr': 0.0}
  implementations = ('xla', 'reference', 'pallas_tpu', 'pallas_gpu')

  def layer(
    self,
    config: Any,
    order: token_order.TokenOrder,
    sharding_plan: sharding.ShardingPlan,
  ) -> None:
    return None

  def state_size(self, config: Any, length: int) -> int:
    return 0

  def scan_flops(self, config: Any, order: token_order.TokenOrder) -> float:
    return 0.0


def permute(
  z: jax.Array,
  permutation: Permutation | None,
  implementation: str | None,
  sharding_plan: sharding.ShardingPlan,
) -> jax.Array:
  """Permutes the tokens of z [B, T, X].

  Args:
    z: Tokens.
    permutation: Permutation of the tokens; None leaves them in place.
    implementation: Implementation of the mixer's op. The kernel that permutes
      exists only for TPUs.
    sharding_plan: Plan of the mesh that will run it; this host may be another.
  """
  if permutation is None:
    return z
  if implementation == 'pallas_tpu':
    return permute_rows(z, permutation, implementation='pallas_tpu')
  if implementation is None and sharding_plan.platform == 'tpu':
    try:
      return permute_rows(z, permutation, implementation='pallas_tpu')
    except NotImplementedError:  # Rows that the kernel does not take.
      pass
  return permute_rows(z, permutation, implementation='xla')


def in_scan_order(
  scan: Callable[..., tuple[jax.Array, Any]],
  permutation: Permutation | None,
  implementation: str | None,
  sharding_plan: sharding.ShardingPlan,
) -> Callable[..., tuple[jax.Array, Any]]:
  """Returns a function for `by_heads` that permutes before and after `scan`.

  Args:
    scan: Maps (z [B, T, X] in scan order, ...) to (out [B, T, X'], aux).
    permutation: Permutation that puts the tokens in scan order; None if they
      already are.
    implementation: Implementation of the mixer's op.
    sharding_plan: Plan of the mesh that will run it.
  """

  def permuted(z, *arguments):
    z = permute(z, permutation, implementation, sharding_plan)
    out, aux = scan(z, *arguments)
    inverse = permutation and permutation.inverse
    return permute(out, inverse, implementation, sharding_plan), aux

  return permuted


def split_heads(y: jax.Array, heads: int) -> jax.Array:
  """Returns [B, H, T, D] of features [B, T, H * D]."""
  return y.reshape(*y.shape[:2], heads, -1).swapaxes(1, 2)


def join_heads(y: jax.Array) -> jax.Array:
  """Returns the features [B, T, H * D] of [B, H, T, D]."""
  y = y.swapaxes(1, 2)
  return y.reshape(*y.shape[:2], -1)


def short_convolution(
  x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
  """Convolves each channel with the tokens before it, then applies SiLU.

  Args:
    x: Tokens [B, T, H * D].
    kernel: Weights [H, n, D] of the token n - 1 places before to the token
      itself.
    bias: Bias [H, D].

  Returns:
    [B, T, H * D] in x's dtype, computed in float32 or wider.
  """
  n, t = kernel.shape[1], x.shape[1]
  y = jnp.pad(x, ((0, 0), (n - 1, 0), (0, 0)))
  # Products of shifted copies: XLA's convolutions of single channels are slow.
  terms = (y[:, i : i + t] * kernel[:, i].ravel() for i in range(n))
  y = functools.reduce(jnp.add, terms)
  return nn.silu(y if bias is None else y + bias.ravel()).astype(x.dtype)


def rms_norm(x: jax.Array, epsilon: float) -> jax.Array:
  """Divides by the root of the mean square of the last axis, in float32."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  square = jnp.square(x).mean(axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(square + epsilon)


def l2_norm(x: jax.Array, epsilon: float) -> jax.Array:
  """Divides by the length of the last axis, in float32."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  square = jnp.square(x).sum(axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(square + epsilon)


def convolution_init(
  key: jax.Array,
  shape: tuple[int, ...],
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """Initialises a kernel [H, n, D] of `short_convolution` as PyTorch does."""
  bound = shape[1] ** -0.5
  return jax.random.uniform(key, shape, dtype, -bound, bound)


def log_rate_init(least: float) -> nn.initializers.Initializer:
  """Returns an initializer of log A with A uniform from `least` to 16."""
  return lambda key, shape, dtype=jnp.float32: jnp.log(
    jax.random.uniform(key, shape, dtype, least, 16.0)
  )


def step_bias_init(
  key: jax.Array,
  shape: tuple[int, ...],
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """Initialises a bias whose softplus is log-uniform from 0.001 to 0.1."""
  step = jnp.exp(
    jax.random.uniform(key, shape, dtype, np.log(1e-3), np.log(0.1))
  )
  return step + jnp.log(-jnp.expm1(-step))  # Inverts softplus.


def state_norm(*states: jax.Array) -> jax.Array:
  """Returns the norm of the state of each head, [B, H].

  Args:
    *states: Parts of the state, [B, H, ...] each.
  """
  square = lambda x: jnp.sum(
    jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))),
    axis=tuple(range(2, x.ndim)),
  )
  return jnp.sqrt(sum(map(square, states)))

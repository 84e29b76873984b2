"""The TTT layer around the inner-loop kernels (paper sections 2 and 3.1).

A TTT layer writes a sequence, token by token, into the weights of a small
network. The caller defines the order of the tokens and their rotary table; the
layer does not depend on the structure of a video.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pallas_kernels import Permutation
from pallas_kernels import ttt_inputs
from pallas_kernels import ttt_linear
from pallas_kernels import ttt_linear_inner_losses
from pallas_kernels import ttt_mlp
from pallas_kernels import ttt_mlp_inner_losses
from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models.dit import mixer
from ttt_jax.models.dit import projections as projections_lib

_NORMAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class InnerModel:
  """Inner model: the small network whose weights are the hidden state.

  Attributes:
    weights: Name, shape as a function of the head dim D, and whether it is a
      bias, for each weight in the kernel's order; without the leading head
      axis.
    op: Kernel, see `pallas_kernels`.
    losses: Function that returns the inner loss of every mini-batch before and
      after its update.
  """

  weights: tuple[tuple[str, Callable[[int], tuple[int, ...]], bool], ...]
  op: Callable[..., tuple[jax.Array, tuple[jax.Array, ...]]]
  losses: Callable[..., tuple[jax.Array, jax.Array]]


INNER_MODELS = {
  'ttt_mlp': InnerModel(
    weights=(
      ('w1', lambda d: (d, 4 * d), False),
      ('b1', lambda d: (4 * d,), True),
      ('w2', lambda d: (4 * d, d), False),
      ('b2', lambda d: (d,), True),
    ),
    op=ttt_mlp,
    losses=ttt_mlp_inner_losses,
  ),
  'ttt_linear': InnerModel(
    weights=(
      ('w1', lambda d: (d, d), False),
      ('b1', lambda d: (d,), True),
    ),
    op=ttt_linear,
    losses=ttt_linear_inner_losses,
  ),
}


class TTT(mixer.Mixer):
  """Test-time training with one of the inner models.

  Attributes:
    inner: Name in `INNER_MODELS`.
  """

  scope = 'ttt'
  fields = ('mini_batch', 'ttt_base_lr')
  implementations = ('pallas_tpu', 'pallas_gpu', 'xla', 'reference')

  def __init__(self, inner: str, base_lr: float):
    self.inner = inner
    self.defaults = {'ttt_base_lr': base_lr}

  def layer(
    self,
    config: Any,
    order: token_order.TokenOrder,
    sharding_plan: sharding.ShardingPlan,
  ) -> TTTLayer:
    return TTTLayer(
      inner=self.inner,
      num_heads=config.num_heads,
      mini_batch=config.mini_batch,
      base_lr=config.ttt_base_lr,
      dtype=jnp.dtype(config.dtype),
      implementation=config.implementation,
      sharding_plan=sharding_plan,
      name=self.scope,
    )

  def step_tokens(self, config: Any, order: token_order.TokenOrder) -> int:
    del order
    return config.mini_batch

  def _sizes(self, config):
    """Returns the numbers in each weight of a head's inner model."""
    d = config.model_dim // config.num_heads
    for _, shape, is_bias in INNER_MODELS[self.inner].weights:
      yield math.prod(shape(d)), is_bias

  def state_size(self, config: Any, length: int) -> int:
    return config.num_heads * sum(size for size, _ in self._sizes(config))

  def scan_flops(self, config: Any, order: token_order.TokenOrder) -> float:
    matrices = [size for size, is_bias in self._sizes(config) if not is_bias]
    # Products of a token with each matrix: the forward pass of k and of q, the
    # gradient of the matrix, and, for all matrices but the first, the gradient
    # of the layer's input.
    products = sum(4 * size for size in matrices) - matrices[0]
    return 2.0 * order.length * config.num_heads * products


class TTTLayer(nn.Module):
  """Test-time training over one sequence, [B, T, M] -> [B, T, M].

  Attributes:
    inner: Name in `INNER_MODELS`.
    num_heads: Number of heads, H.
    mini_batch: Tokens that share one inner step, C.
    base_lr: Inner step size before the learned factor in (0, 1).
    dtype: Compute type; inner weights and inner gradients are float32.
    implementation: Implementation of the kernel; None takes the backend's best.
    sharding_plan: Placement of sequences on the mesh.
  """

  inner: str
  num_heads: int
  mini_batch: int
  base_lr: float
  dtype: jnp.dtype
  implementation: str | None = None
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()

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
    """Scans `x`.

    Args:
      x: Tokens [B, T, M].
      rotary: Rotary table of the tokens in scan order, [T, D] each.
      permutation: Permutation that puts the tokens in scan order; None if they
        already are.
      length: Number of tokens to scan; None scans all of them.
      diagnose: Also computes the inner losses and the norm of the state.

    Returns:
      [B, T, M], and a dict that is empty without `diagnose`. Else it contains
      the scalars `inner_loss_before` and `inner_loss_after`, the mean inner
      loss of a mini-batch at the weights before and after its update, and
      `state_norm`, the mean norm of a head's last weights.
    """
    t, m = x.shape[1:]
    d = m // self.num_heads
    inner = INNER_MODELS[self.inner]
    length = t if length is None else length

    def dense(name, features=m):
      return layers.DenseWeights(features, _NORMAL, name=name)(m)

    projections = [dense(name) for name in 'qkv']
    shape = (self.num_heads, d)
    scale = self.param('ln_scale', nn.initializers.ones, shape)
    bias = self.param('ln_bias', nn.initializers.zeros, shape)
    projections.append(dense('lr', self.num_heads))
    weights = [
      self.param(
        name,
        nn.initializers.zeros if is_bias else _NORMAL,
        (self.num_heads, *shape(d)),
      )
      for name, shape, is_bias in inner.weights
    ]

    # The kernel before the inner loop exists only for TPUs.
    io_implementation = self.implementation
    if io_implementation not in (None, 'pallas_tpu'):
      io_implementation = 'xla'

    def scan(z, weights, rotary):
      *tokens, eta = ttt_inputs(
        z,
        *rotary,
        *weights[-2:],
        rate=self.base_lr / d / self.mini_batch,
        length=length,
        implementation=io_implementation,
      )
      out, state = inner.op(
        *tokens,
        eta,
        *weights,
        mini_batch=self.mini_batch,
        implementation=self.implementation,
      )
      aux = ()
      if diagnose:
        k, v, eta = (y[:, :, :length] for y in (*tokens[1:], eta))
        aux = inner.losses(k, v, eta, *weights, mini_batch=self.mini_batch)
        aux = *aux, mixer.state_norm(*state)
      return mixer.join_heads(out), aux

    scan = mixer.in_scan_order(
      scan, permutation, self.implementation, self.sharding_plan
    )
    z = projections_lib.qkv_projection(
      x.astype(self.dtype), projections, self.sharding_plan
    )
    out, aux = self.sharding_plan.by_heads(
      scan, z, (*weights, scale, bias), rotary
    )
    norm = layers.NormWeights(m, name='post_norm')()
    out = projections_lib.layer_norm(out, norm, 1e-6).astype(self.dtype)
    names = 'inner_loss_before', 'inner_loss_after', 'state_norm'
    return projections_lib.output_projection(out, dense('o')), {
      name: x.mean() for name, x in zip(names, aux)
    }

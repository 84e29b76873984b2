"""The TTT layer around the inner-loop kernels (paper sections 2 and 3.1).

A TTT layer reads a sequence token by token into the weights of a small
network. It knows nothing of videos: which token comes when, and with which
rotary angle, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from pallas_kernels import Permutation
from pallas_kernels import permute_rows
from pallas_kernels import ttt_inputs
from pallas_kernels import ttt_linear
from pallas_kernels import ttt_linear_inner_losses
from pallas_kernels import ttt_mlp
from pallas_kernels import ttt_mlp_inner_losses
from ttt_jax import sharding
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models.dit import projections as projections_lib

_NORMAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class InnerModel:
  """The network whose weights are the hidden state.

  Attributes:
    weights: (name, shape from the head dimension D, is a bias) of each
      weight, in the kernel's order; the leading head axis is left out.
    op: the kernel, see `pallas_kernels`.
    losses: the inner loss of every mini-batch before and after its update.
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


class TTTLayer(nn.Module):
  """Test-time training over one sequence, [B, T, M] -> [B, T, M].

  Attributes:
    inner: name in `INNER_MODELS`.
    num_heads: H.
    mini_batch: C, tokens that share one inner step.
    base_lr: inner learning rate before the learned factor in (0, 1).
    dtype: compute type; fast weights and inner gradients are float32.
    implementation: of the kernel; None takes the backend's best.
    layout: of the sequence on the mesh.
  """

  inner: str
  num_heads: int
  mini_batch: int
  base_lr: float
  dtype: jnp.dtype
  implementation: str | None = None
  layout: sharding.Layout = sharding.Layout()

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    turns: heads_lib.Turns,
    reading: Permutation | None = None,
    length: int | None = None,
    *,
    diagnose: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Reads `x`.

    Args:
      x: [B, T, M].
      turns: rotary positions of the tokens in the order read, [T, D] each.
      reading: the order in which they are read; None for as they come.
      length: how many of them are read; None for all.
      diagnose: also compute the inner losses.

    Returns:
      [B, T, M], and a dict that is empty or holds `inner_loss_before` and
      `inner_loss_after`, scalars: the mean inner loss of a mini-batch at the
      weights that met it and at the weights that it left.
    """
    t, m = x.shape[1:]
    d = m // self.num_heads
    inner = INNER_MODELS[self.inner]
    length = t if length is None else length
    dense = lambda name, size=m: layers.DenseWeights(size, _NORMAL, name=name)(
      m
    )
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

    # Only for TPUs are there kernels for what is around the inner loop.
    beside = self.implementation
    if beside not in (None, 'pallas_tpu'):
      beside = 'xla'

    def read(z, weights, turns):
      if reading is not None:
        z = permute_rows(z, reading, implementation=beside)
      *tokens, eta = ttt_inputs(
        z,
        *turns,
        *weights[-2:],
        rate=self.base_lr / d / self.mini_batch,
        length=length,
        implementation=beside,
      )
      out, _ = inner.op(
        *tokens,
        eta,
        *weights,
        mini_batch=self.mini_batch,
        implementation=self.implementation,
      )
      out = out.swapaxes(1, 2).reshape(*z.shape[:2], -1)
      if reading is not None:
        out = permute_rows(out, reading.inverse, implementation=beside)
      losses = ()
      if diagnose:
        k, v, eta = (y[:, :, :length] for y in (*tokens[1:], eta))
        losses = inner.losses(k, v, eta, *weights, mini_batch=self.mini_batch)
      return out, losses

    z = projections_lib.project(x.astype(self.dtype), projections, self.layout)
    out, losses = self.layout.by_heads(read, z, (*weights, scale, bias), turns)
    norm = layers.NormWeights(m, name='post_norm')()
    out = projections_lib.layer_norm(out, norm, 1e-6).astype(self.dtype)
    names = 'inner_loss_before', 'inner_loss_after'
    return projections_lib.collect(out, dense('o')), {
      name: x.mean() for name, x in zip(names, losses)
    }

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

from pallas_kernels import ttt_linear
from pallas_kernels import ttt_linear_inner_losses
from pallas_kernels import ttt_mlp
from pallas_kernels import ttt_mlp_inner_losses
from ttt_jax import sharding
from ttt_jax.models import exchange
from ttt_jax.models import heads as heads_lib
from ttt_jax.models import layers
from ttt_jax.models import reading as reading_lib

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


def l2_normalize(
    y: jax.Array, heads: heads_lib.Heads, eps: float = 1e-12
) -> jax.Array:
  """y over max(|y|, eps) for every head of a view in float32 or better.

  The clamp sits under the square root so that a zero vector has a finite
  gradient.
  """
  squares = heads.total(jnp.square(y))
  return y * jax.lax.rsqrt(jnp.maximum(squares, eps**2))


def reconstruction_target(
    k: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    heads: heads_lib.Heads,
) -> jax.Array:
  """Standardised (v - k), scaled and shifted, plus k.

  The kernels take the target in this form and subtract k again. The standard
  deviation is the unbiased one, epsilon outside of the root.

  Args:
    k: view of the normalised and rotated keys, see `heads.Heads.view`.
    v: view of the values.
    scale: [H, D], shared with the LayerNorm of the inner model.
    bias: [H, D].
    heads: H and D.

  Returns:
    A view.
  """
  difference = v - k
  centred = difference - heads.total(difference) / heads.dim
  variance = heads.total(jnp.square(centred)) / (heads.dim - 1)
  # A constant row has no direction; keep its gradient finite.
  deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1e-16))
  return (
      heads.weight(scale) * centred / (deviation + 1e-8)
      + heads.weight(bias)
      + k
  )


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
      reading: reading_lib.Reading | None = None,
      *,
      diagnose: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Reads `x`.

    Args:
      x: [B, T, M].
      turns: rotary positions of the tokens in the order read, [T, D] each.
      reading: the order in which they are read, and how many are; None for
        all of them as they come.
      diagnose: also compute the inner losses.

    Returns:
      [B, T, M], and a dict that is empty or holds `inner_loss_before` and
      `inner_loss_after`, scalars: the mean inner loss of a mini-batch at the
      weights that met it and at the weights that it left.
    """
    t, m = x.shape[1:]
    d = m // self.num_heads
    inner = INNER_MODELS[self.inner]
    length = t if reading is None else reading.order.length
    dense = lambda name, size=m: layers.DenseWeights(
        size, _NORMAL, name=name
    )(m)
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

    def read(z, weights, turns):
      if reading is not None:
        z = reading.read(z)
      *tokens, eta = self._prepare(z, weights[-2:], turns, length)
      out, _ = inner.op(
          *tokens,
          eta,
          *weights,
          mini_batch=self.mini_batch,
          implementation=self.implementation,
      )
      out = out.swapaxes(1, 2).reshape(*z.shape[:2], -1)
      if reading is not None:
        out = reading.unread(out)
      losses = ()
      if diagnose:
        k, v, eta = (y[:, :, :length] for y in (*tokens[1:], eta))
        losses = inner.losses(
            k, v, eta, *weights, mini_batch=self.mini_batch
        )
      return out, losses

    z = exchange.project(x.astype(self.dtype), projections, self.layout)
    out, losses = self.layout.by_heads(read, z, (*weights, scale, bias), turns)
    norm = layers.NormWeights(m, name='post_norm')()
    out = exchange.layer_norm(out, norm, 1e-6).astype(self.dtype)
    names = 'inner_loss_before', 'inner_loss_after'
    return exchange.collect(out, dense('o')), {
        name: x.mean() for name, x in zip(names, losses)
    }

  def _prepare(self, z, norm, turns, length):
    """Projections [b, T, X] -> q, k, v [b, h, T, D] and eta [b, h, T]."""
    scale, bias = norm
    heads = heads_lib.Heads(*scale.shape)
    wide = jnp.promote_types(self.dtype, jnp.float32)
    width = heads.number * heads.dim
    *qkv, rate = exchange.split(z, [width] * 3 + [heads.number])
    q, k, v = (heads.view(y) for y in qkv)
    # Rotated before the norm: both keep the other, and a rotation of the
    # unrounded compute type needs no second copy of it.
    q, k = (l2_normalize(heads.rotate(y, turns), heads) for y in (q, k))
    v = reconstruction_target(k, v.astype(wide), scale, bias, heads)
    q, k, v = (
        heads.tokens(y.astype(self.dtype))
        .reshape(*z.shape[:2], heads.number, heads.dim)
        .swapaxes(1, 2)
        for y in (q, k, v)
    )
    # One step size a token; the mean over the mini-batch is folded in.
    eta = nn.sigmoid(rate.astype(wide)) * (
        self.base_lr / heads.dim / self.mini_batch
    )
    # What fills up the sequence does not train.
    real = jnp.arange(z.shape[1])[:, None] < length
    eta = jnp.where(jnp.broadcast_to(real, eta.shape), eta, 0)
    return q, k, v, eta.swapaxes(1, 2)

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
from ttt_jax.models import layers
from ttt_jax.models import rope

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


def l2_normalize(x: jax.Array, eps: float = 1e-12) -> jax.Array:
  """x over max(|x|, eps) along the last axis, in float32 or better.

  The clamp sits under the square root so that a zero vector has a finite
  gradient.
  """
  y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  squares = jnp.sum(jnp.square(y), axis=-1, keepdims=True)
  return y * jax.lax.rsqrt(jnp.maximum(squares, eps**2))


def reconstruction_target(
    k: jax.Array, v: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
  """Standardised (v - k), scaled and shifted, plus k.

  The kernels take the target in this form and subtract k again. The standard
  deviation is the unbiased one, epsilon outside of the root.

  Args:
    k: [B, T, H, D] normalised and rotated keys.
    v: [B, T, H, D].
    scale: [H, D], shared with the LayerNorm of the inner model.
    bias: [H, D].

  Returns:
    [B, T, H, D].
  """
  difference = v - k
  centred = difference - difference.mean(axis=-1, keepdims=True)
  variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True)
  variance /= k.shape[-1] - 1
  # A constant row has no direction; keep its gradient finite.
  deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1e-16))
  return scale * centred / (deviation + 1e-8) + bias + k


class TTTLayer(nn.Module):
  """Test-time training over one sequence, [B, T, M] -> [B, T, M].

  Attributes:
    inner: name in `INNER_MODELS`.
    num_heads: H.
    mini_batch: C, tokens that share one inner step.
    base_lr: inner learning rate before the learned factor in (0, 1).
    rope_theta: base of the rotary frequencies.
    dtype: compute type; fast weights and inner gradients are float32.
    implementation: of the kernel; None takes the backend's best.
  """

  inner: str
  num_heads: int
  mini_batch: int
  base_lr: float
  rope_theta: float
  dtype: jnp.dtype
  implementation: str | None = None

  @nn.compact
  def __call__(
      self, x: jax.Array, positions, *, diagnose: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Reads `x` in the order given.

    Args:
      x: [B, T, M].
      positions: numpy [T, 3] rotary positions, -1 for tokens without.
      diagnose: also compute the inner losses.

    Returns:
      [B, T, M], and a dict that is empty or holds `inner_loss_before` and
      `inner_loss_after`, scalars: the mean inner loss of a mini-batch at the
      weights that met it and at the weights that it left.
    """
    b, t, m = x.shape
    d = m // self.num_heads
    inner = INNER_MODELS[self.inner]

    def heads(name):
      y = layers.Dense(m, dtype=self.dtype, kernel_init=_NORMAL, name=name)(x)
      return y.reshape(b, t, self.num_heads, d)

    angles = rope.rotary_angles(positions, d, self.rope_theta)
    q = rope.rotate(l2_normalize(heads('q')), angles)
    k = rope.rotate(l2_normalize(heads('k')), angles)
    scale = self.param(
        'ln_scale', nn.initializers.ones, (self.num_heads, d)
    )
    bias = self.param(
        'ln_bias', nn.initializers.zeros, (self.num_heads, d)
    )
    v = reconstruction_target(k, heads('v').astype(k.dtype), scale, bias)
    rate = layers.Dense(
        self.num_heads, dtype=self.dtype, kernel_init=_NORMAL, name='lr'
    )(x)
    # One step size a token; the mean over the mini-batch is folded in.
    eta = nn.sigmoid(rate.astype(k.dtype)) * (
        self.base_lr / d / self.mini_batch
    )
    weights = [
        self.param(
            name,
            nn.initializers.zeros if is_bias else _NORMAL,
            (self.num_heads, *shape(d)),
        )
        for name, shape, is_bias in inner.weights
    ]
    q, k, v = (y.astype(self.dtype).swapaxes(1, 2) for y in (q, k, v))
    eta = eta.swapaxes(1, 2)
    out, _ = inner.op(
        q,
        k,
        v,
        eta,
        *weights,
        scale,
        bias,
        mini_batch=self.mini_batch,
        implementation=self.implementation,
    )
    out = out.swapaxes(1, 2).reshape(b, t, m)
    out = layers.LayerNorm(epsilon=1e-6, name='post_norm')(out)
    out = layers.Dense(m, dtype=self.dtype, kernel_init=_NORMAL, name='o')(
        out.astype(self.dtype)
    )
    aux = {}
    if diagnose:
      before, after = inner.losses(
          k, v, eta, *weights, scale, bias, mini_batch=self.mini_batch
      )
      aux = {
          'inner_loss_before': before.mean(),
          'inner_loss_after': after.mean(),
      }
    return out, aux

"""TTT-Linear as Pallas kernels for TPU."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.tpu import layout
from pallas_kernels.tpu.checks import check
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.plan import make_plan
from pallas_kernels.tpu.plan import Plan
from pallas_kernels.tpu.tokens import Tokens
from pallas_kernels.ttt_linear.tpu_backward import backward
from pallas_kernels.ttt_linear.tpu_backward import stash_bytes
from pallas_kernels.ttt_linear.tpu_forward import forward
from pallas_kernels.ttt_linear.tpu_stages import State


def ttt_linear(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    eta: jax.Array,
    w: jax.Array,
    b: jax.Array,
    ln_scale: jax.Array,
    ln_bias: jax.Array,
    *,
    mini_batch: int,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Returns what `api.ttt_linear` says; reverse-mode differentiable only.

  Products take their operands in the dtype of the tokens, states and sums are
  float32.

  Raises:
    NotImplementedError: a size or dtype that the kernels do not have.
  """
  batch, heads, length, head_dim = q.shape
  check(q, mini_batch, hidden=head_dim)
  plan = make_plan(
      batch=batch,
      length=length,
      heads=heads,
      head_dim=head_dim,
      mini_batch=mini_batch,
      dtype=q.dtype,
      state_bytes=4 * (LANES + 8) * LANES,
      stash_bytes=stash_bytes(mini_batch, q.dtype),
      most_packs=(12, 12),
  )
  w, b = batched_state((w, b), (3, 2), batch, plan.wide)
  # LayerNorm takes no notice of a mean over features and its gradient has
  # none: leave it aside for the time of the loop.
  w_mean = jnp.mean(w, axis=-1, keepdims=True)
  b_mean = jnp.mean(b, axis=-1, keepdims=True)
  state = State(
      w=layout.pack_blocks(w - w_mean, plan),
      b=layout.pack_lanes(b - b_mean, plan),
  )
  norm = Norm(
      *(
          layout.pack_lanes(array.astype(plan.wide), plan)
          for array in (ln_scale, ln_bias)
      )
  )
  tokens = (layout.to_lanes(array, plan) for array in (q, k, v))
  out, last = _loop(
      plan, *tokens, layout.rates(eta, plan), norm, state
  )
  return layout.from_lanes(out, length, plan), (
      layout.unpack_blocks(last.w, plan) + w_mean,
      layout.unpack_lanes(last.b, plan) + b_mean,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(
    plan: Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    eta: jax.Array,
    norm: Norm,
    state: State,
) -> tuple[jax.Array, State]:
  """Returns (out, last state) in the layout of the kernels."""
  out, last, _ = forward(plan, q, k, v, eta, norm, state, save=False)
  return out, last


def _loop_forward(plan, q, k, v, eta, norm, state):
  out, last, saved = forward(plan, q, k, v, eta, norm, state, save=True)
  return (out, last), (Tokens(q, k, v, eta), norm, saved)


def _loop_backward(plan, residuals, cotangents):
  return backward(plan, *residuals, *cotangents)


_loop.defvjp(_loop_forward, _loop_backward)

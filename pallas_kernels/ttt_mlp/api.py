"""The public functions of TTT-MLP: checks and dispatch."""

from __future__ import annotations

import jax

from pallas_kernels.arguments import check_sequence
from pallas_kernels.arguments import check_state
from pallas_kernels.dispatch import dispatch
from pallas_kernels.ttt_mlp import pallas_gpu
from pallas_kernels.ttt_mlp import pallas_tpu
from pallas_kernels.ttt_mlp import reference
from pallas_kernels.ttt_mlp import xla
from pallas_kernels.ttt_mlp.specs import WEIGHTS
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens

IMPLEMENTATIONS = {
  'pallas_tpu': pallas_tpu.ttt_mlp,
  'pallas_gpu': pallas_gpu.ttt_mlp,
  'xla': xla.ttt_mlp,
  'reference': reference.ttt_mlp,
}


def ttt_mlp(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  w1: jax.Array,
  b1: jax.Array,
  w2: jax.Array,
  b2: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  mini_batch: int = 64,
  implementation: str | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array, jax.Array]]:
  """Trains an MLP per head on the sequence while reading from it.

  For each mini-batch in turn, with f(x; W) = gelu(x w1 + b1) w2 + b2 (tanh
  form), l = 1/2 ||LN(f(k; W)) - (v - k)||^2 and LN's epsilon 1e-8 inside the
  square root:

      W' = W - sum_i eta_i * grad_W l(W; k_i, v_i)
      out = q + LN(f(q; W'))

  (Dalal et al. 2025, arXiv:2504.05298, section 2.) Differentiable in all
  arrays in reverse mode, also through the returned state. Any length: a last
  mini-batch that is not full behaves as if it ended in tokens with eta 0.

  Args:
    q: queries [B, H, T, D].
    k: keys [B, H, T, D].
    v: values [B, H, T, D]: the inner target plus k.
    eta: step size per token [B, H, T], already divided by D and mini_batch.
    w1: initial weight of the first layer, [H, D, K] or [B, H, D, K].
    b1: initial bias of the first layer, [H, K] or [B, H, K].
    w2: initial weight of the second layer, [H, K, D] or [B, H, K, D].
    b2: initial bias of the second layer, [H, D] or [B, H, D].
    ln_scale: scale of LN, [H, D].
    ln_bias: bias of LN, [H, D].
    mini_batch: C, tokens that share a step, at least 1.
    implementation: None for the best that accepts the arguments, or
      'reference', 'xla', 'pallas_tpu', 'pallas_gpu'.

  Returns:
    (out, state): out [B, H, T, D] in q's dtype; state (w1, b1, w2, b2) after
    the last mini-batch, each with a leading B, float32 (float64 if an input
    is): pass it as the initial state to continue the sequence.

  Raises:
    ValueError: a shape, a dtype or mini_batch is invalid.
    NotImplementedError: the named implementation does not exist or refuses.
    ExceptionGroup: no implementation accepts the arguments.
  """
  sizes = check_sequence(
    {'q': q, 'k': k, 'v': v},
    eta,
    {'ln_scale': ln_scale, 'ln_bias': ln_bias},
    mini_batch,
  )
  check_state(WEIGHTS, (w1, b1, w2, b2), sizes)
  return dispatch(
    'ttt_mlp',
    IMPLEMENTATIONS,
    implementation,
    Tokens(q, k, v, eta),
    (w1, b1, w2, b2),
    Norm(ln_scale, ln_bias),
    mini_batch=mini_batch,
  )


def ttt_mlp_inner_losses(
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  w1: jax.Array,
  b1: jax.Array,
  w2: jax.Array,
  b2: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  mini_batch: int = 64,
) -> tuple[jax.Array, jax.Array]:
  """Returns the inner loss of every mini-batch before and after its step.

  The arguments are those of `ttt_mlp`.

  Returns:
    (before, after), each [B, H, N] with N = ceil(T / mini_batch): the mean
    over the tokens of a mini-batch of l(W; k, v) and of l(W'; k, v).

  Raises:
    ValueError: a shape, a dtype or mini_batch is invalid.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> k, v = jax.random.normal(jax.random.key(0), (2, 1, 1, 128, 16))
    >>> w1, w2 = 0.1 * jax.random.normal(jax.random.key(1), (2, 1, 16, 64))
    >>> weights = w1, jnp.zeros((1, 64)), w2.swapaxes(1, 2), jnp.zeros((1, 16))
    >>> eta = jnp.full((1, 1, 128), 1e-3)
    >>> norm = jnp.ones((1, 16)), jnp.zeros((1, 16))
    >>> before, after = ttt_mlp_inner_losses(k, v, eta, *weights, *norm)
    >>> before.shape, bool((after < before).all())
    ((1, 1, 2), True)
  """
  sizes = check_sequence(
    {'k': k, 'v': v},
    eta,
    {'ln_scale': ln_scale, 'ln_bias': ln_bias},
    mini_batch,
  )
  check_state(WEIGHTS, (w1, b1, w2, b2), sizes)
  return reference.ttt_mlp_inner_losses(
    k, v, eta, (w1, b1, w2, b2), Norm(ln_scale, ln_bias), mini_batch=mini_batch
  )

"""The public functions of TTT-Linear: checks and dispatch."""

from __future__ import annotations

import jax

from pallas_kernels.arguments import check_sequence
from pallas_kernels.arguments import check_state
from pallas_kernels.dispatch import dispatch
from pallas_kernels.ttt_linear import pallas_gpu
from pallas_kernels.ttt_linear import pallas_tpu
from pallas_kernels.ttt_linear import reference
from pallas_kernels.ttt_linear import xla
from pallas_kernels.ttt_linear.specs import WEIGHTS
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens

IMPLEMENTATIONS = {
  'pallas_tpu': pallas_tpu.ttt_linear,
  'pallas_gpu': pallas_gpu.ttt_linear,
  'xla': xla.ttt_linear,
  'reference': reference.ttt_linear,
}


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
  mini_batch: int = 64,
  implementation: str | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Trains an affine map per head on the sequence while reading from it.

  For each mini-batch in turn, with f(x; W) = x w + b,
  l = 1/2 ||LN(f(k; W)) - (v - k)||^2 and LN's epsilon 1e-8 inside the square
  root:

      W' = W - sum_i eta_i * grad_W l(W; k_i, v_i)
      out = q + LN(f(q; W'))

  (Sun et al. 2024, arXiv:2407.04620.) Differentiable in all arrays in reverse
  mode, also through the returned state. Any length: a last mini-batch that is
  not full behaves as if it ended in tokens with eta 0.

  Args:
    q: queries [B, H, T, D].
    k: keys [B, H, T, D].
    v: values [B, H, T, D]: the inner target plus k.
    eta: step size per token [B, H, T], already divided by D and mini_batch.
    w: initial weight, [H, D, D] or [B, H, D, D].
    b: initial bias, [H, D] or [B, H, D].
    ln_scale: scale of LN, [H, D].
    ln_bias: bias of LN, [H, D].
    mini_batch: C, tokens that share a step, at least 1.
    implementation: None for the best that accepts the arguments, or
      'reference', 'xla', 'pallas_tpu', 'pallas_gpu'.

  Returns:
    (out, state): out [B, H, T, D] in q's dtype; state (w, b) after the last
    mini-batch, each with a leading B, float32 (float64 if an input is): pass
    it as the initial state to continue the sequence.

  Raises:
    ValueError: a shape, a dtype or mini_batch is invalid.
    NotImplementedError: the named implementation does not exist or refuses.
    ExceptionGroup: no implementation accepts the arguments.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 2, 100, 32))
    >>> eta = jnp.full((1, 2, 100), 1e-3)
    >>> weights = jnp.zeros((2, 32, 32)), jnp.zeros((2, 32))
    >>> norm = jnp.ones((2, 32)), jnp.zeros((2, 32))
    >>> out, state = ttt_linear(q, k, v, eta, *weights, *norm)
    >>> out.shape, [x.shape for x in state]
    ((1, 2, 100, 32), [(1, 2, 32, 32), (1, 2, 32)])
    >>> out, state = ttt_linear(q, k, v, eta, *state, *norm)  # Continues.
  """
  sizes = check_sequence(
    {'q': q, 'k': k, 'v': v},
    eta,
    {'ln_scale': ln_scale, 'ln_bias': ln_bias},
    mini_batch,
  )
  check_state(WEIGHTS, (w, b), sizes)
  return dispatch(
    'ttt_linear',
    IMPLEMENTATIONS,
    implementation,
    Tokens(q, k, v, eta),
    (w, b),
    Norm(ln_scale, ln_bias),
    mini_batch=mini_batch,
  )


def ttt_linear_inner_losses(
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  w: jax.Array,
  b: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  mini_batch: int = 64,
) -> tuple[jax.Array, jax.Array]:
  """Returns the inner loss of every mini-batch before and after its step.

  The arguments are those of `ttt_linear`.

  Returns:
    (before, after), each [B, H, N] with N = ceil(T / mini_batch): the mean
    over the tokens of a mini-batch of l(W; k, v) and of l(W'; k, v).

  Raises:
    ValueError: a shape, a dtype or mini_batch is invalid.
  """
  sizes = check_sequence(
    {'k': k, 'v': v},
    eta,
    {'ln_scale': ln_scale, 'ln_bias': ln_bias},
    mini_batch,
  )
  check_state(WEIGHTS, (w, b), sizes)
  return reference.ttt_linear_inner_losses(
    k, v, eta, (w, b), Norm(ln_scale, ln_bias), mini_batch=mini_batch
  )

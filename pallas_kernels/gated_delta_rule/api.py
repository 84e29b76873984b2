"""The public function of the gated delta rule: checks and dispatch."""

from __future__ import annotations

import jax

from pallas_kernels.arguments import check_chunk
from pallas_kernels.arguments import check_shapes
from pallas_kernels.dispatch import dispatch
from pallas_kernels.gated_delta_rule import reference
from pallas_kernels.gated_delta_rule import xla

IMPLEMENTATIONS = {
  'xla': xla.gated_delta_rule,
  'reference': reference.gated_delta_rule,
}


def gated_delta_rule(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  beta: jax.Array,
  g: jax.Array,
  initial_state: jax.Array | None = None,
  *,
  chunk: int = 64,
  implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Runs the gated delta rule: a linear memory with error correction.

      S <- e^g S;  S <- S + beta k (v - S^T k)^T;  o = S^T q

  (Gated DeltaNet, Yang et al. 2024, arXiv:2412.06464, equation 10.)
  Differentiable in all arrays in reverse mode, also through the state. Any
  length. The result does not depend on `chunk` except for rounding.

  Args:
    q: queries [B, H, T, K], already scaled.
    k: keys [B, H, T, K], already normalised.
    v: values [B, H, T, V].
    beta: strength with which a token is written, [B, H, T], 0 to 1 (to 2 with
      negative eigenvalues).
    g: logarithm of the decay, [B, H, T], at most 0; -inf clears the memory.
    initial_state: S before the first token, [B, H, K, V]; zeros if None.
    chunk: C, tokens whose updates are solved together. 128 is faster on TPUs,
      64 on CPUs.
    implementation: None for the best that accepts the arguments, or
      'reference', 'xla'.

  Returns:
    (out, state): out [B, H, T, V] in v's dtype; S after the last token
    [B, H, K, V], float32 (float64 if an input is): pass it as the initial
    state to continue the sequence.

  Raises:
    ValueError: a shape, a dtype or chunk is invalid.
    NotImplementedError: the named implementation does not exist.

  Example:
    >>> import jax.numpy as jnp
    >>> keys = jnp.eye(4)[None, None]  # [1, 1, 4, 4]
    >>> values = jnp.arange(8.0).reshape(1, 1, 4, 2)
    >>> ones, zeros = jnp.ones((1, 1, 4)), jnp.zeros((1, 1, 4))
    >>> _, state = gated_delta_rule(keys, keys, values, ones, zeros)
    >>> state[0, 0].tolist()  # The value of each key.
    [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
  """
  check_shapes(
    {
      'q': (q, 'BHTK'),
      'k': (k, 'BHTK'),
      'v': (v, 'BHTV'),
      'beta': (beta, 'BHT'),
      'g': (g, 'BHT'),
    }
    | (
      {}
      if initial_state is None
      else {'initial_state': (initial_state, 'BHKV')}
    )
  )
  check_chunk(chunk)
  return dispatch(
    'gated_delta_rule',
    IMPLEMENTATIONS,
    implementation,
    q,
    k,
    v,
    beta,
    g,
    initial_state,
    chunk=chunk,
  )

"""The public functions of large-chunk TTT: checks and dispatch."""

from __future__ import annotations

import jax

from pallas_kernels.arguments import check_chunk
from pallas_kernels.arguments import check_shapes
from pallas_kernels.arguments import check_state
from pallas_kernels.dispatch import dispatch
from pallas_kernels.large_chunk_ttt import reference
from pallas_kernels.large_chunk_ttt import xla

IMPLEMENTATIONS = {
  'xla': xla.large_chunk_ttt,
  'reference': reference.large_chunk_ttt,
}
# Choice of weights that are updated -> step sizes per token.
UPDATES = {'all': 3, 'last': 1}
_WEIGHTS = {'w0': 'HKD', 'w1': 'HVK', 'w2': 'HKD'}


def large_chunk_ttt(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  w0: jax.Array,
  w1: jax.Array,
  w2: jax.Array,
  *,
  chunk: int = 2048,
  update: str = 'all',
  muon: bool = False,
  implementation: str | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
  """Trains a SwiGLU per head on the sequence while reading from it.

  For each chunk of tokens in turn, with f(x; W) = w1 (SiLU(w0 x) * (w2 x)) and
  the loss l = -f(k; W) . v:

      W' = norm(W - sum_i eta_i * grad_W l(W; k_i, v_i))
      out = f(q; W')

  norm scales every row of a weight back to its L2 norm in the initial weights.
  (LaCT, Zhang et al. 2025, arXiv:2505.23884, section 3; without momentum, as
  its video model.) A chunk's queries are read after its own update, like those
  of a mini-batch in `ttt_mlp`: all tokens of a chunk see each other, and a
  sequence of a single chunk is seen completely. (Reading before the update,
  as the paper's language model must, hides a chunk from its own queries.)

  Differentiable in all arrays in reverse mode, also through the returned state.
  Any length: a last chunk that is not full behaves as if it ended in tokens
  with eta 0. Products take operands in the dtype of q, k and v.

  Args:
    q: queries [B, H, T, D].
    k: keys [B, H, T, D].
    v: values [B, H, T, V].
    eta: step size per token and updated weight, [B, H, T, 3] for w0, w1, w2;
      [B, H, T, 1] with update='last'.
    w0: initial weight of the gate, [H, K, D] or [B, H, K, D].
    w1: initial weight of the last layer, [H, V, K] or [B, H, V, K].
    w2: initial weight of the values, [H, K, D] or [B, H, K, D].
    chunk: C, tokens that share a step.
    update: 'all' weights, or the 'last' layer w1 alone (arXiv:2602.21204).
    muon: orthogonalises the sum over a chunk before it is added, by five
      Newton-Schulz steps. The update then keeps only its directions: its size
      does not depend on that of eta.
    implementation: None for the best that accepts the arguments, or
      'reference', 'xla'.

  Returns:
    (out, state): out [B, H, T, V] in v's dtype; state (w0, w1, w2) after the
    last chunk, each with a leading B, float32 (float64 if an input is): pass
    it as the initial weights to continue the sequence.

  Raises:
    ValueError: a shape, a dtype, chunk or update is invalid.
    NotImplementedError: the named implementation does not exist.

  Example:
    >>> import jax.numpy as jnp
    >>> q = k = v = jnp.ones((1, 4, 300, 32)) / 32**0.5
    >>> eta = jnp.full((1, 4, 300, 3), 0.01)
    >>> w0 = w2 = jnp.full((4, 64, 32), 0.1)
    >>> w1 = jnp.full((4, 32, 64), 0.1)
    >>> out, state = large_chunk_ttt(q, k, v, eta, w0, w1, w2, chunk=128)
    >>> out.shape, [w.shape for w in state]
    ((1, 4, 300, 32), [(1, 4, 64, 32), (1, 4, 32, 64), (1, 4, 64, 32)])
  """
  _check(k, v, eta, (w0, w1, w2), chunk, update, q=(q, 'BHTD'))
  return dispatch(
    'large_chunk_ttt',
    IMPLEMENTATIONS,
    implementation,
    q,
    k,
    v,
    eta,
    (w0, w1, w2),
    chunk=chunk,
    update=update,
    muon=muon,
  )


def large_chunk_ttt_inner_losses(
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  w0: jax.Array,
  w1: jax.Array,
  w2: jax.Array,
  *,
  chunk: int = 2048,
  update: str = 'all',
  muon: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Returns the inner loss of every chunk before and after its step.

  The arguments are those of `large_chunk_ttt`.

  Returns:
    (before, after), each [B, H, N] with N = ceil(T / chunk): the mean over the
    tokens of a chunk of -f(k; W) . v and of -f(k; W') . v.

  Raises:
    ValueError: a shape, a dtype, chunk or update is invalid.
  """
  _check(k, v, eta, (w0, w1, w2), chunk, update)
  return reference.large_chunk_ttt_inner_losses(
    k, v, eta, (w0, w1, w2), chunk=chunk, update=update, muon=muon
  )


def _check(k, v, eta, weights, chunk, update, **more):
  """Raises ValueError for arguments that are not valid."""
  if update not in UPDATES:
    raise ValueError(
      f'update={update!r}; expected one of {", ".join(map(repr, UPDATES))}'
    )
  sizes = check_shapes(
    more | {'k': (k, 'BHTD'), 'v': (v, 'BHTV'), 'eta': (eta, 'BHTR')}
  )
  if sizes.pop('R') != UPDATES[update]:
    raise ValueError(
      f'eta has shape {eta.shape}: with update={update!r} it must be'
      f' {(*eta.shape[:3], UPDATES[update])}'
    )
  check_state(_WEIGHTS, weights, sizes)
  check_chunk(chunk)

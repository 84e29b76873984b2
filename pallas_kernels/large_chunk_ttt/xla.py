"""Large-chunk TTT for any backend: large products, one scan over the chunks.

With g = w0 k, h = w2 k and d = w1^T v of a chunk's tokens, the gradient of
f(k) . v = v^T w1 (SiLU(g) * h) is

    w1: v (SiLU(g) * h)^T    w2: (d * SiLU(g)) k^T    w0: (d * h * SiLU'(g)) k^T

so that w1 k is never computed. Products take operands in the tokens' dtype and
sum in the dtype of the states. The backward pass is autodiff's; it keeps the
weights of each chunk, or of each group of chunks, and recomputes the rest.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import batched_state
from pallas_kernels.arguments import state_dtype
from pallas_kernels.large_chunk_ttt.update import add_update
from pallas_kernels.large_chunk_ttt.update import row_norms
from pallas_kernels.xla import chunks

Weights = tuple[jax.Array, ...]  # w0, w1, w2


def large_chunk_ttt(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  weights: Weights,
  *,
  chunk: int,
  update: str,
  muon: bool,
) -> tuple[jax.Array, Weights]:
  """Implements `api.large_chunk_ttt`; differentiable in reverse mode."""
  dtype = state_dtype(q, k, v, eta, *weights)
  state = batched_state(weights, (3, 3, 3), q.shape[0], dtype)
  norms = jax.tree.map(row_norms, state)
  length = q.shape[2]
  chunk = min(chunk, length)
  operands = jnp.result_type(q, k, v)
  tokens = *(x.astype(operands) for x in (q, k, v)), eta.astype(dtype)

  def step(weights, tokens):
    q, k, v, eta = tokens
    weights = _learn(weights, norms, k, v, eta, update, muon)
    return weights, _read(weights, q)

  out, state = chunks.scan_groups(
    lambda tokens: tokens,
    jax.checkpoint(step, prevent_cse=False),
    state,
    tuple(chunks.cut(x, chunk) for x in tokens),
    kept_bytes=sum(w.nbytes for w in state),
  )
  return chunks.join(out, length).astype(v.dtype), state


def _learn(weights, norms, k, v, eta, update, muon) -> Weights:
  """Returns the weights after a chunk."""
  w0, w1, w2 = weights
  # Rounded results of products are stored, everything between them is wide.
  wide, narrow = (lambda x: x.astype(w1.dtype)), (lambda x: x.astype(k.dtype))

  def add(index, rows, columns):
    gradient = jnp.einsum(
      'bhcr,bhcs->bhrs',
      narrow(rows),
      narrow(columns),
      preferred_element_type=w1.dtype,
    )
    return add_update(weights[index], gradient, norms[index], muon=muon)

  rate = lambda i: eta[..., i, None]
  gate, value = wide(_times(k, w0)), wide(_times(k, w2))
  sigmoid = jax.nn.sigmoid(gate)
  active = gate * sigmoid
  hidden = active * value
  if update == 'last':
    return w0, add(1, rate(0) * wide(v), hidden), w2
  d_hidden = wide(_times(v, w1.swapaxes(-1, -2)))
  d_gate = d_hidden * value * sigmoid * (1 + gate - active)
  return (
    add(0, d_gate, rate(0) * wide(k)),
    add(1, rate(1) * wide(v), hidden),
    add(2, d_hidden * active, rate(2) * wide(k)),
  )


def _read(weights, q):
  """Returns f(q), [B, H, C, V]."""
  w0, w1, w2 = weights
  gate, value = (_times(q, w).astype(w.dtype) for w in (w0, w2))
  return _times((jax.nn.silu(gate) * value).astype(q.dtype), w1)


@jax.custom_vjp
def _times(x: jax.Array, w: jax.Array) -> jax.Array:
  """Returns x w^T in x's dtype; the gradient of w has w's own."""
  return jnp.einsum('bhcs,bhrs->bhcr', x, w.astype(x.dtype))


def _times_backward(residuals, d_y):
  x, w = residuals
  d_x = jnp.einsum('bhcr,bhrs->bhcs', d_y, w.astype(d_y.dtype))
  return d_x, jnp.einsum(
    'bhcr,bhcs->bhrs', d_y, x, preferred_element_type=w.dtype
  )


_times.defvjp(lambda x, w: (_times(x, w), (x, w)), _times_backward)

"""The inner loop for any backend, given one step and its backward pass.

    W_0 --learn--> W_1 --learn--> W_2 ...  --learn--> W_N
         k_0 v_0    |   k_1 v_1    |                   |
                 read q_0       read q_1         read q_{N-1}

One scan visits the states in order. At W_n it reads with mini-batch n - 1 and
learns from mini-batch n: two tasks that do not wait for each other. The
backward pass scans in reverse over the states, which the forward pass kept or
(in groups, see `mini_batches.cut`) it recomputes. States, tokens and norms are
handled as lists of parts, see `rows`.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.xla import rows
from pallas_kernels.xla.mini_batches import Cut
from pallas_kernels.xla.mini_batches import cut_sequence
from pallas_kernels.xla.mini_batches import from_bits
from pallas_kernels.xla.mini_batches import to_bits


class Tokens(NamedTuple):
  """A mini-batch or a whole sequence (T for C), or its cotangents."""

  q: jax.Array  # [B, H, C, D]
  k: jax.Array  # [B, H, C, D]
  v: jax.Array  # [B, H, C, D]
  eta: jax.Array  # [B, H, C]


class Norm(NamedTuple):
  """LayerNorm parameters, [B, H, D]; in a step one row per token."""

  scale: jax.Array  # [B, H, C, D]
  bias: jax.Array  # [B, H, C, D]


class Step(NamedTuple):
  """An inner model; its states are pytrees of arrays [B, H, ...].

  Attributes:
    learn: (state, tokens, norm) -> next state.
    read: (next state, q, norm) -> out [B, H, C, D].
    backward: (state, next state, tokens, norm, d_out, d_next_state) -> the
      cotangents (d_state, d_tokens, d_norm) of `learn` with `read` after it.
  """

  learn: Callable[[Any, Tokens, Norm], Any]
  read: Callable[[Any, jax.Array, Norm], jax.Array]
  backward: Callable[..., tuple[Any, Tokens, Norm]]


def portable_loop(
  step: Step, state: Any, tokens: Tokens, norm: Norm, mini_batch: int
) -> tuple[Any, jax.Array]:
  """Returns (last state, out [B, H, T, D]); reverse-mode differentiable.

  Args:
    step: the inner model.
    state: its first state, in the dtype to compute in.
    tokens: the sequence. It may be narrower than the state: each mini-batch
      is widened when it is taken, so that the sequence never is.
    norm: LayerNorm parameters [B, H, D], in the state's dtype.
    mini_batch: C.
  """
  batch, heads, length, _ = tokens.q.shape
  leaves = jax.tree.leaves(state)
  cut = cut_sequence(length, mini_batch, sum(map(_bytes, leaves)))
  # The backward pass of this sums over the tokens: once, not in each step.
  per_token = lambda x: jnp.broadcast_to(
    x[:, :, None], (batch, heads, cut.size, x.shape[-1])
  )
  norm = jax.tree.map(per_token, norm)
  work = cut.size * max(x.size for x in leaves) // (batch * heads)
  parts = rows.count_parts(batch * heads, work)
  if parts == 1:
    return _loop(step, cut, parts, state, tokens, norm)
  last, out = _loop(step, cut, parts, *rows.one_axis((state, tokens, norm)))
  as_before = lambda x: x.reshape(batch, heads, *x.shape[2:])
  return jax.tree.map(as_before, last), as_before(out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _loop(step, cut, parts, state, tokens, norm):
  """Returns (last state, out)."""
  return _forward(step, cut, parts, False, state, tokens, norm)[0]


def _loop_forward(step, cut, parts, state, tokens, norm):
  """Returns `_loop`'s result and what `_loop_backward` needs."""
  (last, out), kept = _forward(step, cut, parts, True, state, tokens, norm)
  return (last, out), (kept, last, tokens, norm)


def _forward(step, cut, parts, keep, state, tokens, norm):
  """Returns ((last state, out), kept).

  kept: parts of the states [N, ...] or, in several groups, of the first state
  of each [groups, ...]. None unless `keep`.
  """
  split = functools.partial(rows.split, count=parts)
  norms = split(norm)
  keep_all = keep and cut.groups == 1

  def read(states, out, n):
    q = cut.take(tokens.q, n).astype(_dtype(state))
    outs = [step.read(*row) for row in zip(states, split(q), norms)]
    return cut.put(out, n, outs, tokens.q.dtype)

  def visit(carry, n):
    states, out = carry
    taken = split(_take(cut, tokens, n, _dtype(state)))
    next_states = [step.learn(*row) for row in zip(states, taken, norms)]
    # Before the first mini-batch this reads its place in vain.
    return (next_states, read(states, out, n - 1)), states if keep_all else None

  def visit_group(carry, first):
    return jax.lax.scan(visit, carry, first + jnp.arange(cut.group))

  carry = split(state), to_bits(jnp.zeros_like(tokens.q))
  if cut.groups == 1:
    carry, kept = visit_group(carry, 0)
  else:
    carry, kept = jax.lax.scan(
      lambda carry, first: (visit_group(carry, first)[0], carry[0]),
      carry,
      cut.firsts,
    )
  states, out = carry
  out = read(states, out, cut.groups * cut.group - 1)
  out = from_bits(out, tokens.q.dtype)
  return (rows.join(states), out), kept if keep else None


def _loop_backward(step, cut, parts, residuals, cotangents):
  """Returns the cotangents of (state, tokens, norm)."""
  kept, last, tokens, norm = residuals
  d_last, d_out = cotangents
  dtype = _dtype(last)
  split = functools.partial(rows.split, count=parts)
  norms = split(norm)

  def learn(states, n):
    taken = split(_take(cut, tokens, n, dtype))
    return [step.learn(*row) for row in zip(states, taken, norms)], states

  def visit(carry, inputs):
    next_states, d_states, d_norms, d_tokens = carry
    n, states = inputs
    taken = split(_take(cut, tokens, n, dtype))
    d_outs = split(cut.take_fresh(d_out, n).astype(dtype))
    each = zip(states, next_states, taken, norms, d_outs, d_states)
    d_states, d_taken, d_norms_here = zip(*[step.backward(*e) for e in each])
    d_tokens = Tokens(
      *(
        cut.put(d, n, each, array.dtype)
        for d, each, array in zip(d_tokens, zip(*d_taken), tokens)
      )
    )
    d_norms = jax.tree.map(jnp.add, d_norms, list(d_norms_here))
    return (states, list(d_states), d_norms, d_tokens), None

  def visit_group(carry, inputs):
    first, states = inputs
    within = first + jnp.arange(cut.group)
    if cut.groups > 1:
      _, states = jax.lax.scan(learn, states, within)
    return jax.lax.scan(visit, carry, (within, states), reverse=True)

  carry = (
    split(last),
    split(d_last),
    jax.tree.map(jnp.zeros_like, norms),
    jax.tree.map(lambda x: to_bits(jnp.zeros_like(x)), tokens),
  )
  if cut.groups == 1:
    carry, _ = visit_group(carry, (0, kept))
  else:
    carry, _ = jax.lax.scan(
      visit_group, carry, (cut.firsts, kept), reverse=True
    )
  _, d_states, d_norms, d_tokens = carry
  d_tokens = jax.tree.map(lambda d, x: from_bits(d, x.dtype), d_tokens, tokens)
  return rows.join(d_states), d_tokens, rows.join(d_norms)


_loop.defvjp(_loop_forward, _loop_backward)


def _take(cut: Cut, tokens: Tokens, n: jax.Array, dtype: jnp.dtype) -> Tokens:
  """Returns mini-batch n as `dtype`; eta is 0 where tokens are not its own."""
  q, k, v = (cut.take(array, n).astype(dtype) for array in tokens[:3])
  return Tokens(q, k, v, cut.take_fresh(tokens.eta, n).astype(dtype))


def _bytes(array: jax.Array) -> int:
  """Returns the size of an array (which may be traced)."""
  return array.size * array.dtype.itemsize


def _dtype(state: Any) -> jnp.dtype:
  """Returns the dtype of a state."""
  return jax.tree.leaves(state)[0].dtype

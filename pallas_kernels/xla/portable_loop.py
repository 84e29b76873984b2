"""The inner loop for any backend, given an inner model and its backward pass.

    W_0 --learn--> W_1 --learn--> W_2 ...  --learn--> W_N
         k_0 v_0    |   k_1 v_1    |                   |
                 read q_0       read q_1         read q_{N-1}

One scan visits the states in order. At W_n it reads with mini-batch n - 1 and
learns from mini-batch n: two independent tasks. The backward pass scans the
states in reverse; either the forward pass kept them, or the backward pass
recomputes them in groups (see `mini_batches.choose_mini_batches`). States,
tokens and norms are lists of parts (see `cpu_cores`).
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens
from pallas_kernels.xla import cpu_cores
from pallas_kernels.xla.mini_batches import bitcast_from_uint16
from pallas_kernels.xla.mini_batches import bitcast_to_uint16
from pallas_kernels.xla.mini_batches import choose_mini_batches
from pallas_kernels.xla.mini_batches import MiniBatches

# Name, in checkpoint policies, of what a loop returns and keeps.
RESULT = 'inner_loop'


class InnerModel(NamedTuple):
  """An inner model; its states are pytrees of arrays [B, H, ...].

  It gets the tokens [B, H, C, ...] of one mini-batch, and the norm repeated for
  each token, [B, H, C, D].

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
  model: InnerModel, state: Any, tokens: Tokens, norm: Norm, mini_batch: int
) -> tuple[Any, jax.Array]:
  """Returns (last state, out [B, H, T, D]); reverse-mode differentiable.

  Args:
    model: the inner model.
    state: its initial state, in the dtype to compute in.
    tokens: the sequence. It may be narrower than the state: each mini-batch is
      widened when it is sliced, so that the complete sequence never is.
    norm: LayerNorm parameters [B, H, D], in the state's dtype.
    mini_batch: C.
  """
  batch, heads, length, _ = tokens.q.shape
  leaves = jax.tree.leaves(state)
  batches = choose_mini_batches(length, mini_batch, sum(map(_bytes, leaves)))
  # Its backward pass sums over the tokens once, and not in each step.
  per_token = lambda x: jnp.broadcast_to(
    x[:, :, None], (batch, heads, batches.size, x.shape[-1])
  )
  norm = jax.tree.map(per_token, norm)
  work = batches.size * max(x.size for x in leaves) // (batch * heads)
  parts = cpu_cores.num_core_splits(batch * heads, work)
  if parts == 1:
    return _loop(model, batches, parts, state, tokens, norm)
  last, out = _loop(
    model,
    batches,
    parts,
    *cpu_cores.merge_batch_and_heads((state, tokens, norm)),
  )
  split_heads = lambda x: x.reshape(batch, heads, *x.shape[2:])
  return jax.tree.map(split_heads, last), split_heads(out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _loop(model, batches, parts, state, tokens, norm):
  """Returns (last state, out)."""
  return _forward(model, batches, parts, False, state, tokens, norm)[0]


def _loop_forward(model, batches, parts, state, tokens, norm):
  """Returns `_loop`'s result and the residuals of `_loop_backward`."""
  (last, out), kept = _forward(model, batches, parts, True, state, tokens, norm)
  last, out, kept = checkpoint_name((last, out, kept), RESULT)
  return (last, out), (kept, last, tokens, norm)


def _forward(model, batches, parts, keep, state, tokens, norm):
  """Returns ((last state, out), kept).

  kept: parts of the states [N, ...] or, in several groups, of the first state
  of each [groups, ...]. None unless `keep`.
  """
  split = functools.partial(cpu_cores.split, count=parts)
  norms = split(norm)
  keep_all = keep and batches.groups == 1

  def read(states, out, n):
    q = batches.take(tokens.q, n).astype(_dtype(state))
    outs = [model.read(*row) for row in zip(states, split(q), norms)]
    return batches.put(out, n, outs, tokens.q.dtype)

  def visit(carry, n):
    states, out = carry
    taken = split(_take(batches, tokens, n, _dtype(state)))
    next_states = [model.learn(*row) for row in zip(states, taken, norms)]
    # The read at n = 0 writes values that the next one overwrites.
    return (next_states, read(states, out, n - 1)), states if keep_all else None

  def visit_group(carry, first):
    return jax.lax.scan(visit, carry, first + jnp.arange(batches.group))

  carry = split(state), bitcast_to_uint16(jnp.zeros_like(tokens.q))
  if batches.groups == 1:
    carry, kept = visit_group(carry, 0)
  else:
    carry, kept = jax.lax.scan(
      lambda carry, first: (visit_group(carry, first)[0], carry[0]),
      carry,
      batches.group_starts,
    )
  states, out = carry
  out = read(states, out, batches.groups * batches.group - 1)
  out = bitcast_from_uint16(out, tokens.q.dtype)
  return (cpu_cores.join(states), out), kept if keep else None


def _loop_backward(model, batches, parts, residuals, cotangents):
  """Returns the cotangents of (state, tokens, norm)."""
  kept, last, tokens, norm = residuals
  d_last, d_out = cotangents
  dtype = _dtype(last)
  split = functools.partial(cpu_cores.split, count=parts)
  norms = split(norm)

  def learn(states, n):
    taken = split(_take(batches, tokens, n, dtype))
    return [model.learn(*row) for row in zip(states, taken, norms)], states

  def visit(carry, inputs):
    next_states, d_states, d_norms, d_tokens = carry
    n, states = inputs
    taken = split(_take(batches, tokens, n, dtype))
    d_outs = split(batches.take_owned(d_out, n).astype(dtype))
    each = zip(states, next_states, taken, norms, d_outs, d_states)
    d_states, d_taken, d_norms_step = zip(*[model.backward(*e) for e in each])
    d_tokens = Tokens(
      *(
        batches.put(d, n, each, array.dtype)
        for d, each, array in zip(d_tokens, zip(*d_taken), tokens)
      )
    )
    d_norms = jax.tree.map(jnp.add, d_norms, list(d_norms_step))
    return (states, list(d_states), d_norms, d_tokens), None

  def visit_group(carry, inputs):
    first, states = inputs
    within = first + jnp.arange(batches.group)
    if batches.groups > 1:
      _, states = jax.lax.scan(learn, states, within)
    return jax.lax.scan(visit, carry, (within, states), reverse=True)

  carry = (
    split(last),
    split(d_last),
    jax.tree.map(jnp.zeros_like, norms),
    jax.tree.map(lambda x: bitcast_to_uint16(jnp.zeros_like(x)), tokens),
  )
  if batches.groups == 1:
    carry, _ = visit_group(carry, (0, kept))
  else:
    carry, _ = jax.lax.scan(
      visit_group, carry, (batches.group_starts, kept), reverse=True
    )
  _, d_states, d_norms, d_tokens = carry
  d_tokens = jax.tree.map(
    lambda d, x: bitcast_from_uint16(d, x.dtype), d_tokens, tokens
  )
  return cpu_cores.join(d_states), d_tokens, cpu_cores.join(d_norms)


_loop.defvjp(_loop_forward, _loop_backward)


def _take(
  batches: MiniBatches, tokens: Tokens, n: jax.Array, dtype: jnp.dtype
) -> Tokens:
  """Returns mini-batch n as `dtype`; eta is 0 where it does not own tokens."""
  q, k, v = (batches.take(array, n).astype(dtype) for array in tokens[:3])
  return Tokens(q, k, v, batches.take_owned(tokens.eta, n).astype(dtype))


def _bytes(array: jax.Array) -> int:
  """Returns the size of an array (which may be traced)."""
  return array.size * array.dtype.itemsize


def _dtype(state: Any) -> jnp.dtype:
  """Returns the dtype of a state."""
  return jax.tree.leaves(state)[0].dtype

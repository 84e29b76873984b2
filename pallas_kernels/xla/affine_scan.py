"""States that pass from chunk to chunk: S' = A S + B and S' = e^l S + B.

On a TPU, one small operation after another leaves most of the chip idle: it
would compute many of them in the same time. So there, matrices A form blocks.
Within all blocks at once, A and B of a block's first steps are combined into
those of one step; one block after another then passes the state on; and the
states within all blocks follow from those before them. That is 2 + K / V
products for every one, and one in `BLOCK` of them waits for another. With
decays, all states are one product of a triangular matrix with all B.

Products are not rounded: a TPU would otherwise take their operands in bfloat16,
once per step.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.xla.chunks import segment_sums

BLOCK = 8  # steps
_EXACT = jax.lax.Precision.HIGHEST
_matmul = functools.partial(jnp.matmul, precision=_EXACT)


@jax.custom_vjp
def affine_scan(
  state: jax.Array, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes all states of S' = A S + B; differentiable in reverse mode.

  Args:
    state: Initial state [..., K, V].
    a: A [n, ..., K, K].
    b: B [n, ..., K, V].

  Returns:
    The state after all steps, and the states before each one [n, ..., K, V].
  """
  return _affine_scan(state, a, b, adjoint=False)


def _affine_scan(state, a, b, adjoint):
  return jax.lax.platform_dependent(
    state,
    a,
    b,
    tpu=functools.partial(affine_by_blocks, adjoint=adjoint),
    default=functools.partial(affine_by_steps, adjoint=adjoint),
  )


def _affine_scan_forward(state, a, b):
  last, states = affine_scan(state, a, b)
  return (last, states), (a, states)


def _affine_scan_backward(kept, gradients):
  a, states = kept
  d_last, d_states = gradients
  d_state, d_b = _affine_scan(d_last, a, d_states, adjoint=True)
  # For all steps at once, which autodiff would do one by one.
  return d_state, d_b @ jnp.swapaxes(states, -1, -2), d_b


affine_scan.defvjp(_affine_scan_forward, _affine_scan_backward)


def affine_by_steps(
  state: jax.Array, a: jax.Array, b: jax.Array, *, adjoint: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Implements `affine_scan`, or its adjoint: A^T, and the last step first."""
  step = _step
  if adjoint:  # Transposed step by step, without a copy of all A.
    step = lambda state, ab: _step(state, (jnp.swapaxes(ab[0], -1, -2), ab[1]))
  return jax.lax.scan(step, state, (a, b), reverse=adjoint)


def _step(state, ab):
  a, b = ab
  return _matmul(a, state) + b, state


def affine_by_blocks(
  state: jax.Array, a: jax.Array, b: jax.Array, *, adjoint: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Implements `affine_scan` or its adjoint for many steps at once."""
  a = jnp.swapaxes(a, -1, -2) if adjoint else a
  count = len(a)
  fill = -count % BLOCK
  # Steps that leave the state as it is.
  identity = jnp.eye(a.shape[-1], dtype=a.dtype)
  a = jnp.concatenate([a, jnp.broadcast_to(identity, (fill, *a.shape[1:]))])
  b = jnp.pad(b, [(0, fill)] + [(0, 0)] * (b.ndim - 1))
  # [steps of a block, blocks, ...]
  a, b = (x.reshape(-1, BLOCK, *x.shape[1:]).swapaxes(0, 1) for x in (a, b))

  def combine(before, step):
    (a_before, b_before), (a, b) = before, step
    return (_matmul(a, a_before), _matmul(a, b_before) + b), before

  nothing = jnp.broadcast_to(identity, a.shape[1:]), jnp.zeros_like(b[0])
  blocks, (a, b) = jax.lax.scan(combine, nothing, (a, b), reverse=adjoint)
  last, firsts = jax.lax.scan(_step, state, blocks, reverse=adjoint)
  states = _matmul(a, firsts) + b
  return last, states.swapaxes(0, 1).reshape(-1, *b.shape[2:])[:count]


@jax.custom_vjp
def decay_scan(
  state: jax.Array, log_decay: jax.Array, b: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes all states of S' = e^l S + B; differentiable in reverse mode.

  Args:
    state: Initial state [B, H, P, N].
    log_decay: l [n, B, H], finite.
    b: B [n, B, H, P, N].

  Returns:
    The state after all steps, and the states before each one.
  """
  return _decay_scan(state, log_decay, b, adjoint=False)


def _decay_scan(state, log_decay, b, adjoint):
  return jax.lax.platform_dependent(
    state,
    log_decay,
    b,
    tpu=functools.partial(decay_by_matrix, adjoint=adjoint),
    default=functools.partial(decay_by_steps, adjoint=adjoint),
  )


def _decay_scan_forward(state, log_decay, b):
  last, states = decay_scan(state, log_decay, b)
  return (last, states), (log_decay, states)


def _decay_scan_backward(kept, gradients):
  log_decay, states = kept
  d_last, d_states = gradients
  d_state, d_b = _decay_scan(d_last, log_decay, d_states, adjoint=True)
  d_log_decay = jnp.exp(log_decay) * (d_b * states).sum((-2, -1))
  return d_state, d_log_decay, d_b


decay_scan.defvjp(_decay_scan_forward, _decay_scan_backward)


def decay_by_steps(
  state: jax.Array, log_decay: jax.Array, b: jax.Array, *, adjoint: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Implements `decay_scan`, or its adjoint: the last step first."""

  def step(state, decay_b):
    decay, b = decay_b
    return decay * state + b, state

  decays = jnp.exp(log_decay)[..., None, None]
  return jax.lax.scan(step, state, (decays, b), reverse=adjoint)


def decay_by_matrix(
  state: jax.Array, log_decay: jax.Array, b: jax.Array, *, adjoint: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Implements `decay_scan` or its adjoint as one product."""
  steps = jnp.moveaxis(log_decay[::-1] if adjoint else log_decay, 0, -1)
  # From the state, then every B, to the state, then those after every step.
  decays = jnp.exp(segment_sums(jnp.pad(steps, [(0, 0), (0, 0), (1, 0)])))
  from_state, from_b = decays[..., :1], decays[..., 1:]
  if adjoint:
    from_state, from_b = from_state[..., ::-1, :], from_b[..., ::-1, ::-1]
  found = jnp.einsum('bhij,jbhpn->ibhpn', from_b, b, precision=_EXACT)
  found += jnp.moveaxis(from_state, -2, 0)[..., None] * state
  return (found[0], found[1:]) if adjoint else (found[-1], found[:-1])

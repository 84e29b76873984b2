"""The inner loop of test-time training, written as its definition.

The hidden state of the sequence model is the parameters W of a small model f.
A mini-batch of tokens takes one gradient step on W, then reads with the
updated W (Dalal et al. 2025, "One-Minute Video Generation with Test-Time
Training", arXiv:2504.05298, section 2; all tokens of a mini-batch share the
step, without causality among them):

    W' = W - sum_i eta_i * grad_W l(W; k_i, v_i)
    out = q + LN(f(q; W'))

f is an argument: any pure function `model(parameters, x)` of one head, with any
pytree of parameters; x and the result are [C, D]. `jax.grad` takes the
gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.inner_loss import layer_norm
from pallas_kernels.inner_loss import token_loss

Parameters = Any
InnerModel = Callable[[Parameters, jax.Array], jax.Array]


def inner_loop(
  model: InnerModel,
  parameters: Parameters,
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  mini_batch: int,
) -> tuple[jax.Array, Parameters]:
  """Returns (out [B, H, T, D], parameters after the last mini-batch).

  A last mini-batch that is not full has fewer tokens.

  Args:
    model: f of one head.
    parameters: pytree of arrays with leading [B, H].
    q: queries [B, H, T, D].
    k: keys [B, H, T, D].
    v: targets plus keys [B, H, T, D].
    eta: step sizes per token [B, H, T].
    ln_scale: [H, D].
    ln_bias: [H, D].
    mini_batch: C, tokens that share a step.
  """

  def one_head(parameters, q, k, v, eta, scale, bias):
    def loss(parameters, k, v, eta):
      return eta @ token_loss(model(parameters, k), k, v, scale, bias)

    def step(parameters, tokens):
      q, k, v, eta = tokens
      gradient = jax.grad(loss)(parameters, k, v, eta)
      parameters = jax.tree.map(jnp.subtract, parameters, gradient)
      return parameters, q + layer_norm(model(parameters, q), scale, bias)

    return scan_mini_batches(step, parameters, (q, k, v, eta), mini_batch)

  parameters, out = _over_heads(one_head)(
    parameters, q, k, v, eta, ln_scale, ln_bias
  )
  return out.reshape(q.shape), parameters


def inner_losses(
  model: InnerModel,
  parameters: Parameters,
  k: jax.Array,
  v: jax.Array,
  eta: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  mini_batch: int,
) -> tuple[jax.Array, jax.Array]:
  """Returns the loss of each mini-batch before and after its step.

  Args:
    model: f of one head.
    parameters: pytree of arrays with leading [B, H].
    k: keys [B, H, T, D].
    v: targets plus keys [B, H, T, D].
    eta: step sizes per token [B, H, T].
    ln_scale: [H, D].
    ln_bias: [H, D].
    mini_batch: C, tokens that share a step.

  Returns:
    (before, after), each [B, H, N]: the mean over the tokens of a mini-batch
    of l(W; k, v) and of l(W'; k, v).
  """

  def one_head(parameters, k, v, eta, scale, bias):
    def losses(parameters, k, v):
      return token_loss(model(parameters, k), k, v, scale, bias)

    def step(parameters, tokens):
      k, v, eta = tokens
      before, pullback = jax.vjp(lambda p: losses(p, k, v), parameters)
      parameters = jax.tree.map(jnp.subtract, parameters, pullback(eta)[0])
      after = losses(parameters, k, v)
      return parameters, jnp.stack([jnp.mean(before), jnp.mean(after)])[None]

    return scan_mini_batches(step, parameters, (k, v, eta), mini_batch)[1]

  losses = _over_heads(one_head)(parameters, k, v, eta, ln_scale, ln_bias)
  return losses[..., 0], losses[..., 1]


def _over_heads(one_head: Callable[..., Any]) -> Callable[..., Any]:
  """Maps (parameters, *tokens, scale, bias) over B and H; norms lack B."""

  def mapped(parameters, *arrays):
    tokens, norms = arrays[:-2], arrays[-2:]
    over_heads = jax.vmap(one_head)
    over_batch = jax.vmap(
      over_heads, in_axes=(0, *(0 for _ in tokens), *(None for _ in norms))
    )
    return over_batch(parameters, *arrays)

  return mapped


def scan_mini_batches(
  step: Callable[[Any, tuple[jax.Array, ...]], tuple[Any, jax.Array]],
  state: Any,
  tokens: tuple[jax.Array, ...],
  mini_batch: int,
) -> tuple[Any, jax.Array]:
  """Scans `step` over the mini-batches of arrays [T, ...].

  Args:
    step: (state, mini-batch of tokens) -> (state, rows).
    state: initial state.
    tokens: tuple of arrays [T, ...].
    mini_batch: C.

  Returns:
    (last state, all rows in order).
  """
  length = tokens[0].shape[0]
  full = length - length % mini_batch
  rows = []
  if full:
    state, scanned = jax.lax.scan(
      step,
      state,
      tuple(
        array[:full].reshape(-1, mini_batch, *array.shape[1:])
        for array in tokens
      ),
    )
    rows.append(scanned.reshape(-1, scanned.shape[-1]))
  if full < length:
    state, rest = step(state, tuple(array[full:] for array in tokens))
    rows.append(rest)
  return state, jnp.concatenate(rows)

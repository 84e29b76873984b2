"""A training step: a pure function of state and batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import enum
from typing import Any

import jax
import jax.numpy as jnp

from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.diffusion import objective
from ttt_jax.train import metrics as metrics_lib
from ttt_jax.train import optimizer as optimizer_lib

Batch = Mapping[str, jax.Array]
# (params, batch, key) -> (mean loss, (loss of each clip [B], timesteps [B])).
LossFn = Callable[..., tuple[jax.Array, tuple[jax.Array, jax.Array]]]


class RngStream(enum.IntEnum):
  """Streams of random keys; a run reproduces only with the same numbers."""

  INIT = 0
  LOSS = 1
  DIAGNOSE = 2


def step_key(
  seed: int, step: jax.typing.ArrayLike, stream: RngStream
) -> jax.Array:
  """Returns the key of a stream at a step; no key is ever stored."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.random.fold_in(key, stream)


def accumulate(
  loss_fn: LossFn, trained: Any, batch: Batch, key: jax.Array, count: int
) -> tuple[tuple[jax.Array, tuple[jax.Array, jax.Array]], Any]:
  """Returns loss, per-clip values and gradients (float32) of microbatches.

  Each microbatch contains every `count`-th clip, so a batch that is split over
  devices needs no communication.
  """
  grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
  if count == 1:
    return grad_fn(trained, batch, key)
  batches = jax.tree.map(
    lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch
  )

  def add_microbatch(total, inputs):
    i, microbatch = inputs
    out = grad_fn(trained, microbatch, jax.random.fold_in(key, i))
    (loss, aux), grads = jax.tree.map(lambda x: x.astype(jnp.float32), out)
    return jax.tree.map(jnp.add, total, (loss, grads)), aux

  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), trained)
  (loss, grads), aux = jax.lax.scan(
    add_microbatch, (jnp.zeros(()), zeros), (jnp.arange(count), batches)
  )
  loss, grads = jax.tree.map(lambda x: x / count, (loss, grads))
  return (loss, jax.tree.map(jnp.ravel, aux)), grads


def grad_norms(
  grads: Any, groups: Mapping[str, str | None]
) -> dict[str, jax.Array]:
  """Returns the Euclidean norm of all gradients and of each group's."""
  squares: dict[str, Any] = {
    f'grad_norm/{name}': square
    for name, square in optimizer_lib.square_sums(grads, groups).items()
  }
  squares['grad_norm'] = sum(squares.values())
  return jax.tree.map(jnp.sqrt, squares)


def make_step(
  loss_fn: LossFn,
  optimizer: optimizer_lib.Optimizer,
  *,
  seed: int,
  ema_decay: float,
  microbatches: int = 1,
) -> Callable[..., tuple[state_lib.TrainState, dict[str, jax.Array]]]:
  """Returns (state, batch) -> (state, metrics), to be jitted by the caller.

  The decay of the moving average at step n is min(ema_decay, (1 + n) /
  (10 + n)), so that a short run does not average in its first steps.
  """

  def train_step(state: state_lib.TrainState, batch: Batch):
    trained, frozen = state_lib.split(state.params, optimizer.trainable)

    # Differentiates the trained subtree only: frozen parameters need no
    # gradient and no backward pass of their own.
    def loss_of_trained(trained, batch, key):
      return loss_fn(state_lib.merge(frozen, trained), batch, key)

    key = step_key(seed, state.step, RngStream.LOSS)
    (loss, (losses, timesteps)), grads = accumulate(
      loss_of_trained, trained, batch, key, microbatches
    )
    updates, opt_state = optimizer.tx.update(grads, state.opt_state, trained)
    trained = jax.tree.map(lambda p, u: p + u.astype(p.dtype), trained, updates)
    n = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1 + n) / (10 + n))
    ema = state.ema and jax.tree.map(
      lambda m, p: decay * m + (1 - decay) * p, state.ema, trained
    )
    square = optimizer_lib.square_sum(jax.tree.leaves(trained))
    metrics = dict(loss=loss, param_norm=jnp.sqrt(square))
    metrics |= grad_norms(grads, optimizer.groups)
    metrics[metrics_lib.LOSS_SUM], metrics[metrics_lib.LOSS_COUNT] = (
      objective.loss_by_timestep(losses, timesteps, metrics_lib.TIMESTEP_BINS)
    )
    for name, rate in optimizer.schedules.items():
      metrics[f'lr/{name}'] = rate(state.step)
    state = state_lib.TrainState(
      step=state.step + 1,
      params=state_lib.merge(frozen, trained),
      opt_state=opt_state,
      ema=ema,
    )
    return state, metrics

  return train_step

"""The two inner-loop ops in one form, so that one suite tests both."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import functools
from typing import Any

import jax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

import pallas_kernels
from pallas_kernels.specs import Spec
from pallas_kernels.ttt_linear import api as linear_api
from pallas_kernels.ttt_linear import specs as linear_specs
from pallas_kernels.ttt_mlp import api as mlp_api
from pallas_kernels.ttt_mlp import specs as mlp_specs


@dataclasses.dataclass(frozen=True)
class Op:
  """An op with its modules and the names of its states."""

  name: str
  call: Callable[..., Any]
  inner_losses: Callable[..., Any]
  api: Any
  specs: Any
  states: tuple[str, ...]  # Names of the initial states, in order.

  def arguments(self, spec: Spec, dtype=jnp.float32, **kwargs) -> dict:
    """Returns name -> array of `dtype`, with weights of order 0.3."""
    kwargs = {'deviation': 0.3, **kwargs}
    return {
      name: jnp.asarray(array, dtype)
      for name, array in self.specs.random_arguments(spec, **kwargs).items()
    }


OPS = (
  Op(
    'ttt_mlp',
    pallas_kernels.ttt_mlp,
    pallas_kernels.ttt_mlp_inner_losses,
    mlp_api,
    mlp_specs,
    ('w1', 'b1', 'w2', 'b2'),
  ),
  Op(
    'ttt_linear',
    pallas_kernels.ttt_linear,
    pallas_kernels.ttt_linear_inner_losses,
    linear_api,
    linear_specs,
    ('w', 'b'),
  ),
)

SMALL = Spec(batch=2, heads=3, tokens=21, head_dim=8, hidden=32, mini_batch=6)
# Sizes that the kernels support; H and T fill neither a pack nor a mini-batch.
KERNEL = Spec(
  batch=2, heads=3, tokens=37, head_dim=32, hidden=128, mini_batch=16
)


def spec_of(implementation: str) -> Spec:
  """Returns a small spec that the implementation supports."""
  return KERNEL if implementation.startswith('pallas') else SMALL


def interpreted(implementation: str | None):
  """Returns a context in which the implementation runs on a CPU."""
  if implementation and implementation.startswith('pallas'):
    return pltpu.force_tpu_interpret_mode(True)
  return contextlib.nullcontext()


def value_and_gradients(
  op: Op, arguments: dict, mini_batch: int, implementation: str | None = None
):
  """Returns (out, state, {name: gradient}) of a loss on out and state."""
  with interpreted(implementation):
    return _compiled(op, mini_batch, implementation)(arguments)


@functools.cache
def _compiled(op: Op, mini_batch: int, implementation: str | None):
  """Returns the function, jitted once for all tests that share its shapes."""

  def loss(arguments):
    out, state = op.call(
      **arguments, mini_batch=mini_batch, implementation=implementation
    )
    total = jnp.sum(jnp.sin(out))
    for n, array in enumerate(state):
      total += jnp.sum(jnp.cos(array * (n + 1)))
    return total, (out, state)

  def run(arguments):
    gradients, (out, state) = jax.grad(loss, has_aux=True)(arguments)
    return out, state, gradients

  return jax.jit(run)

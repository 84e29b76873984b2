"""The two kernel calls of an inner loop: over time, and back again.

What is the same for every inner model: blocks, where the state lives, which
states are saved. The model itself comes as a `Model`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
import numpy as np

from pallas_kernels.tpu import layout
from pallas_kernels.tpu import rates
from pallas_kernels.tpu.inner_loss import Norm
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.plan import Grid
from pallas_kernels.tpu.plan import Plan
from pallas_kernels.tpu.tokens import Tokens
from pallas_kernels.tpu.window import Step

State = Any  # A NamedTuple of arrays [B, packs, ...] or [B, 1, packs 128].


@dataclasses.dataclass(frozen=True)
class Model:
  """An inner model's part of the kernels; arguments are refs of blocks.

  Attributes:
    name: of the op.
    forward: (step, tokens, rate, norm, state, out): walks the mini-batches of
      a grid step, moves the state and writes out; rate(window) are its step
      sizes [C, lanes].
    backward: (step, tokens, rate, norm, state, stash, d_out, d_tokens,
      d_norm, d_state): walks a group forwards from the state before it, then
      backwards; adds to d_norm, and turns d_state from the cotangent of the
      state after the group into that of the state before.
    stash: (grid, shapes of the states without B) -> scratch for `backward`.
  """

  name: str
  forward: Callable[..., None]
  backward: Callable[..., None]
  stash: Callable[[Grid, list[tuple[int, ...]]], Any]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def inner_loop(
  model: Model, plan: Plan, tokens: Tokens, norm: Norm, state: State
) -> tuple[jax.Array, State]:
  """Reads a sequence into the state.

  Args:
    model: the inner model.
    plan: sizes.
    tokens: q, k, v [B, T, packs 128], eta [B, T, H].
    norm: [1, packs 128] each.
    state: initial.

  Returns:
    (out [B, T, packs 128], last state).
  """
  out, last, _ = _forward(model, plan, tokens, norm, state, save=False)
  return out, last


def _inner_loop_forward(model, plan, tokens, norm, state):
  out, last, saved = _forward(model, plan, tokens, norm, state, save=True)
  return (out, last), (tokens, norm, saved)


def _inner_loop_backward(model, plan, residuals, cotangents):
  return _backward(model, plan, *residuals, *cotangents)


inner_loop.defvjp(_inner_loop_forward, _inner_loop_backward)


def _forward(model, plan, tokens, norm, state, *, save):
  """Returns (out, last state, states before every G-th mini-batch)."""
  grid = Grid(plan, plan.forward_packs, plan.steps)
  states = _each(lambda a: grid.state(a.shape[1:]), state)
  out_specs = [grid.tokens(), states]
  out_shape = [
    jax.ShapeDtypeStruct(tokens.q.shape, plan.dtype),
    _each(lambda a: jax.ShapeDtypeStruct(a.shape, plan.wide), state),
  ]
  if save:
    groups = -(-plan.length // (plan.group * plan.mini_batch))
    out_specs.append(_each(lambda a: grid.saved(a.shape[1:]), state))
    out_shape.append(
      _each(
        lambda a: jax.ShapeDtypeStruct(
          (plan.batch, groups, *a.shape[1:]), plan.wide
        ),
        state,
      )
    )
  result = pl.pallas_call(
    functools.partial(_forward_kernel, model=model, grid=grid),
    name=f'{model.name}_forward',
    grid=grid.shape,
    in_specs=[
      _token_specs(grid),
      Norm(*[grid.norm()] * 2),
      # Needed once: copied to where it is to be.
      _each(lambda _: pl.BlockSpec(memory_space=pl.ANY), state),
    ],
    out_specs=out_specs,
    out_shape=out_shape,
    scratch_shapes=[_selector(grid)],
    compiler_params=grid.compiler_params(),
  )(tokens, norm, state)
  return (*result, None)[:3]


def _forward_kernel(
  tokens: Tokens,
  norm: Norm,
  initial: State,
  *refs: Any,
  model: Model,
  grid: Grid,
) -> None:
  """One grid step. The state stays in VMEM from the first step to the last.

  It lives in the block of the last state, which is written when all is done.
  """
  out, last, *saved, selected = refs
  state = _each(lambda ref: ref.at[0], last)
  here = Step.here(grid)

  @pl.when(here.first)
  def _():
    for ref, array in zip(state, initial):
      pltpu.sync_copy(array.at[here.states(array.shape[1:])], ref)
    selected[...] = rates.selector(here)

  if saved:
    every = np.int32(grid.plan.group // grid.steps)

    @pl.when(jax.lax.rem(here.number, every) == 0)
    def _():
      for ref, block in zip(state, saved[0]):
        block[0, 0] = ref[...]

  rate = functools.partial(rates.at, tokens.eta.at[0], selected)
  model.forward(here, tokens, rate, norm, state, out)


def _backward(model, plan, tokens, norm, saved, d_out, d_last):
  """Returns the cotangents of tokens, norm and the initial state."""
  grid = Grid(plan, plan.backward_packs, plan.group, reverse=True)
  batch, shares, _ = grid.shape
  states = _each(lambda a: grid.state(a.shape[1:]), d_last)
  lanes = (1, plan.packs * LANES)
  wide = functools.partial(jax.ShapeDtypeStruct, dtype=plan.wide)
  token = jax.ShapeDtypeStruct(d_out.shape, plan.dtype)
  d_tokens, d_norm, d_state = pl.pallas_call(
    functools.partial(_backward_kernel, model=model, grid=grid),
    name=f'{model.name}_backward',
    grid=grid.shape,
    in_specs=[
      _token_specs(grid),
      Norm(*[grid.norm()] * 2),
      _each(lambda a: grid.saved(a.shape[1:]), d_last),
      grid.tokens(),
      states,
    ],
    out_specs=[
      _token_specs(grid)._replace(eta=grid.rate_gradients()),
      Norm(*[grid.state(lanes)] * 2),
      states,
    ],
    out_shape=[
      Tokens(
        token,
        token,
        token,
        wide((batch, shares, plan.length, grid.step_heads)),
      ),
      Norm(*[wide((batch, *lanes))] * 2),
      _each(lambda a: wide(a.shape), d_last),
    ],
    scratch_shapes=[
      *_scratch(grid, d_last),
      model.stash(grid, [array.shape[1:] for array in d_last]),
    ],
    compiler_params=grid.compiler_params(),
  )(tokens, norm, saved, d_out, d_last)
  d_eta = layout.rate_gradient(d_tokens.eta, plan)
  d_norm = Norm(*(array.sum(0) for array in d_norm))
  return d_tokens._replace(eta=d_eta), d_norm, d_state


def _backward_kernel(
  tokens: Tokens,
  norm: Norm,
  saved: State,
  d_out: Any,
  d_last: State,
  d_tokens: Tokens,
  d_norm: Norm,
  d_state: State,
  state: State,
  rate: Any,
  selected: Any,
  stash: Any,
  *,
  model: Model,
  grid: Grid,
) -> None:
  """One grid step, from the last in time to the first.

  d_norm and d_state stay in VMEM over all of them and carry the sums.
  """
  here = Step.here(grid)

  @pl.when(here.first)
  def _():
    for ref in d_norm:
      ref[...] = jnp.zeros_like(ref)
    for ref, block in zip(d_state, d_last):
      ref[...] = block[...]
    selected[...] = rates.selector(here)

  rates.spread(tokens.eta.at[0], selected[...], rate, here)
  for ref, block in zip(state, saved):
    ref[...] = block[0, 0]
  model.backward(
    here,
    tokens,
    rate,
    norm,
    state,
    stash,
    d_out,
    d_tokens,
    _each(lambda ref: ref.at[0], d_norm),
    _each(lambda ref: ref.at[0], d_state),
  )


def _token_specs(grid):
  return Tokens(*[grid.tokens()] * 3, grid.rates())


def _scratch(grid, state):
  """Returns the state of a step, its step sizes and their selector."""
  plan = grid.plan
  return [
    _each(lambda a: pltpu.VMEM(grid.shares(a.shape[1:]), plan.wide), state),
    pltpu.VMEM((grid.rows, grid.packs * LANES), plan.wide),
    _selector(grid),
  ]


def _selector(grid):
  return pltpu.VMEM(rates.selector_shape(grid), grid.plan.dtype)


def _each(f, fields):
  """Applies f to the fields of a NamedTuple, which may be refs."""
  return type(fields)(*map(f, fields))

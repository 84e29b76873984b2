"""The two kernel calls of an inner loop: forward and backward in time.

Contains the parts that all inner models share: blocks, the memory of the state,
and the choice of the states that are saved. An `InnerModel` supplies the rest.
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
from pallas_kernels.tpu import step_sizes
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.tiling import Grid
from pallas_kernels.tpu.tiling import Tiling
from pallas_kernels.tpu.window import GridStep
from pallas_kernels.types import Norm
from pallas_kernels.types import Tokens

State = Any  # A NamedTuple of arrays [B, packs, ...] or [B, 1, packs 128].


@dataclasses.dataclass(frozen=True)
class InnerModel:
  """An inner model's part of the kernels; arguments are refs of blocks.

  Attributes:
    name: name of the op.
    forward: (grid_step, tokens, step_size, norm, state, out) -> None: runs the
      mini-batches of a grid step, updates the state and writes out;
      step_size(window) returns the step sizes [C, lanes].
    backward: (grid_step, tokens, step_size, norm, state, residuals, d_out,
      d_tokens, d_norm, d_state) -> None: runs a group forwards from its
      initial state, then backwards; step_size is a ref [rows, P 128]. Adds to
      d_norm, and replaces in d_state the cotangent of the group's last state
      by that of its initial state.
    residuals: (grid, shapes of the states without B) -> scratch of `backward`
      for intermediate values.
  """

  name: str
  forward: Callable[..., None]
  backward: Callable[..., None]
  residuals: Callable[[Grid, list[tuple[int, ...]]], Any]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def inner_loop(
  model: InnerModel, tiling: Tiling, tokens: Tokens, norm: Norm, state: State
) -> tuple[jax.Array, State]:
  """Runs the inner loop over a sequence.

  Args:
    model: the inner model.
    tiling: sizes.
    tokens: q, k, v [B, T, packs 128], eta [B, T, H].
    norm: [1, packs 128] each.
    state: initial state.

  Returns:
    (out [B, T, packs 128], last state).
  """
  out, last, _ = _forward(model, tiling, tokens, norm, state, save=False)
  return out, last


def _inner_loop_forward(model, tiling, tokens, norm, state):
  out, last, saved = _forward(model, tiling, tokens, norm, state, save=True)
  return (out, last), (tokens, norm, saved)


def _inner_loop_backward(model, tiling, residuals, cotangents):
  return _backward(model, tiling, *residuals, *cotangents)


inner_loop.defvjp(_inner_loop_forward, _inner_loop_backward)


def _forward(model, tiling, tokens, norm, state, *, save):
  """Returns (out, last state, states before every G-th mini-batch)."""
  grid = Grid(tiling, tiling.forward_packs, tiling.steps)
  states = _map_fields(lambda a: grid.state(a.shape[1:]), state)
  out_specs = [grid.tokens(), states]
  out_shape = [
    jax.ShapeDtypeStruct(tokens.q.shape, tiling.dtype),
    _map_fields(lambda a: jax.ShapeDtypeStruct(a.shape, tiling.wide), state),
  ]
  if save:
    groups = -(-tiling.length // (tiling.group * tiling.mini_batch))
    out_specs.append(_map_fields(lambda a: grid.saved(a.shape[1:]), state))
    out_shape.append(
      _map_fields(
        lambda a: jax.ShapeDtypeStruct(
          (tiling.batch, groups, *a.shape[1:]), tiling.wide
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
      # Needed once: the kernel copies it into VMEM.
      _map_fields(lambda _: pl.BlockSpec(memory_space=pl.ANY), state),
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
  model: InnerModel,
  grid: Grid,
) -> None:
  """Runs one grid step. The state stays in VMEM from the first to the last.

  It occupies the block of the last state, which is written back to HBM after
  the last step.
  """
  out, last, *saved, selected = refs
  state = _map_fields(lambda ref: ref.at[0], last)
  grid_step = GridStep.current(grid)

  @pl.when(grid_step.first)
  def _():
    for ref, array in zip(state, initial):
      pltpu.sync_copy(array.at[grid_step.state_slices(array.shape[1:])], ref)
    selected[...] = step_sizes.selector(grid_step)

  if saved:
    every = np.int32(grid.tiling.group // grid.steps)

    @pl.when(jax.lax.rem(grid_step.index, every) == 0)
    def _():
      for ref, block in zip(state, saved[0]):
        block[0, 0] = ref[...]

  step_size = functools.partial(
    step_sizes.read_window, tokens.eta.at[0], selected
  )
  model.forward(grid_step, tokens, step_size, norm, state, out)


def _backward(model, tiling, tokens, norm, saved, d_out, d_last):
  """Returns the cotangents of tokens, norm and the initial state."""
  grid = Grid(tiling, tiling.backward_packs, tiling.group, reverse=True)
  batch, pack_blocks, _ = grid.shape
  states = _map_fields(lambda a: grid.state(a.shape[1:]), d_last)
  lanes = (1, tiling.packs * LANES)
  wide = functools.partial(jax.ShapeDtypeStruct, dtype=tiling.wide)
  token = jax.ShapeDtypeStruct(d_out.shape, tiling.dtype)
  d_tokens, d_norm, d_state = pl.pallas_call(
    functools.partial(_backward_kernel, model=model, grid=grid),
    name=f'{model.name}_backward',
    grid=grid.shape,
    in_specs=[
      _token_specs(grid),
      Norm(*[grid.norm()] * 2),
      _map_fields(lambda a: grid.saved(a.shape[1:]), d_last),
      grid.tokens(),
      states,
    ],
    out_specs=[
      _token_specs(grid)._replace(eta=grid.step_size_gradients()),
      Norm(*[grid.state(lanes)] * 2),
      states,
    ],
    out_shape=[
      Tokens(
        token,
        token,
        token,
        wide((batch, pack_blocks, tiling.length, grid.step_heads)),
      ),
      Norm(*[wide((batch, *lanes))] * 2),
      _map_fields(lambda a: wide(a.shape), d_last),
    ],
    scratch_shapes=[
      *_scratch(grid, d_last),
      model.residuals(grid, [array.shape[1:] for array in d_last]),
    ],
    compiler_params=grid.compiler_params(),
  )(tokens, norm, saved, d_out, d_last)
  d_eta = layout.step_size_gradient(d_tokens.eta, tiling)
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
  step_size: Any,
  selected: Any,
  residuals: Any,
  *,
  model: InnerModel,
  grid: Grid,
) -> None:
  """Runs one grid step, from the last in time to the first.

  d_norm and d_state stay in VMEM over all steps and accumulate the sums.
  """
  grid_step = GridStep.current(grid)

  @pl.when(grid_step.first)
  def _():
    for ref in d_norm:
      ref[...] = jnp.zeros_like(ref)
    for ref, block in zip(d_state, d_last):
      ref[...] = block[...]
    selected[...] = step_sizes.selector(grid_step)

  step_sizes.broadcast(tokens.eta.at[0], selected[...], step_size, grid_step)
  for ref, block in zip(state, saved):
    ref[...] = block[0, 0]
  model.backward(
    grid_step,
    tokens,
    step_size,
    norm,
    state,
    residuals,
    d_out,
    d_tokens,
    _map_fields(lambda ref: ref.at[0], d_norm),
    _map_fields(lambda ref: ref.at[0], d_state),
  )


def _token_specs(grid):
  return Tokens(*[grid.tokens()] * 3, eta=grid.step_sizes())


def _scratch(grid, state):
  """Returns the state of a step, its step sizes and their selector."""
  tiling = grid.tiling
  return [
    _map_fields(
      lambda a: pltpu.VMEM(grid.state_shape(a.shape[1:]), tiling.wide), state
    ),
    pltpu.VMEM((grid.rows, grid.packs * LANES), tiling.wide),
    _selector(grid),
  ]


def _selector(grid):
  return pltpu.VMEM(step_sizes.selector_shape(grid), grid.tiling.dtype)


def _map_fields(f, fields):
  """Applies f to the fields of a NamedTuple, which may be refs."""
  return type(fields)(*map(f, fields))

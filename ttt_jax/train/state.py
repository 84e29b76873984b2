"""What a training run is at a step, and the split into trained and frozen."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from ttt_jax.train import optimizer as optimizer_lib

Params = optimizer_lib.Params


@struct.dataclass
class TrainState:
  """All that changes from step to step.

  Attributes:
    step: int32 [], number of updates done.
    params: nested dict, every parameter of the network.
    opt_state: state of the optimizer, for the trained parameters only.
    ema: nested dict, running mean of the trained parameters only; empty where
      none is kept.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  ema: Any


def split(params: Params, trainable: Set[str]) -> tuple[Params, Params]:
  """Returns (trained, frozen) nested dicts; `merge` joins them again."""
  leaves = optimizer_lib.flat(params)
  return (
    optimizer_lib.nested({k: v for k, v in leaves.items() if k in trainable}),
    optimizer_lib.nested(
      {k: v for k, v in leaves.items() if k not in trainable}
    ),
  )


def merge(first: Params, second: Params) -> Params:
  """Joins nested dicts; where both have a parameter, `second` counts."""
  return optimizer_lib.nested(
    optimizer_lib.flat(first) | optimizer_lib.flat(second)
  )


def create(
  params: Params, optimizer: optimizer_lib.Optimizer, ema: bool = True
) -> TrainState:
  """The state before the first step; `ema` keeps a running mean."""
  trained, _ = split(params, optimizer.trainable)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.tx.init(trained),
    # A copy: the step donates its state, and a buffer donates only once.
    ema=jax.tree.map(jnp.copy, trained) if ema else {},
  )


def averaged(state: TrainState) -> Params:
  """All parameters, the trained ones averaged: what samples should use."""
  return merge(state.params, state.ema)


def inherit(params: Params, loaded: Params) -> tuple[Params, list[str]]:
  """Takes over the parameters of an earlier stage.

  Args:
    params: freshly initialised parameters.
    loaded: those of the earlier stage.

  Returns:
    `params` with the loaded values, and the paths that were not loaded.

  Raises:
    ValueError: a loaded parameter has no place here, or another shape.
  """
  ours, theirs = optimizer_lib.flat(params), optimizer_lib.flat(loaded)
  if extra := sorted(set(theirs) - set(ours)):
    raise ValueError(
      f'the earlier stage has {len(extra)} parameters that this model lacks:'
      f' {", ".join(extra[:3])}; use the model config of that stage'
    )
  for path, leaf in theirs.items():
    if leaf.shape != ours[path].shape:
      raise ValueError(
        f'parameter {path} is {leaf.shape} in the earlier stage and'
        f' {ours[path].shape} here; use the model config of that stage'
      )
  return merge(params, loaded), sorted(set(ours) - set(theirs))

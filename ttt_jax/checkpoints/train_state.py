"""What a training run is at a step, and the split into trained and frozen."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from flax import struct
from flax import traverse_util
import jax
import jax.numpy as jnp
import optax

# A nested dict of arrays.
Params = Mapping[str, Any]


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


def flatten(tree: Params) -> dict[str, Any]:
  """A nested dict as {'/'-joined path: leaf}."""
  return traverse_util.flatten_dict(tree, sep='/')


def unflatten(paths: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`."""
  return traverse_util.unflatten_dict(paths, sep='/')


def split(params: Params, trainable: Set[str]) -> tuple[Params, Params]:
  """Returns (trained, frozen) nested dicts; `merge` joins them again."""
  leaves = flatten(params)
  return (
    unflatten({k: v for k, v in leaves.items() if k in trainable}),
    unflatten({k: v for k, v in leaves.items() if k not in trainable}),
  )


def merge(first: Params, second: Params) -> Params:
  """Joins nested dicts; where both have a parameter, `second` counts."""
  return unflatten(flatten(first) | flatten(second))


def create(
  params: Params,
  tx: optax.GradientTransformation,
  trainable: Set[str],
  ema: bool = True,
) -> TrainState:
  """Returns the state before the first step.

  Args:
    params: all parameters.
    tx: the optimizer of the trained ones.
    trainable: paths of the trained parameters.
    ema: keeps a running mean of them.
  """
  trained, _ = split(params, trainable)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(trained),
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
  ours, theirs = flatten(params), flatten(loaded)
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

"""State of a training run, and its split into trained and frozen parts."""

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
  """Everything that changes from step to step.

  Attributes:
    step: Number of completed updates, int32 [].
    params: Nested dict of all parameters of the network.
    opt_state: State of the optimizer, for the trained parameters only.
    ema: Nested dict of the running means of the trained parameters; empty if
      none are kept.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  ema: Any


def flatten(tree: Params) -> dict[str, Any]:
  """Returns a nested dict as {'/'-joined path: leaf}."""
  return traverse_util.flatten_dict(tree, sep='/')


def unflatten(paths: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the inverse of `flatten`."""
  return traverse_util.unflatten_dict(paths, sep='/')


def split(params: Params, trainable: Set[str]) -> tuple[Params, Params]:
  """Returns (trained, frozen) nested dicts; `merge` joins them again."""
  leaves = flatten(params)
  return (
    unflatten({k: v for k, v in leaves.items() if k in trainable}),
    unflatten({k: v for k, v in leaves.items() if k not in trainable}),
  )


def merge(first: Params, second: Params) -> dict[str, Any]:
  """Returns both nested dicts in one; `second` has precedence."""
  return unflatten(flatten(first) | flatten(second))


def create(
  params: Params,
  tx: optax.GradientTransformation,
  trainable: Set[str],
  ema: bool = True,
) -> TrainState:
  """Returns the state before the first step.

  Args:
    params: All parameters.
    tx: Optimizer of the trained parameters.
    trainable: Paths of the trained parameters.
    ema: Keeps running means of the trained parameters.
  """
  trained, _ = split(params, trainable)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(trained),
    # A copy, because the step donates its state and each buffer only once.
    ema=jax.tree.map(jnp.copy, trained) if ema else {},
  )


def averaged(state: TrainState) -> Params:
  """Returns all parameters, the trained ones averaged, for sampling."""
  return merge(state.params, state.ema)


def inherit(params: Params, loaded: Params) -> tuple[Params, list[str]]:
  """Replaces initial parameters by those of an earlier stage.

  Args:
    params: Initial parameters.
    loaded: Parameters of the earlier stage.

  Returns:
    `params` with the loaded values, and the paths that were not loaded.

  Raises:
    ValueError: a loaded parameter does not exist, or has another shape.
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


def check_shapes(params: Params, expected: Params, where: object) -> None:
  """Raises ValueError if parameters are not those of a network.

  Args:
    params: Loaded parameters.
    expected: `jax.ShapeDtypeStruct`s of the network.
    where: Folder of the parameters, for the message.
  """
  ours, theirs = flatten(expected), flatten(params)
  shape = lambda leaves, path: (
    leaves[path].shape if path in leaves else 'absent'
  )
  wrong = [
    f'{path} is {shape(theirs, path)} there and {shape(ours, path)} by'
    ' config.model'
    for path in sorted({*ours, *theirs})
    if shape(ours, path) != shape(theirs, path)
  ]
  if wrong:
    more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
    raise ValueError(
      f'the weights in {where} do not fit their config: '
      f'{"; ".join(wrong[:3])}{more}; was it edited by hand?'
    )

"""One optimizer from an ordered list of parameter groups.

A group is `(regex, options)`. A parameter belongs to the first group whose
regex matches its complete '/'-joined path. Options `None` freeze the group: it
has no gradient and no optimizer state. A `muon` group matches matrices only, so
vectors fall through to the groups after it. A parameter without a group is an
error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from msgspec import structs
import optax
from rich import table as rich_table

from ttt_jax import config_schema
from ttt_jax import sharding
from ttt_jax.checkpoints import train_state
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

Params = Mapping[str, Any]

# Exempt from weight decay, by name as in the paper's code: biases, norms, b1
# and b2. Gates, the step-size projection and the inner models' W1, W2 and W
# are decayed.
_NO_DECAY = re.compile(r'bias|norm|(^|/)(scale|ln_scale|b|b1|b2)(/|$)')
# Parameters under this prefix have a leading layer axis (nn.scan).
_STACKED = 'layers/'
# Newton-Schulz iterations of Muon.
_MUON_ITERATIONS = 5


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax transformation with its schedules and groups.

  Attributes:
    tx: Transformation of the trainable subtree, see `train_state.split`.
    schedules: Group name -> learning rate as a function of the step.
    groups: Parameter path -> group name, `None` for frozen parameters.
  """

  tx: optax.GradientTransformation
  schedules: Mapping[str, Callable[[jax.typing.ArrayLike], jax.Array]]
  groups: Mapping[str, str | None]

  @property
  def trainable(self) -> frozenset[str]:
    """The paths of the parameters that train."""
    return frozenset(k for k, v in self.groups.items() if v is not None)


def is_matrix(path: str, ndim: int) -> bool:
  """Returns whether the last two axes are a matrix that Muon orthogonalizes.

  Leading axes (layers, heads) are a batch. Biases and norms that are stacked
  over layers or heads also have two axes; they are recognized by their names.
  """
  rank = ndim - path.startswith(_STACKED)
  return rank >= 2 and not _NO_DECAY.search(path)


def schedule(
  kind: str, lr: float, *, steps: int, warmup: int = 0, end_lr: float = 0.0
) -> Callable[[jax.typing.ArrayLike], jax.Array]:
  """Returns a learning rate: linear warm-up, then `kind` down to `end_lr`.

  The rate of the first step is lr / warmup, not zero.
  """
  schema.convert(kind, config_schema.Schedule, 'schedule')

  def rate(step: jax.typing.ArrayLike) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    done = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
    if kind == 'constant':
      value = jnp.full_like(step, lr)
    elif kind == 'linear':
      value = lr + (end_lr - lr) * done
    else:
      value = end_lr + (lr - end_lr) * 0.5 * (1 + jnp.cos(jnp.pi * done))
    return jnp.where(step < warmup, lr * (step + 1) / max(warmup, 1), value)

  return rate


def _parse_groups(
  groups: Sequence[Any],
) -> list[tuple[re.Pattern[str], config_schema.ParameterGroup | None]]:
  """Checks the groups of a config and names those without a name."""
  parsed, names = [], set()
  for pattern, options in groups:
    try:
      regex = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as e:
      raise ValueError(
        f'parameter group {pattern!r} is not a valid regex: {e}'
      ) from e
    if options is None:
      parsed.append((regex, None))
      continue
    group = schema.convert(
      files.to_json_types(dict(options)),
      config_schema.ParameterGroup,
      f'parameter group {pattern!r}',
    )
    name = group.name or re.sub(r'\W+', '_', pattern).strip('_') or 'rest'
    while name in names:
      name += '_' + group.optimizer
    names.add(name)
    parsed.append((regex, structs.replace(group, name=name)))
  return parsed


def assign_groups(
  groups: Sequence[Any], params: Params
) -> dict[str, str | None]:
  """Returns the group name of each parameter path, `None` if it is frozen.

  Args:
    groups: Sequence of (regex, options or None); the first match wins.
    params: Nested dict of arrays or of `jax.ShapeDtypeStruct`.

  Raises:
    ValueError: a parameter belongs to no group, or no parameter trains.
  """
  parsed = _parse_groups(groups)
  names: dict[str, str | None] = {}
  for path, leaf in train_state.flatten(params).items():
    for pattern, group in parsed:
      if not pattern.fullmatch(path):
        continue
      muon = group is not None and group.optimizer == 'muon'
      if muon and not is_matrix(path, len(leaf.shape)):
        continue
      names[path] = None if group is None else group.name
      break
  if missing := [p for p in train_state.flatten(params) if p not in names]:
    raise ValueError(
      f'{len(missing)} parameters belong to no group of'
      ' config.optimizer.groups:'
      f" {', '.join(missing)}; add a last group such as ('.*', None)"
    )
  if not any(names.values()):
    raise ValueError(
      'config.optimizer.groups freezes every parameter; give one group an lr'
    )
  return names


def make_optimizer(
  config: Mapping[str, Any], params: Params, steps: int
) -> Optimizer:
  """Returns the optimizer of a stage.

  Args:
    config: Mapping with `groups` (see the module), `clip` (limit of the global
      gradient norm, 0 disables it), `betas` and `eps` of AdamW.
    params: Nested dict of all parameters, arrays or `jax.ShapeDtypeStruct`.
    steps: Length of the stage, for the schedules.
  """
  groups = assign_groups(config['groups'], params)
  options = schema.convert(
    files.to_json_types(dict(config)),
    config_schema.Optimizer,
    'config.optimizer',
  )
  schedules, transforms = {}, {}
  for _, group in _parse_groups(config['groups']):
    if group is None or group.name not in groups.values():
      continue
    rate = schedule(
      group.schedule,
      group.lr,
      steps=steps,
      warmup=group.warmup,
      end_lr=group.end_lr,
    )
    schedules[group.name] = rate
    if group.optimizer == 'muon':
      # A muon group has matrices only, which are all decayed.
      transforms[group.name] = _muon(rate, group.weight_decay)
    else:
      transforms[group.name] = optax.adamw(
        rate,
        b1=options.betas[0],
        b2=options.betas[1],
        eps=options.eps,
        weight_decay=group.weight_decay,
        mask=_decayed,
      )
  labels = train_state.unflatten(
    {k: v for k, v in groups.items() if v is not None}
  )
  tx = optax.partition(transforms, labels)
  if options.clip:
    tx = optax.chain(_clip_by_global_norm(options.clip, groups), tx)
  return Optimizer(tx, schedules, groups)


def square_sum(arrays: Iterable[jax.Array]) -> jax.Array:
  """Returns the sum of squares of all elements, at least float32 [].

  Small arrays, which no mesh splits, are joined, and a sum is written as a
  product: XLA on CPU compiles up to four loops for the sum of each array.
  """
  small, rest = [], []
  for x in arrays:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if x.size < sharding.MIN_SPLIT:
      small.append(x.ravel())
    else:
      rest.append(x)
  if small:
    rest.append(jnp.concatenate(small))
  axes = lambda x: (tuple(range(x.ndim)),) * 2
  product = lambda x: jax.lax.dot_general(
    x, x, (axes(x), ((), ())), precision=jax.lax.Precision.HIGHEST
  )
  return functools.reduce(jnp.add, map(product, rest))


def square_sums(
  tree: Params, groups: Mapping[str, str | None]
) -> dict[str | None, jax.Array]:
  """Returns `square_sum` by group name, for the parameter paths of `tree`."""
  members: dict[str | None, list[jax.Array]] = {}
  for path, x in train_state.flatten(tree).items():
    members.setdefault(groups[path], []).append(x)
  return {name: square_sum(arrays) for name, arrays in members.items()}


def _clip_by_global_norm(
  limit: float, groups: Mapping[str, str | None]
) -> optax.GradientTransformation:
  """Returns `optax.clip_by_global_norm`, which shares sums with the metrics."""

  def update(updates, state, params=None):
    del params
    norm = jnp.sqrt(sum(square_sums(updates, groups).values()))
    factor = jnp.minimum(1, limit / norm)
    return jax.tree.map(lambda x: x * factor.astype(x.dtype), updates), state

  return optax.GradientTransformation(optax.init_empty_state, update)


def _muon(
  rate: Callable[[jax.typing.ArrayLike], jax.Array], weight_decay: float
) -> optax.GradientTransformation:
  """Returns optax's Muon with its iteration in a loop.

  Given one row of coefficients, optax unrolls the iteration for every matrix;
  given a row per iteration it scans. The state keeps one row.
  """
  tx = optax.contrib.muon(
    rate,
    weight_decay=weight_decay,
    muon_weight_dimension_numbers=_last_two_axes,
  )

  def update(updates, state, params=None):
    row = optax.tree.get(state, 'ns_coeffs')
    rows = jnp.broadcast_to(row, (_MUON_ITERATIONS, *row.shape))
    updates, state = tx.update(
      updates, optax.tree.set(state, ns_coeffs=rows), params
    )
    return updates, optax.tree.set(state, ns_coeffs=row)

  return optax.GradientTransformation(tx.init, update)


def _last_two_axes(params: Any) -> Any:
  dims = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
  return jax.tree.map(lambda _: dims, params)


def _decayed(params: Params) -> Params:
  # Leaves of other groups are masked nodes without children, so `decays` is
  # called for the arrays of this group only.
  def decays(path, _):
    name = '/'.join(str(key.key) for key in path)
    return not _NO_DECAY.search(name)

  return jax.tree_util.tree_map_with_path(decays, params)


def group_table(config: Mapping[str, Any], params: Params) -> rich_table.Table:
  """Returns a table of groups: arrays, parameters, trains, learning rate."""
  groups = assign_groups(config['groups'], params)
  sizes = {
    k: math.prod(v.shape) for k, v in train_state.flatten(params).items()
  }
  table = rich_table.Table(title='parameter groups')
  for column in ('group', 'arrays', 'parameters', 'trains', 'learning rate'):
    table.add_column(column, justify='left' if column == 'group' else 'right')
  for _, group in _parse_groups(config['groups']):
    if group is None:
      continue
    members = [k for k, v in groups.items() if v == group.name]
    rate = f'{group.optimizer} {group.lr:g} {group.schedule}'
    count = f'{sum(sizes[k] for k in members):,}'
    trains = 'yes' if members else '-'
    table.add_row(group.name, str(len(members)), count, trains, rate)
  frozen = [k for k, v in groups.items() if v is None]
  count = f'{sum(sizes[k] for k in frozen):,}'
  table.add_row('frozen', str(len(frozen)), count, 'no', '-')
  trained = sum(sizes[k] for k, v in groups.items() if v is not None)
  table.add_section()
  table.add_row(
    'all', str(len(sizes)), f'{sum(sizes.values()):,}', f'{trained:,}', ''
  )
  return table

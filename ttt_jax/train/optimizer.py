"""One optimizer from an ordered list of parameter groups.

A group is `(regex, options)`. The first group whose regex matches the whole
'/'-joined path of a parameter takes it; options `None` freeze it: no gradient,
no optimizer state. A `muon` group takes matrices only, so vectors fall through
to the groups after it. A parameter that no group takes is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich import table as rich_table

from ttt_jax.checkpoints import train_state

Params = Mapping[str, Any]

# Not decayed, as in the paper's code, which knows biases, norms, b1 and b2 by
# name (REFERENCE.md E). Gates and the step-size projection are decayed there.
# The inner models' W1, W2 and W are matrices and stay decayed.
_NO_DECAY = re.compile(r'bias|norm|(^|/)(scale|ln_scale|b|b1|b2)(/|$)')
# Parameters under this prefix carry a leading layer axis (nn.scan).
_STACKED = 'layers/'

_DEFAULTS = dict(
  optimizer='adamw',
  lr=None,
  schedule='constant',
  warmup=0,
  end_lr=0.0,
  weight_decay=0.0,
  name=None,
)


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optax transformation with what the trainer must know about it.

  Attributes:
    tx: works on the trainable subtree, see `state.split`.
    schedules: group name -> learning rate as a function of the step.
    groups: parameter path -> group name, `None` for frozen parameters.
  """

  tx: optax.GradientTransformation
  schedules: Mapping[str, Callable[[jax.typing.ArrayLike], jax.Array]]
  groups: Mapping[str, str | None]

  @property
  def trainable(self) -> frozenset[str]:
    """Paths of the parameters that train."""
    return frozenset(k for k, v in self.groups.items() if v is not None)


def is_matrix(path: str, ndim: int) -> bool:
  """Whether the last two axes are a matrix to be orthogonalized by Muon.

  Axes before them (layers, heads) are a batch. Biases and norms that are
  stacked over layers or heads have two axes too, but are known by their names.
  """
  rank = ndim - path.startswith(_STACKED)
  return rank >= 2 and not _NO_DECAY.search(path)


def schedule(
  kind: str, lr: float, *, steps: int, warmup: int = 0, end_lr: float = 0.0
) -> Callable[[jax.typing.ArrayLike], jax.Array]:
  """Learning rate of a step: linear warm-up, then `kind` down to `end_lr`.

  The first step already moves: the rate is lr / warmup, not zero.
  """
  if kind not in ('constant', 'linear', 'cosine'):
    raise ValueError(
      f'schedule {kind!r} is not known; use constant, linear or cosine'
    )

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


def _parse(groups: Sequence[Any]) -> list[tuple[re.Pattern[str], dict | None]]:
  """Checks the groups of a config and fills in defaults and names."""
  parsed, names = [], set()
  for pattern, options in groups:
    if options is None:
      parsed.append((re.compile(pattern), None))
      continue
    options = dict(options)
    if unknown := sorted(set(options) - set(_DEFAULTS)):
      raise ValueError(
        f'parameter group {pattern!r} has unknown options {unknown}; legal'
        f' are {sorted(_DEFAULTS)}'
      )
    options = _DEFAULTS | options
    if options['optimizer'] not in ('adamw', 'muon'):
      raise ValueError(
        f'parameter group {pattern!r}: optimizer {options["optimizer"]!r} is'
        ' not known; use adamw or muon'
      )
    if options['lr'] is None or not options['lr'] > 0:
      raise ValueError(
        f'parameter group {pattern!r}: lr is {options["lr"]}, it must be'
        ' positive; None in place of the options freezes a group'
      )
    name = options['name'] or re.sub(r'\W+', '_', pattern).strip('_') or 'rest'
    while name in names:
      name += '_' + options['optimizer']
    names.add(name)
    parsed.append((re.compile(pattern), options | dict(name=name)))
  return parsed


def assign(groups: Sequence[Any], params: Params) -> dict[str, str | None]:
  """Group name of each parameter path, `None` where it is frozen.

  Args:
    groups: sequence of (regex, options or None), first match wins.
    params: nested dict of arrays or of `jax.ShapeDtypeStruct`.

  Raises:
    ValueError: a parameter is in no group, or no parameter trains.
  """
  parsed = _parse(groups)
  found: dict[str, str | None] = {}
  for path, leaf in train_state.flatten(params).items():
    for pattern, options in parsed:
      if not pattern.fullmatch(path):
        continue
      muon = options is not None and options['optimizer'] == 'muon'
      if muon and not is_matrix(path, len(leaf.shape)):
        continue
      found[path] = options and options['name']
      break
  if missing := [p for p in train_state.flatten(params) if p not in found]:
    raise ValueError(
      f'{len(missing)} parameters are in no group of config.optimizer.groups:'
      f" {', '.join(missing)}; add a last group such as ('.*', None)"
    )
  if not any(found.values()):
    raise ValueError(
      'config.optimizer.groups freezes every parameter; give one group an lr'
    )
  return found


def make_optimizer(
  config: Mapping[str, Any], params: Params, steps: int
) -> Optimizer:
  """The optimizer of a stage.

  Args:
    config: `groups` (see the module), `clip` (global gradient norm, 0 is off),
      `betas` and `eps` of AdamW.
    params: nested dict of arrays or of `jax.ShapeDtypeStruct`, all parameters.
    steps: length of the stage, for the schedules.
  """
  groups = assign(config['groups'], params)
  b1, b2 = config.get('betas', (0.9, 0.95))
  eps = config.get('eps', 1e-8)
  schedules, transforms = {}, {}
  for _, options in _parse(config['groups']):
    if options is None or options['name'] not in groups.values():
      continue
    rate = schedule(
      options['schedule'],
      options['lr'],
      steps=steps,
      warmup=options['warmup'],
      end_lr=options['end_lr'],
    )
    schedules[options['name']] = rate
    if options['optimizer'] == 'muon':
      # Matrices only: nothing here is exempt from decay.
      transforms[options['name']] = optax.contrib.muon(
        rate,
        weight_decay=options['weight_decay'],
        muon_weight_dimension_numbers=_last_two_axes,
      )
    else:
      transforms[options['name']] = optax.adamw(
        rate,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=options['weight_decay'],
        mask=_decayed,
      )
  labels = train_state.unflatten(
    {k: v for k, v in groups.items() if v is not None}
  )
  tx = optax.partition(transforms, labels)
  if config.get('clip', 0.0):
    tx = optax.chain(optax.clip_by_global_norm(config['clip']), tx)
  return Optimizer(tx, schedules, groups)


def _last_two_axes(params: Params) -> Params:
  dims = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
  return jax.tree.map(lambda _: dims, params)


def _decayed(params: Params) -> Params:
  # Leaves of other groups are masked nodes without children: only the paths
  # of arrays are seen here.
  def decays(path, _):
    name = '/'.join(str(key.key) for key in path)
    return not _NO_DECAY.search(name)

  return jax.tree_util.tree_map_with_path(decays, params)


def group_table(config: Mapping[str, Any], params: Params) -> rich_table.Table:
  """Parameter group -> arrays, parameters, trainable, learning rate."""
  groups = assign(config['groups'], params)
  sizes = {
    k: math.prod(v.shape) for k, v in train_state.flatten(params).items()
  }
  table = rich_table.Table(title='parameter groups')
  for column in ('group', 'arrays', 'parameters', 'trains', 'learning rate'):
    table.add_column(column, justify='left' if column == 'group' else 'right')
  rows = [o for _, o in _parse(config['groups']) if o is not None]
  for o in rows:
    mine = [k for k, v in groups.items() if v == o['name']]
    rate = f'{o["optimizer"]} {o["lr"]:g} {o["schedule"]}'
    count = f'{sum(sizes[k] for k in mine):,}'
    trains = 'yes' if mine else '-'
    table.add_row(o['name'], str(len(mine)), count, trains, rate)
  frozen = [k for k, v in groups.items() if v is None]
  count = f'{sum(sizes[k] for k in frozen):,}'
  table.add_row('frozen', str(len(frozen)), count, 'no', '-')
  trained = sum(sizes[k] for k, v in groups.items() if v is not None)
  table.add_section()
  table.add_row(
    'all', str(len(sizes)), f'{sum(sizes.values()):,}', f'{trained:,}', ''
  )
  return table

"""Tries the legal ways to split a step over a slice, and recommends one.

A formula for the memory sorts out what cannot fit; of the rest the ones that
move least are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import copy
import dataclasses
import json
import math
import pathlib
from typing import Any

import jax
import ml_collections

from launch import topology as topology_lib
from launch.planner import advice
from ttt_jax import backbones
from ttt_jax.checkpoints import train_state
from ttt_jax.train import optimizer as optimizer_lib

_GIB = 2**30
# Activations [clips, tokens, M] of the compute type that a block keeps while
# its gradient is made, and while it only runs: fitted to the compiler's peaks
# of the 63 s stage (docs/plan.md), which they meet to a quarter.
_BACKWARD, _FORWARD = 48, 17
# By what they cost.
_REMATS = ('', 'none', 'layer', 'offload')


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way to run a step.

  Attributes:
    mesh: sizes of its axes.
    microbatches: of a step.
    remat: where the blocks' inputs wait, of `DiTConfig.remat`; '' where the
      config has no such field.
    memory: bytes a chip by the formula; 0 where it has none.
  """

  mesh: dict[str, int]
  microbatches: int
  remat: str
  memory: float

  @property
  def flags(self) -> str:
    """What to add to a command line."""
    mesh = f'--mesh=data:{self.mesh["data"]},sp:{self.mesh["sp"]}'
    remat = f' --config.model.remat={self.remat}' if self.remat else ''
    return f'{mesh} --config.microbatches={self.microbatches}{remat}'

  def apply(
    self, config: ml_collections.ConfigDict
  ) -> ml_collections.ConfigDict:
    """A config of its own."""
    config = copy.deepcopy(config)
    config.mesh = self.mesh
    config.microbatches = self.microbatches
    if 'remat' in config.model:
      config.model.remat = self.remat
    return config


def candidates(
  config: ml_collections.ConfigDict,
  mode: str,
  topology: topology_lib.Topology,
) -> list[Candidate]:
  """All legal ways to use all chips, the ones that move least first.

  That is: as much as can stays on the chip, a small `sp`, few microbatches.
  """
  found, count = [], _count(config)
  # A config without the field keeps all; a U-Net has its own.
  remats = [config.model.get('remat', '')]
  if mode == 'train' and remats[0] and backbones.of(config).num_heads:
    remats = _REMATS[1:]
  for mesh in advice.meshes(config, mode, topology.chips):
    several = [1]
    if mode == 'train':
      several = advice.microbatches(config, mesh)
    for parts in several:
      for remat in remats:
        found.append(
          Candidate(
            mesh,
            parts,
            remat,
            memory(config, mode, mesh, parts, remat, count),
          )
        )
  cost = lambda c: (_REMATS.index(c.remat), c.mesh['sp'], c.microbatches)
  return sorted(found, key=cost)


def memory(
  config: ml_collections.ConfigDict,
  mode: str,
  mesh: dict[str, int],
  microbatches: int,
  remat: str,
  count: tuple[int, int],
) -> float:
  """Bytes a chip of the transformer, roughly: a filter, no result.

  Parameters, gradients and optimizer state as they are split, blocks' inputs
  if they wait on the chip, and the activations of one block.

  Args:
    config: of the stage.
    mode: 'train' or 'sample'.
    mesh: sizes of its axes.
    microbatches: of a step.
    remat: of `DiTConfig.remat`.
    count: parameters, and those of them that train.
  """
  backbone = backbones.of(config)
  if backbone.num_heads is None:
    return 0.0
  everything, trained = count
  clips = 2 if mode == 'sample' else config.batch_size // microbatches
  clips = -(-clips // mesh['data'])
  tokens = backbones.geometry(config).sequence_length / mesh['sp']
  width = jax.numpy.dtype(backbone.config.dtype).itemsize
  activation = clips * tokens * backbone.config.model_dim * width
  if mode == 'sample':
    chips = mesh['data'] * mesh['sp']
    return width * everything / chips + _FORWARD * activation
  # Two moments and a gradient, and its sum over microbatches.
  copies = 3 + (microbatches > 1) + (config.ema_decay > 0)
  state = 4 * (everything + copies * trained) / mesh['data']
  layers = backbone.config.num_layers
  waiting = dict(offload=2, layer=layers).get(remat, layers * _BACKWARD)
  return state + (waiting + _BACKWARD) * activation


def _count(config):
  """Parameters, and those of them that train."""
  params = backbones.of(config).abstract_params()
  groups = optimizer_lib.assign(config.optimizer.groups, params)
  sizes = {
    k: math.prod(v.shape) for k, v in train_state.flatten(params).items()
  }
  trained = (n for k, n in sizes.items() if groups[k] is not None)
  return sum(sizes.values()), sum(trained)


def choose(
  found: list[Candidate], limit: int, hbm: float
) -> tuple[list[Candidate], int]:
  """The candidates to compile, and how many the formula sorted out.

  With room to spare for its errors: what it puts at a quarter above the
  memory is still tried, if nothing else is left.
  """
  for room in (0.9, 1.25):
    kept = [c for c in found if c.memory <= room * hbm]
    if kept:
      return kept[:limit], len(found) - len(kept)
  return [], len(found)


def run(
  config: ml_collections.ConfigDict,
  mode: str,
  topology: topology_lib.Topology,
  limit: int,
  plan: Callable[[ml_collections.ConfigDict], dict[str, Any] | None],
  path: str | None = None,
) -> int:
  """Compiles, prints a table and a recommendation; returns the exit status.

  Args:
    config: of the stage.
    mode: 'train' or 'sample'.
    topology: the chips.
    limit: programs to compile.
    plan: results of a candidate's config; None if it does not fit.
    path: of a JSON file with all results.

  Raises:
    ValueError: nothing is legal, or a limit below 1.
  """
  if limit < 1:
    raise ValueError(f'--limit is {limit}; it must be 1 or more')
  found = candidates(config, mode, topology)
  if not found:
    raise ValueError(
      f'no mesh of all {topology.chips} chips of {topology.name} suits'
      f' config.batch_size {config.batch_size} and the heads of the network;'
      ' take a number of chips that divides their product'
    )
  chosen, out = choose(found, limit, topology.chip.hbm)
  print(
    f'{len(found)} legal ways on {topology.name}, {out} too large by a'
    f' formula, {len(chosen)} to compile'
  )
  rows = []
  for one in chosen:
    rows.append((one, plan(one.apply(config))))
    print(_row(*rows[-1]), flush=True)
  if path:
    pathlib.Path(path).write_text(
      json.dumps(list(_to_json(rows)), indent=2) + '\n'
    )
  fitting = [
    (one, result)
    for one, result in rows
    if result and result['memory']['margin'] >= 0
  ]
  if not fitting:
    print(
      'nothing of it fits; a topology of more chips, or of chips with more'
      ' memory (v5p), or a higher --limit'
    )
    return 1
  best, result = min(fitting, key=lambda row: row[1]['roofline']['step'])
  print(
    f'recommended: {best.flags}  ({result["roofline"]["step"]:.2f} s a step'
    ' by the roofline estimate)'
  )
  return 0


def _row(one: Candidate, result: dict[str, Any] | None) -> str:
  text = f'  {one.flags:<70} formula {one.memory / _GIB:6.1f} GiB'
  if result is None:
    return f'{text}, does not fit'
  memory_, line = result['memory'], result['roofline']
  return (
    f'{text}, compiled {memory_["peak"] / _GIB:6.1f} of'
    f' {memory_["limit"] / _GIB:.0f}, {line["step"]:7.2f} s a step'
  )


def _to_json(rows) -> Iterator[dict[str, Any]]:
  for one, result in rows:
    yield dataclasses.asdict(one) | dict(result=result)

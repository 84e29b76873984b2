"""Compiles several ways to split a step over a slice and recommends one.

A formula for the memory rejects what cannot fit. Of the remaining candidates,
those that move the least data are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
import copy
import dataclasses
import itertools
import math
import os
from typing import Any

import jax
import ml_collections

from launch import topology as topology_lib
from launch.planner import advice
from ttt_jax import backbones
from ttt_jax import sharding
from ttt_jax.checkpoints import train_state
from ttt_jax.runtime import files
from ttt_jax.runtime import progress
from ttt_jax.train import optimizer as optimizer_lib

_GIB = 2**30
# Number of activations [clips, tokens, M] of the compute type that a block
# keeps in the backward pass and in the forward pass. Fitted to the compiler's
# peaks of the 63 s stage (docs/plan.md), to which they are within a quarter.
_BACKWARD, _FORWARD = 48, 17
# Cheapest first.
_REMATS = ('', 'none', 'attention', 'offload_attention', 'layer', 'offload')


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way to run a step.

  Attributes:
    mesh: sizes of the mesh axes.
    microbatches: microbatches per step.
    remat: value of `DiTConfig.remat`; '' if the config has no such field.
    memory: bytes per chip by the formula; 0 for a U-Net, which it excludes.
  """

  mesh: dict[str, int]
  microbatches: int
  remat: str
  memory: float

  @property
  def flags(self) -> str:
    """Flags of this candidate for a command line."""
    mesh = f'--mesh=data:{self.mesh["data"]},sp:{self.mesh["sp"]}'
    remat = f' --config.model.remat={self.remat}' if self.remat else ''
    return f'{mesh} --config.microbatches={self.microbatches}{remat}'

  def apply(
    self, config: ml_collections.ConfigDict
  ) -> ml_collections.ConfigDict:
    """Returns a copy of a config with the values of this candidate."""
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
  """Returns all valid ways to use all chips, those that move least first.

  Cheapest is to keep as much as possible on the chip, then a small `sp`, then
  few microbatches.
  """
  params = _count_params(config)
  remats = [config.model.get('remat', '')]
  if mode == 'train' and remats[0] and backbones.from_config(config).num_heads:
    remats = _REMATS[1:]
  found = []
  for mesh in advice.meshes(config, mode, topology.num_devices):
    counts = advice.microbatches(config, mesh) if mode == 'train' else [1]
    for count, remat in itertools.product(counts, remats):
      bytes_ = memory(config, mode, mesh, count, remat, params, topology)
      found.append(Candidate(mesh, count, remat, bytes_))
  cost = lambda c: (_REMATS.index(c.remat), c.mesh['sp'], c.microbatches)
  return sorted(found, key=cost)


def memory(
  config: ml_collections.ConfigDict,
  mode: str,
  mesh: dict[str, int],
  microbatches: int,
  remat: str,
  params: tuple[int, int],
  topology: topology_lib.Topology,
) -> float:
  """Estimates the bytes per chip of a transformer, to reject candidates.

  Counts parameters, gradients and optimizer state as they are split, the inputs
  of all blocks if the chip keeps them, and the activations of one block.

  Args:
    config: config of the stage.
    mode: 'train' or 'sample'.
    mesh: sizes of the mesh axes.
    microbatches: microbatches per step.
    remat: value of `DiTConfig.remat`.
    params: numbers of all and of trainable parameters.
    topology: chips.
  """
  backbone = backbones.from_config(config)
  if backbone.num_heads is None:
    return 0.0
  num_params, num_trainable = params
  clips = 2 if mode == 'sample' else config.batch_size // microbatches
  clips = -(-clips // mesh['data'])
  geometry: Any = backbones.geometry(config)
  model: Any = backbone.config
  tokens = geometry.sequence_length / mesh['sp']
  width = jax.numpy.dtype(model.dtype).itemsize
  activation = clips * tokens * model.model_dim * width
  if mode == 'sample':
    weights = width * num_params
    if not sharding.can_be_copied(weights, topology.chip.hbm):
      weights /= mesh['data'] * mesh['sp']
    return weights + _FORWARD * activation
  # Two moments, a gradient, and its sum over microbatches.
  copies = 3 + (microbatches > 1) + (config.ema_decay > 0)
  state = 4 * (num_params + copies * num_trainable) / mesh['data']
  layers = model.num_layers
  # Windows of attention overlap, and the logarithms of its sums are float32.
  kept = dict(
    offload=2,
    offload_attention=4.2,
    layer=layers,
    attention=2.1 * layers,
  )
  kept = kept.get(remat, layers * _BACKWARD)
  return state + (kept + _BACKWARD) * activation


def _count_params(config):
  """Returns the numbers of all and of trainable parameters."""
  params = backbones.from_config(config).abstract_params()
  groups = optimizer_lib.assign_groups(config.optimizer.groups, params)
  sizes = {
    path: math.prod(leaf.shape)
    for path, leaf in train_state.flatten(params).items()
  }
  trainable = (n for path, n in sizes.items() if groups[path] is not None)
  return sum(sizes.values()), sum(trainable)


def choose(
  found: list[Candidate], limit: int, hbm: float
) -> tuple[list[Candidate], int]:
  """Returns the candidates to compile and the number of rejected ones.

  The formula may be wrong by a quarter: if it rejects everything, candidates up
  to a quarter above the memory are compiled.
  """
  for share in (0.9, 1.25):
    kept = [c for c in found if c.memory <= share * hbm]
    if kept:
      return kept[:limit], len(found) - len(kept)
  return [], len(found)


def run(
  config: ml_collections.ConfigDict,
  mode: str,
  topology: topology_lib.Topology,
  limit: int,
  plan: Callable[[ml_collections.ConfigDict], dict[str, Any] | None],
  path: str | os.PathLike[str] | None = None,
) -> int:
  """Compiles candidates, prints a table and a recommendation.

  Args:
    config: config of the stage.
    mode: 'train' or 'sample'.
    topology: chips.
    limit: number of candidates to compile.
    plan: function that returns the results for the config of a candidate, None
      if it does not fit.
    path: JSON file for all results.

  Returns:
    Exit status: 0, or 1 if nothing fits.

  Raises:
    ValueError: no candidate is valid, or `limit` is below 1.
  """
  if limit < 1:
    raise ValueError(f'--limit is {limit}; it must be 1 or more')
  found = candidates(config, mode, topology)
  if not found:
    raise ValueError(
      f'no mesh of all {topology.num_devices} devices of {topology.name} is'
      f' valid with config.batch_size {config.batch_size} and the heads of the'
      ' network; use a number of chips that divides their product'
    )
  chosen, rejected = choose(found, limit, topology.chip.hbm)
  print(
    f'{len(found)} valid candidates on {topology.name}, {rejected} too large by'
    f' a formula, {len(chosen)} to compile',
    flush=True,
  )
  rows = []
  for i, candidate in enumerate(chosen, 1):
    what = f'candidate {i} of {len(chosen)}, {candidate.flags}'
    with progress.Bar(what, None):
      rows.append((candidate, plan(candidate.apply(config))))
    print(_row(*rows[-1]), flush=True)
  if path:
    data = [dataclasses.asdict(c) | dict(result=result) for c, result in rows]
    files.write_json(data, path)
    print(f'wrote {path}')
  fitting = [
    (candidate, result)
    for candidate, result in rows
    if result and result['memory']['margin'] >= 0
  ]
  if not fitting:
    print(
      'no candidate fits; use more chips, chips with more memory (v5p), or a'
      ' higher --limit'
    )
    return 1
  best, result = min(fitting, key=lambda row: row[1]['roofline']['step'])
  print(
    f'recommended: {best.flags}  ({result["roofline"]["step"]:.2f} s per step'
    ' by the roofline estimate)'
  )
  return 0


def _row(candidate: Candidate, result: dict[str, Any] | None) -> str:
  bytes_ = candidate.memory / _GIB
  text = f'  {candidate.flags:<70} formula {bytes_:6.1f} GiB'
  if result is None:
    return f'{text}, does not fit'
  memory_, roofline = result['memory'], result['roofline']
  return (
    f'{text}, compiled {memory_["peak"] / _GIB:6.1f} of'
    f' {memory_["limit"] / _GIB:.0f}, {roofline["step"]:7.2f} s per step'
  )

"""Says whether a stage fits a TPU slice and what a step costs, without one.

    python -m launch.plan --config=configs/ttt_video.py:63s \
        --topology=v5p:8x8x4 --mesh=data:64,sp:4 [--json=FILE]

Compiles the trainer's own step with the TPU compiler, which runs on any host
(pip install "jax[tpu]==0.10.2"). Memory, collectives and cycles are the
compiler's; no time here was measured on a chip. Exit status 1 if the step
does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from absl import flags
import jax
from ml_collections import config_flags

from launch import budget as budget_lib
from launch import program as program_lib
from launch import topology as topology_lib
from pallas_kernels import compile_tpu
from ttt_jax import cli
from ttt_jax import geometry as geometry_lib
from ttt_jax import sharding
from ttt_jax.models import dit
from ttt_jax.train import experiment

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Config of a stage.')
_TOPOLOGY = flags.DEFINE_string('topology', 'v5p:8x8x4', 'TPU slice.')
_MESH = flags.DEFINE_string('mesh', None, 'Such as data:64,sp:4.')
_JSON = flags.DEFINE_string('json', None, 'Also writes the results there.')
_BUDGET = flags.DEFINE_string(
    'budget', str(compile_tpu.BUDGET), 'Cycles of the kernels, JSON.'
)
_GIB = 2**30


def prepare(config, topology: topology_lib.Topology, mesh: dict[str, int]):
  """Sets mesh and kernels of a config; raises ValueError if it cannot run."""
  config.mesh = mesh
  with config.unlocked():
    # What a TPU would choose; this host is none.
    if config.model.get('implementation') is None:
      config.model.implementation = 'pallas_tpu'
  used = mesh['data'] * mesh['sp']
  if used > topology.chips:
    raise ValueError(
        f'--mesh data {mesh["data"]} x sp {mesh["sp"]} needs {used} chips;'
        f' {topology.name} has {topology.chips}'
    )
  experiment.check_config(config)


def results(
    config,
    topology: topology_lib.Topology,
    compiled: program_lib.Compiled,
    kernels: dict[str, float],
) -> dict[str, Any]:
  """Everything that the plan says, for JSON; bytes, seconds and cycles."""
  geometry = geometry_lib.Geometry.from_config(config)
  model = dit.DiTConfig(**config.model)
  mesh = dict(config.mesh)
  work = budget_lib.load(
      geometry, model, mesh, config.batch_size // config.microbatches
  )
  cycles, unknown = budget_lib.cycles_by_group(
      compiled.program, topology.chip, work, kernels
  )
  collectives: dict[str, dict[str, int]] = {}
  largest = 0
  for one in compiled.program.collectives():
    row = collectives.setdefault(
        f'{one.kind} of {one.devices}', dict(count=0, bytes=0)
    )
    row['count'] += one.times
    row['bytes'] += one.times * one.bytes
    if one.kind in ('all-gather', 'all-reduce'):
      largest = max(largest, one.bytes)
  tokens = geometry.sequence_length * work.windows // geometry.segments
  return dict(
      config=f'{config.name}, stage {config.stage}',
      topology=topology.name,
      mesh=mesh,
      microbatches=config.microbatches,
      geometry=dict(geometry.table()),
      memory=dict(
          arguments=compiled.arguments,
          temporaries=compiled.temporaries,
          peak=compiled.peak,
          limit=topology.chip.hbm,
      ),
      collectives=collectives,
      largest_gather_or_reduce=largest,
      sequence_bytes=2 * tokens * model.model_dim // mesh['sp'],
      cycles=cycles,
      kernels_without_budget=unknown,
      trace_seconds=compiled.trace_seconds,
      compile_seconds=compiled.compile_seconds,
  )


def print_results(found: dict[str, Any], chip: topology_lib.Chip) -> None:
  """Prints `results` for people."""
  print(f'{found["config"]} on {found["topology"]},'
        f' mesh data {found["mesh"]["data"]} x sp {found["mesh"]["sp"]},'
        f' {found["microbatches"]} microbatches')
  for name, value in found['geometry'].items():
    print(f'  {name:<28} {value}')
  print('memory a chip, GiB')
  for name, value in found['memory'].items():
    print(f'  {name:<28} {value / _GIB:8.2f}')
  print('collectives a step and chip')
  rows = sorted(found['collectives'].items(), key=lambda r: -r[1]['bytes'])
  for name, row in rows:
    print(f'  {name:<28} {row["count"]:8,} {row["bytes"] / 1e9:10.2f} GB')
  print(f'  largest gather or reduction  {found["largest_gather_or_reduce"]:,}'
        f' bytes; a chip\'s part of an activation {found["sequence_bytes"]:,}')
  total = sum(found['cycles'].values())
  print(f'estimated cycles a step and chip (at {chip.clock / 1e9:g} GHz)')
  for name, cycles in found['cycles'].items():
    print(f'  {name:<28} {cycles:10.3g} {cycles / total:6.1%}'
          f' {cycles / chip.clock:8.2f} s')
  print(f'  {"all":<28} {total:10.3g} {"":6} {total / chip.clock:8.2f} s')
  print('  collectives are not in it; attention kernels by their operations at'
        f' {budget_lib.ATTENTION_RATE:.0%} of {chip.flops / 1e12:g} TFLOP/s')
  if found['kernels_without_budget']:
    print('  without a budget, counted as nothing:'
          f' {", ".join(found["kernels_without_budget"])}')
  print(f'traced in {found["trace_seconds"]:.0f} s, compiled in'
        f' {found["compile_seconds"]:.0f} s')


def main(argv: Sequence[str]) -> int:
  """Entry point."""
  del argv
  jax.config.update('jax_platforms', 'cpu')
  config = _CONFIG.value
  if config is None:
    raise ValueError('--config is missing, for example configs/ttt_video.py:3s')
  topology = topology_lib.parse(_TOPOLOGY.value)
  mesh = dict(config.mesh)
  if _MESH.value:
    mesh = sharding.parse_mesh(_MESH.value)
  prepare(config, topology, mesh)
  kernels = budget_lib.read(_BUDGET.value, topology.chip.name)
  try:
    compiled = program_lib.compile_step(
        config, program_lib.make_mesh(topology, mesh)
    )
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    print('does not fit: ' + str(e).strip().splitlines()[0])
    print('split the sequence (sp) or the batch (data, microbatches) further')
    return 1
  found = results(config, topology, compiled, kernels)
  print_results(found, topology.chip)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=2) + '\n')
  return 0 if found['memory']['peak'] <= found['memory']['limit'] else 1


if __name__ == '__main__':
  cli.run(main)

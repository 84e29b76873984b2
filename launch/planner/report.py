"""Results of a plan, as data for JSON and as text."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import ml_collections

from launch import topology as topology_lib
from launch.planner import budget as budget_lib
from launch.planner import collectives as collectives_lib
from launch.planner import compiled as compiled_lib
from launch.planner import program
from launch.planner import roofline as roofline_lib
from launch.planner import traffic as traffic_lib
from ttt_jax import backbones
from ttt_jax.checkpoints import train_state
from ttt_jax.models import flops as flops_lib
from ttt_jax.train import optimizer as optimizer_lib

_GIB = 2**30


def results(
  config: ml_collections.ConfigDict,
  mode: str,
  topology: topology_lib.Topology,
  compiled: compiled_lib.Compiled,
  kernels: dict[str, float],
  steps: int = 1,
) -> dict[str, Any]:
  """Returns the results of a plan in bytes, seconds, cycles and operations.

  They are per step and, except for the model's operations, per chip.

  Args:
    config: config with the mesh of the program.
    mode: 'train' or 'sample'.
    topology: chips.
    compiled: program.
    kernels: budgets of the kernels for these chips.
    steps: steps that one execution of the program takes.
  """
  mesh = dict(config.mesh)
  chips = mesh['data'] * mesh['sp']
  microbatches = 1 if mode == 'sample' else config.microbatches
  work = _kernel_work(config, mode)
  cycles_of = functools.partial(
    budget_lib.instruction_cycles, work=work, kernels=kernels
  )
  cycles, unknown = budget_lib.cycles_by_part(compiled.program, cycles_of)
  cycles = {part: n / steps for part, n in cycles.items()}
  collectives = [
    dataclasses.replace(c, times=c.times / steps)
    for c in collectives_lib.find_collectives(compiled.program, cycles_of)
  ]
  traffic = traffic_lib.hbm_traffic(compiled.program)
  flops = count_flops(config, mode)
  model_flops = sum(flops['model'].values())
  recompute_flops = sum(flops['recompute'].values())
  roofline = roofline_lib.estimate(
    topology,
    flops=(model_flops + recompute_flops) / chips,
    written=traffic.written / steps,
    cycles=sum(cycles.values()),
    collectives=collectives,
    host=traffic.host / steps,
  )
  mfu = model_flops / (roofline.step * chips * topology.chip.flops)
  total_steps = config.steps if mode == 'train' else steps
  return dict(
    config=f'{config.name}, stage {config.stage}',
    mode=mode,
    topology=topology.name,
    mesh=mesh,
    microbatches=microbatches,
    remat=config.model.get('remat', 'none') if mode == 'train' else 'none',
    geometry=dict(backbones.size_table(config)),
    parameters=count_parameters(config, mode),
    memory=dict(
      arguments=compiled.arguments,
      temporaries=compiled.temporaries,
      peak=compiled.peak,
      limit=topology.chip.hbm,
      margin=topology.chip.hbm - compiled.peak,
    ),
    host=dict(kept=compiled.host, moved=traffic.host / steps),
    collectives=collectives_lib.count_by_kind(collectives),
    **_sequence(config, work, collectives, microbatches),
    flops=flops,
    cycles=cycles,
    kernels_without_budget=unknown,
    roofline=dataclasses.asdict(roofline)
    | dict(step=roofline.step, bound=roofline.bound, mfu=mfu),
    assumptions=roofline_lib.assumptions(topology),
    steps=total_steps,
    chip_hours=total_steps * roofline.step * topology.chips / 3600,
    trace_seconds=compiled.trace_seconds,
    compile_seconds=compiled.compile_seconds,
  )


def _kernel_work(config, mode):
  """Returns the work of a chip's kernels, None for a network without heads."""
  backbone = backbones.from_config(config)
  if not backbone.num_heads:
    return None
  geometry: Any = backbones.geometry(config)
  model: Any = backbone.config
  clips = _clips(config, mode)
  if mode == 'train':
    clips //= config.microbatches
  return budget_lib.kernel_work(geometry, model, dict(config.mesh), clips)


def _clips(config, mode):
  """Returns the clips per step; with guidance a video is denoised as two."""
  return 2 if mode == 'sample' else config.batch_size


def _sequence(config, work, collectives, microbatches):
  """Returns the results about collectives of a sequence."""
  if work is None:
    return dict(all_to_alls_per_layer=0, sequence_bytes=0, sequence_sized=[])
  model: Any = backbones.from_config(config).config
  geometry: Any = backbones.geometry(config)
  sp = config.mesh.sp
  length = geometry.sequence_length
  tokens = length * work.clips
  part = 2 * tokens * model.model_dim // sp
  multiple = sp * config.model.mini_batch
  padded = -(-length // multiple) * multiple
  return dict(
    all_to_alls_per_layer=(
      collectives_lib.count_forward_all_to_alls(collectives)
      / (microbatches * model.num_layers)
    ),
    sequence_bytes=part,
    sequence_sized=collectives_lib.sequence_sized(
      collectives, part, (padded // sp, length)
    ),
  )


def count_flops(
  config: ml_collections.ConfigDict, mode: str
) -> dict[str, dict[str, float]]:
  """Returns the floating-point operations of a step on all chips.

  Two for each multiplication of matrix products and convolutions with its
  addition, by `ttt_jax.models.flops`.

  Args:
    config: config of the stage.
    mode: 'train' or 'sample'.

  Returns:
    Operations by part of the network: 'forward', 'backward', their sum 'model',
    and 'recompute', the part of the forward pass that the backward pass repeats
    (remat, and the inner loop's replay).
  """
  backbone = backbones.from_config(config)
  sizes = (backbone.config, *program.clip_shapes(config))
  clips = _clips(config, mode)
  of_all_clips = lambda parts: {name: clips * n for name, n in parts.items()}
  forward = of_all_clips(flops_lib.forward_flops(*sizes))
  if mode == 'sample':
    return dict(forward=forward, backward={}, model=forward, recompute={})
  groups = optimizer_lib.assign_groups(
    config.optimizer.groups, backbone.abstract_params()
  )
  trained = {path for path, group in groups.items() if group is not None}
  model = of_all_clips(flops_lib.training_flops(*sizes, trainable=trained))
  recompute = {}
  if config.model.get('remat', 'none') != 'none':
    recompute = dict(forward)
  if (scan := 'mixer scan') in forward:
    # Its own backward pass replays groups of mini-batches or chunks.
    recompute[scan] = recompute.get(scan, 0) + forward[scan]
  return dict(
    forward=forward,
    backward={name: n - forward[name] for name, n in model.items()},
    model=model,
    recompute=recompute,
  )


def count_parameters(
  config: ml_collections.ConfigDict, mode: str
) -> dict[str, int]:
  """Returns the parameters by group of the optimizer; frozen ones are one."""
  params = backbones.from_config(config).abstract_params()
  groups = optimizer_lib.assign_groups(config.optimizer.groups, params)
  counts: dict[str, int] = {}
  for path, leaf in train_state.flatten(params).items():
    name = (groups[path] or 'frozen') if mode == 'train' else 'all'
    counts[name] = counts.get(name, 0) + math.prod(leaf.shape)
  return counts


def print_results(plan: dict[str, Any], chip: topology_lib.ChipSpec) -> None:
  """Prints `results`."""
  step = {'train': 'a training step', 'sample': 'a denoising step'}
  print(
    f'{plan["config"]}: {step[plan["mode"]]} on {plan["topology"]},'
    f' mesh data {plan["mesh"]["data"]} x sp {plan["mesh"]["sp"]},'
    f' {plan["microbatches"]} microbatches, remat {plan["remat"]}'
  )
  for name, value in plan['geometry'].items():
    print(f'  {name:<28} {value}')
  print('parameters')
  for name, count in plan['parameters'].items():
    print(f'  {name:<28} {count:14,}')
  print('memory per chip, GiB')
  for name, value in plan['memory'].items():
    print(f'  {name:<28} {value / _GIB:8.2f}')
  for name, value in plan['host'].items():
    if value:
      print(f'  {"in host memory, " + name:<28} {value / _GIB:8.2f}')
  _print_collectives(plan)
  _print_flops(plan['flops'])
  _print_cycles(plan, chip)
  roofline = plan['roofline']
  print('seconds per step, each as if it were the only one')
  for name, text in _SECONDS.items():
    print(f'  {text:<44} {roofline[name]:8.2f}')
  print(
    f'roofline: a step takes {roofline["step"]:.2f} s (at least'
    f' {roofline["bound"]:.2f}), model FLOPs utilisation {roofline["mfu"]:.1%};'
    f' {plan["steps"]:,} steps are {plan["chip_hours"]:,.1f} chip-hours'
  )
  for text in plan['assumptions']:
    print(f'  assumed: {text}')
  print(
    f'traced in {plan["trace_seconds"]:.0f} s, compiled in'
    f' {plan["compile_seconds"]:.0f} s'
  )


def _print_collectives(plan):
  print('collectives per step and chip')
  rows = sorted(plan['collectives'].items(), key=lambda r: -r[1]['bytes'])
  for name, row in rows:
    print(f'  {name:<28} {row["count"]:8,.0f} {row["bytes"] / 1e9:10.2f} GB')
  if not plan['sequence_bytes']:
    return
  lines = plan['sequence_sized']
  print(f'  all-to-alls per layer, forward {plan["all_to_alls_per_layer"]:6g}')
  print(
    f'  gathers and reductions of a sequence: {len(lines)}'
    f' (its part on a chip has {plan["sequence_bytes"]:,} bytes)'
  )
  for line in lines[:5]:
    print(f'    {line}')


def _print_flops(flops):
  print('TFLOP per step, all chips (forward, backward, recompute)')
  columns = [flops[name] for name in ('forward', 'backward', 'recompute')]
  for name in flops['forward']:
    _print_row(name, [column.get(name, 0) for column in columns])
  _print_row('all', [sum(column.values()) for column in columns])


def _print_row(name, values):
  print(f'  {name:<28} ' + ' '.join(f'{n / 1e12:12,.1f}' for n in values))


def _print_cycles(plan, chip):
  total = sum(plan['cycles'].values())
  if total:
    print(f'estimated cycles per step and chip (at {chip.clock / 1e9:g} GHz)')
  for name, cycles in plan['cycles'].items():
    print(
      f'  {name:<28} {cycles:10.3g} {cycles / total:6.1%}'
      f' {cycles / chip.clock:8.2f} s'
    )
  if plan['kernels_without_budget']:
    print(
      '  kernels without a budget, not counted:'
      f' {", ".join(plan["kernels_without_budget"])}'
    )


_SECONDS = dict(
  products='products at the peak rate',
  memory='results written and read once',
  work='estimated cycles and kernels',
  exposed='exposed collectives',
  hidden='collectives that work overlaps',
  host='to and from the host, overlapped by work',
)

"""What a plan says of a compiled program: for JSON, and for people."""

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
from launch.planner import roofline
from launch.planner import traffic
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
  """Everything that a plan says; bytes, seconds, cycles and operations.

  All is of one step and, but for the model's operations, of one chip.

  Args:
    config: with the mesh that was compiled for.
    mode: 'train' or 'sample'.
    topology: the chips.
    compiled: the program.
    kernels: the budget of the kernels for these chips.
    steps: that the program takes.
  """
  geometry, backbone = backbones.geometry(config), backbones.of(config)
  mesh = dict(config.mesh)
  # With guidance two clips are denoised for one.
  clips = 2 if mode == 'sample' else config.batch_size
  parts = 1 if mode == 'sample' else config.microbatches
  work = None
  tokens = 0
  if backbone.num_heads:
    work = budget_lib.load(geometry, backbone.config, mesh, clips // parts)
    tokens = geometry.sequence_length * work.windows // geometry.segments
  price = functools.partial(budget_lib.cycles_of, work=work, kernels=kernels)
  cycles, unknown = budget_lib.cycles_by_group(compiled.program, price)
  cycles = {name: n / steps for name, n in cycles.items()}
  found = [
    dataclasses.replace(one, times=one.times / steps)
    for one in collectives_lib.of(compiled.program, price)
  ]
  moved = traffic.moved(compiled.program)
  flops = operations(config, mode)
  again = sum(flops['again'].values())
  chips = mesh['data'] * mesh['sp']
  line = roofline.estimate(
    topology,
    flops=(sum(flops['model'].values()) + again) / chips,
    written=moved.written / steps,
    cycles=sum(cycles.values()),
    collectives=found,
    host=moved.host / steps,
  )
  model = sum(flops['model'].values())
  rate = model / (line.step * chips * topology.chip.flops)
  times = config.steps if mode == 'train' else steps
  part = 2 * tokens * backbone.config.model_dim // mesh['sp'] if tokens else 0
  return dict(
    config=f'{config.name}, stage {config.stage}',
    mode=mode,
    topology=topology.name,
    mesh=mesh,
    microbatches=parts,
    remat=config.model.get('remat', 'none') if mode == 'train' else 'none',
    geometry=dict(geometry.table()),
    parameters=parameters(config, mode),
    memory=dict(
      arguments=compiled.arguments,
      temporaries=compiled.temporaries,
      peak=compiled.peak,
      limit=topology.chip.hbm,
      margin=topology.chip.hbm - compiled.peak,
    ),
    host=dict(kept=compiled.host, moved=moved.host / steps),
    collectives=collectives_lib.by_kind(found),
    all_to_alls_a_layer=(
      collectives_lib.all_to_alls(found) / (parts * backbone.config.num_layers)
      if tokens
      else 0
    ),
    sequence_bytes=part,
    sequence_sized=collectives_lib.sequence_sized(
      found, part, _token_counts(config)
    ),
    flops=flops,
    cycles=cycles,
    kernels_without_budget=unknown,
    roofline=dataclasses.asdict(line)
    | dict(step=line.step, bound=line.bound, mfu=rate),
    assumptions=roofline.assumptions(topology),
    steps=times,
    chip_hours=times * line.step * topology.chips / 3600,
    trace_seconds=compiled.trace_seconds,
    compile_seconds=compiled.compile_seconds,
  )


def operations(
  config: ml_collections.ConfigDict, mode: str
) -> dict[str, dict[str, float]]:
  """Floating-point operations of a step, all chips together.

  Two for each multiplication of matrix products and convolutions with its
  addition, by `ttt_jax.models.flops`.

  Args:
    config: of the stage.
    mode: 'train' or 'sample'.

  Returns:
    'forward', 'backward', their sum 'model', and 'again': the forward pass
    that the backward pass repeats (remat, and the inner loop's replay); each
    {part of the network: operations}.
  """
  g, backbone = backbones.geometry(config), backbones.of(config)
  sizes = (
    backbone.config,
    (g.latent_frames, g.latent_height, g.latent_width, backbone.in_channels),
    (g.segments, g.text_length, backbone.text_dim),
  )
  clips = 2 if mode == 'sample' else config.batch_size
  each = lambda parts: {name: clips * n for name, n in parts.items()}
  forward = each(flops_lib.forward_flops(*sizes))
  if mode == 'sample':
    return dict(forward=forward, backward={}, model=forward, again={})
  groups = optimizer_lib.assign(
    config.optimizer.groups, backbone.abstract_params()
  )
  trained = {path for path, group in groups.items() if group is not None}
  model = each(flops_lib.training_flops(*sizes, trainable=trained))
  again = {}
  if config.model.get('remat', 'none') != 'none':
    again = dict(forward)
  if 'TTT inner loop' in forward:
    # The kernel's backward pass replays groups of mini-batches.
    again['TTT inner loop'] = (
      again.get('TTT inner loop', 0) + forward['TTT inner loop']
    )
  return dict(
    forward=forward,
    backward={name: n - forward[name] for name, n in model.items()},
    model=model,
    again=again,
  )


def _token_counts(config):
  """Of a sequence on a chip and of a whole one, padded and not."""
  if not backbones.of(config).num_heads:
    return ()
  sp, grain = config.mesh.sp, config.mesh.sp * config.model.mini_batch
  length = backbones.geometry(config).sequence_length
  return -(-length // grain) * grain // sp, length


def parameters(config: ml_collections.ConfigDict, mode: str) -> dict[str, int]:
  """Parameters by group of the optimizer, the frozen ones as one."""
  params = backbones.of(config).abstract_params()
  groups = optimizer_lib.assign(config.optimizer.groups, params)
  count: dict[str, int] = {}
  for path, leaf in train_state.flatten(params).items():
    name = (groups[path] or 'frozen') if mode == 'train' else 'all'
    count[name] = count.get(name, 0) + math.prod(leaf.shape)
  return count


def print_results(found: dict[str, Any], chip: topology_lib.Chip) -> None:
  """Prints `results` for people."""
  what = {'train': 'a training step', 'sample': 'a denoising step'}
  print(
    f'{found["config"]}: {what[found["mode"]]} on {found["topology"]},'
    f' mesh data {found["mesh"]["data"]} x sp {found["mesh"]["sp"]},'
    f' {found["microbatches"]} microbatches, remat {found["remat"]}'
  )
  for name, value in found['geometry'].items():
    print(f'  {name:<28} {value}')
  print('parameters')
  for name, count in found['parameters'].items():
    print(f'  {name:<28} {count:14,}')
  print('memory a chip, GiB')
  for name, value in found['memory'].items():
    print(f'  {name:<28} {value / _GIB:8.2f}')
  for name, value in found['host'].items():
    if value:
      print(f'  {"in host memory, " + name:<28} {value / _GIB:8.2f}')
  print('collectives a step and chip')
  rows = sorted(found['collectives'].items(), key=lambda r: -r[1]['bytes'])
  for name, row in rows:
    print(f'  {name:<28} {row["count"]:8,.0f} {row["bytes"] / 1e9:10.2f} GB')
  if found['sequence_bytes']:
    sized = found['sequence_sized']
    print(f'  all-to-alls a layer forward  {found["all_to_alls_a_layer"]:8g}')
    print(
      f'  gathers and reductions of a sequence: {len(sized)}'
      f' (its part on a chip has {found["sequence_bytes"]:,} bytes)'
    )
    for line in sized[:5]:
      print(f'    {line}')
  print('operations a step, all chips, TFLOP (forward, backward, again)')
  flops = found['flops']
  for name, forward in (*flops['forward'].items(), ('all', None)):
    row = [
      sum(flops[k].values()) if forward is None else flops[k].get(name, 0)
      for k in ('forward', 'backward', 'again')
    ]
    print(f'  {name:<28} ' + ' '.join(f'{n / 1e12:12,.1f}' for n in row))
  total = sum(found['cycles'].values())
  if total:
    print(f'estimated cycles a step and chip (at {chip.clock / 1e9:g} GHz)')
  for name, cycles in found['cycles'].items():
    print(
      f'  {name:<28} {cycles:10.3g} {cycles / total:6.1%}'
      f' {cycles / chip.clock:8.2f} s'
    )
  if found['kernels_without_budget']:
    print(
      '  without a budget, counted as nothing:'
      f' {", ".join(found["kernels_without_budget"])}'
    )
  line = found['roofline']
  print('seconds a step, each as if it were all')
  for name in ('products', 'memory', 'work', 'exposed', 'hidden', 'host'):
    print(f'  {_SECONDS[name]:<44} {line[name]:8.2f}')
  print(
    f'roofline: a step takes {line["step"]:.2f} s (no less than'
    f' {line["bound"]:.2f}), model FLOPs utilisation {line["mfu"]:.1%};'
    f' {found["steps"]:,} steps are {found["chip_hours"]:,.1f} chip-hours'
  )
  for text in found['assumptions']:
    print(f'  assumed: {text}')
  print(
    f'traced in {found["trace_seconds"]:.0f} s, compiled in'
    f' {found["compile_seconds"]:.0f} s'
  )


_SECONDS = dict(
  products='products at the full rate',
  memory='results written and read once',
  work='estimated cycles and kernels',
  exposed='collectives that the program waits for',
  hidden='collectives beside other work',
  host='to and from the host, beside other work',
)

"""Cycles of a step: the compiler's estimates, and budgets for kernels.

XLA writes an estimate in cycles at every instruction that it compiles. Pallas
kernels have none. Their cycles come from compile-time budgets by kind of chip:
per mini-batch and head, or for attention per window and head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import json
import pathlib
import re

from launch.planner import attention
from launch.planner import hlo
from pallas_kernels.tools import tpu_calls
from ttt_jax import geometry as geometry_lib
from ttt_jax.models import dit
from ttt_jax.models import softmax
from ttt_jax.models.dit import mixers

# The call in the budget of kernels that has 48 heads over four chips.
_CALL = 'paper_63s'
# Move or add rows of any width in both directions. Their budgets are for one
# tile of 64 tokens by 64 features of bfloat16.
_BY_TILE = ('permute_rows', 'sum_windows')
_TILE_BYTES = 64 * 64 * 2
# (part of the network, regex of the JAX name or the kernel's name); the first
# match counts.
_PARTS = (
  ('mixer scan', r'^ttt_(mlp|linear)|/mixer_scan/'),
  ('inputs of the mixer and order', r'^(ttt_inputs|permute_rows)'),
  ('attention', r'^(window_attention|sum_windows|splash)'),
  # These names contain the einsum of `ttt_jax.models.layers.affine`.
  ('dense layers', r'/[a-z]+,[a-z]+->[a-z]+/dot'),
  ('rest of the mixer', r'/gates/'),
  ('rest of attention', r'/attn/'),
  ('norms and the rest of layers', r'/layers/'),
  ('embeddings, loss, optimizer', r'.'),
  ('without a name', r''),
)


@dataclasses.dataclass(frozen=True)
class KernelWork:
  """Work of the kernels on one chip.

  Attributes:
    clips: clips of the chip.
    heads: heads of the chip.
    head_dim: D.
    mini_batches: mini-batches of a sequence.
    windows: attention windows of a sequence.
    window: tokens per window, with padding.
    scan_pairs: pairs of a query and a key that softmax attention as a mixer
      computes for one head and direction; 0 for other mixers.
  """

  clips: int
  heads: int
  head_dim: int
  mini_batches: int
  windows: int
  window: int
  scan_pairs: float = 0.0


def kernel_work(
  geometry: geometry_lib.Geometry,
  model: dit.DiTConfig,
  mesh: Mapping[str, int],
  clips: int,
) -> KernelWork:
  """Returns one chip's share of a microbatch of `clips`."""
  return KernelWork(
    clips=-(-clips // mesh['data']),
    heads=model.num_heads // mesh['sp'],
    head_dim=model.model_dim // model.num_heads,
    mini_batches=geometry.mini_batches,
    windows=geometry.segments,
    window=softmax.padded(geometry.order.window, 'splash'),
    scan_pairs=mixers.MIXERS[model.mixer].attended_pairs(model, geometry.order),
  )


def read(path: str | pathlib.Path, chip: str) -> dict[str, float]:
  """Reads the budgets of all kernels of a chip.

  Args:
    path: file that `python -m pallas_kernels.tools.compile_tpu --write` writes.
    chip: name of a chip, such as 'v5p'.

  Returns:
    Cycles by name of a kernel: for one mini-batch of one head, for one tile of
    `permute_rows` and `sum_windows`, or for one head of a window
    (`window_attention_*` and `splash_*`).

  Raises:
    ValueError: the file is not a budget of kernels or lacks the chip.
  """
  try:
    rows = [
      row
      for row in json.loads(pathlib.Path(path).read_text())
      if row['call'] == _CALL
    ]
  except (json.JSONDecodeError, TypeError, KeyError) as e:
    raise ValueError(f'{path} is not a budget of kernels: {e!r}') from e
  cycles = {
    f'{row["op"]}_{name}': row[name]
    for row in rows
    if row['chip'] == chip
    for name in ('forward', 'backward')
    if name in row
  }
  for name in _BY_TILE:
    if f'{name}_forward' in cycles:
      cycles[name] = cycles.pop(f'{name}_forward')
  if not cycles:
    known = ', '.join(sorted({row['chip'] for row in rows}))
    raise ValueError(f'{path} has no budget for {chip}; it has {known}')
  return cycles | attention.read_budget(chip)


def part(instruction: hlo.Instruction) -> str:
  """Returns the part of the network to which an instruction belongs."""
  name = f'{instruction.kernel or ""} {instruction.op_name}'.lstrip()
  return next(part for part, regex in _PARTS if re.search(regex, name))


def instruction_cycles(
  instruction: hlo.Instruction,
  work: KernelWork | None,
  kernels: Mapping[str, float],
) -> float | None:
  """Returns the cycles of one execution; None for a kernel without a budget.

  Args:
    instruction: instruction of a program.
    work: work of the kernels; without it all kernels return None.
    kernels: budgets from `read`.
  """
  kernel = instruction.kernel
  if not kernel:
    return instruction.cycles
  if work is None:
    return None
  if kernel.startswith('splash') and '/mixer_scan/' in instruction.op_name:
    return _scan_cycles(kernel, work, kernels)
  if kernel.startswith('splash'):
    return _splash_cycles(kernel, work, kernels)
  if kernel not in kernels:
    return None
  if kernel.startswith('window_attention'):
    budgeted = softmax.padded(tpu_calls.WINDOW, 'splash')
    share = (work.window / budgeted) ** 2
    return kernels[kernel] * work.windows * work.heads * work.clips * share
  if kernel in _BY_TILE:
    return kernels[kernel] * instruction.bytes / _TILE_BYTES
  return kernels[kernel] * work.mini_batches * work.heads * work.clips


def _splash_cycles(kernel, work, kernels):
  """Returns the cycles of one splash call: one window of a chip's clips."""
  cycles = kernels.get(attention.direction(kernel))
  if cycles is None or work.head_dim != attention.HEAD_DIM:
    return None
  budgeted = softmax.padded(attention.WINDOW, 'splash')
  return cycles * work.heads * work.clips * (work.window / budgeted) ** 2


def _scan_cycles(kernel, work, kernels):
  """Returns the cycles of attention as a mixer, by its pairs and products.

  A pair costs what it costs within a window. There one kernel computes five
  products for all gradients; here those of keys and values take four, and those
  of queries three.
  """
  cycles = kernels.get(attention.direction(kernel))
  if cycles is None or work.head_dim != attention.HEAD_DIM:
    return None
  if '_fwd_' not in kernel:
    cycles *= (4 if '_dkv' in kernel else 3) / 5
  budgeted = softmax.padded(attention.WINDOW, 'splash')
  return cycles * work.heads * work.clips * work.scan_pairs / budgeted**2


def cycles_by_part(
  program: hlo.Program, cycles: Callable[[hlo.Instruction], float | None]
) -> tuple[dict[str, float], list[str]]:
  """Returns cycles by part of the network, and kernels without a budget.

  Args:
    program: program of one chip.
    cycles: `instruction_cycles` for that chip.
  """
  total: dict[str, float] = dict.fromkeys((name for name, _ in _PARTS), 0.0)
  unknown = set()
  for execution in program.executions():
    instruction = execution.instruction
    once = cycles(instruction)
    if once is None:
      unknown.add(instruction.kernel)
    else:
      total[part(instruction)] += once * execution.times
  return {k: v for k, v in total.items() if v}, sorted(unknown)

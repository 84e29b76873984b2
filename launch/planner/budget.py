"""What a step costs, by the compiler's estimates and a budget for kernels.

XLA writes its estimate, in cycles, at every instruction that it compiles.
Pallas kernels carry none: theirs come from budgets, which say for each kind of
chip what a kernel costs for one mini-batch of one head, or attention for one
head of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import json
import pathlib
import re

from launch.planner import attention
from launch.planner import hlo
from ttt_jax import geometry as geometry_lib
from ttt_jax.models import dit
from ttt_jax.models import softmax

# Row of a kernel budget: 48 heads over four chips.
_CALL = 'paper_63s'
# Moves rows of any width, forwards or backwards; its budget is for one tile of
# 64 tokens by 64 features of bfloat16.
_PERMUTATION = 'permute_rows'
_TILE_BYTES = 64 * 64 * 2
# (group, regex of the JAX name or of the kernel's), first match wins.
_GROUPS = (
  ('TTT inner loop', r'^ttt_(mlp|linear)'),
  ('TTT inputs and order', r'^(ttt_inputs|permute_rows)'),
  ('attention', r'^splash'),
  # Named by their einsum, see `ttt_jax.models.layers.affine`.
  ('dense layers', r'/[a-z]+,[a-z]+->[a-z]+/dot'),
  ('rest of TTT', r'/ttt/'),
  ('rest of attention', r'/attn/'),
  ('norms and the rest of layers', r'/layers/'),
  ('embeddings, loss, optimizer', r'.'),
  ('without a name', r''),
)


@dataclasses.dataclass(frozen=True)
class Load:
  """The work that kernels find on one chip.

  Attributes:
    mini_batch_heads: mini-batches times heads of one TTT pass, per layer.
    windows: attention windows in sequence times clips.
    window: tokens of a window, as they are padded.
    window_heads: heads of the chip times clips, of one window.
    head_dim: D.
  """

  mini_batch_heads: int
  windows: int
  window: int
  window_heads: int
  head_dim: int


def load(
  geometry: geometry_lib.Geometry,
  model: dit.DiTConfig,
  mesh: Mapping[str, int],
  clips: int,
) -> Load:
  """What a mesh leaves to a chip of one microbatch of `clips`."""
  heads = model.num_heads // mesh['sp']
  clips = -(-clips // mesh['data'])
  return Load(
    mini_batch_heads=geometry.mini_batches * heads * clips,
    windows=geometry.segments * clips,
    window=softmax.padded(geometry.order.window, 'splash'),
    window_heads=heads * clips,
    head_dim=model.model_dim // model.num_heads,
  )


def read(path: str | pathlib.Path, chip: str) -> dict[str, float]:
  """Kernel name -> cycles for one mini-batch of one head, or one tile moved.

  And 'splash_forward' and 'splash_backward', for a head of a window.

  Args:
    path: of what `python -m pallas_kernels.tools.compile_tpu --write` writes; the
      counts with the heads split over chips are taken.
    chip: 'v5p' ...

  Raises:
    ValueError: the file is no such table, or does not know the chip.
  """
  try:
    rows = [
      row
      for row in json.loads(pathlib.Path(path).read_text())
      if row['call'] == _CALL
    ]
  except (json.JSONDecodeError, TypeError, KeyError) as e:
    raise ValueError(f'{path} is no budget of kernels: {e!r}') from e
  kernels = {
    f'{row["op"]}_{name}': row[name]
    for row in rows
    if row['chip'] == chip
    for name in ('forward', 'backward')
    if name in row
  }
  if f'{_PERMUTATION}_forward' in kernels:
    kernels[_PERMUTATION] = kernels.pop(f'{_PERMUTATION}_forward')
  if not kernels:
    known = sorted({row['chip'] for row in rows})
    raise ValueError(
      f'{path} has no budget for {chip}; it has {", ".join(known)}'
    )
  return kernels | attention.read(chip)


def group(instruction: hlo.Instruction) -> str:
  """To which part of the network an instruction belongs."""
  name = instruction.kernel or instruction.op_name
  return next(group for group, regex in _GROUPS if re.search(regex, name))


def cycles_of(
  instruction: hlo.Instruction,
  work: Load | None,
  kernels: Mapping[str, float],
) -> float | None:
  """Cycles of an instruction once; None of a kernel without a price.

  Without `work` no kernel has one.
  """
  kernel = instruction.kernel
  if not kernel:
    return instruction.cycles
  if work is None:
    return None
  if kernel.startswith('splash'):
    return _attention(kernel, work, kernels)
  if kernel not in kernels:
    return None
  if kernel == _PERMUTATION:
    return kernels[kernel] * instruction.bytes / _TILE_BYTES
  return kernels[kernel] * work.mini_batch_heads


def cycles_by_group(
  program: hlo.Program, price: Callable[[hlo.Instruction], float | None]
) -> tuple[dict[str, float], list[str]]:
  """Cycles a step on a chip, by group, and kernels without a price.

  Args:
    program: of a chip.
    price: `cycles_of` for that chip.
  """
  total: dict[str, float] = dict.fromkeys((g for g, _ in _GROUPS), 0.0)
  unknown = set()
  for run in program.runs():
    one = run.instruction
    cycles = price(one)
    if cycles is None:
      unknown.add(one.kernel)
    else:
      total[group(one)] += cycles * run.times
  return {k: v for k, v in total.items() if v}, sorted(unknown)


def _attention(kernel, work, kernels):
  """Cycles of one splash call: a window of the clips on a chip."""
  price = kernels.get(attention.direction(kernel))
  if price is None or work.head_dim != attention.HEAD_DIM:
    return None
  counted = softmax.padded(attention.WINDOW, 'splash')
  return price * work.window_heads * (work.window / counted) ** 2

"""Largest buffers of a step that does not fit, and changes that make it fit."""

from __future__ import annotations

from collections.abc import Iterator
import math
import re

import jax.numpy as jnp
import ml_collections

from launch import topology as topology_lib
from launch.planner import hlo
from launch.planner import liveness
from ttt_jax import backbones
from ttt_jax import geometry as geometry_lib
from ttt_jax import sharding
from ttt_jax.models import dit

_GIB = 2**30
_LARGEST_SHARE = 0.9  # of a chip's memory that a step should take
# One entry of the list in XLA's message.
_ENTRY = re.compile(
  r'^\s*\d+\. Size: (?P<size>\S+)\n(?P<rest>(?:(?!\s*\d+\. Size:).*\n?)*)',
  re.MULTILINE,
)
_ROWS = 6
# Parts of a path of JAX names that do not depend on the layer.
_WRAPPERS = frozenset(
  (
    'while',
    'body',
    'closed_call',
    'shard_map',
    'checkpoint',
    'rematted_computation',
  )
)


def summary(message: str) -> str:
  """Returns an out-of-memory message of the compiler in one line."""
  for regex in (
    r'Used (\S+) of (\S+) \w+\. Exceeded',
    r'required for .*?\((\S+)\) exceeds available HBM \((\S+)\)',
  ):
    if match := re.search(regex, message):
      return f'the program takes {match[1]} of {match[2]}'
  return message.strip().splitlines()[0][:200]


def largest_buffers(message: str) -> list[str]:
  """Returns the largest buffers in an out-of-memory message, one line each.

  Equal buffers share a line. Some messages contain none.
  """
  rows: dict[str, list[str]] = {}
  for entry in _ENTRY.finditer(message):
    name = re.search(r'op_name="([^"]*)"', entry['rest'])
    shape = re.search(r'Shape: ([^\s{]+)', entry['rest'])
    what = f'{shape[1] if shape else "?"}, {_shorten(name[1] if name else "")}'
    rows.setdefault(what, []).append(entry['size'])
  return [
    f'{sizes[0]}{f" x {len(sizes)}" if len(sizes) > 1 else ""} {what}'
    for what, sizes in list(rows.items())[:_ROWS]
  ]


def largest_at_peak(program: hlo.Program) -> list[str]:
  """Returns the largest temporaries at a program's peak, one line each."""
  rows: dict[str, list[int]] = {}
  for buffer in liveness.buffers_at_peak(program):
    what = f'{buffer.type}, {_shorten(buffer.op_name) or buffer.opcode}'
    rows.setdefault(what, []).append(buffer.bytes)
  largest = sorted(rows.items(), key=lambda row: -sum(row[1]))[:_ROWS]
  return [
    f'{sum(sizes) / _GIB:.2f} GiB'
    f'{f" in {len(sizes)}" if len(sizes) > 1 else ""}: {what}'
    for what, sizes in largest
  ]


def _shorten(op_name: str) -> str:
  """Returns the layer and the operation in a path of JAX names."""
  if not op_name:
    return ''
  direction = 'backward ' if 'transpose(' in op_name else ''
  if 'rematted_computation' in op_name:
    direction = 'recompute '
  path = [part for part in op_name.split('/') if part not in _WRAPPERS]
  return direction + '/'.join(path[-4:])


def suggestions(
  config: ml_collections.ConfigDict,
  mode: str,
  topology: topology_lib.Topology,
) -> Iterator[str]:
  """Yields valid changes, as flags, that make a step smaller."""
  mesh, heads = dict(config.mesh), backbones.from_config(config).num_heads
  remat = config.model.get('remat')
  if mode == 'train' and remat == 'none':
    yield '--config.model.remat=layer: keeps only the inputs of the blocks'
  if mode == 'train' and heads and remat == 'attention':
    yield (
      "--config.model.remat=offload_attention: keeps them in the host's memory"
    )
    yield '--config.model.remat=layer: attention is computed again'
  if mode == 'train' and heads and remat == 'layer':
    yield "--config.model.remat=offload: keeps them in the host's memory"
  if mode == 'train':
    counts = microbatches(config, mesh)
    if more := [n for n in counts if n > config.microbatches]:
      yield f'--config.microbatches={more[0]}: fewer clips at a time'
  for mesh in meshes(config, mode, topology.num_devices):
    if mesh['sp'] > config.mesh.sp:
      yield (
        f'--mesh=data:{mesh["data"]},sp:{mesh["sp"]}: a smaller part of'
        ' each sequence'
      )
      break
  yield 'a topology of more chips, or of chips with more memory (v5p)'


def faster(
  config: ml_collections.ConfigDict,
  mode: str,
  topology: topology_lib.Topology,
  peak: int,
) -> str | None:
  """Returns a change, as a flag, that uses free memory to save time, or None.

  Args:
    config: Prepared config of the plan.
    mode: 'train' or 'sample'.
    topology: Chips.
    peak: Peak of the plan in bytes of a device.
  """
  if mode != 'train' or config.model.get('remat') != 'layer':
    return None
  model = backbones.from_config(config).config
  if topology.chip.is_gpu or not isinstance(model, dit.DiTConfig):
    return None  # Elsewhere no kernel's result is kept.
  order = geometry_lib.Geometry.from_config(config).order
  clips = config.batch_size // config.mesh.data // config.microbatches
  kept = clips * order.segments * order.window * model.model_dim
  kept *= model.num_layers * jnp.dtype(model.dtype).itemsize // config.mesh.sp
  free = int(_LARGEST_SHARE * topology.chip.hbm) - peak
  what = f'the results of attention, {kept / _GIB:.1f} GiB'
  if kept <= free:
    return (
      f'--config.model.remat=attention: keeps {what} of {free / _GIB:.1f}'
      ' that are free, and its kernel runs once'
    )
  return (
    f"--config.model.remat=offload_attention: keeps {what}, in the host's"
    ' memory, and its kernel runs once'
  )


def meshes(
  config: ml_collections.ConfigDict, mode: str, chips: int
) -> list[dict[str, int]]:
  """Returns the valid meshes of all chips, smallest `sp` first.

  In training a mesh is valid with at least one number of microbatches. Sampling
  has two clips, one with the text and one with the negative text, so its `data`
  is at most 2.
  """
  candidates = [dict(data=chips // sp, sp=sp) for sp in _divisors(chips)]
  if mode == 'train':
    return [mesh for mesh in candidates if microbatches(config, mesh)]
  heads = backbones.from_config(config).num_heads
  return [
    mesh
    for mesh in candidates
    if mesh['data'] <= 2 and (heads is None or heads % mesh['sp'] == 0)
  ]


def _divisors(number: int) -> list[int]:
  small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
  return sorted({*small, *(number // n for n in small)})


def microbatches(
  config: ml_collections.ConfigDict, mesh: dict[str, int]
) -> list[int]:
  """Returns the numbers of microbatches that are valid with a mesh."""
  heads = backbones.from_config(config).num_heads

  def is_valid(count):
    try:
      sharding.check_mesh(
        mesh,
        batch_size=config.batch_size,
        microbatches=count,
        num_heads=heads,
      )
    except ValueError:
      return False
    return True

  return list(filter(is_valid, _divisors(config.batch_size)))

"""What fills the memory of a step that does not fit, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
import re

import ml_collections

from launch import topology as topology_lib
from launch.planner import hlo
from launch.planner import liveness
from ttt_jax import backbones
from ttt_jax import sharding

_GIB = 2**30
# One entry of the list in XLA's message.
_ENTRY = re.compile(
  r'^\s*\d+\. Size: (?P<size>\S+)\n(?P<rest>(?:(?!\s*\d+\. Size:).*\n?)*)',
  re.MULTILINE,
)
_ROWS = 6


def summary(message: str) -> str:
  """The compiler's message in one line: what it needs of what there is."""
  for regex in (
    r'Used (\S+) of (\S+) \w+\. Exceeded',
    r'required for .*?\((\S+)\) exceeds available HBM \((\S+)\)',
  ):
    if found := re.search(regex, message):
      return f'the program takes {found[1]} of {found[2]}'
  return message.strip().splitlines()[0][:200]


def culprits(message: str) -> list[str]:
  """The largest allocations that an out-of-memory message names, a line each.

  Equal ones are joined. Some messages name none.
  """
  rows: dict[str, list[str]] = {}
  for entry in _ENTRY.finditer(message):
    name = re.search(r'op_name="([^"]*)"', entry['rest'])
    shape = re.search(r'Shape: ([^\s{]+)', entry['rest'])
    what = f'{shape[1] if shape else "?"}, {_short(name[1] if name else "")}'
    rows.setdefault(what, []).append(entry['size'])
  return [
    f'{sizes[0]}{f" x {len(sizes)}" if len(sizes) > 1 else ""} {what}'
    for what, sizes in list(rows.items())[:_ROWS]
  ]


def largest(program: hlo.Program) -> list[str]:
  """The largest temporaries at the peak of a compiled program, a line each."""
  rows: dict[str, list[int]] = {}
  for one in liveness.at_peak(program):
    what = f'{one.type}, {_short(one.op_name) or one.opcode}'
    rows.setdefault(what, []).append(one.bytes)
  found = sorted(rows.items(), key=lambda row: -sum(row[1]))[:_ROWS]
  return [
    f'{sum(sizes) / _GIB:.2f} GiB'
    f'{f" in {len(sizes)}" if len(sizes) > 1 else ""}: {what}'
    for what, sizes in found
  ]


def _short(op_name: str) -> str:
  """The layer and the operation of a path of JAX names."""
  backward = 'backward ' if 'transpose(' in op_name else ''
  if 'rematted_computation' in op_name:
    backward = 'again '
  path = [
    part
    for part in op_name.split('/')
    if part
    not in (
      'while',
      'body',
      'closed_call',
      'shard_map',
      'checkpoint',
      'rematted_computation',
    )
  ]
  return backward + '/'.join(path[-4:]) if op_name else ''


def remedies(
  config: ml_collections.ConfigDict,
  mode: str,
  topology: topology_lib.Topology,
) -> Iterator[str]:
  """Changes that make a step smaller and are legal, as flags."""
  mesh, heads = dict(config.mesh), backbones.of(config).num_heads
  if mode == 'train' and config.model.get('remat') == 'none':
    yield '--config.model.remat=layer: only the inputs of the blocks wait'
  if mode == 'train' and heads and config.model.get('remat') == 'layer':
    yield "--config.model.remat=offload: they wait in the host's memory"
  if mode == 'train':
    for parts in range(config.microbatches + 1, config.batch_size + 1):
      if _legal(config, mesh, microbatches=parts):
        yield f'--config.microbatches={parts}: fewer clips at once'
        break
  for mesh in meshes(config, mode, topology.chips):
    if mesh['sp'] > config.mesh.sp:
      yield (
        f'--mesh=data:{mesh["data"]},sp:{mesh["sp"]}: a smaller part of'
        ' each sequence'
      )
      break
  yield 'a topology of more chips, or of chips with more memory (v5p)'


def meshes(
  config: ml_collections.ConfigDict, mode: str, chips: int
) -> list[dict[str, int]]:
  """Meshes of all chips that a config can run on, least `sp` first.

  Some microbatches have to suit them. Sampling splits its two clips, the
  text's and the negative one, at most over a `data` of 2.
  """
  found = []
  for sp in range(1, chips + 1):
    if chips % sp:
      continue
    mesh = dict(data=chips // sp, sp=sp)
    if mode == 'sample':
      heads = backbones.of(config).num_heads
      legal = mesh['data'] <= 2 and not heads % sp
    else:
      legal = any(
        _legal(config, mesh, microbatches=parts)
        for parts in range(1, config.batch_size + 1)
      )
    if legal:
      found.append(mesh)
  return found


def microbatches(
  config: ml_collections.ConfigDict, mesh: dict[str, int]
) -> list[int]:
  """The numbers of microbatches that suit a mesh."""
  return [
    parts
    for parts in range(1, config.batch_size + 1)
    if _legal(config, mesh, microbatches=parts)
  ]


def _legal(config, mesh, microbatches):
  try:
    sharding.check_mesh(
      mesh,
      batch_size=config.batch_size,
      microbatches=microbatches,
      num_heads=backbones.of(config).num_heads,
    )
  except ValueError:
    return False
  return True

"""Temporaries that are alive at the peak of a scheduled program.

The compiler reports the size of the peak. It does not report what is alive then
(libtpu's buffer assignment is empty), and its message about a program that does
not fit often names nothing. This module follows the scheduled HLO: a buffer
lives from the instruction that defines it to the last one that reads it. Loops
update their state in place, so the results of a body need no more memory.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import re

from launch.planner import hlo

# Opcodes whose result is the memory of their first operand.
_ALIASES = frozenset(
  (
    'bitcast',
    'while',
    'opt-barrier',
    'optimization-barrier',
    'dynamic-update-slice',
    'dynamic-update-slice-start',
    'conditional',
  )
)
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?')
_TILE = re.compile(r'T\((\d+),(\d+)\)')

# Names of buffers: one set for each element of a tuple, or a single one.
_Value = list[frozenset[str]]


@dataclasses.dataclass(frozen=True)
class Buffer:
  """Memory of a temporary.

  Attributes:
    bytes: bytes with the padding of the layout.
    type: HLO type without layout.
    op_name: path of JAX names that it comes from.
    opcode: opcode of the instruction that defines it.
  """

  bytes: int
  type: str
  op_name: str
  opcode: str


def buffers_at_peak(program: hlo.Program) -> list[Buffer]:
  """Returns the temporaries that are alive at the peak, largest first."""
  return sorted(_peak(program, program.entry)[1], key=lambda b: -b.bytes)


def _peak(program: hlo.Program, computation: str) -> tuple[int, list[Buffer]]:
  """Returns bytes and temporaries at the peak of a computation."""
  instructions = program.computations.get(computation, [])
  values: dict[str, _Value] = {}
  buffers: dict[str, Buffer] = {}
  last_use: dict[str, int] = {}
  returned: frozenset[str] = frozenset()
  for i, instruction in enumerate(instructions):
    names = instruction.operand_names
    operands = [values.get(name, [frozenset()]) for name in names]
    opcode = instruction.opcode
    if opcode == 'tuple':
      value = [_union(operand) for operand in operands]
    elif opcode == 'get-tuple-element':
      index = int(instruction.attribute(r'index=(\d+)'))
      elements = operands[0] if operands else [frozenset()]
      known = len(elements) > index
      value = [elements[index] if known else _union(elements)]
    elif (alias := _alias(program, instruction)) is not None and alias < len(
      operands
    ):
      value = operands[alias]
    else:
      value = [frozenset()]
      buffer = _buffer(instruction)
      if buffer.bytes and opcode not in ('parameter', 'constant'):
        buffers[instruction.name] = buffer
        value = [frozenset([instruction.name])]
    values[instruction.name] = value
    if opcode not in ('tuple', 'get-tuple-element', 'bitcast'):
      for name in _union(s for operand in operands for s in operand):
        last_use[name] = i
    if instruction.root:
      returned = _union(value)
  # These take the memory of the loop's state, or donated memory.
  own = {name: b for name, b in buffers.items() if name not in returned}
  return _sweep(program, instructions, own, last_use)


def _union(sets) -> frozenset[str]:
  return frozenset().union(*sets)


def _sweep(program, instructions, buffers, last_use):
  """Returns bytes and buffers at the instruction when most are alive."""
  ends: dict[int, list[str]] = {}
  for name in buffers:
    ends.setdefault(last_use.get(name, len(instructions)), []).append(name)
  alive: dict[str, Buffer] = {}
  total, peak, at_peak = 0, 0, []
  for i, instruction in enumerate(instructions):
    if buffer := buffers.get(instruction.name):
      alive[instruction.name] = buffer
      total += buffer.bytes
    inner_peak, inner = max(
      (_peak(program, called) for called in _called(instruction)),
      key=lambda peak: peak[0],
      default=(0, []),
    )
    if total + inner_peak > peak:
      peak, at_peak = total + inner_peak, [*alive.values(), *inner]
    for name in ends.get(i, ()):
      total -= alive.pop(name).bytes
  return peak, at_peak


def _called(instruction: hlo.Instruction) -> Iterator[str]:
  """Yields computations that allocate memory of their own."""
  if instruction.opcode == 'while':
    yield instruction.body
  elif instruction.opcode in ('call', 'conditional'):
    yield from instruction.called


def _alias(program: hlo.Program, instruction: hlo.Instruction) -> int | None:
  """Returns the operand whose memory the result takes, None without one."""
  if instruction.opcode in _ALIASES or instruction.opcode.endswith('-done'):
    return 0
  operand = instruction.attribute(r'output_to_operand_aliasing=\{\{\}: \((\d+)')
  if operand:
    return int(operand)
  if instruction.opcode != 'fusion':
    return None
  root = program.fused_root(instruction)
  if root is None or root.opcode != 'dynamic-update-slice':
    return None
  for inner in program.computations[program.computation_of[root.name]]:
    if inner.name == root.operand_names[0] and inner.opcode == 'parameter':
      return int(inner.operands.partition(')')[0])
  return None


def _buffer(instruction: hlo.Instruction) -> Buffer:
  """Returns the memory of a result; of a transfer's start, its destination."""
  arrays = _ARRAY.findall(instruction.type)
  if instruction.opcode == 'copy-start':
    arrays = arrays[:1]
  elif instruction.opcode.endswith('-start'):
    arrays = arrays[1:2]
  return Buffer(
    bytes=sum(_padded_bytes(*array) for array in arrays),
    type=', '.join(f'{name}[{sizes}]' for name, sizes, _ in arrays[:3]),
    op_name=instruction.op_name,
    opcode=instruction.opcode,
  )


def _padded_bytes(name: str, sizes: str, layout: str) -> int:
  """Returns an array's bytes in the chip's memory, 0 in other memories."""
  if 'S(' in layout:
    return 0
  dimensions = [int(n) for n in sizes.split(',') if n]
  tile = _TILE.search(layout)
  order = [int(n) for n in layout.partition(':')[0].split(',') if n]
  if tile and len(order) >= 2:
    for axis, multiple in zip(order[:2], (int(tile[2]), int(tile[1]))):
      dimensions[axis] = -(-dimensions[axis] // multiple) * multiple
  return hlo.num_bytes(f'{name}[{",".join(map(str, dimensions))}]')

"""Bytes that a compiled program writes, and exchanges with its host."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import re

from launch.planner import hlo

# Results that are a view of another, or known before the program runs.
_FREE = frozenset(
  (
    'parameter',
    'constant',
    'tuple',
    'get-tuple-element',
    'bitcast',
    'while',
    'call',
    'conditional',
    'after-all',
    'opt-barrier',
    'partition-id',
    'replica-id',
    'async-start',
  )
)
# An array with its layout, in which S(5) marks the host's memory, and S(1) and
# others mark memory on the chip's die.
_ARRAY = re.compile(r'\w+\[[\d,]*\](?:\{[^{}]*\})?')
_SPACE = re.compile(r'S\((\d+)\)')
_HOST = '5'


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Bytes that a program moves on one chip.

  Attributes:
    written: bytes of results in the chip's memory.
    host: bytes to and from the host's memory.
  """

  written: float
  host: float


def hbm_traffic(program: hlo.Program) -> Traffic:
  """Returns the traffic of all executions of all instructions."""
  written = host = 0.0
  for execution in program.executions():
    instruction, times = execution.instruction, execution.times
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith('-done'):
      continue
    arrays = list(_arrays(instruction.type))
    in_hbm = [size for space, size in arrays if not space]
    if opcode.endswith('-start') and any(space == _HOST for space, _ in arrays):
      # The type has the complete array on the host; only a slice is moved.
      host += times * max(in_hbm, default=0)
    elif opcode.endswith('-start'):
      written += times * (arrays[0][1] if not arrays[0][0] else 0)
    elif 'AllocateBuffer' not in instruction.operands:
      updated = _updated_bytes(program, instruction)
      written += times * (updated or sum(in_hbm))
  return Traffic(written, host)


def _arrays(type_text: str) -> Iterator[tuple[str, int]]:
  """Yields memory space and bytes of each array; '' is the chip's memory."""
  for array in _ARRAY.findall(type_text):
    space = _SPACE.search(array)
    yield space[1] if space else '', hlo.num_bytes(array)


def _updated_bytes(program: hlo.Program, instruction: hlo.Instruction) -> int:
  """Returns the bytes that an update in place writes, 0 for other opcodes."""
  update = instruction
  if instruction.opcode == 'fusion':
    update = program.fused_root(instruction)
  if update is None or update.opcode != 'dynamic-update-slice':
    return 0
  # The operands are array, update, and indices.
  names = update.operand_names
  value = program.by_name.get(names[1]) if len(names) > 1 else None
  return value.bytes if value else 0

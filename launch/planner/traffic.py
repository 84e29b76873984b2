"""What a compiled program writes into its memory, and sends to its host."""

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
# An array with its layout; S(5) in it is the host's memory, S(1) and others
# are on the chip's die.
_ARRAY = re.compile(r'\w+\[[\d,]*\](?:\{[^{}]*\})?')
_SPACE = re.compile(r'S\((\d+)\)')
_HOST = '5'


@dataclasses.dataclass(frozen=True)
class Moved:
  """Bytes that a program moves on one chip.

  Attributes:
    written: results in the chip's memory.
    host: to and from the host's.
  """

  written: float
  host: float


def moved(program: hlo.Program) -> Moved:
  """Adds up all instructions, as often as they run."""
  written = host = 0.0
  for run in program.runs():
    one = run.instruction
    if one.opcode in _FREE or one.opcode.endswith('-done'):
      continue
    spaces = list(_spaces(one.type))
    sizes = [size for space, size in spaces if not space]
    if one.opcode.endswith('-start') and any(s == _HOST for s, _ in spaces):
      # Of the whole array on the host a slice is moved.
      host += run.times * max(sizes, default=0)
    elif one.opcode.endswith('-start'):
      written += run.times * (spaces[0][1] if not spaces[0][0] else 0)
    elif 'AllocateBuffer' not in one.operands:
      written += run.times * (_updated(program, one) or sum(sizes))
  return Moved(written, host)


def _spaces(type_text: str) -> Iterator[tuple[str, int]]:
  """(memory space, bytes) of each array of a type; '' is the chip's memory."""
  for array in _ARRAY.findall(type_text):
    space = _SPACE.search(array)
    yield space[1] if space else '', hlo.size(array)


def _updated(program: hlo.Program, one: hlo.Instruction) -> int:
  """Bytes that an update in place writes; 0 for other instructions."""
  called = re.search(r'\bcalls=%?([\w.\-]+)', one.operands)
  inner = program.computations.get(called[1], []) if called else []
  if one.opcode == 'fusion':
    roots = [i for i in inner if i.root]
    if not roots or roots[0].opcode != 'dynamic-update-slice':
      return 0
    operands = roots[0].operands
  elif one.opcode == 'dynamic-update-slice':
    operands = one.operands
  else:
    return 0
  # (whole, update, place ...)
  names = re.findall(r'%([\w.\-]+)', operands.partition(')')[0])
  update = program.by_name.get(names[1]) if len(names) > 1 else None
  return update.bytes if update else 0

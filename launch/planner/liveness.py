"""What fills a chip's memory at the worst moment of a scheduled program.

The compiler tells the size of the peak, not what makes it. Here the lines of
the scheduled HLO are gone through in their order: a buffer lives from the line
that makes it to the last that reads it. Loops update their state in place, so
that what a body hands on costs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import re

from launch.planner import hlo

# Whose results are their operands, as they are or one of them.
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
_OPERAND = re.compile(r'%([\w.\-]+)')

# Ids of buffers: one set for each element of a tuple, or one in all.
_Value = list[frozenset[str]]


@dataclasses.dataclass(frozen=True)
class Buffer:
  """Memory that is taken at the peak.

  Attributes:
    bytes: with the padding of its layout.
    type: as HLO writes it, without layout.
    op_name: the path of JAX names that it comes from.
    opcode: of the instruction that makes it.
  """

  bytes: int
  type: str
  op_name: str
  opcode: str


def at_peak(program: hlo.Program) -> list[Buffer]:
  """The temporaries that live at the peak, largest first."""
  return sorted(_peak(program, program.entry)[1], key=lambda b: -b.bytes)


def _peak(program: hlo.Program, computation: str) -> tuple[int, list[Buffer]]:
  """Most bytes of temporaries in a computation, and what they are."""
  instructions = program.computations.get(computation, [])
  values: dict[str, _Value] = {}
  buffers: dict[str, Buffer] = {}
  last: dict[str, int] = {}
  born: list[list[str]] = []
  handed_on: frozenset[str] = frozenset()
  for i, one in enumerate(instructions):
    operands = _OPERAND.findall(one.operands.partition(')')[0])
    given = [values.get(name, [frozenset()]) for name in operands]
    born.append([])
    if one.opcode == 'tuple':
      values[one.name] = [frozenset().union(*v) for v in given]
    elif one.opcode == 'get-tuple-element':
      index = int(re.search(r'index=(\d+)', one.operands)[1])
      whole = given[0] if given else [frozenset()]
      fits = len(whole) > index
      values[one.name] = [whole[index] if fits else frozenset().union(*whole)]
    elif (alias := _alias(program, one)) is not None and alias < len(given):
      values[one.name] = given[alias]
    else:
      buffer = _buffer(one)
      values[one.name] = [frozenset()]
      if buffer.bytes and one.opcode not in ('parameter', 'constant'):
        buffers[one.name] = buffer
        born[i].append(one.name)
        values[one.name] = [frozenset([one.name])]
    if one.opcode not in ('tuple', 'get-tuple-element', 'bitcast'):
      for name in frozenset().union(*(s for v in given for s in v)):
        last[name] = i
    if one.root:
      handed_on = frozenset().union(*values[one.name])
  return _sweep(program, instructions, buffers, born, last, handed_on)


def _sweep(program, instructions, buffers, born, last, handed_on):
  """The moment when most is alive."""
  dies: dict[int, list[str]] = {}
  for name in buffers:
    dies.setdefault(last.get(name, len(instructions)), []).append(name)
  alive: dict[str, Buffer] = {}
  total, most, what = 0, 0, []
  for i, one in enumerate(instructions):
    for name in born[i]:
      # It takes the place of the loop's state, or of donated memory.
      if name not in handed_on:
        alive[name] = buffers[name]
        total += buffers[name].bytes
    inside, parts = max(
      (_peak(program, inner) for inner in _inner(one)),
      key=lambda peak: peak[0],
      default=(0, []),
    )
    if total + inside > most:
      most, what = total + inside, [*alive.values(), *parts]
    for name in dies.get(i, ()):
      if name in alive:
        total -= alive.pop(name).bytes
  return most, what


def _inner(one: hlo.Instruction) -> Iterator[str]:
  """Computations that an instruction runs with memory of their own."""
  if one.opcode == 'while':
    yield re.search(r'\bbody=%?([\w.\-]+)', one.operands)[1]
  elif one.opcode in ('call', 'conditional'):
    yield from re.findall(
      r'\b(?:to_apply|true_computation|false_computation)=%?([\w.\-]+)',
      one.operands,
    )


def _alias(program: hlo.Program, one: hlo.Instruction) -> int | None:
  """The operand whose memory a result takes; None if it has its own."""
  if one.opcode in _ALIASES or one.opcode.endswith('-done'):
    return 0
  if match := re.search(
    r'output_to_operand_aliasing=\{\{\}: \((\d+)', one.operands
  ):
    return int(match[1])
  if one.opcode != 'fusion':
    return None
  called = re.search(r'\bcalls=%?([\w.\-]+)', one.operands)
  inner = program.computations.get(called[1], []) if called else []
  root = next((i for i in inner if i.root), None)
  if root is None or root.opcode != 'dynamic-update-slice':
    return None
  whole = _OPERAND.search(root.operands)[1]
  for i in inner:
    if i.name == whole and i.opcode == 'parameter':
      return int(i.operands.partition(')')[0])
  return None


def _buffer(one: hlo.Instruction) -> Buffer:
  """What an instruction allocates; a transfer's start its destination."""
  arrays = _ARRAY.findall(one.type)
  if one.opcode.endswith('-start'):
    arrays = arrays[:1] if one.opcode == 'copy-start' else arrays[1:2]
  total = sum(_padded(*array) for array in arrays)
  text = ', '.join(f'{name}[{sizes}]' for name, sizes, _ in arrays[:3])
  return Buffer(total, text, one.op_name, one.opcode)


def _padded(name: str, sizes: str, layout: str) -> int:
  """Bytes in the chip's memory; 0 if it is elsewhere."""
  if 'S(' in layout:
    return 0
  dimensions = [int(n) for n in sizes.split(',') if n]
  tile = _TILE.search(layout)
  order = [int(n) for n in layout.partition(':')[0].split(',') if n]
  if tile and len(order) >= 2:
    for axis, grain in zip(order[:2], (int(tile[2]), int(tile[1]))):
      dimensions[axis] = -(-dimensions[axis] // grain) * grain
  return hlo.size(f'{name}[{",".join(map(str, dimensions))}]')

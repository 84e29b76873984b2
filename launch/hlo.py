"""Reads compiled HLO text: what runs, how often, what it moves, what it costs.

XLA's own `cost_analysis` counts the body of a loop once. Here every
instruction counts as often as the loops around it run.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import re

_BYTES = {
    'pred': 1, 's4': 1, 'u4': 1, 's8': 1, 'u8': 1, 'f8e4m3fn': 1, 'f8e5m2': 1,
    'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f32': 4, 's32': 4, 'u32': 4,
    'f64': 8, 's64': 8, 'u64': 8, 'c64': 8,
}  # pyformat: disable
COLLECTIVES = (
    'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
    'collective-permute', 'ragged-all-to-all', 'collective-broadcast',
)  # pyformat: disable

_SHAPE = re.compile(r'(\w+)\[([\d,]*)\]')
_HEAD = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_OPCODE = re.compile(r'([\w\-]+)\((.*)$')
_CALLED = re.compile(
    r'\b(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)'
)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of HLO.

  Attributes:
    name: of the result.
    opcode: 'fusion', 'while', 'all-to-all-start' ...
    type: of the result, as written.
    operands: as written, up to the closing bracket and what follows it.
    root: whether it is the result of its computation.
  """

  name: str
  opcode: str
  type: str
  operands: str
  root: bool

  @property
  def op_name(self) -> str:
    """The path of JAX names that it comes from; empty if there is none."""
    match = re.search(r'op_name="([^"]*)"', self.operands)
    return match[1] if match else ''

  @property
  def cycles(self) -> int:
    """The compiler's estimate; 0 where it makes none (custom calls)."""
    match = re.search(r'"estimated_cycles":"?(\d+)', self.operands)
    # Unknown costs are written as the largest number there is.
    return int(match[1]) if match and int(match[1]) < 2**60 else 0

  @property
  def target(self) -> str:
    """What a custom call calls."""
    match = re.search(r'custom_call_target="([^"]*)"', self.operands)
    return match[1] if match else ''

  @property
  def kernel(self) -> str:
    """Name of the Pallas kernel that a custom call runs; '' for others."""
    if self.target != 'tpu_custom_call':
      return ''
    return re.sub(r'[.\d]+$', '', self.name)

  @property
  def bytes(self) -> int:
    """Of the result."""
    return size(self.type)


@dataclasses.dataclass(frozen=True)
class Run:
  """An instruction and how often a program runs it."""

  instruction: Instruction
  times: int


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective and how often a program runs it.

  Attributes:
    kind: of `COLLECTIVES`.
    devices: of a group; 0 if not written.
    bytes: of the larger of what a device gives and gets, once.
    times: how often it runs.
    op_name: the path of JAX names that it comes from.
  """

  kind: str
  devices: int
  bytes: int
  times: int
  op_name: str


def size(type_text: str) -> int:
  """Bytes of a type as HLO writes it; tuples are added up, layouts ignored."""
  total = 0
  for name, dimensions in _SHAPE.findall(type_text):
    elements = 1
    for n in filter(None, dimensions.split(',')):
      elements *= int(n)
    total += elements * _BYTES.get(name, 0)
  return total


class Program:
  """A module of HLO text.

  Attributes:
    computations: name -> instructions.
    entry: name of the computation that runs first.
  """

  def __init__(self, text: str):
    """Parses `compiled.as_text()`; raises ValueError if nothing is in it."""
    self.computations: dict[str, list[Instruction]] = {}
    self.entry = ''
    current: list[Instruction] = []
    for line in _lines(text):
      if head := _HEAD.match(line):
        current = self.computations.setdefault(head[2], [])
        if head[1]:
          self.entry = head[2]
      elif match := _INSTRUCTION.match(line):
        kind, rest = _split_type(match[3])
        if opcode := _OPCODE.match(rest):
          current.append(
              Instruction(match[2], opcode[1], kind, opcode[2], bool(match[1]))
          )
    if not self.entry:
      raise ValueError('this is no HLO module: it has no ENTRY computation')

  def runs(self) -> Iterator[Run]:
    """Every instruction that runs by itself, not those inside of fusions.

    Of the branches of a conditional, all are counted.
    """
    yield from self._runs(self.entry, 1)

  def _runs(self, name: str, times: int) -> Iterator[Run]:
    for one in self.computations.get(name, ()):
      if one.opcode == 'while':
        body = re.search(r'\bbody=%?([\w.\-]+)', one.operands)[1]
        yield from self._runs(body, times * self.trips(one))
      elif one.opcode in ('call', 'conditional', 'async-start'):
        yield Run(one, times)
        branches = re.search(r'branch_computations=\{([^}]*)\}', one.operands)
        called = branches[1].split(',') if branches else []
        for inner in (*called, *_CALLED.findall(one.operands)):
          yield from self._runs(inner.strip().lstrip('%'), times)
      else:
        yield Run(one, times)

  def trips(self, loop: Instruction) -> int:
    """How often a while loop runs; 1 if that cannot be read."""
    known = re.search(r'"known_trip_count":\{"n":"?(\d+)', loop.operands)
    if known:
      return int(known[1])
    condition = re.search(r'\bcondition=%?([\w.\-]+)', loop.operands)[1]
    instructions = {i.name: i for i in self.computations.get(condition, ())}
    limits = {
        name: int(i.operands.partition(')')[0])
        for name, i in instructions.items()
        if i.opcode == 'constant' and re.match(r'-?\d+\)', i.operands)
    }
    for i in instructions.values():
      if i.root:
        for operand in re.findall(r'%([\w.\-]+)', i.operands):
          if operand in limits:
            return limits[operand]
    return max(limits.values(), default=1)

  def collectives(self) -> list[Collective]:
    """Every collective, in a fusion or not, started or in one piece."""
    found = []
    for run in self.runs():
      one = run.instruction
      for inner in self._collectives_of(one):
        kind = _collective(inner.opcode)
        # XLA for TPUs writes a reduce-scatter as an all-reduce whose result
        # is cut in the same fusion.
        if kind == 'all-reduce' and 'all-reduce-scatter' in one.operands:
          kind = 'reduce-scatter'
        found.append(
            Collective(
                kind=kind,
                devices=_group(inner.operands),
                bytes=self._moved(inner),
                times=run.times,
                op_name=inner.op_name or one.op_name,
            )
        )
    return found

  def _collectives_of(self, one: Instruction) -> Iterator[Instruction]:
    if _collective(one.opcode):
      yield one
    elif one.opcode == 'fusion':
      for called in _CALLED.findall(one.operands):
        for inner in self.computations.get(called, ()):
          yield from self._collectives_of(inner)

  def _moved(self, one: Instruction) -> int:
    """Bytes of a collective; a started one's type holds input and output."""
    if not one.opcode.endswith('-start') or not one.type.startswith('('):
      given = self._operand_bytes(one)
      return max(one.bytes, given)
    return max(size(part) for part in _split_tuple(one.type))

  def _operand_bytes(self, one: Instruction) -> int:
    return size(one.operands.partition(')')[0])


def _lines(text: str) -> Iterator[str]:
  """Lines of HLO; metadata of kernels may hold line breaks."""
  whole = ''
  for line in text.splitlines():
    if _INSTRUCTION.match(line) or _HEAD.match(line) or line == '}':
      yield whole
      whole = line
    else:
      whole += line
  yield whole


def _collective(opcode: str) -> str:
  """The kind of collective that an opcode starts or is; '' for any other."""
  kind = opcode.removesuffix('-start')
  return kind if kind in COLLECTIVES else ''


def _split_type(text: str) -> tuple[str, str]:
  """'(f32[2], s32[]) while(...)' -> '(f32[2], s32[])', 'while(...)'."""
  if not text.startswith('('):
    kind, _, rest = text.partition(' ')
    return kind, rest
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return text[: i + 1], text[i + 1 :].lstrip()
  return text, ''


def _split_tuple(text: str) -> list[str]:
  """'(f32[2], (s32[], f32[3]))' -> ['f32[2]', '(s32[], f32[3])']."""
  parts, depth, start = [], 0, 1
  for i, letter in enumerate(text):
    depth += (letter in '([{') - (letter in ')]}')
    if (letter == ',' and depth == 1) or not depth:
      parts.append(text[start:i].strip())
      start = i + 1
  return parts


def _group(attributes: str) -> int:
  """Devices of a replica group; 0 if none is written."""
  if match := re.search(r'replica_groups=\{\{([\d,]*)\}', attributes):
    return len(match[1].split(','))
  if match := re.search(r'replica_groups=\[(\d+),(\d+)\]<=', attributes):
    return int(match[2])
  if match := re.search(
      r"replica_groups=mesh\[(.*?)\] ?\{(.*?)\}", attributes
  ):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    devices = 1
    for axis in re.findall(r"'(\w+)'", match[2]):
      devices *= int(sizes[axis])
    return devices
  return 0



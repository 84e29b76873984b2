"""Parses compiled HLO text: instructions, executions, sizes, estimated cycles.

XLA's own `cost_analysis` counts the body of a loop once. Here every instruction
counts once per iteration of the loops around it.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math
import re

_BYTES = {
  'pred': 1,
  's4': 1,
  'u4': 1,
  's8': 1,
  'u8': 1,
  'f8e4m3fn': 1,
  'f8e5m2': 1,
  'bf16': 2,
  'f16': 2,
  's16': 2,
  'u16': 2,
  'f32': 4,
  's32': 4,
  'u32': 4,
  'f64': 8,
  's64': 8,
  'u64': 8,
  'c64': 8,
}
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\]')


def num_bytes(type_text: str) -> int:
  """Returns the bytes of an HLO type, summed over tuples, without padding."""
  names = (name for name, _ in _SHAPE.findall(type_text))
  return sum(
    n * _BYTES.get(name, 0) for name, n in zip(names, num_elements(type_text))
  )


def num_elements(type_text: str) -> list[int]:
  """Returns the number of elements of each array of a type."""
  return [
    math.prod(int(n) for n in dimensions.split(',') if n)
    for _, dimensions in _SHAPE.findall(type_text)
  ]


def array_types(type_text: str) -> list[str]:
  """Splits '(f32[2]{0}, (s32[], pred[]))' into its arrays, without layouts."""
  return [f'{name}[{sizes}]' for name, sizes in _SHAPE.findall(type_text)]


def tuple_parts(text: str) -> list[str]:
  """Splits '(f32[2], (s32[], f32[3]))' into 'f32[2]' and '(s32[], f32[3])'."""
  parts, depth, start = [], 0, 1
  for i, letter in enumerate(text):
    depth += (letter in '([{') - (letter in ')]}')
    if (letter == ',' and depth == 1) or not depth:
      parts.append(text[start:i].strip())
      start = i + 1
  return parts


def _split_type(text: str) -> tuple[str, str]:
  """Splits '(f32[2], s32[]) while(...)' into the type and 'while(...)'."""
  if not text.startswith('('):
    type_text, _, rest = text.partition(' ')
    return type_text, rest
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return text[: i + 1], text[i + 1 :].lstrip()
  return text, ''


_HEAD = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_OPCODE = re.compile(r'([\w\-]+)\((.*)$')
_CALLED = re.compile(
  r'\b(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)'
)
# Names that follow a percent sign: operands, and computations.
_NAME = re.compile(r'%([\w.\-]+)')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction of HLO.

  Attributes:
    name: name of the instruction and of its result.
    opcode: opcode, such as 'fusion', 'while' or 'all-to-all-start'.
    type: type of the result, with its layout.
    operands: text from the operands to the end of the line, with attributes.
    root: whether its result is that of its computation.
  """

  name: str
  opcode: str
  type: str
  operands: str
  root: bool

  def attribute(self, regex: str) -> str:
    """Returns the group of a regex in the operands and attributes, or ''."""
    match = re.search(regex, self.operands)
    return match[1] if match else ''

  @property
  def op_name(self) -> str:
    """Path of JAX names that the instruction comes from, '' without one."""
    return self.attribute(r'op_name="([^"]*)"')

  @property
  def cycles(self) -> int:
    """The compiler's estimate, 0 without one (custom calls)."""
    cycles = int(self.attribute(r'"estimated_cycles":"?(\d+)') or 0)
    # XLA writes unknown costs as the largest integer.
    return cycles if cycles < 2**60 else 0

  @property
  def target(self) -> str:
    """Target of a custom call."""
    return self.attribute(r'custom_call_target="([^"]*)"')

  @property
  def kernel(self) -> str:
    """Name of the Pallas kernel of a custom call, '' for other instructions."""
    if self.target != 'tpu_custom_call':
      return ''
    return re.sub(r'[.\d]+$', '', self.name)

  @property
  def called(self) -> list[str]:
    """Computations that it calls, except loop bodies and branches."""
    return _CALLED.findall(self.operands)

  @property
  def body(self) -> str:
    """Computation that a while loop repeats."""
    return self.attribute(r'\bbody=%?([\w.\-]+)')

  @property
  def operand_names(self) -> list[str]:
    """Names of its operands."""
    return _NAME.findall(self.operands.partition(')')[0])

  @property
  def bytes(self) -> int:
    """Bytes of the result."""
    return num_bytes(self.type)


@dataclasses.dataclass(frozen=True)
class Execution:
  """An instruction and the number of times that a program executes it."""

  instruction: Instruction
  times: int


class Program:
  """A module of HLO.

  Attributes:
    computations: instructions by name of their computation.
    entry: name of the entry computation.
    by_name: all instructions by name.
    computation_of: name of its computation by name of an instruction.
  """

  def __init__(self, text: str):
    """Parses `compiled.as_text()`; raises ValueError for other texts."""
    self.computations: dict[str, list[Instruction]] = {}
    self.entry = ''
    current: list[Instruction] = []
    for line in _join_lines(text):
      if head := _HEAD.match(line):
        current = self.computations.setdefault(head[2], [])
        if head[1]:
          self.entry = head[2]
      elif match := _INSTRUCTION.match(line):
        type_text, rest = _split_type(match[3])
        if opcode := _OPCODE.match(rest):
          current.append(
            Instruction(
              name=match[2],
              opcode=opcode[1],
              type=type_text,
              operands=opcode[2],
              root=bool(match[1]),
            )
          )
    if not self.entry:
      raise ValueError('not an HLO module: the text has no ENTRY computation')
    self.by_name: dict[str, Instruction] = {}
    self.computation_of: dict[str, str] = {}
    for computation, instructions in self.computations.items():
      for instruction in instructions:
        self.by_name[instruction.name] = instruction
        self.computation_of[instruction.name] = computation

  def executions(self) -> Iterator[Execution]:
    """Yields every instruction that is executed, except those in fusions.

    All branches of a conditional count.
    """
    yield from self._executions(self.entry, 1)

  def _executions(self, computation: str, times: int) -> Iterator[Execution]:
    for instruction in self.computations.get(computation, ()):
      if instruction.opcode == 'while':
        loop_times = times * self.trip_count(instruction)
        yield from self._executions(instruction.body, loop_times)
        continue
      yield Execution(instruction, times)
      if instruction.opcode in ('call', 'conditional', 'async-start'):
        branches = instruction.attribute(r'branch_computations=\{([^}]*)\}')
        for name in (*filter(None, branches.split(',')), *instruction.called):
          yield from self._executions(name.strip().lstrip('%'), times)

  def fused_root(self, instruction: Instruction) -> Instruction | None:
    """Returns the root of a fusion's computation."""
    for called in instruction.called[:1]:
      for inner in self.computations.get(called, ()):
        if inner.root:
          return inner
    return None

  def trip_count(self, loop: Instruction) -> int:
    """Returns the iterations of a while loop, 1 if they cannot be read."""
    known = loop.attribute(r'"known_trip_count":\{"n":"?(\d+)')
    if known:
      return int(known)
    condition = loop.attribute(r'\bcondition=%?([\w.\-]+)')
    instructions = self.computations.get(condition, ())
    root = next((i for i in instructions if i.root), None)
    compared = self._operands(root) if root else []
    for counter, limit in zip(compared, compared[1:]):
      if limit.opcode == 'constant':
        return _constant(limit) - self._first_count(loop, counter)
    limits = [_constant(i) for i in instructions if i.opcode == 'constant']
    return max(limits, default=1)

  def _first_count(self, loop: Instruction, counter: Instruction) -> int:
    """Returns a loop counter's first value: XLA peels first iterations."""
    state = self._operands(loop)
    index = counter.attribute(r'\bindex=(\d+)')
    if not state or not index:
      return 0
    start = self._operands(state[0])[int(index) : int(index) + 1]
    while start and start[0].opcode in ('copy', 'bitcast', 'convert'):
      start = self._operands(start[0])[:1]
    is_constant = start and start[0].opcode == 'constant'
    return _constant(start[0]) if is_constant else 0

  def _operands(self, instruction: Instruction) -> list[Instruction]:
    names = instruction.operand_names
    return [self.by_name[name] for name in names if name in self.by_name]


def _join_lines(text: str) -> Iterator[str]:
  """Yields lines of HLO; metadata of kernels may contain line breaks."""
  joined = ''
  for line in text.splitlines():
    if _INSTRUCTION.match(line) or _HEAD.match(line) or line == '}':
      yield joined
      joined = line
    else:
      joined += line
  yield joined


def _constant(instruction: Instruction) -> int:
  """Returns the value of `constant(5)`, 1 if it is not an integer."""
  text = instruction.operands.partition(')')[0]
  return int(text) if re.fullmatch(r'-?\d+', text) else 1

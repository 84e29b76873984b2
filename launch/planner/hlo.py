"""Reads compiled HLO text: what runs, how often, what it moves, what it costs.

XLA's own `cost_analysis` counts the body of a loop once. Here every
instruction counts as often as the loops around it run.
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


def size(type_text: str) -> int:
  """Bytes of a type as HLO writes it; tuples are added up, layouts ignored."""
  names = (name for name, _ in _SHAPE.findall(type_text))
  return sum(
    n * _BYTES.get(name, 0) for name, n in zip(names, elements(type_text))
  )


def elements(type_text: str) -> list[int]:
  """Elements of each array of a type."""
  return [
    math.prod(int(n) for n in dimensions.split(',') if n)
    for _, dimensions in _SHAPE.findall(type_text)
  ]


def arrays(type_text: str) -> list[str]:
  """'(f32[2]{0}, s32[])' -> ['f32[2]', 's32[]'], nested ones, too."""
  return [f'{name}[{sizes}]' for name, sizes in _SHAPE.findall(type_text)]


def split(text: str) -> tuple[str, str]:
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


def parts(text: str) -> list[str]:
  """'(f32[2], (s32[], f32[3]))' -> ['f32[2]', '(s32[], f32[3])']."""
  found, depth, start = [], 0, 1
  for i, letter in enumerate(text):
    depth += (letter in '([{') - (letter in ')]}')
    if (letter == ',' and depth == 1) or not depth:
      found.append(text[start:i].strip())
      start = i + 1
  return found


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
  def called(self) -> list[str]:
    """Computations that it runs, but for bodies and branches."""
    return _CALLED.findall(self.operands)

  @property
  def bytes(self) -> int:
    """Of the result."""
    return size(self.type)


@dataclasses.dataclass(frozen=True)
class Run:
  """An instruction and how often a program runs it."""

  instruction: Instruction
  times: int


class Program:
  """A module of HLO text.

  Attributes:
    computations: name -> instructions.
    entry: name of the computation that runs first.
    by_name: all instructions.
    home: name of an instruction -> of its computation.
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
        kind, rest = split(match[3])
        if opcode := _OPCODE.match(rest):
          current.append(
            Instruction(match[2], opcode[1], kind, opcode[2], bool(match[1]))
          )
    if not self.entry:
      raise ValueError('this is no HLO module: it has no ENTRY computation')
    self.by_name = {
      one.name: one
      for instructions in self.computations.values()
      for one in instructions
    }
    self.home = {
      one.name: computation
      for computation, instructions in self.computations.items()
      for one in instructions
    }

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
        for inner in (*called, *one.called):
          yield from self._runs(inner.strip().lstrip('%'), times)
      else:
        yield Run(one, times)

  def trips(self, loop: Instruction) -> int:
    """How often a while loop runs; 1 if that cannot be read."""
    known = re.search(r'"known_trip_count":\{"n":"?(\d+)', loop.operands)
    if known:
      return int(known[1])
    condition = re.search(r'\bcondition=%?([\w.\-]+)', loop.operands)[1]
    instructions = self.computations.get(condition, ())
    root = next((i for i in instructions if i.root), None)
    compared = self._operands(root) if root else []
    for counter, limit in zip(compared, compared[1:]):
      if limit.opcode == 'constant':
        return _number(limit) - self._first(loop, counter)
    limits = [_number(i) for i in instructions if i.opcode == 'constant']
    return max(limits, default=1)

  def _first(self, loop: Instruction, counter: Instruction) -> int:
    """Where the counter of a loop starts: XLA peels first iterations off."""
    state = self._operands(loop)
    index = re.search(r'\bindex=(\d+)', counter.operands)
    if not state or not index:
      return 0
    start = self._operands(state[0])[int(index[1]) : int(index[1]) + 1]
    while start and start[0].opcode in ('copy', 'bitcast', 'convert'):
      start = self._operands(start[0])[:1]
    is_number = start and start[0].opcode == 'constant'
    return _number(start[0]) if is_number else 0

  def _operands(self, one: Instruction) -> list[Instruction]:
    names = re.findall(r'%([\w.\-]+)', one.operands.partition(')')[0])
    return [self.by_name[name] for name in names if name in self.by_name]


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


def _number(constant: Instruction) -> int:
  """Of `constant(5)`; 1 if it is no whole number."""
  text = constant.operands.partition(')')[0]
  return int(text) if re.fullmatch(r'-?\d+', text) else 1

"""Collectives of a compiled program: kinds, numbers, sizes, schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import re

from launch.planner import hlo

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'ragged-all-to-all',
  'collective-broadcast',
)
# Ends of a collective that XLA for TPUs distributes over other fusions.
_START, _DONE = 'AsyncCollectiveStart', 'AsyncCollectiveDone'


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective and the number of times that a program executes it.

  Attributes:
    kind: one of `KINDS`.
    devices: size of a group, 0 if it is not written.
    type: type of one device's input or output, whichever is larger.
    times: number of executions.
    op_name: path of JAX names that it comes from.
    computation: name of the computation that contains it.
    start: cycles scheduled in that computation before it starts.
    end: cycles scheduled before its result is used; `start` if it is
      synchronous.
  """

  kind: str
  devices: int
  type: str
  times: float
  op_name: str
  computation: str = ''
  start: float = 0
  end: float = 0

  @property
  def bytes(self) -> int:
    """Bytes of `type`."""
    return hlo.num_bytes(self.type)


def find_collectives(
  program: hlo.Program,
  cycles: Callable[[hlo.Instruction], float | None] = lambda i: i.cycles,
) -> list[Collective]:
  """Returns every collective, inside of fusions or not, asynchronous or not.

  Args:
    program: program of one chip.
    cycles: estimate of an instruction; None or 0 without one.
  """
  collectives = []
  scheduled = _cycles_before(program, cycles)
  for execution in program.executions():
    instruction = execution.instruction
    for inner in _inside(program, instruction):
      kind = _kind(inner.opcode)
      # XLA for TPUs writes a reduce-scatter as an all-reduce whose result is
      # sliced in the same fusion.
      if kind == 'all-reduce' and 'all-reduce-scatter' in instruction.operands:
        kind = 'reduce-scatter'
      collectives.append(
        Collective(
          kind=kind,
          devices=_group_size(inner.operands),
          type=_transferred_type(inner),
          times=execution.times,
          op_name=inner.op_name or instruction.op_name,
          computation=program.computation_of[instruction.name],
          start=scheduled[instruction.name],
          end=scheduled[_first_user(program, instruction).name],
        )
      )
  return collectives


def _inside(
  program: hlo.Program, instruction: hlo.Instruction
) -> Iterator[hlo.Instruction]:
  """Yields an instruction if it is a collective, or those in its fusion."""
  if _kind(instruction.opcode):
    yield instruction
  elif instruction.opcode == 'fusion':
    # A gather whose steps are fused with other work appears in each of these
    # fusions but is executed once.
    step = any('async_collective_fusion' in name for name in instruction.called)
    if not step and not _calls_target(program, instruction, _DONE):
      for called in instruction.called:
        for inner in program.computations.get(called, ()):
          yield from _inside(program, inner)


def _cycles_before(program, cycles) -> dict[str, float]:
  """Returns the cycles scheduled before each instruction's start.

  Loops count 0: collectives that overlap with a loop are rare.
  """
  scheduled = {}
  for instructions in program.computations.values():
    total = 0.0
    for instruction in instructions:
      scheduled[instruction.name] = total
      total += cycles(instruction) or 0
  return scheduled


def _first_user(
  program: hlo.Program, start: hlo.Instruction
) -> hlo.Instruction:
  """Returns the instruction that needs a collective's result, or itself.

  A synchronous collective is its own end.
  """
  is_start = start.opcode.endswith('-start')
  if not is_start and not _calls_target(program, start, _START):
    return start
  instructions = program.computations[program.computation_of[start.name]]
  for instruction in instructions[instructions.index(start) + 1 :]:
    if is_start:
      waits = f'(%{start.name})' in f'({instruction.operands}'
    else:
      waits = _calls_target(program, instruction, _DONE)
    if waits:
      return instruction
  return start


def _calls_target(
  program: hlo.Program, instruction: hlo.Instruction, target: str
) -> bool:
  """Returns whether a fusion contains a custom call of a target."""
  return instruction.opcode == 'fusion' and any(
    inner.target == target
    for name in instruction.called
    for inner in program.computations.get(name, ())
  )


def _transferred_type(instruction: hlo.Instruction) -> str:
  """Returns the larger of a collective's input and output types."""
  # The type of an asynchronous start contains both.
  if instruction.opcode.endswith('-start') and instruction.type.startswith('('):
    return max(hlo.tuple_parts(instruction.type), key=hlo.num_bytes)
  inputs = instruction.operands.partition(')')[0]
  return max(instruction.type, inputs, key=hlo.num_bytes)


def _kind(opcode: str) -> str:
  """Returns the kind of collective that an opcode is or starts, '' for none."""
  kind = opcode.removesuffix('-start')
  return kind if kind in KINDS else ''


def _group_size(attributes: str) -> int:
  """Returns the size of a replica group, 0 if it is not written."""
  if match := re.search(r'replica_groups=\{\{([\d,]*)\}', attributes):
    return len(match[1].split(','))
  if match := re.search(r'replica_groups=\[(\d+),(\d+)\]<=', attributes):
    return int(match[2])
  if match := re.search(r'replica_groups=mesh\[(.*?)\] ?\{(.*?)\}', attributes):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    devices = 1
    for axis in re.findall(r"'(\w+)'", match[2]):
      devices *= int(sizes[axis])
    return devices
  return 0


def count_by_kind(
  collectives: Iterable[Collective],
) -> dict[str, dict[str, float]]:
  """Returns executions and bytes by name, such as 'all-to-all of 4'."""
  rows: dict[str, dict[str, float]] = {}
  for collective in collectives:
    name = f'{collective.kind} of {collective.devices}'
    row = rows.setdefault(name, dict(count=0.0, bytes=0.0))
    row['count'] += collective.times
    row['bytes'] += collective.times * collective.bytes
  return rows


def count_forward_all_to_alls(collectives: Iterable[Collective]) -> float:
  """Returns the all-to-alls in the forward pass of all layers."""
  return sum(
    collective.times
    for collective in collectives
    if collective.kind == 'all-to-all'
    and '/layers/' in collective.op_name
    and 'transpose(' not in collective.op_name
  )


def sequence_sized(
  collectives: Iterable[Collective], least: int, tokens: Sequence[int]
) -> list[str]:
  """Lists gathers and reductions of a sequence, which should not occur.

  Weights are gathered and their gradients reduced as well, and in a short stage
  they are larger: a sequence is recognized by its number of tokens.

  Args:
    collectives: collectives of a program.
    least: bytes of a chip's part of an activation; smaller arrays are ignored.
    tokens: numbers of tokens, one of which divides the elements of an
      activation.

  Returns:
    One line for each.
  """
  kinds = ('all-gather', 'all-reduce', 'reduce-scatter')
  lines = []
  for collective in collectives:
    if collective.kind not in kinds:
      continue
    name = f'{collective.kind} of {collective.devices}'
    lines += [
      f'{name}, {array}, {collective.op_name}'
      for array in hlo.array_types(collective.type)
      if hlo.num_bytes(array) >= least > 0
      and any(hlo.num_elements(array)[0] % t == 0 for t in tokens)
    ]
  return lines

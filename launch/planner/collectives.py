"""The collectives of a compiled program: how many, how large, of what."""

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
# Ends of a collective that XLA for TPUs spreads over other fusions.
_START, _END = 'AsyncCollectiveStart', 'AsyncCollectiveDone'


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective and how often a program runs it.

  Attributes:
    kind: of `KINDS`.
    devices: of a group; 0 if not written.
    type: of the larger of what a device gives and gets, once.
    times: how often it runs.
    op_name: the path of JAX names that it comes from.
    computation: in which it stands.
    start: cycles of what is scheduled in that computation before it starts.
    end: ... before its result is needed; `start` where the program waits.
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
    """Of `type`."""
    return hlo.size(self.type)


def of(
  program: hlo.Program,
  price: Callable[[hlo.Instruction], float | None] = lambda one: one.cycles,
) -> list[Collective]:
  """Every collective, in a fusion or not, started or in one piece.

  Args:
    program: of a chip.
    price: cycles of an instruction; None or 0 where there is no estimate.
  """
  found = []
  clock = _clock(program, price)
  for run in program.runs():
    one = run.instruction
    for inner in _inside(program, one):
      kind = _kind(inner.opcode)
      # XLA for TPUs writes a reduce-scatter as an all-reduce whose result is
      # cut in the same fusion.
      if kind == 'all-reduce' and 'all-reduce-scatter' in one.operands:
        kind = 'reduce-scatter'
      found.append(
        Collective(
          kind=kind,
          devices=_group(inner.operands),
          type=_moved(inner),
          times=run.times,
          op_name=inner.op_name or one.op_name,
          computation=program.home[one.name],
          start=clock[one.name],
          end=clock[_end(program, one).name],
        )
      )
  return found


def _inside(
  program: hlo.Program, one: hlo.Instruction
) -> Iterator[hlo.Instruction]:
  """An instruction if it is a collective, or those that a fusion runs."""
  if _kind(one.opcode):
    yield one
  elif one.opcode == 'fusion':
    # A gather whose steps are fused with other work stands in each of these
    # fusions, but runs once.
    step = any('async_collective_fusion' in name for name in one.called)
    if not step and not _calls(program, one, _END):
      for called in one.called:
        for inner in program.computations.get(called, ()):
          yield from _inside(program, inner)


def _clock(program, price) -> dict[str, float]:
  """Cycles of each computation before each of its instructions.

  Loops in a computation count nothing: what goes on beside them is rare.
  """
  clock = {}
  for computation in program.computations.values():
    total = 0.0
    for one in computation:
      clock[one.name] = total
      total += price(one) or 0
  return clock


def _end(program: hlo.Program, start: hlo.Instruction) -> hlo.Instruction:
  """What waits for a started collective; one in one piece waits itself."""
  is_start = start.opcode.endswith('-start')
  if not is_start and not _calls(program, start, _START):
    return start
  computation = program.computations[program.home[start.name]]
  for one in computation[computation.index(start) + 1 :]:
    if is_start:
      ends = f'(%{start.name})' in f'({one.operands}'
    else:
      ends = _calls(program, one, _END)
    if ends:
      return one
  return start


def _calls(program: hlo.Program, one: hlo.Instruction, target: str) -> bool:
  """Whether a fusion holds a custom call of a target."""
  return one.opcode == 'fusion' and any(
    inner.target == target
    for name in one.called
    for inner in program.computations.get(name, ())
  )


def _moved(one: hlo.Instruction) -> str:
  """Type that a collective moves; a started one's has input and output."""
  if one.opcode.endswith('-start') and one.type.startswith('('):
    return max(hlo.parts(one.type), key=hlo.size)
  return max(one.type, one.operands.partition(')')[0], key=hlo.size)


def _kind(opcode: str) -> str:
  """The kind of collective that an opcode starts or is; '' for any other."""
  kind = opcode.removesuffix('-start')
  return kind if kind in KINDS else ''


def _group(attributes: str) -> int:
  """Devices of a replica group; 0 if none is written."""
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


def by_kind(
  collectives: Iterable[Collective],
) -> dict[str, dict[str, float]]:
  """'all-to-all of 4' -> how many run and the bytes they move."""
  found: dict[str, dict[str, float]] = {}
  for one in collectives:
    row = found.setdefault(
      f'{one.kind} of {one.devices}', dict(count=0, bytes=0)
    )
    row['count'] += one.times
    row['bytes'] += one.times * one.bytes
  return found


def all_to_alls(collectives: Iterable[Collective]) -> float:
  """How many all-to-alls the forward pass of all layers runs."""
  return sum(
    one.times
    for one in collectives
    if one.kind == 'all-to-all'
    and '/layers/' in one.op_name
    and 'transpose(' not in one.op_name
  )


def sequence_sized(
  collectives: Iterable[Collective], least: int, tokens: Sequence[int]
) -> list[str]:
  """Gathers and reductions of a sequence, which no program should have.

  Weights are gathered and their gradients reduced, too, and in a short stage
  they are the larger ones: a sequence is told by its number of tokens.

  Args:
    collectives: of the program.
    least: bytes of a chip's part of an activation; smaller ones do not count.
    tokens: numbers of tokens, one of which divides the elements of an
      activation.

  Returns:
    A line for each.
  """
  kinds = ('all-gather', 'all-reduce', 'reduce-scatter')
  found = []
  for one in collectives:
    arrays = hlo.arrays(one.type) if one.kind in kinds else []
    found += [
      f'{one.kind} of {one.devices}, {array}, {one.op_name}'
      for array in arrays
      if hlo.size(array) >= least > 0
      and any(hlo.elements(array)[0] % t == 0 for t in tokens)
    ]
  return found

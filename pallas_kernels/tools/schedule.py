"""Reads the cost of a kernel from the TPU compiler's schedule, without a TPU.

With `dump_flags`, libtpu writes the instruction schedule of each kernel as
text. A line is a bundle of instructions that issue together, about one cycle.
The cost of a kernel is the number of its bundles, those of a loop times the
loop's trips. Code that a branch can skip counts as issued, unless the caller
gives the share of the steps that run it. The cost does not include stalls on
memory traffic, and clocks differ between chips: compare it with bytes over
bandwidth, and chips in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
import re

# Schedules are written after every pass; the one after this pass includes the
# bundles in which the core only waits for a result.
_PASS = 'packed-bundles-post-ra'
# A branch takes effect this many bundles after its own.
_DELAY = 4

_BUNDLE = re.compile(r'^ *(?:0x[0-9a-f]+|0) +(?:[A-Z]{2})?:')
_BRANCH = re.compile(r'sbr\.rel[^;}]*? target bundleno = (\d+)')
_TRIPS = re.compile(
  r'[sv]cmp\.\w+\.s32\.totalorder %\w+, (\d+) /\* loop exit test'
)
_VMEM = re.compile(
  r"#allocation\d+ \[shape = '[^']*', space=vmem, size = (0x[0-9a-f]+)"
  r"[^\n]*?tag = '([^']*)"
)


def dump_flags(folder: pathlib.Path) -> str:
  """Returns LIBTPU_INIT_ARGS that make the compiler write to `folder`."""
  return (
    f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
    ' --xla_jf_dump_hlo_text=false'
  )


@dataclasses.dataclass
class Loop:
  """A loop of a schedule.

  Attributes:
    start: index of its first bundle.
    end: index after its last bundle.
    trips: number of iterations; 1 where the compiler's text does not give it.
  """

  start: int
  end: int
  trips: int = 1

  @property
  def bundles(self) -> range:
    return range(self.start, self.end)


@dataclasses.dataclass(frozen=True)
class Kernel:
  """The cost of one kernel.

  Attributes:
    name: name of the kernel.
    bundles: length of its code.
    cycles: bundles issued by one run with all grid steps.
    vmem: bytes of vector memory that it allocates.
  """

  name: str
  bundles: int
  cycles: int
  vmem: int


def read_kernels(
  folder: pathlib.Path, prefix: str, shares: Sequence[float] | None = None
) -> list[Kernel]:
  """Returns the kernels in a dump whose names contain `prefix`, by name.

  Args:
    folder: folder of the dump.
    prefix: part of the names.
    shares: as for `count_cycles`.
  """
  kernels = []
  pattern = re.compile(rf'^\d+-(.*{re.escape(prefix)}.*?)-(\d+-)?{_PASS}\.txt$')
  for path in sorted(folder.iterdir()):
    if match := pattern.match(path.name):
      bundles = _bundles(path.read_text(errors='replace'))
      kernels.append(
        Kernel(
          name=match[1],
          bundles=len(bundles),
          cycles=count_cycles(bundles, shares),
          vmem=_vmem(folder, match[1]),
        )
      )
  return sorted(kernels, key=lambda kernel: kernel.name)


def count_cycles(
  bundles: list[str], shares: Sequence[float] | None = None
) -> int:
  """Returns the number of issued bundles, those of loops times their trips.

  Args:
    bundles: bundles of a kernel.
    shares: for each part of the code that a branch can skip and that contains
      a loop, in the order of the code, the share of the grid's steps that run
      it. None counts all code as issued.

  Raises:
    ValueError: the code has another number of such parts than `shares`.
  """
  loops = _loops(bundles)
  parts = _skippable_loops(bundles, loops)
  if shares is None:
    shares = [1.0] * len(parts)
  if len(shares) != len(parts):
    raise ValueError(
      f'the kernel has {len(parts)} loops that a branch can skip, and there are'
      f' shares for {len(shares)}'
    )
  total = 0.0
  for number in range(len(bundles)):
    times = 1.0
    for loop in loops:
      if number in loop.bundles:
        times *= loop.trips
    for part, share in zip(parts, shares):
      if number in part:
        times *= share
    total += times
  return round(total)


def _skippable_loops(bundles, loops):
  """Returns the innermost parts with loops that a forward branch skips."""
  parts = []
  for number, text in enumerate(bundles):
    if (match := _BRANCH.search(text)) and int(match[1]) > number:
      parts.append(range(number + 1 + _DELAY, int(match[1])))
  contains = lambda a, b: a.start <= b.start and b.stop <= a.stop
  parts = [p for p in parts if any(contains(p, x.bundles) for x in loops)]
  return [p for p in parts if not any(p != q and contains(p, q) for q in parts)]


def _bundles(text: str) -> list[str]:
  """Returns the bundles of a schedule; one may span several lines."""
  bundles = []
  for line in text.splitlines():
    if _BUNDLE.match(line):
      bundles.append(line)
    elif bundles:
      bundles[-1] += '\n' + line
  return bundles


def _loops(bundles: list[str]) -> list[Loop]:
  """Returns the loops, found by their backward branches."""
  ends: dict[int, int] = {}
  for number, text in enumerate(bundles):
    if (match := _BRANCH.search(text)) and int(match[1]) <= number:
      target = int(match[1])
      ends[target] = max(number, ends.get(target, 0))
  loops = [
    Loop(start, min(end + 1 + _DELAY, len(bundles)))
    for start, end in ends.items()
  ]
  for number, text in enumerate(bundles):
    enclosing = [loop for loop in loops if loop.start <= number < loop.end]
    if enclosing and (match := _TRIPS.search(text)):
      innermost = min(enclosing, key=lambda loop: loop.end - loop.start)
      innermost.trips = int(match[1])
  return loops


def _vmem(folder: pathlib.Path, name: str) -> int:
  """Returns the bytes of vector memory that a kernel allocates."""
  paths = sorted(folder.glob(f'*-{name}-*02-original.txt'))
  if not paths:
    return 0
  found = {
    match.start(): int(match[1], 16)
    for match in _VMEM.finditer(paths[-1].read_text(errors='replace'))
    if 'internal scratch' not in match[2]
  }
  return sum(found.values())

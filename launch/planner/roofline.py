"""How long a step takes, estimated from what its program does and moves.

Nothing here was measured on a chip. What is assumed is in `assumptions`, and
every plan prints it.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import itertools
import math

from launch import topology as topology_lib
from launch.planner import collectives as collectives_lib

# Share of a GPU's rate that its products reach; compilers for GPUs estimate
# no cycles.
GPU_RATE = 0.4
# Bytes a second of a GPU one way to other servers: a 400 Gb/s adapter each.
_NETWORK = 50e9


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds of a step on a chip, each as if it were all.

  Attributes:
    products: model FLOPs and those done again, at the chip's full rate.
    memory: what the program writes, written once and read once.
    work: the compiler's cycles and those of kernels; on a GPU the longer of
      `products` at `GPU_RATE` and `memory`.
    exposed: collectives, as far as the program does nothing beside them.
    hidden: collectives, as far as it does.
    host: to and from the host's memory, beside the work.
  """

  products: float
  memory: float
  work: float
  exposed: float
  hidden: float
  host: float

  @property
  def bound(self) -> float:
    """No program with the same traffic can be faster than this."""
    links = self.exposed + self.hidden
    return max(self.products, self.memory, links, self.host)

  @property
  def step(self) -> float:
    """The estimate: work and the links it waits for, or what hides behind."""
    return max(self.work + self.exposed, self.bound)


def estimate(
  topology: topology_lib.Topology,
  *,
  flops: float,
  written: float,
  cycles: float,
  collectives: Iterable[collectives_lib.Collective],
  host: float,
) -> Roofline:
  """The roofline of a step; all numbers are of one chip.

  Args:
    topology: its chip and how the chips are linked.
    flops: operations, those done again among them.
    written: bytes of results in the chip's memory.
    cycles: of the compiler and the kernels' budget; 0 on a GPU.
    collectives: of the program.
    host: bytes to and from the host.
  """
  chip = topology.chip
  products = flops / chip.flops
  memory = 2 * written / chip.hbm_bandwidth
  work = cycles / chip.clock
  if chip.is_gpu:
    work = max(products / GPU_RATE, memory)
  exposed, hidden = waiting(collectives, topology)
  return Roofline(
    products=products,
    memory=memory,
    work=work,
    exposed=exposed,
    hidden=hidden,
    # Each way has the full rate.
    host=host / 2 / chip.host,
  )


def waiting(
  collectives: Iterable[collectives_lib.Collective],
  topology: topology_lib.Topology,
) -> tuple[float, float]:
  """Seconds that a program waits for its collectives, and those it does not.

  Plays every computation by its schedule: the links serve one collective after
  the other, work goes on until a result is needed that is not there.

  Args:
    collectives: of the program.
    topology: how the chips are linked.
  """
  played: dict[str, list[collectives_lib.Collective]] = {}
  for one in collectives:
    played.setdefault(one.computation, []).append(one)
  exposed = busy = 0.0
  for group in played.values():
    events = sorted(
      (position, number, last)
      for number, one in enumerate(group)
      for last, position in enumerate((one.start, one.end))
    )
    late = free = 0.0
    ready = {}
    for position, number, last in events:
      now = position / topology.chip.clock + late
      if last:
        late += max(ready[number] - now, 0.0)
        continue
      one = group[number]
      seconds = link_seconds(
        one.kind, one.devices or topology.chips, one.bytes, topology
      )
      ready[number] = free = max(now, free) + seconds
      busy += one.times * seconds
    exposed += group[0].times * late
  return exposed, max(busy - exposed, 0.0)


def link_seconds(
  kind: str, devices: int, size: float, topology: topology_lib.Topology
) -> float:
  """Time of a collective, bandwidth alone.

  A gather on a ring keeps both its directions busy. In an all-to-all half of
  everything crosses the middle of the longest axis.

  Args:
    kind: of `collectives.KINDS`.
    devices: of a group.
    size: bytes of the larger of what a device gives and gets.
    topology: where the group is.
  """
  if devices < 2:
    return 0.0
  chip = topology.chip
  sent = size * (devices - 1) / devices
  if kind == 'all-reduce':
    sent *= 2
  if chip.is_gpu:
    return sent / (chip.link if devices <= topology_lib.GPUS else _NETWORK)
  sides = axes_of(devices, topology)
  if kind.startswith('collective-permute'):
    return size / chip.link
  if kind.endswith('all-to-all'):
    across = max(side / (8 if closed else 4) for side, closed in sides)
    return size * max(across, 0.5) / chip.link
  return sent / (chip.link * sum(2 if closed else 1 for _, closed in sides))


def axes_of(
  devices: int, topology: topology_lib.Topology
) -> list[tuple[int, bool]]:
  """The axes of a slice that a group of devices takes: (side, is a ring).

  Whole axes where some make up the group, as the mesh is laid out where it
  can; else whole ones and a part of another.
  """
  shape = [side for side in topology.shape if side > 1]
  ring = lambda side: (side, side >= topology.chip.ring)
  for number in range(1, len(shape) + 1):
    for sides in itertools.combinations(shape, number):
      if math.prod(sides) == devices:
        return [ring(side) for side in sides]
  for side in sorted(shape, reverse=True):
    if devices > side and devices % side == 0:
      return [ring(side), (devices // side, False)]
  return [(devices, False)]


def assumptions(topology: topology_lib.Topology) -> list[str]:
  """What the estimate takes for granted, a line each."""
  chip = topology.chip
  common = [
    f'{chip.flops / 1e12:g} TFLOP/s bfloat16,'
    f' {chip.hbm_bandwidth / 1e12:g} TB/s to its memory,'
    f' {chip.host / 1e9:g} GB/s each way to the host, beside the work',
  ]
  if chip.is_gpu:
    return [
      *common,
      f'products at {GPU_RATE:.0%} of that rate; the compiler estimates no'
      ' cycles',
      f'NVLink {chip.link / 1e9:g} GB/s each way, other servers'
      f' {_NETWORK / 1e9:g} GB/s',
    ]
  rings = [side for side in topology.shape if side >= chip.ring]
  return [
    *common,
    f"the compiler's cycles at {chip.clock / 1e9:g} GHz, kernels by the"
    ' bundles of their schedules, without waits for memory',
    f'{chip.links} links of {chip.link / 1e9:g} GB/s each way; rings along'
    f' {len(rings)} of {len(topology.shape)} axes (from {chip.ring} chips'
    ' on); no waiting, no congestion',
    'a collective hides only behind what is scheduled beside it, and one'
    ' after the other has the links',
  ]

"""Estimates the time of a step from what its program computes and moves.

Nothing here was measured on a chip. `assumptions` lists what the estimate
assumes, and every plan prints it.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses

from launch import topology as topology_lib
from launch.planner import collectives as collectives_lib
from ttt_jax import sharding

# Share of a GPU's peak rate that products reach. Compilers for GPUs do not
# estimate cycles.
GPU_EFFICIENCY = 0.4
# Bytes per second from a GPU to other servers: a 400 Gb/s adapter each.
_NETWORK_BANDWIDTH = 50e9


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds of a step on one chip; each term as if it were the only one.

  Attributes:
    products: model FLOPs and recomputation at the chip's peak rate.
    memory: results of the program, written once and read once.
    work: the compiler's cycles and those of kernels; on a GPU the longer of
      `products` at `GPU_EFFICIENCY` and `memory`.
    exposed: collectives that no work overlaps.
    hidden: collectives that work overlaps.
    host: transfers to and from the host's memory, which work overlaps.
  """

  products: float
  memory: float
  work: float
  exposed: float
  hidden: float
  host: float

  @property
  def bound(self) -> float:
    """Lower bound for every program with the same traffic."""
    links = self.exposed + self.hidden
    return max(self.products, self.memory, links, self.host)

  @property
  def step(self) -> float:
    """Estimate: work and exposed collectives, or the bound if it is longer."""
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
  """Returns the roofline of a step; all arguments are per chip.

  Args:
    topology: chips and how they are linked.
    flops: operations, including recomputation.
    written: bytes of results in the chip's memory.
    cycles: estimates of the compiler and budgets of kernels; 0 on a GPU.
    collectives: collectives of the program.
    host: bytes to and from the host.
  """
  chip = topology.chip
  products = flops / chip.flops
  memory = 2 * written / chip.hbm_bandwidth
  work = cycles / chip.clock
  if chip.is_gpu:
    work = max(products / GPU_EFFICIENCY, memory)
  exposed, hidden = exposed_and_hidden_time(collectives, topology)
  return Roofline(
    products=products,
    memory=memory,
    work=work,
    exposed=exposed,
    hidden=hidden,
    # Each direction has the full rate.
    host=host / 2 / chip.host_bandwidth,
  )


def exposed_and_hidden_time(
  collectives: Iterable[collectives_lib.Collective],
  topology: topology_lib.Topology,
) -> tuple[float, float]:
  """Returns seconds of collectives that work does not overlap, and does.

  Simulates the schedule of every computation: the links run one collective
  after another, and work continues until it needs a result that has not
  arrived.

  Args:
    collectives: collectives of the program.
    topology: chips and how they are linked.
  """
  by_computation: dict[str, list[collectives_lib.Collective]] = {}
  for collective in collectives:
    by_computation.setdefault(collective.computation, []).append(collective)
  exposed = busy = 0.0
  for group in by_computation.values():
    # (cycles of work, number of the collective, whether its result is needed).
    events = sorted(
      (position, number, needed)
      for number, collective in enumerate(group)
      for needed, position in enumerate((collective.start, collective.end))
    )
    delay = links_free = 0.0
    arrival = {}
    for position, number, needed in events:
      now = position / topology.chip.clock + delay
      if needed:
        delay += max(arrival[number] - now, 0.0)
        continue
      collective = group[number]
      seconds = link_seconds(
        collective.kind,
        collective.devices or topology.num_devices,
        collective.bytes,
        topology,
      )
      arrival[number] = links_free = max(now, links_free) + seconds
      busy += collective.times * seconds
    exposed += group[0].times * delay
  return exposed, max(busy - exposed, 0.0)


def link_seconds(
  kind: str, devices: int, size: float, topology: topology_lib.Topology
) -> float:
  """Returns the time of a collective by bandwidth alone.

  A gather on a ring uses both directions. In an all-to-all half of all bytes
  cross the middle of the longest axis.

  Args:
    kind: one of `collectives.KINDS`.
    devices: devices of a group.
    size: bytes of one device's input or output, whichever is larger.
    topology: chips and how they are linked.
  """
  if devices < 2:
    return 0.0
  chip = topology.chip
  sent = size * (devices - 1) / devices
  if kind == 'all-reduce':
    sent *= 2
  if chip.is_gpu:
    one_server = devices <= topology_lib.GPUS_PER_SERVER
    return sent / (chip.link_bandwidth if one_server else _NETWORK_BANDWIDTH)
  # Devices of one chip share its links.
  inside = min(devices, chip.devices)
  if inside == devices:
    return sent / (chip.links * chip.link_bandwidth)
  size, sent = size * inside, sent * inside
  axes = group_axes(devices // inside, topology)
  if kind.startswith('collective-permute'):
    return size / chip.link_bandwidth
  if kind.endswith('all-to-all'):
    crossing = max(side / (8 if is_ring else 4) for side, is_ring in axes)
    return size * max(crossing, 0.5) / chip.link_bandwidth
  directions = sum(2 if is_ring else 1 for _, is_ring in axes)
  return sent / (chip.link_bandwidth * directions)


def group_axes(
  devices: int, topology: topology_lib.Topology
) -> list[tuple[int, bool]]:
  """Returns the axes of a slice that a group uses: (side, whether a ring).

  These are the sides of `sharding.block_sides`, as in the mesh's layout. A
  group of the axis `data` has one chip of every block; it is taken as a block,
  too.
  """
  ring = topology.chip.ring
  sides = sharding.block_sides(devices, topology.shape, ring)
  if sides is None:
    return [(devices, False)]
  return [
    (a, a == b and b >= ring) for a, b in zip(sides, topology.shape) if a > 1
  ]


def assumptions(topology: topology_lib.Topology) -> list[str]:
  """Returns the assumptions of the estimate, one line each."""
  chip = topology.chip
  common = [
    f'{chip.flops / 1e12:g} TFLOP/s bfloat16,'
    f' {chip.hbm_bandwidth / 1e12:g} TB/s to its memory,'
    f' {chip.host_bandwidth / 1e9:g} GB/s each way to the host, overlapped',
  ]
  if chip.is_gpu:
    return [
      *common,
      f'products at {GPU_EFFICIENCY:.0%} of that rate; the compiler does not'
      ' estimate cycles',
      f'NVLink {chip.link_bandwidth / 1e9:g} GB/s each way, other servers'
      f' {_NETWORK_BANDWIDTH / 1e9:g} GB/s',
    ]
  rings = [side for side in topology.shape if side >= chip.ring]
  return [
    *common,
    f"the compiler's cycles at {chip.clock / 1e9:g} GHz; kernels by the"
    ' bundles of their schedules, without waits for memory',
    f'{chip.links} links of {chip.link_bandwidth / 1e9:g} GB/s each way; rings'
    f' along {len(rings)} of {len(topology.shape)} axes (from {chip.ring} chips'
    ' on); no latency, no congestion',
    'a collective is hidden only by work that is scheduled during it, and'
    ' collectives use the links one after another',
  ]

"""TPU slices and GPU servers by name, and the specifications of their chips.

parse('v5p:8x8x4')    # 256 chips
parse('v5e:1x1')      # one chip
parse('gpu:h100x8')   # a server of eight GPUs
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from typing import Any

import jax

from pallas_kernels.tools import compile_gpu
from pallas_kernels.tools import libtpu
from ttt_jax.runtime import chips

_GIB = 2**30
_SIDE = re.compile(r'[1-9][0-9]{0,8}')
# NVLink connects any two GPUs of a server at the full rate.
GPUS_PER_SERVER = 8


@dataclasses.dataclass(frozen=True)
class ChipSpec:
  """Specifications of a chip, from its vendor's public documents.

  Attributes:
    name: name in a topology.
    flops: bfloat16 operations per second.
    clock: Hz, which converts estimated cycles to seconds; derived from `flops`
      and the size of the matrix units.
    hbm: bytes of memory.
    hbm_bandwidth: bytes per second to and from that memory.
    links: links to neighbours.
    link_bandwidth: bytes per second of one link in one direction.
    host_bandwidth: bytes per second in one direction between a chip and its
      host's memory.
    axes: axes of a slice.
    ring: smallest side of a slice whose ends are linked.
    most: chips of the largest slice, or GPUs of the largest cluster.
    devices: devices of a chip, as JAX counts them. Rates and memory above are
      those of a device, links those of a chip.
  """

  name: str
  flops: float
  clock: float
  hbm: int
  hbm_bandwidth: float
  links: int
  link_bandwidth: float
  host_bandwidth: float
  axes: int
  ring: int
  most: int
  devices: int = 1

  @property
  def is_gpu(self) -> bool:
    """Whether the chip is a GPU, in servers of `GPUS_PER_SERVER`."""
    return self.axes == 1


_V5E = ChipSpec(
  name='v5e',
  flops=chips.PEAK_FLOPS['TPU v5 lite'],
  clock=1.5e9,
  hbm=16 * _GIB,
  hbm_bandwidth=0.819e12,
  links=4,
  link_bandwidth=45e9,
  host_bandwidth=16e9,
  axes=2,
  ring=chips.RINGS['TPU v5 lite'],
  most=256,
)
_V5P = ChipSpec(
  name='v5p',
  flops=chips.PEAK_FLOPS['TPU v5'],
  clock=1.75e9,
  hbm=95 * _GIB,
  hbm_bandwidth=2.765e12,
  links=6,
  link_bandwidth=90e9,
  host_bandwidth=16e9,
  axes=3,
  ring=chips.RINGS['TPU v5'],
  most=8960,
)
_V6E = ChipSpec(
  name='v6e',
  flops=chips.PEAK_FLOPS['TPU v6'],
  clock=1.75e9,
  hbm=32 * _GIB,
  hbm_bandwidth=1.640e12,
  links=4,
  link_bandwidth=90e9,
  host_bandwidth=32e9,
  axes=2,
  ring=chips.RINGS['TPU v6'],
  most=256,
)
_7X = ChipSpec(
  name='tpu7x',
  flops=chips.PEAK_FLOPS['TPU7x'],
  clock=2.2e9,
  hbm=96 * _GIB,
  hbm_bandwidth=3.69e12,
  links=6,
  link_bandwidth=100e9,
  host_bandwidth=16e9,
  axes=3,
  ring=chips.RINGS['TPU7x'],
  most=9216,
  devices=2,
)
_H100 = ChipSpec(
  name='h100',
  flops=chips.PEAK_FLOPS['H100'],
  clock=1.98e9,
  hbm=80 * 10**9,
  hbm_bandwidth=3.35e12,
  links=1,
  link_bandwidth=450e9,
  host_bandwidth=55e9,
  axes=1,
  ring=8,
  most=16384,
)
TPUS = {spec.name: spec for spec in (_V5E, _V5P, _V6E, _7X)}
GPUS = {spec.name: spec for spec in (_H100,)}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of a TPU pod, or a number of GPUs.

  Attributes:
    name: its name, such as 'v5p:8x8x4'.
    chip: specifications of its chips.
    shape: chips along each axis.
  """

  name: str
  chip: ChipSpec
  shape: tuple[int, ...]

  @property
  def chips(self) -> int:
    """Number of chips."""
    return math.prod(self.shape)

  @property
  def num_devices(self) -> int:
    """Number of devices of all chips."""
    return self.chips * self.chip.devices

  def devices(self) -> list[Any]:
    """Returns its devices, for ahead-of-time compilation on any host.

    Raises:
      ValueError: no compiler is installed, or it does not support the slice.
    """
    from jax.experimental import topologies

    if self.chip.is_gpu:
      # One process per server.
      servers = -(-self.chips // GPUS_PER_SERVER)
      description: dict[str, Any] = dict(
        topology_name=self.chip.name,
        platform='cuda',
        topology=f'1x{servers}x{self.chips // servers}',
        target_config=compile_gpu.H100,
      )
      packages = (
        f'jax-cuda12-plugin=={jax.__version__}'
        f' jax-cuda12-pjrt=={jax.__version__} nvidia-cuda-nvcc-cu12'
      )
    else:
      for name, value in libtpu.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
      bounds = [2 if side % 2 == 0 else 1 for side in self.shape[:2]]
      description = dict(
        topology_name=self.name,
        platform='tpu',
        chips_per_host_bounds=[*bounds, 1],
      )
      packages = f'"jax[tpu]=={jax.__version__}"'
    try:
      return list(topologies.get_topology_desc(**description).devices)
    except Exception as e:
      reason = (str(e).strip() or type(e).__name__).splitlines()[0]
      raise ValueError(
        f'cannot compile for {self.name}: {reason[:200]}; install the compiler'
        f' with pip install {packages}'
      ) from e


def parse(name: str) -> Topology:
  """Parses 'v5p:8x8x4' or 'gpu:h100x8'; raises ValueError for anything else."""
  kind, _, shape = name.partition(':')
  if kind == 'gpu':
    return _parse_gpus(name, shape)
  if kind not in TPUS:
    raise ValueError(
      f'topology {name!r}: unknown chip {kind!r}; expected one of'
      f' {", ".join(TPUS)}, gpu'
    )
  axes = TPUS[kind].axes
  sides = shape.split('x')
  if len(sides) != axes or not all(map(_SIDE.fullmatch, sides)):
    example = {2: '16x16', 3: '8x8x4'}[axes]
    raise ValueError(
      f'topology {name!r}: the shape of a {kind} slice has {axes} sides, for'
      f' example {kind}:{example}'
    )
  return _check_size(Topology(name, TPUS[kind], tuple(map(int, sides))))


def _check_size(topology: Topology) -> Topology:
  """Returns a topology; raises ValueError if it is larger than any."""
  if topology.chips > topology.chip.most:
    raise ValueError(
      f'topology {topology.name!r} has {topology.chips:,} chips; at most'
      f' {topology.chip.most:,} of kind {topology.chip.name} work together'
    )
  return topology


def _parse_gpus(name, text):
  """Parses 'h100x8' into the topology `name`."""
  kind, _, number = text.partition('x')
  if kind not in GPUS:
    raise ValueError(
      f'topology {name!r}: unknown GPU {kind!r}; expected one of'
      f' {", ".join(GPUS)}'
    )
  count = int(number) if _SIDE.fullmatch(number) else 0
  if not count or (count > GPUS_PER_SERVER and count % GPUS_PER_SERVER):
    raise ValueError(
      f'topology {name!r}: the number of GPUs must be at most'
      f' {GPUS_PER_SERVER} or a multiple of it, for example'
      f' gpu:{kind}x{GPUS_PER_SERVER}'
    )
  return _check_size(Topology(name, GPUS[kind], (count,)))


def largest_memory_slice(topology: Topology) -> Topology | None:
  """Returns a slice of as many chips of the kind with the most memory.

  A program that does not fit elsewhere can be compiled for it and examined.
  None for GPUs and for a slice of that kind.
  """
  if topology.chip.is_gpu or topology.chip.hbm >= _V5P.hbm:
    return None
  sides, rest = [1, 1, 1], topology.chips
  while rest % 2 == 0:
    sides[sides.index(min(sides))] *= 2
    rest //= 2
  sides[sides.index(min(sides))] *= rest
  shape = sorted(sides, reverse=True)
  return parse('v5p:' + 'x'.join(map(str, shape)))

"""TPU slices and GPU servers by name, and what their chips can do.

parse('v5p:8x8x4')    # 256 chips
parse('v5e:1x1')      # one
parse('gpu:h100x8')   # a server of eight
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

from pallas_kernels.tools import compile_gpu

_GIB = 2**30
# Read when libtpu loads: ask no metadata server, share with others, and do not
# complain of a host without TPUs.
_LIBTPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip, from the vendor's public specifications.

  Attributes:
    name: as in a topology.
    hbm: bytes of memory.
    hbm_bandwidth: bytes a second.
    flops: bf16 operations a second.
    clock: Hz, with which estimated cycles become seconds; from `flops` and
      the size of the matrix units.
    link: bytes a second one way over one link to a neighbour.
    links: to neighbours.
    host: bytes a second one way between a chip and its host's memory.
    ring: chips along an axis of a slice from which on its ends are linked.
    axes: of a slice.
  """

  name: str
  hbm: int
  hbm_bandwidth: float
  flops: float
  clock: float
  link: float
  links: int
  host: float
  ring: int
  axes: int

  @property
  def is_gpu(self) -> bool:
    """Whether it is a GPU, in servers of `GPUS`."""
    return self.axes == 1


# GPUs of a server; NVLink joins any two of them at the full rate.
GPUS = 8
CHIPS = {
  chip.name: chip
  for chip in (
    Chip('v5e', 16 * _GIB, 0.819e12, 197e12, 1.5e9, 45e9, 4, 16e9, 16, 2),
    Chip('v5p', 95 * _GIB, 2.765e12, 459e12, 1.75e9, 90e9, 6, 16e9, 4, 3),
    Chip('v6e', 32 * _GIB, 1.640e12, 918e12, 1.75e9, 90e9, 4, 32e9, 16, 2),
    Chip('h100', 80 * 10**9, 3.35e12, 989e12, 1.98e9, 450e9, 1, 55e9, 8, 1),
  )
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of a pod, or some GPUs.

  Attributes:
    name: 'v5p:8x8x4'.
    chip: its kind of chip.
    shape: chips along each axis.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]

  @property
  def chips(self) -> int:
    """How many chips it has."""
    return math.prod(self.shape)

  def devices(self) -> list[Any]:
    """Its devices, for ahead-of-time compilation on any host.

    Raises:
      ValueError: there is no compiler here, or it does not know the slice.
    """
    from jax.experimental import topologies

    install = '"jax[tpu]==0.10.2"'
    if self.chip.is_gpu:
      # One process a server.
      servers = -(-self.chips // GPUS)
      described = dict(
        topology_name=self.chip.name,
        platform='cuda',
        topology=f'1x{servers}x{self.chips // servers}',
        target_config=compile_gpu.H100,
      )
      install = (
        '"jax==0.10.2", jax-cuda12-plugin and jax-cuda12-pjrt of that version'
        ' and nvidia-cuda-nvcc-cu12'
      )
    else:
      for name, value in _LIBTPU.items():
        os.environ.setdefault(name, value)
      bounds = [2 if side % 2 == 0 else 1 for side in self.shape[:2]]
      described = dict(
        topology_name=self.name,
        platform='tpu',
        chips_per_host_bounds=[*bounds, 1],
      )
    try:
      return list(topologies.get_topology_desc(**described).devices)
    except Exception as e:  # pylint: disable=broad-except
      reason = (str(e).strip() or type(e).__name__).splitlines()[0]
      raise ValueError(
        f'cannot compile for {self.name}: {reason[:200]}; the compiler comes'
        f' with pip install {install}'
      ) from e


def parse(name: str) -> Topology:
  """Reads 'v5p:8x8x4' or 'gpu:h100x8'; raises ValueError for anything else."""
  kind, _, shape = name.partition(':')
  if kind == 'gpu':
    return _servers(name, shape)
  tpus = [chip.name for chip in CHIPS.values() if not chip.is_gpu]
  if kind not in tpus:
    raise ValueError(
      f'topology {name!r}: unknown chip {kind!r}; legal are'
      f' {", ".join(tpus)}, gpu'
    )
  axes = CHIPS[kind].axes
  sides = shape.split('x')
  if len(sides) != axes or not all(s.isdecimal() and int(s) for s in sides):
    example = {2: '16x16', 3: '8x8x4'}[axes]
    raise ValueError(
      f'topology {name!r}: the shape of a {kind} slice has {axes} sides, for'
      f' example {kind}:{example}'
    )
  return Topology(name, CHIPS[kind], tuple(map(int, sides)))


def roomy(topology: Topology) -> Topology | None:
  """As many of the chips with most memory; None if it has these, or GPUs.

  What does not fit elsewhere can be compiled for them, to be looked at.
  """
  if topology.chip.is_gpu or topology.chip.name == 'v5p':
    return None
  sides, rest = [1, 1, 1], topology.chips
  while rest % 2 == 0:
    sides[sides.index(min(sides))] *= 2
    rest //= 2
  sides[sides.index(min(sides))] *= rest
  shape = sorted(sides, reverse=True)
  return parse('v5p:' + 'x'.join(map(str, shape)))


def _servers(name, text):
  """'h100x8' -> the topology `name`."""
  kind, _, number = text.partition('x')
  gpus = [chip.name for chip in CHIPS.values() if chip.is_gpu]
  if kind not in gpus:
    raise ValueError(
      f'topology {name!r}: unknown GPU {kind!r}; legal are {", ".join(gpus)}'
    )
  count = int(number) if number.isdecimal() else 0
  if not count or (count > GPUS and count % GPUS):
    raise ValueError(
      f'topology {name!r}: the number of GPUs must be 1 to {GPUS} or whole'
      f' servers of {GPUS}, for example gpu:{kind}x{GPUS}'
    )
  return Topology(name, CHIPS[kind], (count,))

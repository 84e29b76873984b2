"""TPU slices by name, and what their chips can do.

    parse('v5p:8x8x4')   # 256 chips
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

_GIB = 2**30


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
  """

  name: str
  hbm: int
  hbm_bandwidth: float
  flops: float
  clock: float
  link: float
  links: int


CHIPS = {
    chip.name: chip
    for chip in (
        Chip('v5e', 16 * _GIB, 0.819e12, 197e12, 1.5e9, 45e9, 4),
        Chip('v5p', 95 * _GIB, 2.765e12, 459e12, 1.75e9, 90e9, 6),
        Chip('v6e', 32 * _GIB, 1.640e12, 918e12, 1.75e9, 90e9, 4),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of a pod.

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
      ValueError: there is no TPU compiler here, or it does not know the slice.
    """
    # Read when libtpu loads: ask no metadata server, share with others.
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    from jax.experimental import topologies

    try:
      return list(
          topologies.get_topology_desc(
              platform='tpu', topology_name=self.name
          ).devices
      )
    except Exception as e:  # pylint: disable=broad-except
      reason = (str(e).strip() or type(e).__name__).splitlines()[0]
      raise ValueError(
          f'cannot compile for {self.name}: {reason[:200]}; the compiler comes'
          ' with pip install "jax[tpu]==0.10.2"'
      ) from e


def parse(name: str) -> Topology:
  """Reads 'v5p:8x8x4'; raises ValueError for anything else."""
  kind, _, shape = name.partition(':')
  if kind not in CHIPS:
    raise ValueError(
        f'topology {name!r}: unknown chip {kind!r}; legal are'
        f' {", ".join(CHIPS)}'
    )
  sides = shape.split('x')
  axes = 3 if kind == 'v5p' else 2
  if len(sides) != axes or not all(s.isdecimal() and int(s) for s in sides):
    example = {2: '16x16', 3: '8x8x4'}[axes]
    raise ValueError(
        f'topology {name!r}: the shape of a {kind} slice has {axes} sides, for'
        f' example {kind}:{example}'
    )
  return Topology(name, CHIPS[kind], tuple(map(int, sides)))

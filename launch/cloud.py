"""Names that Google Cloud gives the slices of `launch.topology`.

    find_slice('v5p:8x8x4').accelerator_type   # 'v5p-512'

Names, shapes and zones are from its documentation and the tables of XPK (2026).
"""

from __future__ import annotations

import dataclasses
import re

from launch import topology as topology_lib

_CHIPS_PER_HOST = 4
_ZONE = re.compile(r'[a-z]+(-[a-z]+)+[0-9]+-[a-z0-9]+')


@dataclasses.dataclass(frozen=True)
class TpuType:
  """A generation of TPUs as Google Cloud offers it.

  Attributes:
    prefix: prefix of its accelerator types.
    cores: cores per chip that the number in an accelerator type counts.
    runtime: software version of its TPU VMs.
    label: label of its nodes on GKE.
    zones: zones where it can be rented (Google adds some from time to time).
    shapes: shapes that can be rented, sides ascending.
  """

  prefix: str
  cores: int
  runtime: str
  label: str
  zones: tuple[str, ...]
  shapes: tuple[str, ...]


_SHAPES_2D = tuple('1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16'.split())
_SHAPES_3D = tuple(
  '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16'
  ' 16x16x16'.split()
)
TPU_TYPES = {
  'v5e': TpuType(
    prefix='v5litepod',
    cores=1,
    runtime='v2-alpha-tpuv5-lite',
    label='tpu-v5-lite-podslice',
    zones=('us-central1-a', 'us-south1-a', 'us-west1-c', 'us-west4-a'),
    shapes=_SHAPES_2D,
  ),
  'v5p': TpuType(
    prefix='v5p',
    cores=2,
    runtime='v2-alpha-tpuv5',
    label='tpu-v5p-slice',
    zones=('us-central1-a', 'us-east5-a'),
    shapes=_SHAPES_3D,
  ),
  'v6e': TpuType(
    prefix='v6e',
    cores=1,
    runtime='v2-alpha-tpuv6e',
    label='tpu-v6e-slice',
    zones=(
      'us-central1-b',
      'us-east1-d',
      'us-east5-a',
      'us-east5-b',
      'europe-west4-a',
    ),
    shapes=_SHAPES_2D,
  ),
}


@dataclasses.dataclass(frozen=True)
class CloudSlice:
  """A slice under Google Cloud's names.

  Attributes:
    chip: generation, such as 'v5p'.
    chips: number of chips.
    shape: sides in Google's order, such as '4x8x8'.
    tpu_type: names of the generation.
  """

  chip: str
  chips: int
  shape: str
  tpu_type: TpuType

  @property
  def accelerator_type(self) -> str:
    """Accelerator type, such as v5p-512."""
    return f'{self.tpu_type.prefix}-{self.chips * self.tpu_type.cores}'

  @property
  def nodes(self) -> int:
    """Machines of four chips (of one: 1x1), as in GKE's node pools."""
    return max(1, self.chips // _CHIPS_PER_HOST)

  @property
  def workers(self) -> int:
    """TPU VMs; eight v5e or v6e chips may form a single one."""
    return 1 if self.shape == '2x4' else self.nodes


def find_slice(name: str | None) -> CloudSlice:
  """Returns the slice of a topology name; ValueError if there is none."""
  if not name:
    raise ValueError(
      '--topology is missing, for example v5p:8x8x4; python -m launch.plan'
      ' finds the slice that your stage needs'
    )
  topology = topology_lib.parse(name)
  tpu_type = TPU_TYPES.get(topology.chip.name)
  if tpu_type is None:
    raise ValueError(
      f'--topology {name} is not a TPU slice such as v5p:8x8x4; use'
      ' python -m launch.slurm for GPUs'
    )
  sides = sorted(topology.shape)
  if sides == [1, 2, 2]:  # The only shape that Google does not sort.
    sides = [2, 2, 1]
  shape = 'x'.join(map(str, sides))
  if shape not in tpu_type.shapes:
    shapes = ', '.join(f'{topology.chip.name}:{s}' for s in tpu_type.shapes)
    raise ValueError(
      f'--topology {name} cannot be rented; expected one of {shapes}'
    )
  return CloudSlice(topology.chip.name, topology.chips, shape, tpu_type)


def check_zone(zone: str | None, tpu_type: TpuType) -> str:
  """Returns a zone; raises ValueError if it cannot be one."""
  if not zone or not _ZONE.fullmatch(zone):
    raise ValueError(
      f'--zone is {zone!r}; expected a zone of {tpu_type.prefix}, such as'
      f' {", ".join(tpu_type.zones)}'
    )
  return zone

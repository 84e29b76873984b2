"""What Google Cloud calls a slice of `launch.topology`.

    slice_of('v5p:8x8x4').accelerator_type   # 'v5p-512'

Names, shapes and zones from its documentation and the tables of XPK (2026).
"""

from __future__ import annotations

import dataclasses
import re

from launch import topology as topology_lib

_CHIPS_PER_HOST = 4
_ZONE = re.compile(r'[a-z]+(-[a-z]+)+\d+-[a-z0-9]+')


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of chip.

  Attributes:
    prefix: of its accelerator types.
    cores: per chip, which the number in a v5p's accelerator type counts.
    runtime: software of TPU VMs.
    label: of its nodes on GKE.
    zones: where it is rented; Google adds some now and then.
    shapes: the one that Google means by a number of chips, sides ascending.
  """

  prefix: str
  cores: int
  runtime: str
  label: str
  zones: tuple[str, ...]
  shapes: tuple[str, ...]


_FLAT = ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
KINDS = {
  'v5e': Kind(
    'v5litepod',
    1,
    'v2-alpha-tpuv5-lite',
    'tpu-v5-lite-podslice',
    ('us-central1-a', 'us-south1-a', 'us-west1-c', 'us-west4-a'),
    _FLAT,
  ),
  'v5p': Kind(
    'v5p',
    2,
    'v2-alpha-tpuv5',
    'tpu-v5p-slice',
    ('us-central1-a', 'us-east5-a'),
    (
      '2x2x1',
      '2x2x2',
      '2x2x4',
      '2x4x4',
      '4x4x4',
      '4x4x8',
      '4x8x8',
      '8x8x8',
      '8x8x16',
      '8x16x16',
      '16x16x16',
    ),
  ),
  'v6e': Kind(
    'v6e',
    1,
    'v2-alpha-tpuv6e',
    'tpu-v6e-slice',
    (
      'us-central1-b',
      'us-east1-d',
      'us-east5-a',
      'us-east5-b',
      'europe-west4-a',
    ),
    _FLAT,
  ),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice as it is rented.

  Attributes:
    chip: 'v5p'.
    chips: 256.
    shape: sides as Google orders them, '4x8x8'.
    kind: names of the chip.
  """

  chip: str
  chips: int
  shape: str
  kind: Kind

  @property
  def accelerator_type(self) -> str:
    """Such as v5p-512."""
    return f'{self.kind.prefix}-{self.chips * self.kind.cores}'

  @property
  def nodes(self) -> int:
    """Machines of four chips, as GKE's node pools have them."""
    return self.chips // _CHIPS_PER_HOST

  @property
  def workers(self) -> int:
    """TPU VMs; eight v5e or v6e chips may be one."""
    return 1 if self.shape == '2x4' else self.nodes


def slice_of(name: str | None) -> Slice:
  """The slice that `launch.plan` calls so; raises ValueError."""
  if not name:
    raise ValueError(
      '--topology is missing, for example v5p:4x8x8; python -m launch.plan'
      ' tells which one your stage needs'
    )
  found = topology_lib.parse(name)
  kind = KINDS.get(found.chip.name)
  if kind is None:
    raise ValueError(
      f'--topology {name} is no slice of TPUs, such as v5p:4x8x8; GPUs are'
      ' launched by python -m launch.slurm'
    )
  sides = [int(n) for n in name.partition(':')[2].split('x')]
  ascending = sorted(sides)
  if ascending == [1, 2, 2]:  # The exception.
    ascending = [2, 2, 1]
  shape = 'x'.join(map(str, ascending))
  if shape not in kind.shapes:
    legal = ', '.join(f'{found.chip.name}:{s}' for s in kind.shapes)
    raise ValueError(f'--topology {name} is not rented; legal are {legal}')
  return Slice(found.chip.name, found.chips, shape, kind)


def check_zone(zone: str | None, kind: Kind) -> str:
  """A zone; raises ValueError for what cannot be one."""
  if not zone or not _ZONE.fullmatch(zone):
    raise ValueError(
      f'--zone is {zone!r}; {kind.prefix} is in {", ".join(kind.zones)}'
    )
  return zone

"""What the kernels need to know of the chip they are compiled for."""

from __future__ import annotations

import dataclasses

from jax.experimental.pallas import tpu as pltpu


@dataclasses.dataclass(frozen=True)
class Chip:
  """One TPU core, and how many of them share a grid.

  Attributes:
    vmem: bytes of vector memory of a core.
    cores: cores over which parallel grid dimensions are split.
    narrow_arithmetic: whether the vector unit computes in bfloat16.
  """

  vmem: int
  cores: int
  narrow_arithmetic: bool


# What every generation from v5 on has; used where the chip is not known.
ANY = Chip(vmem=64 * 2**20, cores=1, narrow_arithmetic=False)


def current() -> Chip:
  """Returns the chip of the current mesh or device, `ANY` if it is no TPU.

  A program that is compiled ahead of time for another machine says which with
  `jax.set_mesh(mesh)` around the trace.
  """
  try:
    info = pltpu.get_tpu_info()
  except ValueError:  # The device is no TPU: interpreted.
    return ANY
  return Chip(
    vmem=info.vmem_capacity_bytes,
    cores=info.num_cores,
    narrow_arithmetic=info.generation >= 6,
  )

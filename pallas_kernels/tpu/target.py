"""Properties of the chip that the kernels are compiled for."""

from __future__ import annotations

import dataclasses

from jax.experimental.pallas import tpu as pltpu


@dataclasses.dataclass(frozen=True)
class Target:
  """One TPU core, and the number of cores that share a grid.

  Attributes:
    vmem: bytes of vector memory of a core.
    cores: cores over which parallel grid dimensions are split.
    narrow_arithmetic: whether the vector unit computes in bfloat16.
  """

  vmem: int
  cores: int
  narrow_arithmetic: bool


# Every generation from v5 on has at least this; used where the chip is unknown.
GENERIC = Target(vmem=64 * 2**20, cores=1, narrow_arithmetic=False)


def current() -> Target:
  """Returns the target of the current mesh or device; `GENERIC` off TPUs.

  A program that is compiled ahead of time for another machine sets the target
  with `jax.set_mesh(mesh)` around the trace.
  """
  try:
    info = pltpu.get_tpu_info()
  except ValueError:  # The device is not a TPU: the kernel is interpreted.
    return GENERIC
  return Target(
    vmem=info.vmem_capacity_bytes,
    cores=info.num_cores,
    narrow_arithmetic=info.generation >= 6,
  )

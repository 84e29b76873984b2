"""Flags of the compiler and the runtime, each with its reason.

    python -m launch.xla_flags             # lists them
    python -m launch.xla_flags --check     # compiles with them

`launch.stages --chip=KIND` puts them into the environment of its commands,
before the values that the user has set there, so that the user's values win.
They change the order of work and no results. None was timed on a chip. The
tests compile with them for every kind of chip whose compiler is installed. In
the compiled step of the 9 s stage on v5p:8x8x4, data 64 x sp 4, with 4 layers,
they make 19 of 21 all-to-alls asynchronous (0 without them), fuse gathers of
parameters into matrix products, and leave the peak of memory unchanged
(3.63 GiB).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from absl import flags
import jax

from launch import topology
from pallas_kernels.tools import libtpu
from ttt_jax.runtime import cli

TPU, GPU = 'LIBTPU_INIT_ARGS', 'XLA_FLAGS'


@dataclasses.dataclass(frozen=True)
class XlaFlag:
  """A flag, or another value in the environment of a program.

  Attributes:
    variable: name of the environment variable.
    value: value of the variable. Flags of one variable are joined by spaces.
    reason: reason why it is set.
  """

  variable: str
  value: str
  reason: str


_TPU_FLAGS = (
  XlaFlag(
    TPU,
    '--xla_enable_async_all_gather=true',
    "FSDP gathers each layer's parameters. The gather of the next layer's may"
    ' run during computation.',
  ),
  XlaFlag(
    TPU,
    '--xla_tpu_enable_async_collective_fusion=true',
    'Fuses parts of a gather into the loops of matrix products, which is how a'
    ' TensorCore runs both at once. These five flags belong together.',
  ),
  XlaFlag(
    TPU,
    '--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true',
    'Enables these fusions for gathers of parameters.',
  ),
  XlaFlag(
    TPU,
    '--xla_tpu_enable_async_collective_fusion_multiple_steps=true',
    'Allows one gather to extend over several matrix products.',
  ),
  XlaFlag(
    TPU,
    '--xla_tpu_overlap_compute_collective_tc=true',
    'Allows a collective and a computation on one TensorCore at a time.',
  ),
)

# The compiler for v5e rejects it ("not supported on limited ICI").
_ASYNC_ALL_TO_ALL = XlaFlag(
  TPU,
  '--xla_tpu_enable_async_all_to_all=true',
  'All-to-alls exchange tokens for heads (mesh axis sp). Without this flag the'
  ' chip waits for each of them.',
)

_GPU_FLAGS = (
  XlaFlag(
    GPU,
    '--xla_gpu_enable_latency_hiding_scheduler=true',
    'Starts collectives early and uses their results late, so that NCCL'
    ' overlaps with kernels.',
  ),
  XlaFlag(
    GPU,
    '--xla_gpu_enable_highest_priority_async_stream=true',
    'Starts kernels of collectives before queued computation, because a late'
    ' collective makes all other GPUs wait.',
  ),
  XlaFlag(
    'XLA_PYTHON_CLIENT_MEM_FRACTION',
    '0.92',
    'JAX reserves 75 % of a GPU by default. NCCL and cuDNN need some GiB'
    ' outside of what JAX reserves.',
  ),
)

FLAGS: Mapping[str, tuple[XlaFlag, ...]] = {
  'v5e': _TPU_FLAGS,
  'v5p': (*_TPU_FLAGS, _ASYNC_ALL_TO_ALL),
  'v6e': (*_TPU_FLAGS, _ASYNC_ALL_TO_ALL),
  'tpu7x': (*_TPU_FLAGS, _ASYNC_ALL_TO_ALL),
  'gpu': _GPU_FLAGS,
}


def environment(kind: str, current: Mapping[str, str]) -> dict[str, str]:
  """Returns the variables to set for a kind of chip.

  Args:
    kind: key of `FLAGS`.
    current: environment so far, whose values win.
  """
  values: dict[str, list[str]] = {}
  for flag in FLAGS[kind]:
    values.setdefault(flag.variable, []).append(flag.value)
  for variable, parts in values.items():
    if variable in current:
      # The last occurrence of a flag wins; other variables have one value.
      is_flags = parts[0].startswith('--')
      values[variable] = [*(parts if is_flags else ()), current[variable]]
  return {k: ' '.join(v) for k, v in values.items()}


def compiler_options(
  kind: str, current: Mapping[str, str] | None = None
) -> dict[str, bool | str]:
  """Returns flags of a kind of chip for `jax.stages.Lowered.compile`.

  Args:
    kind: key of `FLAGS`.
    current: environment so far, whose flags are left out.
  """
  ours = [f.value for f in FLAGS[kind] if f.variable in (TPU, GPU)]
  users = ' '.join((current or {}).get(v, '') for v in (TPU, GPU)).split()
  # Complete names are compared: some of ours are prefixes of others.
  users_names = {word.partition('=')[0] for word in users}
  pairs = [flag.split('=', 1) for flag in ours]
  return {
    name.removeprefix('--'): value == 'true' or value
    for name, value in pairs
    if name not in users_names
  }


def compiler_error(kind: str) -> str | None:
  """Compiles with the flags; returns the error, or None.

  Args:
    kind: key of `FLAGS`. TPUs require libtpu but no chip; every jaxlib has the
      names of flags for GPUs.

  Raises:
    ValueError: no compiler for TPUs is installed.
  """
  device: Any = jax.devices('cpu')[0]
  if kind != 'gpu':
    device = topology.parse(libtpu.SMALLEST_SLICES[kind]).devices()[0]
  x = jax.ShapeDtypeStruct(
    (8,), 'float32', sharding=jax.sharding.SingleDeviceSharding(device)
  )
  try:
    jax.jit(lambda x: x + 1).lower(x).compile(compiler_options(kind))
  except jax.errors.JaxRuntimeError as e:
    return str(e).splitlines()[0]
  return None


def define_flags() -> None:
  """Defines the flags of this command."""
  flags.DEFINE_bool(
    'check', False, 'Compilation of a small program with the flags.'
  )


def main(argv: Sequence[str]) -> int:
  """Lists the flags, and with --check compiles with those of each chip."""
  del argv
  for kind, flags_ in FLAGS.items():
    print(f'{kind}:')
    for flag in flags_:
      print(f'  {flag.variable} {flag.value}\n    {flag.reason}')
  if not flags.FLAGS.check:
    return 0
  jax.config.update('jax_platforms', 'cpu')
  status = 0
  for kind in FLAGS:
    try:
      error = compiler_error(kind)
    except ValueError as e:  # No compiler for TPUs.
      error = str(e)
    print(f'{kind}: {error or "the compiler accepts all flags"}')
    status = max(status, int(bool(error)))
  return status


if __name__ == '__main__':
  define_flags()
  cli.run(main)

"""Settings of the compiler and the runtime, each with its reason.

    python -m launch.xla_flags             # lists them
    python -m launch.xla_flags --check     # does this compiler know them?

The one place for them: `launch.stages --chip=KIND` puts them into the
environment of what it starts, before what the user has set there, so that the
user's values win. They move work in time and change no results. None was timed
on a chip: names are checked with the compilers of jax 0.10.2, and what the
TPU's do is seen in compiled steps. Of the 9 s step on v5p:8x8x4, data 64 x sp
4, with 4 layers they make 19 of 21 all-to-alls asynchronous (0 without), fuse
gathers of parameters into matrix products, and leave the peak of memory as it
is (3.63 GiB).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from absl import flags
import jax

from launch import topology
from ttt_jax.runtime import cli

TPU, GPU = 'LIBTPU_INIT_ARGS', 'XLA_FLAGS'


@dataclasses.dataclass(frozen=True)
class Setting:
  """A value in the environment of a program.

  Attributes:
    variable: of the environment.
    value: of the variable, or a part of it: parts are joined by spaces.
    reason: why we set it.
  """

  variable: str
  value: str
  reason: str


_TPU_SETTINGS = (
  Setting(
    TPU,
    '--xla_enable_async_all_gather=true',
    "FSDP gathers each layer's parameters; the gather of the next ones"
    ' may run while the chip computes.',
  ),
  Setting(
    TPU,
    '--xla_tpu_enable_async_collective_fusion=true',
    'Fuses parts of a gather into the loops of matrix products, which is'
    ' how a TensorCore does both at once. The five names of this group'
    ' belong together.',
  ),
  Setting(
    TPU,
    '--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true',
    'The group above, for gathers of parameters.',
  ),
  Setting(
    TPU,
    '--xla_tpu_enable_async_collective_fusion_multiple_steps=true',
    'Lets one gather stretch over several matrix products.',
  ),
  Setting(
    TPU,
    '--xla_tpu_overlap_compute_collective_tc=true',
    'Allows a collective and a computation on one TensorCore together.',
  ),
)

# Not for v5e: its compiler refuses ("not supported on limited ICI").
_ASYNC_ALL_TO_ALL = Setting(
  TPU,
  '--xla_tpu_enable_async_all_to_all=true',
  'Sequences change between tokens and heads by all-to-alls (mesh axis sp).'
  ' Without it the chip waits for each of them.',
)

_GPU_SETTINGS = (
  Setting(
    GPU,
    '--xla_gpu_enable_latency_hiding_scheduler=true',
    'Orders collectives early and their use late, so that NCCL runs beside'
    ' the kernels.',
  ),
  Setting(
    GPU,
    '--xla_gpu_enable_highest_priority_async_stream=true',
    'Kernels of collectives start before queued computation; a late one'
    ' makes all other GPUs wait.',
  ),
  Setting(
    'XLA_PYTHON_CLIENT_MEM_FRACTION',
    '0.92',
    'JAX takes 75 % of a GPU by default; NCCL and cuDNN need some GiB'
    ' beside it.',
  ),
)

SETTINGS: Mapping[str, tuple[Setting, ...]] = {
  'v5e': _TPU_SETTINGS,
  'v5p': (*_TPU_SETTINGS, _ASYNC_ALL_TO_ALL),
  'v6e': (*_TPU_SETTINGS, _ASYNC_ALL_TO_ALL),
  'gpu': _GPU_SETTINGS,
}
# A slice of each kind of TPU.
_SMALL = {'v5e': 'v5e:2x2', 'v5p': 'v5p:2x2x1', 'v6e': 'v6e:2x2'}


def environment(kind: str, before: Mapping[str, str]) -> dict[str, str]:
  """The variables to set for a kind of chip.

  Args:
    kind: of `SETTINGS`.
    before: the environment so far; what it says comes last and wins.
  """
  values: dict[str, list[str]] = {}
  for setting in SETTINGS[kind]:
    values.setdefault(setting.variable, []).append(setting.value)
  for variable, parts in values.items():
    if variable in before:
      # Of flags the last counts; another variable has one value.
      flag = parts[0].startswith('--')
      values[variable] = [*(parts if flag else ()), before[variable]]
  return {k: ' '.join(v) for k, v in values.items()}


def compiler_options(
  kind: str, before: Mapping[str, str] | None = None
) -> dict[str, bool | str]:
  """The flags of a kind of chip for `jax.stages.Lowered.compile`.

  Args:
    kind: of `SETTINGS`.
    before: the environment; a flag that it gives is left to it.
  """
  flags_ = [s.value for s in SETTINGS[kind] if s.variable in (TPU, GPU)]
  given = ' '.join((before or {}).get(v, '') for v in (TPU, GPU)).split()
  # Whole names: some of ours begin like others.
  theirs = {word.partition('=')[0] for word in given}
  pairs = [flag.split('=', 1) for flag in flags_]
  return {
    name.removeprefix('--'): value == 'true' or value
    for name, value in pairs
    if name not in theirs
  }


def unknown(kind: str) -> str | None:
  """What this machine's compiler says against the flags; None: nothing.

  Args:
    kind: of `SETTINGS`. TPUs need libtpu, but none of them; the names of GPUs
      are known to every jaxlib.

  Raises:
    ValueError: there is no compiler for TPUs.
  """
  device: Any = jax.devices('cpu')[0]
  if kind != 'gpu':
    device = topology.parse(_SMALL[kind]).devices()[0]
  x = jax.ShapeDtypeStruct(
    (8,), 'float32', sharding=jax.sharding.SingleDeviceSharding(device)
  )
  try:
    jax.jit(lambda x: x + 1).lower(x).compile(compiler_options(kind))
  except jax.errors.JaxRuntimeError as e:
    return str(e).splitlines()[0]
  return None


def define_flags() -> None:
  """The flags of this command."""
  flags.DEFINE_bool('check', False, 'Ask the compilers for the names.')


def main(argv: Sequence[str]) -> int:
  """Entry point."""
  del argv
  for kind, settings in SETTINGS.items():
    print(f'{kind}:')
    for setting in settings:
      print(f'  {setting.variable} {setting.value}\n    {setting.reason}')
  if not flags.FLAGS.check:
    return 0
  jax.config.update('jax_platforms', 'cpu')
  status = 0
  for kind in SETTINGS:
    try:
      message = unknown(kind)
    except ValueError as e:  # No compiler for TPUs.
      message = str(e)
    print(f'{kind}: {message or "all names are known"}')
    status = max(status, int(bool(message)))
  return status


if __name__ == '__main__':
  define_flags()
  cli.run(main)

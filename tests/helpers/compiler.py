"""Cheap compilation for the tests and for the processes that they start.

Nearly all time of a test is compiling, and a small program that is compiled
with care is no faster. Tests marked `optimized`, which compare with numbers of
others or to the bit, compile at the default level.
"""

from __future__ import annotations

import os

_FLAGS = (
  # Fusions without MLIR: a third of the time.
  '--xla_cpu_use_fusion_emitters=false',
  # Parts of a module that are compiled side by side cost more in all.
  '--xla_cpu_parallel_codegen_split_count=1',
  # Fusions for YNNPACK end in a segmentation fault on CPUs without AMX
  # (jaxlib 0.10.2).
  '--xla_cpu_experimental_ynn_fusion_type=',
)


def set_environment() -> None:
  """Sets what JAX reads when it is imported; what is set already wins."""
  os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  given = os.environ.get('XLA_FLAGS', '').split()
  names = {flag.partition('=')[0] for flag in given}
  added = [flag for flag in _FLAGS if flag.partition('=')[0] not in names]
  os.environ['XLA_FLAGS'] = ' '.join([*added, *given])


def optimized() -> dict[str, str]:
  """Returns the environment of a process that compiles at the default level."""
  return dict(os.environ, JAX_DISABLE_MOST_OPTIMIZATIONS='0')

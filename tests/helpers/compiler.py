"""Cheap compilation for the tests and for the processes that they start.

Nearly all time of a test is compiling, and a small program that is compiled
with care is no faster. Tests marked `optimized`, which compare with numbers of
others or to the bit, compile at the default level.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
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
  # Lines of Python in compiled programs: nobody reads them here.
  os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')
  given = os.environ.get('XLA_FLAGS', '').split()
  names = {flag.partition('=')[0] for flag in given}
  added = [flag for flag in _FLAGS if flag.partition('=')[0] not in names]
  os.environ['XLA_FLAGS'] = ' '.join([*added, *given])


@contextlib.contextmanager
def level(optimized: bool) -> Iterator[None]:
  """Compiles at the default level, or cheaply."""
  import jax  # Not before `set_environment`.

  option = 'jax_disable_most_optimizations'
  before = jax.config.read(option)
  jax.config.update(option, not optimized)
  try:
    yield
  finally:
    jax.config.update(option, before)


def optimized() -> dict[str, str]:
  """Returns the environment of a process that compiles at the default level."""
  return dict(os.environ, JAX_DISABLE_MOST_OPTIMIZATIONS='0')


@contextlib.contextmanager
def keep_programs(folder: str | os.PathLike[str]) -> Iterator[dict[str, str]]:
  """Keeps compiled programs in a folder, for runs that compile the same.

  Yields the variables with which other processes use the folder, too.
  """
  import jax  # Not before `set_environment`.
  from jax.experimental.compilation_cache import compilation_cache

  options = dict(
    jax_compilation_cache_dir=str(folder),
    jax_persistent_cache_min_compile_time_secs=0.0,
    jax_persistent_cache_min_entry_size_bytes=-1,
  )
  before = {name: getattr(jax.config, name) for name in options}
  try:
    for name, value in options.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {name.upper(): str(value) for name, value in options.items()}
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()

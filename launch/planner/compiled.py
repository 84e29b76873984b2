"""Compiles programs for chips that this machine lacks; caches the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import gzip
import hashlib
import json
import os
import pathlib
import time
from typing import Any

import jax

from launch.planner import hlo
from ttt_jax.runtime import files
from ttt_jax.runtime import progress

# XLA's name for a kernel that exceeds its vector memory.
_KERNEL_ERROR = 'ScopedVmemOom'


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled program; sizes are bytes per chip.

  Attributes:
    text: HLO of the program.
    arguments: size of its arguments, donated ones included.
    results: size of its results without donated memory.
    temporaries: size of its temporaries.
    peak: largest size of all that a chip has allocated at one moment, or a
      bound of it.
    host: size of a chip's temporaries in the memory of its host.
    trace_seconds: time to trace and lower the program.
    compile_seconds: time that XLA took.
  """

  text: str
  arguments: int
  results: int
  temporaries: int
  peak: int
  host: int
  trace_seconds: float
  compile_seconds: float

  @functools.cached_property
  def program(self) -> hlo.Program:
    """The parsed HLO."""
    return hlo.Program(self.text)


class DoesNotFitError(Exception):
  """A program does not fit the chips' memory.

  Attributes:
    message: message of the compiler, several lines.
  """

  def __init__(self, message: str):
    super().__init__(message.strip().splitlines()[0])
    self.message = message


def compile_program(
  function: Any,
  arguments: Sequence[Any],
  mesh: jax.sharding.Mesh,
  options: Mapping[str, Any] | None = None,
  cache: pathlib.Path | None = None,
) -> Compiled:
  """Compiles a jitted function for the devices of a mesh.

  Args:
    function: result of `jax.jit`.
    arguments: `jax.ShapeDtypeStruct`s with shardings on the mesh.
    mesh: mesh of devices, which need not exist.
    options: options of the compiler.
    cache: folder that keeps results by program, chips and options; without it
      the program is always compiled.

  Raises:
    DoesNotFitError: the program does not fit the chips' memory.
  """
  start = time.perf_counter()
  # Kernels choose their tiling by the chip of the current mesh.
  with progress.Bar('tracing the program', None), jax.set_mesh(mesh):
    lowered = function.lower(*arguments)
  trace_seconds = time.perf_counter() - start
  path = cache and cache / f'{_key(lowered, mesh, options)}.json.gz'
  if path and path.exists():
    with gzip.open(path, 'rt') as file:
      return _to_compiled(json.load(file))
  what = f'compiling for {mesh.size} devices'
  with progress.Bar(what, None), jax.set_mesh(mesh):
    found = _compile(lowered, options)
  found['trace_seconds'] = trace_seconds
  if path:
    cache.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path) as part, gzip.open(part, 'wt') as file:
      json.dump(found, file)
  return _to_compiled(found)


def _compile(lowered, options) -> dict[str, Any]:
  start = time.perf_counter()
  try:
    compiled = lowered.compile(compiler_options=options and dict(options))
  except jax.errors.JaxRuntimeError as e:
    # A kernel that exceeds its vector memory has the same status, but no other
    # mesh would help: it is a defect of the kernel.
    if 'RESOURCE_EXHAUSTED' not in str(e) or _KERNEL_ERROR in str(e):
      raise
    return dict(error=str(e))
  seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  on_chip = memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
  return dict(
    text=compiled.as_text(),
    arguments=memory.argument_size_in_bytes,
    results=results,
    temporaries=memory.temp_size_in_bytes,
    # The compiler's peak is that of the largest heap, which is the host's if
    # more is kept there.
    peak=min(memory.peak_memory_in_bytes, on_chip),
    host=memory.host_temp_size_in_bytes,
    compile_seconds=seconds,
  )


def _to_compiled(found):
  if 'error' in found:
    raise DoesNotFitError(found['error'])
  return Compiled(**found)


def _key(lowered, mesh, options):
  """Returns a hash of everything that determines the compiled program."""
  device = mesh.devices.flat[0]
  parts = [
    lowered.as_text(),
    device.device_kind,
    str(mesh.devices.tolist()),
    f'{jax.__version__} {device.client.platform_version}',
    json.dumps(options and dict(options), sort_keys=True),
  ]
  parts += [
    os.environ[name]
    for name in ('LIBTPU_INIT_ARGS', 'XLA_FLAGS')
    if name in os.environ
  ]
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:32]

"""Compiles a program for chips that are not here, once: results are kept."""

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

# Of a Pallas kernel, in XLA's messages.
_KERNEL = 'ScopedVmemOom'


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled program.

  Attributes:
    text: its HLO.
    arguments: bytes a chip of what it takes, donated or not.
    results: bytes a chip of what it returns, without donated memory.
    temporaries: bytes a chip while it runs.
    peak: bytes a chip, the most at any moment.
    host: bytes of its host that a chip's temporaries take.
    trace_seconds: Python's part.
    compile_seconds: XLA's part.
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
    """The HLO, read."""
    return hlo.Program(self.text)


class DoesNotFitError(Exception):
  """The compiler found no way to run a program in the chips' memory.

  Attributes:
    message: the compiler's, of several lines.
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
    function: of `jax.jit`.
    arguments: `jax.ShapeDtypeStruct`s with shardings on the mesh.
    mesh: its devices need not exist.
    options: of the compiler.
    cache: folder where results are kept by program, chips and settings; None
      always compiles.

  Raises:
    DoesNotFitError: XLA is out of memory for the program.
  """
  start = time.perf_counter()
  # Kernels look there for the chip that they are compiled for.
  with jax.set_mesh(mesh):
    lowered = function.lower(*arguments)
  traced = time.perf_counter()
  path = cache and cache / f'{_key(lowered, mesh, options)}.json.gz'
  if path and path.exists():
    with gzip.open(path, 'rt') as file:
      return _result(json.load(file))
  with jax.set_mesh(mesh):
    found = _compile(lowered, options)
  found['trace_seconds'] = traced - start
  if path:
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    with gzip.open(part, 'wt') as file:
      json.dump(found, file)
    part.rename(path)
  return _result(found)


def _compile(lowered, options):
  start = time.perf_counter()
  try:
    compiled = lowered.compile(compiler_options=options and dict(options))
  except jax.errors.JaxRuntimeError as e:
    # A kernel that wants more vector memory than there is has the same status,
    # but no other mesh would help it.
    if 'RESOURCE_EXHAUSTED' not in str(e) or _KERNEL in str(e):
      raise
    return dict(error=str(e))
  seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()
  return dict(
    text=compiled.as_text(),
    arguments=memory.argument_size_in_bytes,
    results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    peak=memory.peak_memory_in_bytes,
    host=memory.host_temp_size_in_bytes,
    compile_seconds=seconds,
  )


def _result(found):
  if 'error' in found:
    raise DoesNotFitError(found['error'])
  return Compiled(**found)


def _key(lowered, mesh, options):
  device = mesh.devices.flat[0]
  version = f'{jax.__version__} {device.client.platform_version}'
  whole = [
    lowered.as_text(),
    device.device_kind,
    str(mesh.devices.tolist()),
    version,
    json.dumps(options and dict(options), sort_keys=True),
  ]
  # Settings of the compiler that are not in the program.
  whole += [
    os.environ[name]
    for name in ('LIBTPU_INIT_ARGS', 'XLA_FLAGS')
    if name in os.environ
  ]
  return hashlib.sha256('\n'.join(whole).encode()).hexdigest()[:32]

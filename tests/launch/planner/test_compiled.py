"""launch/planner/compiled.py: the cache of compiled programs, and errors."""

import types

import jax
import jax.numpy as jnp
import pytest

from launch.planner import compiled
from ttt_jax import sharding


def _compile(factor, cache):
  mesh = sharding.make_mesh(dict(data=1, sp=1))
  x = jax.ShapeDtypeStruct(
    (8, 8), jnp.float32, sharding=sharding.replicated(mesh)
  )
  function = jax.jit(lambda x: jnp.sin(x @ x) * factor)
  return compiled.compile_program(function, (x,), mesh, cache=cache)


class _Lowered:
  """A lowered program whose compilation fails."""

  def __init__(self, message):
    self._message = message

  def compile(self, compiler_options):
    del compiler_options
    raise jax.errors.JaxRuntimeError(self._message)


def test_a_program_is_compiled_once(tmp_path, monkeypatch):
  first = _compile(2.0, tmp_path)
  assert first.peak > 0 and first.program.entry
  other = _compile(3.0, tmp_path)
  assert other.text != first.text and len(list(tmp_path.iterdir())) == 2
  monkeypatch.setattr(compiled, '_compile', None)
  assert _compile(2.0, tmp_path) == first


def test_the_cache_keeps_what_does_not_fit(tmp_path, monkeypatch):
  message = 'RESOURCE_EXHAUSTED: no memory\n  1. Size: 4.00G'
  found = compiled._compile(_Lowered(message), None)
  monkeypatch.setattr(compiled, '_compile', lambda *_: dict(found))
  for _ in range(2):
    with pytest.raises(compiled.DoesNotFitError) as e:
      _compile(2.0, tmp_path)
    monkeypatch.setattr(compiled, '_compile', None)
    assert e.value.message == message and '\n' not in str(e.value)


def test_a_kernel_that_exceeds_its_vector_memory_is_a_defect():
  message = 'RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom:\nRan out'
  with pytest.raises(jax.errors.JaxRuntimeError, match='ScopedVmemOom'):
    compiled._compile(_Lowered(message), None)


@pytest.mark.parametrize('host, peak', [(30, 70), (200, 115)])
def test_the_peak_is_that_of_the_chip(host, peak):
  memory = types.SimpleNamespace(
    argument_size_in_bytes=10,
    output_size_in_bytes=15,
    alias_size_in_bytes=10,
    temp_size_in_bytes=100,
    # The compiler's: arguments and the largest heap at its peak.
    peak_memory_in_bytes=10 + max(60, host),
    host_temp_size_in_bytes=host,
  )
  program = types.SimpleNamespace(
    as_text=lambda: '', memory_analysis=lambda: memory
  )
  lowered = types.SimpleNamespace(compile=lambda compiler_options: program)
  found = compiled._compile(lowered, None)
  assert (found['peak'], found['host'], found['results']) == (peak, host, 5)

"""bfloat16 kernels over thousands of mini-batches, against float64.

Short tests cannot detect an error that feeds back into the state. Weights have
the scale of trained ones and the step sizes are large, so that the state
changes. The error must not grow along the sequence. A small version always
runs; the others with

    pytest tests/kernels/test_long_runs.py -m slow    (minutes)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.specs import Spec
from pallas_kernels.tpu import target
from pallas_kernels.tpu import tiling
from tests.kernels.ops import interpreted
from tests.kernels.ops import OPS

# Chips whose vector unit computes in bfloat16, and others.
CHIPS = {
  'float32 arithmetic': target.GENERIC,
  'bfloat16 arithmetic': target.Target(128 * 2**20, 1, narrow_arithmetic=True),
}
every_op = pytest.mark.parametrize('op', OPS, ids=lambda op: op.name)
every_chip = pytest.mark.parametrize('kind', CHIPS)


@functools.lru_cache(maxsize=2)
def _tokens_and_result(op, n, seed):
  """Returns arguments with bfloat16 tokens, and the output in float64."""
  spec = Spec(1, 2, 64 * n, 64, 256)
  numbers = op.specs.random_arguments(spec, seed=seed, deviation=0.3)
  numbers['eta'] *= 64 * 10
  tokens = {
    name: jnp.asarray(
      x, jnp.bfloat16 if name in ('q', 'k', 'v') else jnp.float32
    )
    for name, x in numbers.items()
  }
  with jax.enable_x64(True):
    exact = {n: jnp.asarray(x, jnp.float64) for n, x in tokens.items()}
    want, _ = jax.jit(lambda a: op.call(**a, implementation='xla'))(exact)
  return tokens, np.asarray(want)


def errors_along(op, kind, n, seed, monkeypatch, parts=8):
  """Returns the relative RMS error in each part of the sequence."""
  tokens, want = _tokens_and_result(op, n, seed)
  monkeypatch.setattr(target, 'current', lambda: CHIPS[kind])
  with interpreted('pallas_tpu'):
    got, _ = jax.jit(lambda a: op.call(**a, implementation='pallas_tpu'))(
      tokens
    )
  got = np.asarray(got, np.float64)
  shape = (2, parts, -1)
  square = np.square(got - want).reshape(shape).mean((0, 2))
  return np.sqrt(square / np.square(want).reshape(shape).mean((0, 2)))


@pytest.fixture
def short_steps(monkeypatch):
  """A quarter of the mini-batches per grid step, all of which are written out.

  The arithmetic is the same, and it compiles in a fraction of the time.
  """
  monkeypatch.setattr(tiling, '_MINI_BATCH', 16)


def _check(errors):
  # Rounding the result alone gives 0.0017.
  assert np.isfinite(errors).all()
  assert errors.max() < 0.005, errors
  assert errors[-1] < 1.1 * errors[1], errors


@pytest.mark.usefixtures('short_steps')
@pytest.mark.parametrize(
  'op, kind',
  [
    pytest.param(
      op,
      kind,
      id=f'{kind}-{op.name}',
      # Without a hidden layer the kernel is the same for both.
      marks=[pytest.mark.slow]
      * ((op.name, kind) == ('ttt_linear', 'bfloat16 arithmetic')),
    )
    for kind in CHIPS
    for op in OPS
  ],
)
def test_error_is_flat(op, kind, monkeypatch):
  _check(errors_along(op, kind, 200, 3, monkeypatch))


@pytest.mark.usefixtures('short_steps')
@every_op
def test_error_is_flat_with_many_packs(op, monkeypatch):
  """The sums of many packs are reductions."""
  monkeypatch.setattr(tiling, '_LATENCY_BOUND_PACKS', 0)
  _check(errors_along(op, 'float32 arithmetic', 200, 3, monkeypatch))


@pytest.mark.slow
@every_op
@every_chip
@pytest.mark.parametrize('seed', range(3))
def test_error_is_flat_over_1000(op, kind, seed, monkeypatch):
  _check(errors_along(op, kind, 1000, seed, monkeypatch))


@pytest.mark.slow
@every_op
@every_chip
def test_error_is_flat_over_a_minute(op, kind, monkeypatch):
  """N = 5500, the paper's 63 seconds."""
  _check(errors_along(op, kind, 5500, 0, monkeypatch))

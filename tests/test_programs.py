"""Programs do not grow unnoticed: `benchmarks.programs` counts their lines."""

import json

import jax
import pytest

from benchmarks import programs
from pallas_kernels.xla import cpu_cores

BUDGET = json.loads(programs.BUDGET.read_text())
# A second or more to trace.
SLOW = ('quickstart step, no mixer', 'U-Net tuning step', 'U-Net edit')


def test_the_budget_contains_every_program():
  assert list(BUDGET['lines']) == list(programs.PROGRAMS)


@pytest.mark.skipif(
  jax.__version__ != BUDGET['jax'], reason='counted with another JAX'
)
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in BUDGET['lines']
  ],
)
def test_lines(name, monkeypatch):
  monkeypatch.setattr(cpu_cores, '_cores', lambda: 2)
  assert programs.lines(name) <= 1.1 * BUDGET['lines'][name]

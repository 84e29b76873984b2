"""launch/planner/attention.py: cycles of attention, and regressions."""

from launch import topology
from launch.planner import attention


def test_every_tpu_has_a_budget():
  for chip in topology.TPUS:
    cycles = attention.read_budget(chip)
    assert 0 < cycles['splash_forward'] < cycles['splash_backward']
  assert attention.read_budget('h100') == {}


def test_directions():
  assert attention.direction('splash_mqa_fwd_segmented') == 'splash_forward'
  assert attention.direction('splash_mqa_dkv_segmented') == 'splash_backward'


def test_regressions():
  budget = dict(v5p=dict(splash_forward=1000, splash_backward=2000))
  counts = dict(v5p=dict(splash_forward=1029, splash_backward=2070))
  assert attention.regressions(counts, budget) == [
    'v5p: splash_backward is 2,070, the budget 2,000'
  ]
  [line] = attention.regressions(dict(v9=dict(splash_forward=1)), budget)
  assert line == 'v9: splash_forward is 1, the budget 0'

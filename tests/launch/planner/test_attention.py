"""launch/planner/attention.py: what attention costs, and whether it got worse."""

from launch import topology
from launch.planner import attention


def test_every_tpu_has_a_price():
  tpus = [c.name for c in topology.CHIPS.values() if not c.is_gpu]
  for chip in tpus:
    price = attention.read(chip)
    assert 0 < price['splash_forward'] < price['splash_backward']
  assert attention.read('h100') == {}


def test_directions():
  assert attention.direction('splash_mqa_fwd_segmented') == 'splash_forward'
  assert attention.direction('splash_mqa_dkv_segmented') == 'splash_backward'


def test_complaints():
  budget = dict(v5p=dict(splash_forward=1000, splash_backward=2000))
  grown = dict(v5p=dict(splash_forward=1029, splash_backward=2070))
  assert attention.complaints(grown, budget) == [
    'v5p: splash_backward is 2,070, the budget 2,000'
  ]
  [line] = attention.complaints(dict(v9=dict(splash_forward=1)), budget)
  assert line == 'v9: splash_forward is 1, the budget 0'

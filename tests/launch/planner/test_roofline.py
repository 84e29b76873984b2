"""launch/planner/roofline.py: times of collectives and of a step."""

import math

import pytest

from launch import topology
from launch.planner import collectives
from launch.planner import roofline

_V5P = topology.parse('v5p:8x8x4')
_GPU = topology.parse('gpu:h100x16')


@pytest.mark.parametrize(
  'devices, axes',
  [
    (4, [(4, True)]),
    (64, [(8, True), (8, True)]),
    (32, [(8, True), (4, True)]),
    (256, [(8, True), (8, True), (4, True)]),
    (2, [(2, False)]),  # a part of an axis
    (16, [(8, True), (2, False)]),
  ],
)
def test_axes(devices, axes):
  found = roofline.axes_of(devices, _V5P)
  assert found == axes and math.prod(n for n, _ in found) == devices


def test_times_of_collectives():
  seconds = lambda kind, n, where=_V5P: roofline.link_seconds(
    kind, n, 90e9, where
  )
  # A ring of four: three parts of four, over two links of 90 GB/s.
  assert seconds('all-gather', 4) == 0.75 / 2
  assert seconds('reduce-scatter', 4) == 0.75 / 2
  assert seconds('all-reduce', 4) == 1.5 / 2
  # Two of four chips send half of their bytes over two links.
  assert seconds('all-to-all', 4) == 0.5
  assert seconds('all-gather', 64) == 63 / 64 / 4
  assert seconds('all-to-all', 64) == 1  # a ring of eight
  # Half a ring has its ends open.
  v6e = topology.parse('v6e:16x16')
  assert seconds('all-to-all', 8, v6e) == 2
  assert seconds('all-to-all', 16, v6e) == 2
  assert seconds('all-reduce', 1) == 0
  assert seconds('all-gather', 8, _GPU) == 7 / 8 / 5
  assert seconds('all-gather', 16, _GPU) == 15 / 16 * 90 / 50


def _one(start, end, computation=''):
  # Half a second each.
  return collectives.Collective(
    'all-to-all',
    4,
    'u8[90000000000]',
    2,
    '',
    computation,
    start * _V5P.chip.clock,
    end * _V5P.chip.clock,
  )


@pytest.mark.parametrize(
  'found, exposed, hidden',
  [
    ([_one(0, 0)], 1, 0),
    ([_one(0, 0.25)], 0.5, 0.5),
    ([_one(0, 3)], 0, 1),
    # The second waits for the links, not for the first one's user.
    ([_one(0, 1), _one(0, 1)], 0, 2),
    ([_one(0, 0.75), _one(0, 0.75)], 0.5, 1.5),
    ([_one(0, 0.75), _one(0, 0.75, 'another')], 0, 2),
    # What waits once is late for all that follows, which is then there.
    ([_one(0, 0), _one(0, 0.25)], 1.5, 0.5),
  ],
)
def test_waiting(found, exposed, hidden):
  assert roofline.waiting(found, _V5P) == pytest.approx((exposed, hidden))


def test_a_step():
  chip = _V5P.chip
  line = roofline.estimate(
    _V5P,
    flops=chip.flops,
    written=chip.hbm_bandwidth,
    cycles=10 * chip.clock,
    collectives=[_one(0, 0)],
    host=6 * chip.host,
  )
  assert (line.products, line.memory, line.work) == (1, 2, 10)
  assert (line.exposed, line.hidden, line.host) == (1, 0, 3)
  assert line.step == 11 and line.bound == 3
  # A quarter of a second of work beside each of the two.
  line = roofline.estimate(
    _V5P,
    flops=0,
    written=0,
    cycles=0,
    host=0,
    collectives=[_one(0, 0.25)],
  )
  assert (line.exposed, line.hidden, line.step) == (0.5, 0.5, 1)


def test_a_gpu_has_no_cycles():
  line = roofline.estimate(
    _GPU, flops=_GPU.chip.flops, written=0, cycles=0, collectives=[], host=0
  )
  assert line.step == pytest.approx(1 / roofline.GPU_RATE)
  assert 'no cycles' in ' '.join(roofline.assumptions(_GPU))


def test_assumptions_name_every_number():
  text = ' '.join(roofline.assumptions(_V5P))
  for part in ('459 TFLOP/s', '2.765 TB/s', '1.75 GHz', '90 GB/s', '16 GB/s'):
    assert part in text

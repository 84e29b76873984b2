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
    (2, [(2, False)]),  # A part of an axis.
    (16, [(2, False), (2, False), (4, True)]),
  ],
)
def test_axes(devices, axes):
  found = roofline.group_axes(devices, _V5P)
  assert found == axes and math.prod(n for n, _ in found) == devices


def test_times_of_collectives():
  seconds = lambda kind, n, topology_=_V5P: roofline.link_seconds(
    kind, n, 90e9, topology_
  )
  # A ring of four: three of four parts over two links of 90 GB/s.
  assert seconds('all-gather', 4) == 0.75 / 2
  assert seconds('reduce-scatter', 4) == 0.75 / 2
  assert seconds('all-reduce', 4) == 1.5 / 2
  # Two of four chips send half of their bytes over two links.
  assert seconds('all-to-all', 4) == 0.5
  assert seconds('all-gather', 64) == 63 / 64 / 4
  assert seconds('all-to-all', 64) == 1  # A ring of eight.
  # Blocks of 2 x 4 and 4 x 4: their ends are not linked.
  v6e = topology.parse('v6e:16x16')
  assert seconds('all-to-all', 8, v6e) == 1
  assert seconds('all-to-all', 16, v6e) == 1
  # Two devices share the links of a chip.
  tpu7x = topology.parse('tpu7x:4x4x8')
  assert seconds('all-to-all', 8, tpu7x) == pytest.approx(2 * 0.5 * 0.9)
  assert seconds('all-to-all', 2, tpu7x) < 0.1
  assert seconds('all-reduce', 1) == 0
  assert seconds('all-gather', 8, _GPU) == 7 / 8 / 5
  assert seconds('all-gather', 16, _GPU) == 15 / 16 * 90 / 50


def _collective(start, end, computation=''):
  """Returns a collective of half a second that runs twice."""
  return collectives.Collective(
    kind='all-to-all',
    devices=4,
    type='u8[90000000000]',
    times=2,
    op_name='',
    computation=computation,
    start=start * _V5P.chip.clock,
    end=end * _V5P.chip.clock,
  )


@pytest.mark.parametrize(
  'found, exposed, hidden',
  [
    ([_collective(0, 0)], 1, 0),
    ([_collective(0, 0.25)], 0.5, 0.5),
    ([_collective(0, 3)], 0, 1),
    # The second waits for the links, not for the user of the first one.
    ([_collective(0, 1), _collective(0, 1)], 0, 2),
    ([_collective(0, 0.75), _collective(0, 0.75)], 0.5, 1.5),
    ([_collective(0, 0.75), _collective(0, 0.75, 'another')], 0, 2),
    # A wait delays all that follows, by which time the second has arrived.
    ([_collective(0, 0), _collective(0, 0.25)], 1.5, 0.5),
  ],
)
def test_exposed_and_hidden_time(found, exposed, hidden):
  assert roofline.exposed_and_hidden_time(found, _V5P) == pytest.approx(
    (exposed, hidden)
  )


def test_a_step():
  chip = _V5P.chip
  line = roofline.estimate(
    _V5P,
    flops=chip.flops,
    written=chip.hbm_bandwidth,
    cycles=10 * chip.clock,
    collectives=[_collective(0, 0)],
    host=6 * chip.host_bandwidth,
  )
  assert (line.products, line.memory, line.work) == (1, 2, 10)
  assert (line.exposed, line.hidden, line.host) == (1, 0, 3)
  assert line.step == 11 and line.bound == 3
  # A quarter of a second of work during each of the two.
  line = roofline.estimate(
    _V5P,
    flops=0,
    written=0,
    cycles=0,
    host=0,
    collectives=[_collective(0, 0.25)],
  )
  assert (line.exposed, line.hidden, line.step) == (0.5, 0.5, 1)


def test_a_gpu_has_no_cycles():
  line = roofline.estimate(
    _GPU, flops=_GPU.chip.flops, written=0, cycles=0, collectives=[], host=0
  )
  assert line.step == pytest.approx(1 / roofline.GPU_EFFICIENCY)
  assert 'does not estimate cycles' in ' '.join(roofline.assumptions(_GPU))


def test_assumptions_name_every_number():
  text = ' '.join(roofline.assumptions(_V5P))
  for part in ('459 TFLOP/s', '2.765 TB/s', '1.75 GHz', '90 GB/s', '16 GB/s'):
    assert part in text

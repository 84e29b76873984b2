"""launch/topology.py: names of slices and servers."""

import pytest

from launch import topology


def test_topologies():
  slice_ = topology.parse('v5p:8x8x4')
  assert (slice_.chips, slice_.chip.name) == (256, 'v5p')
  assert topology.parse('v5e:16x16').chips == 256
  assert topology.parse('gpu:h100x8').chips == 8
  slice_ = topology.parse('tpu7x:4x4x8')
  assert (slice_.chips, slice_.num_devices) == (128, 256)


@pytest.mark.parametrize(
  'name, larger',
  [
    ('v5e:16x16', 'v5p:8x8x4'),
    ('v5e:1x1', 'v5p:1x1x1'),
    ('v6e:3x2', 'v5p:3x2x1'),
  ],
)
def test_as_many_chips_with_more_memory(name, larger):
  assert topology.largest_memory_slice(topology.parse(name)) == topology.parse(
    larger
  )
  assert topology.largest_memory_slice(topology.parse('v5p:8x8x4')) is None
  assert topology.largest_memory_slice(topology.parse('gpu:h100x8')) is None


@pytest.mark.parametrize(
  'name, message',
  [
    ('v9:2x2', "unknown chip 'v9'; expected one of v5e, v5p, v6e, tpu7x"),
    ('v5p:8x8', 'has 3 sides, for example v5p:8x8x4'),
    ('v6e:2x0', 'has 2 sides, for example v6e:16x16'),
    (
      'h100:8',
      "unknown chip 'h100'; expected one of v5e, v5p, v6e, tpu7x, gpu",
    ),
    ('gpu:a1x8', "unknown GPU 'a1'; expected one of h100"),
    ('v5e:-1x1', 'has 2 sides'),
    ('v5e:2x²', 'has 2 sides'),
    ('v5e:nanx1', 'has 2 sides'),
    ('v5p:' + 'x'.join(['9' * 5000] * 3), 'has 3 sides'),
    ('v5e:16x32', 'has 512 chips; at most 256 of kind v5e work together'),
    ('v5p:99999x99999x99999', 'at most 8,960 of kind v5p'),
    ('gpu:h100x800000000', 'at most 16,384 of kind h100'),
    ('gpu:h100x0', 'at most 8 or a multiple'),
    ('gpu:h100x12', 'at most 8 or a multiple of it, for example gpu:h100x8'),
  ],
)
def test_invalid_topologies(name, message):
  with pytest.raises(ValueError, match=message):
    topology.parse(name)

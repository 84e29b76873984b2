"""Rules of sharding, and errors of meshes that do not divide."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax import sharding


@pytest.mark.parametrize(
  'mesh, sizes, message',
  [
    (dict(data=1, sp=0), {}, 'sp is 0.*1 or more'),
    (dict(sp=4), dict(num_heads=6), 'sp 4 does not divide the 6 heads'),
    (dict(data=3, sp=1), {}, 'data 3 does not divide the batch of 4.*; 1'),
    (dict(data=0, sp=1), {}, 'data is 0.*1 or more'),
    (dict(data=1, model=2), {}, "axes .'model'.*'data', 'sp'"),
    (dict(data=4), dict(devices=6), 'divide the 6 devices.*data 2 does'),
    (dict(data=4), dict(microbatches=2), 'batch of 2 clips'),
    (dict(data=1), dict(microbatches=3), 'microbatches 3 does not divide'),
  ],
)
def test_meshes_that_do_not_divide(mesh, sizes, message):
  with pytest.raises(ValueError, match=message) as e:
    sharding.check_mesh(mesh, batch_size=4, **sizes)
  assert '\n' not in str(e.value)


def test_a_mesh_that_divides_passes():
  sharding.check_mesh(
    dict(data=4, sp=1), batch_size=8, microbatches=2, devices=8
  )


def test_parameters_are_split_along_their_largest_divisible_axis():
  # Sharding rules need only the sizes of a mesh.
  mesh = jax.sharding.AbstractMesh((4, 1), sharding.AXES)
  spec = lambda *shape: (
    sharding.param_sharding(mesh, jax.ShapeDtypeStruct(shape, jnp.float32)).spec
  )
  P = jax.sharding.PartitionSpec
  assert spec(42, 256, 512) == P(None, None, 'data')
  assert spec(512, 256) == P('data')
  assert spec(1023, 256) == P(None, 'data')
  assert spec(1023, 255) == P()  # Nothing divides.
  assert spec(64, 64) == P()  # Small.


def test_parameters_over_both_axes():
  mesh = jax.sharding.AbstractMesh((2, 8), sharding.AXES)
  spec = lambda *shape: (
    sharding.param_sharding(
      mesh, jax.ShapeDtypeStruct(shape, jnp.float32), sharding.AXES
    ).spec
  )
  P = jax.sharding.PartitionSpec
  assert spec(42, 256, 512) == P(None, None, ('data', 'sp'))
  assert spec(42, 1022) == P(None, 'data')  # 16 does not divide.
  assert spec(1023, 255) == P()


@dataclasses.dataclass(frozen=True)
class Chip:
  """A device of a slice of TPUs."""

  coords: tuple[int, ...]
  core_on_chip: int = 0
  device_kind: str = 'TPU v6 lite'


@pytest.mark.parametrize(
  'sp, shape, ring, sides',
  [
    (1, (16, 16), 16, (1, 1)),
    (4, (16, 16), 16, (2, 2)),
    (8, (16, 16), 16, (2, 4)),
    (16, (16, 16), 16, (4, 4)),
    (4, (8, 8, 4), 4, (1, 1, 4)),  # A complete ring is as fast as 2 x 2.
    (16, (4, 4, 2), 4, (4, 4, 1)),
    (3, (16, 16), 16, None),
    (3, (6, 2), 16, (3, 1)),
  ],
)
def test_blocks_of_a_slice(sp, shape, ring, sides):
  assert sharding.block_sides(sp, shape, ring) == sides


def test_parts_of_a_sequence_are_a_block():
  chips = [Chip((x, y, 0)) for y in range(4) for x in range(8)]
  grid = sharding._block_grid(chips, 4)
  assert grid.shape == (8, 4) and set(grid.flat) == set(chips)
  for row in grid:
    x, y, _ = np.ptp([chip.coords for chip in row], axis=0)
    assert (x, y) == (1, 1)
  assert sharding._block_grid(chips[1:], 4) is None  # No complete slice.
  assert sharding._block_grid(chips, 1) is None
  assert sharding._block_grid(chips * 2, 4) is None  # Two at one place.
  assert sharding._block_grid(chips, 3) is None
  assert sharding._block_grid(jax.devices(), 2) is None  # No TPU.


def test_devices_of_a_chip_are_next_to_each_other():
  kind = 'TPU7x'
  devices = [
    Chip((x, y, z), core, kind) for z, y, x, core in np.ndindex(8, 4, 4, 2)
  ]
  for row in sharding._block_grid(devices, 4):
    assert len({device.coords for device in row}) == 2


def test_weights_of_sampling_are_copied_where_they_fit():
  mesh = jax.sharding.AbstractMesh((2, 8), sharding.AXES)
  params = dict(
    a=jax.ShapeDtypeStruct((256, 512), jnp.bfloat16),
    b=jax.ShapeDtypeStruct((512,), jnp.float32),
  )
  P = jax.sharding.PartitionSpec
  split = dict(a=P(None, ('data', 'sp')), b=P())
  size = 2 * 256 * 512 + 4 * 512
  for memory, expected in (
    (None, split),  # A CPU's devices share theirs.
    (1.9 * size, split),
    (2 * size, dict(a=P(), b=P())),
  ):
    found = sharding.sampling_shardings(mesh, params, memory)
    assert {k: v.spec for k, v in found.items()} == expected


def test_weights_are_copied_to_the_devices_of_a_mesh(monkeypatch):
  mesh = sharding.make_mesh(dict(data=1, sp=1))
  params = dict(a=jnp.ones((4, 4)))
  assert sharding.copy_for_sampling(mesh, params) is params
  monkeypatch.setattr(sharding, 'can_be_copied', lambda *_: True)
  found = sharding.copy_for_sampling(mesh, params)['a']
  assert found.sharding == sharding.replicated(mesh)
  assert sharding.copy_for_sampling(None, params) is params


def test_options_of_sampling_are_for_tpus():
  mesh = sharding.make_mesh(dict(data=1, sp=1))
  assert sharding.sampling_options(None) is None
  assert sharding.sampling_options(mesh) is None


def test_batches_arrive_complete():
  mesh = sharding.make_mesh(dict(data=1, sp=1))
  batch = dict(clip=np.arange(4, dtype=np.int32), mean=np.ones((4, 2)))
  put = sharding.put_batch(mesh, batch)
  np.testing.assert_array_equal(put['clip'], batch['clip'])
  assert put['mean'].sharding.spec == jax.sharding.PartitionSpec('data')


def test_parsing_a_mesh():
  assert sharding.parse_mesh('data:64,sp:4') == dict(data=64, sp=4)
  assert sharding.parse_mesh('sp:2') == dict(data=1, sp=2)
  for wrong in ('', 'data', 'data:0', 'model:2', 'sp:x'):
    with pytest.raises(ValueError, match='as in data:64,sp:4'):
      sharding.parse_mesh(wrong)


def test_a_mesh_larger_than_the_machine():
  with pytest.raises(ValueError, match='needs 4096 devices; there are'):
    sharding.make_mesh(dict(data=1024, sp=4))


def test_lengths_and_heads_that_do_not_split():
  one = sharding.ShardingPlan()
  assert one.padded(35, 16) == 35
  one.check_heads(7)
  # Sizes only: no device is needed.
  sharding_plan = sharding.ShardingPlan(
    jax.sharding.AbstractMesh((1, 4), sharding.AXES)
  )
  assert [sharding_plan.padded(n, 16) for n in (1, 64, 65)] == [64, 64, 128]
  sharding_plan.check_heads(8)
  with pytest.raises(ValueError, match='6 heads.* 4 devices.*; 2 divides'):
    sharding_plan.check_heads(6)

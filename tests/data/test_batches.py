"""The order of clips is a pure function of (seed, step)."""

import itertools
import json

import numpy as np
import pytest

from ttt_jax.data import batches
from ttt_jax.data.store import arrays


class Clips:
  """Fake data set: clip i is filled with the number i."""

  folder = 'somewhere'

  def __init__(self, count: int, broken=()):
    self._count = count
    self._broken = broken

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    if index in self._broken:
      raise arrays.CorruptClipError(f'clip{index}', 'damaged')
    value = np.full((2, 2), index, np.float32)
    return {'mean': value, 'text': value[0], 'clip': np.int32(index)}


def take(iterator, count):
  return np.array([next(iterator)['clip'] for _ in range(count)])


def test_batches_contain_the_clips_that_they_name():
  batch = next(batches.batches(Clips(5), 4, seed=0))
  assert batch['mean'].shape == (4, 2, 2) and batch['text'].shape == (4, 2)
  assert batch['clip'].dtype == np.int32
  np.testing.assert_array_equal(batch['mean'][:, 0, 0], batch['clip'])
  np.testing.assert_array_equal(batch['text'][:, 1], batch['clip'])


@pytest.mark.parametrize('batch_size', [1, 2, 3, 7])
def test_start_step_restored_state_and_iteration_agree(batch_size):
  clips = Clips(3)
  expected = take(batches.batches(clips, batch_size, seed=5), 12)
  for step in (0, 1, 4, 9):
    started = batches.batches(clips, batch_size, seed=5, start_step=step)
    assert started.get_state()['step'] == step
    np.testing.assert_array_equal(take(started, 3), expected[step : step + 3])
    iterated = batches.batches(clips, batch_size, seed=5)
    take(iterated, step)
    state = json.loads(json.dumps(iterated.get_state()))
    assert state['step'] == step
    restored = batches.batches(clips, batch_size, seed=5)
    take(restored, 2)
    restored.set_state(state)
    np.testing.assert_array_equal(take(restored, 3), expected[step : step + 3])


def test_every_epoch_is_a_new_permutation():
  epochs = take(batches.batches(Clips(8), 8, seed=0), 20)
  assert (np.sort(epochs, axis=1) == np.arange(8)).all()
  assert len({tuple(e) for e in epochs}) == 20
  # Also if batches do not end with an epoch.
  running = take(batches.batches(Clips(8), 3, seed=0), 16).ravel()
  np.testing.assert_array_equal(running, epochs[:6].ravel())


def test_consecutive_seeds_have_different_epochs():
  orders = [
    {tuple(e) for e in take(batches.batches(Clips(9), 9, seed=s), 10)}
    for s in range(4)
  ]
  for a, b in itertools.combinations(orders, 2):
    assert not a & b


@pytest.mark.parametrize('rows', [[0, 1, 2], [5], [1, 4], [0, 1, 2, 3, 4, 5]])
def test_a_host_reads_its_rows_of_the_global_batch(rows):
  clips = Clips(5)
  expected = take(batches.batches(clips, 6, seed=1), 7)
  part = take(batches.batches(clips, 6, seed=1, rows=rows), 7)
  np.testing.assert_array_equal(part, expected[:, rows])


def test_a_state_is_valid_for_any_number_of_hosts():
  clips = Clips(5)
  expected = take(batches.batches(clips, 6, seed=1), 5)
  one = batches.batches(clips, 6, seed=1)
  take(one, 3)
  host = batches.batches(clips, 6, seed=1, rows=[3, 4, 5])
  host.set_state(one.get_state())
  np.testing.assert_array_equal(take(host, 2), expected[3:, 3:])


def test_damaged_clips_are_skipped_reproducibly_counted_and_named(caplog):
  sound = take(batches.batches(Clips(6), 4, seed=2), 9)
  broken = Clips(6, broken=(1, 4))
  first = batches.batches(broken, 4, seed=2)
  got = take(first, 9)
  assert not np.isin(got, (1, 4)).any()
  kept = ~np.isin(sound, (1, 4))
  np.testing.assert_array_equal(got[kept], sound[kept])
  assert set(first.skipped) == {'clip1', 'clip4'}
  assert first.skipped['clip1'] >= (sound == 1).sum() > 0
  assert caplog.text.count("clip 'clip1': damaged") == 1
  again = batches.batches(broken, 4, seed=2, start_step=5)
  np.testing.assert_array_equal(take(again, 4), got[5:])


def test_replacements_are_drawn_for_every_position():
  clips = Clips(4, broken=(0,))
  got = take(batches.batches(clips, 1, seed=0), 40).ravel()
  sound = take(batches.batches(Clips(4), 1, seed=0), 40).ravel()
  assert set(got[sound == 0]) == {1, 2, 3}


def test_the_count_is_of_returned_batches():
  iterator = batches.batches(Clips(2, broken=(0,)), 2, seed=0)
  for step in range(1, 4):
    next(iterator)
    assert iterator.skipped['clip0'] == step


def test_no_readable_clip_is_an_error():
  with pytest.raises(ValueError, match='no clip .* can be read'):
    next(batches.batches(Clips(3, broken=(0, 1, 2)), 2, seed=0))


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(seed=4), 'seed was 3 and is 4'),
    (dict(batch_size=5), 'batch_size was 2 and is 5'),
  ],
)
def test_a_state_of_another_order_is_refused(change, message):
  state = batches.batches(Clips(3), 2, seed=3).get_state()
  arguments = {'batch_size': 2, 'seed': 3, **change}
  with pytest.raises(ValueError, match=message):
    batches.batches(Clips(3), **arguments).set_state(state)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(batch_size=0), 'batch_size is 0'),
    (dict(seed=-1), 'seed is -1'),
    (dict(start_step=-2), 'start_step is -2'),
    (dict(batch_size=5, rows=[1, 5]), 'rows has 5.* are 0 .. 4'),
  ],
)
def test_invalid_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    batches.batches(Clips(3), **{'batch_size': 4, 'seed': 0, **arguments})


def test_an_empty_data_set_is_refused():
  with pytest.raises(ValueError, match='has no clips'):
    batches.batches(Clips(0), 1, seed=0)

"""Batches of clips in an order that is a pure function of (seed, step).

Every epoch is a permutation drawn from (seed, epoch), epochs follow each other
for ever, Grain prefetches in threads. The global batch of step `k` are the
positions `[k * batch_size, (k + 1) * batch_size)` of that endless order; each
host reads its rows of it, so the order does not depend on the number of hosts,
and a batch may hold more clips than the data set.

A clip that cannot be read is skipped: another one, drawn from (seed,
position), takes its place, so that hosts need not agree on what is broken.
The iterator counts and names it.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import functools
from typing import Any

from absl import logging
import grain
import numpy as np

from ttt_jax.data.store import reader as dataset_reader

_THREADS = 4
_PREFETCH = 4  # batches
_ENDLESS = 2**62  # steps


class BatchIterator(grain.DatasetIterator):
  """Endless batches; see `batches`.

  Attributes:
    skipped: clips that could not be read, name -> times met by this iterator.
  """

  def __init__(self, parent: grain.DatasetIterator, identity: dict[str, int]):
    super().__init__(parent)
    self._identity = identity
    self.skipped: collections.Counter[str] = collections.Counter()

  def __next__(self) -> dict[str, np.ndarray]:
    batch, broken = next(self._parent)
    for error in broken:
      if error.name not in self.skipped:
        logging.warning('skipped %s', error)
      self.skipped[error.name] += 1
    return batch

  def get_state(self) -> dict[str, int]:
    """JSON: the next step, and what the order depends on."""
    return {'step': self._parent.get_state()['next_index'], **self._identity}

  def set_state(self, state: dict[str, int]) -> None:
    """Goes to a state of `get_state`, of any number of hosts.

    Raises:
      ValueError: it belongs to another order.
    """
    wrong = [
      f'{name} was {state.get(name)!r} and is {value!r}'
      for name, value in self._identity.items()
      if state.get(name) != value
    ]
    if wrong:
      raise ValueError(
        f'the saved data position does not fit: {", ".join(wrong)}; go on'
        ' with the saved values or start in a new folder'
      )
    self._parent.set_state({'next_index': int(state['step'])})


def batches(
  dataset: dataset_reader.LatentDataset,
  batch_size: int,
  seed: int,
  *,
  start_step: int = 0,
  rows: Sequence[int] | None = None,
) -> BatchIterator:
  """Endless iterator over this host's slices of the global batches.

  Args:
    dataset: clips.
    batch_size: clips of a GLOBAL batch; any number, also above `len(dataset)`.
    seed: of the order, >= 0.
    start_step: the first batch; equals restoring the state of that step.
    rows: of a global batch that this host reads, see `sharding.local_rows`;
      None is all of them. What is in a row does not depend on it.

  Returns:
    Iterator over {'mean', 'logvar' [b,F,h,w,c], 'text' [b,S,L,Dt], 'clip' [b]
    int32} with b = len(rows), and `get_state`, `set_state` for a checkpoint.

  Raises:
    ValueError: sizes that do not fit; while iterating, no clip can be read.
  """
  if len(dataset) < 1:
    raise ValueError('the data set holds no clips; it needs at least 1')
  for name, value, least in (
    ('batch_size', batch_size, 1),
    ('seed', seed, 0),
    ('start_step', start_step, 0),
  ):
    if value < least:
      raise ValueError(f'{name} is {value}; it must be at least {least}')
  rows = range(batch_size) if rows is None else rows
  if wrong := [row for row in rows if not 0 <= row < batch_size]:
    raise ValueError(
      f'rows has {wrong[0]}; rows of a batch of {batch_size} are 0 ..'
      f' {batch_size - 1}'
    )

  # Grain's own shuffle walks a cipher until it meets an index below the
  # length: 5 ms an index for three clips. This keeps the last epochs' orders.
  order = functools.lru_cache(maxsize=4)(
    functools.partial(_epoch_order, len(dataset), seed)
  )

  def read(step: int) -> tuple[dict[str, Any], list]:
    clips, broken = [], []
    for row in rows:
      position = step * batch_size + row
      epoch, place = divmod(position, len(dataset))
      index = int(order(epoch)[place])
      clip, errors = _read(dataset, index, (seed, position))
      clips.append(clip)
      broken += errors
    return {k: np.stack([c[k] for c in clips]) for k in clips[0]}, broken

  steps = grain.MapDataset.range(_ENDLESS).map(read)
  parent = iter(
    steps.to_iter_dataset(
      grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_PREFETCH)
    )
  )
  identity = {'seed': seed, 'batch_size': batch_size, 'clips': len(dataset)}
  iterator = BatchIterator(parent, identity)
  iterator.set_state({'step': start_step, **identity})
  return iterator


def _epoch_order(clips: int, seed: int, epoch: int) -> np.ndarray:
  """A permutation of the clips; from raw bits, which numpy never changes."""
  bits = np.random.Philox(np.random.SeedSequence((seed, epoch)))
  return np.argsort(bits.random_raw(clips), kind='stable')


def _read(
  dataset: dataset_reader.LatentDataset, index: int, entropy: tuple[int, int]
) -> tuple[dict[str, np.ndarray], list[dataset_reader.CorruptClipError]]:
  """Clip `index`, or a stand-in drawn from `entropy`; and what was skipped."""
  try:
    return dataset[index], []
  except dataset_reader.CorruptClipError as e:
    broken = [e]
  for other in np.random.default_rng(entropy).permutation(len(dataset)):
    if other == index:
      continue
    try:
      return dataset[int(other)], broken
    except dataset_reader.CorruptClipError as e:
      broken.append(e)
  raise ValueError(
    f'no clip of the data set in {dataset.folder} can be read ({broken[0]});'
    ' run precompute with --check'
  )

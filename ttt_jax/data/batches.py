"""Batches of clips in an order that is a pure function of (seed, step).

Every epoch is a permutation drawn from (seed, epoch). Epochs follow each other
without end, and Grain prefetches in threads. The global batch of step `k` has
the positions `[k * batch_size, (k + 1) * batch_size)` of that endless order.
Each host reads its rows of it, so the order does not depend on the number of
hosts, and a batch may have more clips than the data set.

A clip that cannot be read is replaced by another one, drawn from (seed,
position), so hosts need not agree on which clips are damaged. The iterator
counts and names the skipped clips.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import functools
from typing import Any

from absl import logging
import grain
import numpy as np

from ttt_jax.data.store import arrays
from ttt_jax.data.store import reader as dataset_reader

_THREADS = 4
_PREFETCH = 4  # Batches.
_ENDLESS = 2**62  # Steps.


class BatchIterator(grain.DatasetIterator):
  """Endless batches; see `batches`.

  Attributes:
    skipped: Clips that could not be read, name -> count.
  """

  def __init__(self, parent: grain.DatasetIterator, identity: dict[str, int]):
    super().__init__(parent)
    self._identity = identity
    self.skipped: collections.Counter[str] = collections.Counter()

  def __next__(self) -> dict[str, np.ndarray]:
    batch, errors = next(self._parent)
    for error in errors:
      if error.name not in self.skipped:
        logging.warning('skipped %s', error)
      self.skipped[error.name] += 1
    return batch

  def get_state(self) -> dict[str, int]:
    """Returns JSON: the next step and the parameters of the order."""
    return {'step': self._parent.get_state()['next_index'], **self._identity}

  def set_state(self, state: dict[str, int]) -> None:
    """Restores a state of `get_state`, saved with any number of hosts.

    Raises:
      ValueError: the state is of another order.
    """
    wrong = [
      f'{name} was {state.get(name)!r} and is {value!r}'
      for name, value in self._identity.items()
      if state.get(name) != value
    ]
    if wrong:
      raise ValueError(
        f'the saved data position does not fit: {", ".join(wrong)};'
        ' continue with the saved values or start in a new folder'
      )
    self._parent.set_state({'next_index': state['step']})


def batches(
  dataset: dataset_reader.LatentDataset,
  batch_size: int,
  seed: int,
  *,
  start_step: int = 0,
  rows: Sequence[int] | None = None,
) -> BatchIterator:
  """Returns an endless iterator over this host's rows of the global batches.

  Args:
    dataset: Data set of the clips.
    batch_size: Clips per GLOBAL batch; may be larger than `len(dataset)`.
    seed: Seed of the order, >= 0.
    start_step: Step of the first batch; the same as restoring the state of
      that step.
    rows: Rows of a global batch that this host reads, see
      `sharding.local_rows`; None is all of them. The contents of a row do not
      depend on it.

  Returns:
    Iterator over {'mean', 'logvar' [b,F,h,w,c], 'text' [b,S,L,Dt], 'clip' [b]
    int32} with b = len(rows), and `get_state`, `set_state` for a checkpoint.

  Raises:
    ValueError: an argument is not valid; while iterating, no clip can be read.
  """
  if len(dataset) < 1:
    raise ValueError('the data set has no clips; it needs at least 1')
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

  # Grain's own shuffle iterates a cipher until it finds an index below the
  # length, which takes 5 ms per index for three clips. This caches
  # complete orders.
  order = functools.lru_cache(maxsize=4)(
    functools.partial(_epoch_order, len(dataset), seed)
  )

  def read(step: int) -> tuple[dict[str, Any], list]:
    clips, errors = [], []
    for row in rows:
      position = step * batch_size + row
      epoch, index = divmod(position, len(dataset))
      clip, skipped = _read(dataset, int(order(epoch)[index]), (seed, position))
      clips.append(clip)
      errors += skipped
    return {k: np.stack([c[k] for c in clips]) for k in clips[0]}, errors

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
  """Returns a permutation; of raw bits, which are the same in every NumPy."""
  bits = np.random.Philox(np.random.SeedSequence((seed, epoch)))
  return np.argsort(bits.random_raw(clips), kind='stable')


def _read(
  dataset: dataset_reader.LatentDataset, index: int, entropy: tuple[int, int]
) -> tuple[dict[str, np.ndarray], list[arrays.CorruptClipError]]:
  """Returns clip `index`, or a replacement, and the errors of those skipped."""
  try:
    return dataset[index], []
  except arrays.CorruptClipError as e:
    errors = [e]
  for other in np.random.default_rng(entropy).permutation(len(dataset)):
    if other == index:
      continue
    try:
      return dataset[int(other)], errors
    except arrays.CorruptClipError as e:
      errors.append(e)
  raise ValueError(
    f'no clip of the data set in {dataset.folder} can be read ({errors[0]});'
    ' run precompute with --check'
  )

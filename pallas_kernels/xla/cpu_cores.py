"""Splits rows (B and H together) into parts that CPU cores run in parallel.

XLA on CPU runs the product of one mini-batch with all its rows on one core. It
runs independent operations in parallel, but only while more than eight are
ready. So there are up to eight chains of operations, each with some of the
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Any

import jax
import jax.numpy as jnp

_MAX_PARTS = 8
# Multiplications per product and row from which parts pay. Each of them is
# compiled: in a small model eight parts gain a tenth on two idle cores and
# nothing on busy ones, and double the time to compile its training step.
_MIN_WORK = 2**20


def is_single_cpu() -> bool:
  """Returns whether the program is for one CPU device, and not for a mesh.

  Over a mesh B and H may be sharded, and splitting them would move data.
  """
  return (
    jax.default_backend() == 'cpu'
    and jax.device_count() == 1
    and jax.sharding.get_abstract_mesh().size <= 1
  )


def num_core_splits(rows: int, work: int) -> int:
  """Returns the number of parts: 1 except on one CPU with several cores.

  Args:
    rows: B times H.
    work: multiplications of one product, per row.
  """
  if not is_single_cpu() or _cores() == 1 or work < _MIN_WORK:
    return 1
  return min(_MAX_PARTS, rows)


def _cores() -> int:
  """Returns the number of cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # Missing on macOS.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def merge_batch_and_heads(tree: Any) -> Any:
  """Returns arrays [B, H, ...] as [1, B H, ...]."""
  return jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), tree)


def split(tree: Any, count: int) -> list[Any]:
  """Returns a tree of arrays [1, rows, ...] as `count` trees of fewer rows."""
  if count == 1:
    return [tree]
  leaves, structure = jax.tree.flatten(tree)
  columns = (jnp.array_split(x, count, axis=1) for x in leaves)
  return [structure.unflatten(part) for part in zip(*columns)]


def join(trees: Sequence[Any]) -> Any:
  """Returns the tree that `split` split."""
  return jax.tree.map(lambda *part: jnp.concatenate(part, axis=1), *trees)

"""Files of a stage's checkpoints, which every process reads independently.

`<stage>/checkpoints/<step>/` contains the items `params`, `ema`, `opt_state`
and `meta` (config, step, data position, fingerprints). Processes only agree
on whether a checkpoint is intact: if one finds damage in its part, all of
them read the previous checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import json
import os
from typing import Any, Literal, TypeVar
import warnings

from etils import epath
import jax
import jax.numpy as jnp
import msgspec
import orbax.checkpoint as ocp

from ttt_jax.runtime import distributed
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import schema

FOLDER = 'checkpoints'
FORMAT = 1
ARRAYS = ('params', 'ema', 'opt_state')

T = TypeVar('T')
Path = str | os.PathLike[str]


class _Data(msgspec.Struct):
  identity: dict[str, Any]
  batches: Any = None


class _Meta(msgspec.Struct):
  """The values of `meta` that are read."""

  format: Literal[1]
  step: schema.NonNegativeInt
  items: list[Literal['params', 'ema', 'opt_state']]
  data: _Data
  config: dict[str, Any]
  fingerprint: dict[str, int] | int
  time: float


@jax.jit
def fingerprint(tree: Any) -> jax.Array:
  """Returns uint32 []: the sum of all words of all arrays, on any mesh."""
  total = jnp.zeros((), jnp.uint32)
  for i, leaf in enumerate(jax.tree.leaves(tree)):
    bits = jnp.dtype(leaf.dtype).itemsize * 8
    words = jax.lax.bitcast_convert_type(leaf, f'uint{bits}')
    # One odd factor per array: the sum detects swapped arrays.
    total += jnp.sum(words.astype(jnp.uint32)) * jnp.uint32(2 * i + 1)
  return total


def fingerprints(items: Mapping[str, Any]) -> dict[str, int]:
  """Returns the fingerprint of each item."""
  return {name: int(fingerprint(tree)) for name, tree in items.items()}


def steps(stage: Path) -> list[int]:
  """Returns the steps of complete checkpoints, newest first."""
  folder = epath.Path(stage) / FOLDER
  if not folder.exists():
    return []
  return sorted(ocp.utils.checkpoint_steps(folder), reverse=True)


def read_meta(stage: Path, step: int) -> dict[str, Any]:
  """Returns the item `meta`; raises ValueError or OSError if it is damaged."""
  path = epath.Path(stage) / FOLDER / str(step) / 'meta' / 'metadata'
  try:
    meta = json.loads(path.read_text())
  except RecursionError as e:
    raise ValueError('meta is nested too deeply') from e
  schema.convert(meta, _Meta, 'meta')
  if step != meta['step']:
    raise ValueError(f'meta.step is {meta["step"]}, in the folder {step}')
  return meta


def shapes(stage: Path, step: int, item: str) -> Any:
  """Returns the nested shapes and dtypes of an item's arrays."""
  folder = absolute(stage) / FOLDER / str(step) / item
  return ocp.StandardCheckpointHandler().metadata(folder).tree


def read_arrays(
  stage: Path, step: int, like: Mapping[str, Any]
) -> dict[str, Any]:
  """Reads items onto the shardings of `like`, `jax.ShapeDtypeStruct`s."""
  folder = absolute(stage) / FOLDER / str(step)
  # With Orbax' manager, processes that succeed would wait for one that fails.
  handler = ocp.StandardCheckpointHandler()
  return {
    name: handler.restore(folder / name, args=ocp.args.StandardRestore(tree))
    for name, tree in like.items()
  }


def absolute(stage: Path) -> epath.Path:
  """Returns an absolute path, which Orbax requires; those of buckets are."""
  stage = epath.Path(stage)
  return stage if paths.is_remote(stage) else stage.resolve()


def read_newest(
  stage: Path,
  like: Callable[[int, dict[str, Any]], Mapping[str, Any]],
  on_damage: Callable[[int, str], None],
) -> tuple[dict[str, Any], dict[str, Any]] | None:
  """Returns items and `meta` of the newest intact checkpoint.

  Args:
    stage: Folder of the stage.
    like: (step, meta) -> the items to read, see `read_arrays`.
    on_damage: Called with the step of each damaged checkpoint and the reason.

  Returns:
    None if no checkpoint can be read.
  """
  for step in steps(stage):
    items, meta, reason = {}, {}, None
    try:
      meta = read_meta(stage, step)
      items = read_arrays(stage, step, like(step, meta))
    except Exception as e:
      reason = files.first_line(e)[:200]
    is_read = distributed.all_agree(reason is None)
    if is_read and _matches_fingerprint(items, meta):
      return items, meta
    if is_read:
      reason = 'its numbers are not those that were saved'
    on_damage(step, reason or 'another process cannot read its part')
  return None


def _matches_fingerprint(
  items: Mapping[str, Any], meta: Mapping[str, Any]
) -> bool:
  saved = meta['fingerprint']
  if isinstance(saved, Mapping):
    return all(saved.get(k) == v for k, v in fingerprints(items).items())
  # Old checkpoints have one fingerprint for all items together.
  is_complete = set(items) == set(meta['items'])
  return not is_complete or int(fingerprint(dict(items))) == saved


def newest_meta(stage: Path) -> dict[str, Any]:
  """Returns the newest readable `meta`, whether or not its arrays are intact.

  Raises:
    ValueError: it cannot be read for any step.
  """
  for step in steps(stage):
    try:
      return read_meta(stage, step)
    except (ValueError, OSError) as e:
      warnings.warn(
        f'checkpoint {step} in {stage} cannot be read: {e}', stacklevel=2
      )
  raise ValueError(f'no checkpoint in {stage} can be read')


def stage_folder(folder: Path) -> epath.Path:
  """Returns a stage folder: `folder`, or the stage in it that was saved last.

  Raises:
    FileNotFoundError: there are no checkpoints.
  """
  folder = epath.Path(folder)
  stages = [folder]
  if folder.is_dir():
    stages += [p for p in folder.iterdir() if p.is_dir()]
  saved = [(_save_time(stage), stage) for stage in stages if steps(stage)]
  if not saved:
    problem = 'contains no checkpoints' if folder.exists() else 'does not exist'
    raise FileNotFoundError(
      f'{folder} {problem}; name the folder of a training run, or train with'
      f' ttt-jax train --config=FILE --workdir={folder}'
    )
  return max(saved, key=lambda found: found[0])[1]


def _save_time(stage: epath.Path) -> float:
  """Returns when the newest readable step was saved, seconds since 1970."""
  for step in steps(stage):
    try:
      return read_meta(stage, step)['time']
    except (ValueError, OSError):
      continue
  return 0.0

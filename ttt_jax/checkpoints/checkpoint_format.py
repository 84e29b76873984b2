"""What a stage's checkpoints hold, read by every process for itself.

`<stage>/checkpoints/<step>/` holds the items `params`, `ema`, `opt_state` and
`meta` (config, step, data position, fingerprints). Processes only agree on
whether what they read was whole: one that finds damage in its part makes all
of them take the checkpoint before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import json
import os
from typing import Any, TypeVar
import warnings

from etils import epath
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from ttt_jax.runtime import distributed
from ttt_jax.runtime import paths

FOLDER = 'checkpoints'
FORMAT = 1
ARRAYS = ('params', 'ema', 'opt_state')

T = TypeVar('T')
Path = str | os.PathLike[str]


@jax.jit
def fingerprint(tree: Any) -> jax.Array:
  """uint32 []: sum of all words of all arrays, the same on every mesh."""
  total = jnp.zeros((), jnp.uint32)
  for i, leaf in enumerate(jax.tree.leaves(tree)):
    bits = jnp.dtype(leaf.dtype).itemsize * 8
    words = jax.lax.bitcast_convert_type(leaf, f'uint{bits}')
    # An odd factor an array: swapped arrays differ.
    total += jnp.sum(words.astype(jnp.uint32)) * jnp.uint32(2 * i + 1)
  return total


def fingerprints(items: Mapping[str, Any]) -> dict[str, int]:
  """The fingerprint of each item."""
  return {name: int(fingerprint(tree)) for name, tree in items.items()}


def steps(stage: Path) -> list[int]:
  """Steps saved to their end, newest first."""
  folder = epath.Path(stage) / FOLDER
  if not folder.exists():
    return []
  return sorted(ocp.utils.checkpoint_steps(folder), reverse=True)


def read_meta(stage: Path, step: int) -> dict[str, Any]:
  """What was saved beside the arrays; raises ValueError if that is damaged."""
  path = epath.Path(stage) / FOLDER / str(step) / 'meta' / 'metadata'
  meta = json.loads(path.read_text())
  if meta.get('format') != FORMAT:
    raise ValueError(
      f'checkpoint format {meta.get("format")!r} is not known; legal is'
      f' {FORMAT}'
    )
  return meta


def shapes(stage: Path, step: int, item: str) -> Any:
  """Nested dict of the shapes and dtypes of an item's arrays."""
  folder = _absolute(stage) / FOLDER / str(step) / item
  return ocp.StandardCheckpointHandler().metadata(folder).tree


def read_arrays(
  stage: Path, step: int, like: Mapping[str, Any]
) -> dict[str, Any]:
  """Items as `like` says, pytrees of `jax.ShapeDtypeStruct` with shardings."""
  folder = _absolute(stage) / FOLDER / str(step)
  # Not by Orbax' manager: it would have processes that read their part wait
  # for one that could not.
  handler = ocp.StandardCheckpointHandler()
  return {
    name: handler.restore(folder / name, args=ocp.args.StandardRestore(tree))
    for name, tree in like.items()
  }


def _absolute(stage: Path) -> epath.Path:
  """As Orbax wants it; a bucket's paths are."""
  stage = epath.Path(stage)
  return stage if paths.in_bucket(stage) else stage.resolve()


def newest(
  stage: Path,
  like: Callable[[int, dict[str, Any]], Mapping[str, Any]],
  damaged: Callable[[int, str], None],
) -> tuple[dict[str, Any], dict[str, Any]] | None:
  """Items and `meta` of the newest checkpoint that is whole.

  Args:
    stage: its folder.
    like: (step, meta) -> the items to read, see `read_arrays`.
    damaged: called with a step that is not whole, and the reason.

  Returns:
    None if there is no checkpoint that can be read.
  """
  for step in steps(stage):
    try:
      meta = read_meta(stage, step)
      items, reason = read_arrays(stage, step, like(step, meta)), None
    except Exception as e:  # pylint: disable=broad-except
      reason = (str(e).strip() or type(e).__name__).splitlines()[0][:200]
    whole = distributed.all_agree(reason is None)
    if whole and _as_saved(items, meta):
      return items, meta
    if whole:
      reason = 'its numbers are not those that were saved'
    damaged(step, reason or 'another process cannot read its part')
  return None


def _as_saved(items: Mapping[str, Any], meta: Mapping[str, Any]) -> bool:
  saved = meta['fingerprint']
  if isinstance(saved, Mapping):
    return all(saved[k] == v for k, v in fingerprints(items).items())
  # An earlier version saved one of all items together.
  whole = set(items) == set(meta['items'])
  return not whole or int(fingerprint(dict(items))) == saved


def newest_meta(stage: Path) -> dict[str, Any]:
  """What was saved beside the newest arrays; looks at no array.

  Raises:
    ValueError: it cannot be read for any step.
  """
  for step in steps(stage):
    try:
      return read_meta(stage, step)
    except (ValueError, OSError) as e:
      warnings.warn(f'checkpoint {step} in {stage} cannot be read: {e}')
  raise ValueError(f'no checkpoint in {stage} can be read')


def stage_folder(folder: Path) -> epath.Path:
  """The stage folder meant by `folder`: itself or a workdir with stages.

  Of a workdir with several stages it is the one saved last.

  Raises:
    FileNotFoundError: no checkpoint there.
  """
  folder = epath.Path(folder)
  stages = [folder]
  if folder.is_dir():
    stages += [p for p in folder.iterdir() if p.is_dir()]
  saved = [(_time(stage), stage) for stage in stages if steps(stage)]
  if not saved:
    raise FileNotFoundError(
      f'{folder} holds no checkpoints; make some with python -m'
      f' ttt_jax.train --config=FILE --workdir={folder}'
    )
  return max(saved, key=lambda found: found[0])[1]


def _time(stage: epath.Path) -> float:
  """When the newest readable step was saved, seconds since 1970."""
  for step in steps(stage):
    try:
      return read_meta(stage, step)['time']
    except (ValueError, OSError):
      continue
  return 0.0

"""Checkpoints: all state as one thing, written atomically, read back checked.

Orbax writes beside and renames at the end, so a killed or failed save leaves
no step behind. Fingerprints, integer sums over all bits, catch what damages a
file later. Shardings are never read from files: arrays are restored onto
ours, on any mesh and by any number of processes. `saved` has the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import logging
import time
from typing import Any
import warnings

from etils import epath
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.checkpoints import compatibility
from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.runtime import disk
from ttt_jax.runtime import distributed
from ttt_jax.runtime import paths

FOLDER = checkpoint_format.FOLDER
fingerprint = checkpoint_format.fingerprint
stage_folder = checkpoint_format.stage_folder


def _items(state: state_lib.TrainState) -> dict[str, Any]:
  # An optimizer's state is a tuple of tuples; saved as a flat dict by its
  # paths, it is read back without the optimizer's classes.
  leaves = jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
  flat = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
  items = dict(params=state.params, ema=state.ema, opt_state=flat)
  return {k: v for k, v in items.items() if v}  # Orbax refuses empty trees.


class Checkpoints:
  """The checkpoints of one stage folder."""

  def __init__(self, folder: checkpoint_format.Path, config: Any):
    """`config` gives keep_last (newest) and keep_every (steps, 0: none)."""
    self.folder = epath.Path(folder)
    self._config = compatibility.plain(config)
    logging.getLogger('absl').addFilter(disk.not_orbax)
    root = self.folder / FOLDER
    self._manager = ocp.CheckpointManager(
      # A bucket is not below the current folder.
      root if paths.in_bucket(root) else root.resolve(),
      item_handlers={
        k: ocp.StandardCheckpointHandler() for k in checkpoint_format.ARRAYS
      }
      | dict(meta=ocp.JsonCheckpointHandler()),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=config.keep_last,
        keep_period=config.keep_every or None,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
      ),
    )

  def check(self) -> None:
    """Raises ValueError if the folder holds a run of another config."""
    for step in checkpoint_format.steps(self.folder):
      try:
        meta = checkpoint_format.read_meta(self.folder, step)
      except (ValueError, OSError):
        continue  # Damaged: `restore` tells of it.
      compatibility.check_config(meta['config'], self._config, self.folder)
      return

  @property
  def latest(self) -> int | None:
    """The newest whole step."""
    return self._manager.latest_step()

  def save(self, state: state_lib.TrainState, data: Mapping[str, Any]) -> None:
    """Begins to write a state, in the background; `data` is JSON.

    Raises:
      ValueError: the disk is full, in this save or in the one before.
    """
    step, items = int(state.step), _items(state)
    if step in self._manager.all_steps():
      return
    meta = dict(
      format=checkpoint_format.FORMAT,
      step=step,
      items=list(items),
      data=dict(data),
      config=self._config,
      fingerprint=checkpoint_format.fingerprints(items),
      time=time.time(),
    )
    arrays = {k: ocp.args.StandardSave(v) for k, v in items.items()}
    with self._disk_errors():
      self._manager.wait_until_finished()
      disk.check_space(self.folder, items)
      self._manager.save(
        step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **arrays)
      )

  def restore(
    self, abstract: state_lib.TrainState
  ) -> tuple[state_lib.TrainState, dict[str, Any], float] | None:
    """The newest whole state, its `data` and when it was saved, or None.

    Args:
      abstract: `jax.ShapeDtypeStruct`s with the shardings to restore onto.

    Raises:
      ValueError: checkpoints exist, but none can be read.
    """
    steps = checkpoint_format.steps(self.folder)
    like = _items(abstract)
    found = checkpoint_format.newest(
      self.folder, lambda *_: like, self._put_aside
    )
    if found is None and steps:
      raise ValueError(
        f'none of the checkpoints {steps} in {self.folder} can be read;'
        ' choose another --workdir to begin anew'
      )
    if found is None:
      return None
    items, meta = found
    paths, tree = jax.tree_util.tree_flatten_with_path(abstract.opt_state)
    opt = [items['opt_state'][jax.tree_util.keystr(p)] for p, _ in paths]
    state = state_lib.TrainState(
      step=jax.device_put(np.int32(meta['step']), abstract.step.sharding),
      params=items['params'],
      ema=items.get('ema', {}),
      opt_state=jax.tree.unflatten(tree, opt),
    )
    return state, meta['data'], meta['time']

  def __enter__(self) -> Checkpoints:
    self._quiet = disk.quiet_threads()
    self._quiet.__enter__()
    return self

  def __exit__(self, kind, error, trace) -> None:
    """Waits for the last save; an error on the way here is told first."""
    try:
      with self._disk_errors():
        self._manager.close()
    except Exception:  # pylint: disable=broad-except
      if error is None:
        raise
    finally:
      self._quiet.__exit__(None, None, None)

  def _put_aside(self, step: int, reason: str) -> None:
    path = self.folder / FOLDER / str(step)
    aside = self.folder / f'damaged-{step}'
    if aside.exists():  # Of an earlier time, or half moved in a bucket.
      aside = self.folder / f'damaged-{step}-{time.time():.0f}'
    warnings.warn(
      f'checkpoint {step} in {self.folder} cannot be read and is put aside'
      f' as {aside.name}: {reason}'
    )
    if jax.process_index() == 0 and path.exists():
      path.rename(aside)
    distributed.all_agree(True)  # All wait for the renaming.
    self._manager.reload()

  @contextlib.contextmanager
  def _disk_errors(self) -> Iterator[None]:
    """Turns a full disk into one line that says what is safe."""
    try:
      yield
    except Exception as e:  # pylint: disable=broad-except
      if not disk.is_full(e):
        raise
      for part in (self.folder / FOLDER).glob('*.orbax-checkpoint-tmp*'):
        part.rmtree(missing_ok=True)
      whole = checkpoint_format.steps(self.folder)
      detail = f' ({e.strerror})' if isinstance(e, OSError) else ''
      raise ValueError(
        f'the disk is full while saving a checkpoint in {self.folder}'
        f'{detail}; the last whole one is {max(whole, default="none")}; free'
        ' space and start again'
      ) from e


def load_config(folder: checkpoint_format.Path) -> ml_collections.ConfigDict:
  """The config that the newest state was trained with."""
  meta = checkpoint_format.newest_meta(stage_folder(folder))
  return ml_collections.ConfigDict(meta['config'])


def load_data(folder: checkpoint_format.Path) -> dict[str, Any]:
  """What was saved beside the newest state: data position and identity."""
  return checkpoint_format.newest_meta(stage_folder(folder))['data']


def load_params(
  folder: checkpoint_format.Path,
  ema: bool = True,
  *,
  sharding: Callable[[jax.ShapeDtypeStruct], Any] | None = None,
) -> tuple[dict[str, Any], ml_collections.ConfigDict]:
  """Parameters of the newest checkpoint that can be read, and its config.

  Args:
    folder: a stage folder, or a workdir (then its stage saved last).
    ema: the averaged values of the trained parameters.
    sharding: where each array goes; None is the first device.

  Raises:
    FileNotFoundError: no checkpoint there.
    ValueError: no checkpoint can be read.
  """
  stage = stage_folder(folder)
  if sharding is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding = lambda _: device

  def like(leaf):
    leaf = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf.update(sharding=sharding(leaf))

  def trees(step, meta):
    names = ['params'] + ['ema'] * (ema and 'ema' in meta['items'])
    return {
      name: jax.tree.map(like, checkpoint_format.shapes(stage, step, name))
      for name in names
    }

  def damaged(step, reason):
    warnings.warn(f'checkpoint {step} in {stage} cannot be read: {reason}')

  found = checkpoint_format.newest(stage, trees, damaged)
  if found is None:
    raise ValueError(f'no checkpoint in {stage} can be read')
  items, meta = found
  params = state_lib.merge(items['params'], items.get('ema', {}))
  return params, ml_collections.ConfigDict(meta['config'])

"""Checkpoints of a stage: written atomically, verified when they are read.

Orbax writes to a temporary folder and renames it at the end, so a killed or
failed save leaves no step. Fingerprints detect later damage. Shardings are
never read from files: arrays are restored onto the current ones, on any mesh
and by any number of processes. `checkpoint_format` describes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
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

from ttt_jax import backbones
from ttt_jax import config_schema
from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.checkpoints import compatibility
from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.runtime import disk
from ttt_jax.runtime import distributed
from ttt_jax.runtime import files


def _items(state: state_lib.TrainState) -> dict[str, Any]:
  # The optimizer's state, a tuple of tuples, is saved as a flat dict by path:
  # reading it does not need the optimizer's classes.
  leaves = jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
  flat = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
  items = dict(params=state.params, ema=state.ema, opt_state=flat)
  return {k: v for k, v in items.items() if v}  # Orbax refuses empty trees.


class Checkpoints:
  """The checkpoints of one stage folder."""

  def __init__(self, folder: checkpoint_format.Path, config: Any):
    """Opens the checkpoints, which need not exist.

    Args:
      folder: Folder of the stage, local or in a bucket.
      config: Config of the run. `keep_last` is the number of newest
        checkpoints to keep; those at multiples of `keep_every` steps are kept
        in addition (0: none).
    """
    self.folder = epath.Path(folder)
    self._config = files.to_json_types(config)
    logging.getLogger('absl').addFilter(disk.drop_orbax_logs)
    self._manager = ocp.CheckpointManager(
      checkpoint_format.absolute(self.folder) / checkpoint_format.FOLDER,
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

  def check_config(self) -> None:
    """Raises ValueError if the checkpoints are those of another config."""
    for step in checkpoint_format.steps(self.folder):
      try:
        meta = checkpoint_format.read_meta(self.folder, step)
      except (ValueError, OSError):
        continue  # `restore` reports damage.
      compatibility.check_config(meta['config'], self._config, self.folder)
      return

  def save(self, state: state_lib.TrainState, data: Mapping[str, Any]) -> None:
    """Starts to write a checkpoint in the background.

    Args:
      state: State to save.
      data: Position and fingerprints of the data, as JSON values.

    Raises:
      ValueError: the disk is full, in this save or in the previous one.
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
      disk.avoid_locks(self.folder)
      self._manager.save(
        step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **arrays)
      )

  def restore(
    self, abstract: state_lib.TrainState
  ) -> tuple[state_lib.TrainState, dict[str, Any], float] | None:
    """Reads the newest intact checkpoint.

    Args:
      abstract: `jax.ShapeDtypeStruct`s with the shardings to restore onto.

    Returns:
      The state, its `data`, and the time when it was saved in seconds since
      1970. None if there are no checkpoints.

    Raises:
      ValueError: checkpoints exist, but none can be read.
    """
    steps = checkpoint_format.steps(self.folder)
    like = _items(abstract)
    found = checkpoint_format.read_newest(
      self.folder, lambda *_: like, self._move_damaged
    )
    if found is None and steps:
      raise ValueError(
        f'none of the checkpoints {steps} in {self.folder} can be read;'
        ' choose another --workdir to start from the beginning'
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
    self._silencer = disk.silence_disk_full_threads()
    self._silencer.__enter__()
    return self

  def __exit__(self, kind, error, trace) -> None:
    """Waits for the last save; an earlier error has precedence."""
    try:
      with self._disk_errors():
        self._manager.close()
    except Exception:
      if error is None:
        raise
    finally:
      self._silencer.__exit__(None, None, None)

  def _move_damaged(self, step: int, reason: str) -> None:
    """Moves a damaged checkpoint out of the folder of checkpoints."""
    path = self.folder / checkpoint_format.FOLDER / str(step)
    target = self.folder / f'damaged-{step}'
    if target.exists():  # Earlier damage, or an interrupted move in a bucket.
      target = self.folder / f'damaged-{step}-{time.time():.0f}'
    warnings.warn(
      f'checkpoint {step} in {self.folder} cannot be read and is moved to'
      f' {target.name}: {reason}',
      stacklevel=2,
    )
    if jax.process_index() == 0 and path.exists():
      path.rename(target)
    distributed.all_agree(True)  # Every process waits for the move.
    self._manager.reload()

  @contextlib.contextmanager
  def _disk_errors(self) -> Generator[None]:
    """Turns the error of a full disk into one line."""
    try:
      yield
    except Exception as e:
      if not disk.is_full(e):
        raise
      root = self.folder / checkpoint_format.FOLDER
      for unfinished in root.glob('*.orbax-checkpoint-tmp*'):
        unfinished.rmtree(missing_ok=True)
      saved = checkpoint_format.steps(self.folder)
      detail = f' ({e.strerror})' if isinstance(e, OSError) else ''
      raise ValueError(
        f'the disk is full while saving a checkpoint in {self.folder}'
        f'{detail}; the last complete one is {max(saved, default="none")};'
        ' free some space and start again'
      ) from e


def load_config(folder: checkpoint_format.Path) -> ml_collections.ConfigDict:
  """Returns the config of the newest checkpoint."""
  stage = checkpoint_format.stage_folder(folder)
  meta = checkpoint_format.newest_meta(stage)
  return ml_collections.ConfigDict(meta['config'])


def load_data(folder: checkpoint_format.Path) -> dict[str, Any]:
  """Returns position and fingerprints of the newest checkpoint's data."""
  stage = checkpoint_format.stage_folder(folder)
  return checkpoint_format.newest_meta(stage)['data']


def describe(folder: checkpoint_format.Path) -> dict[str, Any]:
  """Returns name, step and fingerprint of the newest checkpoint.

  For the notes that a result keeps about the network that made it.
  """
  stage = checkpoint_format.stage_folder(folder)
  meta = checkpoint_format.newest_meta(stage)
  parts = checkpoint_format.absolute(stage).parts[-2:]
  return dict(
    checkpoint='/'.join(parts),
    checkpoint_step=meta['step'],
    checkpoint_fingerprint=meta['fingerprint'],
  )


def load_params(
  folder: checkpoint_format.Path,
  ema: bool = True,
  *,
  sharding: Callable[..., Any] | None = None,
) -> tuple[dict[str, Any], ml_collections.ConfigDict]:
  """Returns parameters and config of the newest intact checkpoint.

  Args:
    folder: Folder of a stage, or a workdir (then its stage saved last).
    ema: Returns the averaged values of the trained parameters.
    sharding: Returns the sharding of an array of this `jax.ShapeDtypeStruct`;
      None is the first device.

  Raises:
    FileNotFoundError: there are no checkpoints.
    ValueError: no checkpoint can be read.
  """
  stage = checkpoint_format.stage_folder(folder)
  if sharding is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding = lambda _: device

  def like(leaf):
    leaf = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf.update(sharding=sharding(leaf))

  def trees(step, meta):
    names = ['params'] + ['ema'] * (ema and 'ema' in meta['items'])
    if ema and 'ema' not in names and meta['config'].get('ema_decay'):
      warnings.warn(
        f'checkpoint {step} in {stage} has no averaged weights, although its'
        f' ema_decay is {meta["config"]["ema_decay"]}; its last weights are'
        ' loaded',
        stacklevel=2,
      )
    return {
      name: jax.tree.map(like, checkpoint_format.shapes(stage, step, name))
      for name in names
    }

  def damaged(step, reason):
    warnings.warn(
      f'checkpoint {step} in {stage} cannot be read: {reason}', stacklevel=2
    )

  found = checkpoint_format.read_newest(stage, trees, damaged)
  if found is None:
    raise ValueError(f'no checkpoint in {stage} can be read')
  items, meta = found
  params = state_lib.merge(items['params'], items.get('ema', {}))
  return params, ml_collections.ConfigDict(meta['config'])


def load_network(
  folder: checkpoint_format.Path,
  ema: bool = True,
  *,
  sharding: Callable[..., Any] | None = None,
) -> tuple[backbones.Backbone, dict[str, Any], ml_collections.ConfigDict]:
  """Returns the network of a training run, its parameters and its config.

  Args:
    folder: As for `load_params`.
    ema: As for `load_params`.
    sharding: As for `load_params`.

  Raises:
    FileNotFoundError: there are no checkpoints.
    ValueError: no checkpoint can be read, or config and parameters do not fit
      each other.
  """
  params, config = load_params(folder, ema, sharding=sharding)
  try:
    config_schema.check(config, saved=True)
    backbone = backbones.from_config(config)
  except ValueError as e:
    raise ValueError(f'the newest checkpoint in {folder}: {e}') from e
  state_lib.check_shapes(params, backbone.abstract_params(), folder)
  return backbone, params, config

"""Checkpoints: all state as one thing, written atomically, read back checked.

`<stage>/checkpoints/<step>/` holds the items `params`, `ema`, `opt_state` and
`meta` (config, step, data position, fingerprint). Orbax writes beside and
renames at the end, so a killed or failed save leaves no step behind. The
fingerprint, an integer sum over all bits, catches what damages a file later.
Shardings are never read from files: arrays are restored onto ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import logging
import pathlib
import shutil
import time
from typing import Any
import warnings

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from ttt_jax.train import disk
from ttt_jax.train import identity
from ttt_jax.train import state as state_lib

FOLDER = 'checkpoints'
_FORMAT = 1
_ARRAYS = ('params', 'ema', 'opt_state')


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


def _items(state: state_lib.TrainState) -> dict[str, Any]:
  # An optimizer's state is a tuple of tuples; saved as a flat dict by its
  # paths, it is read back without the optimizer's classes.
  leaves = jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
  flat = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
  items = dict(params=state.params, ema=state.ema, opt_state=flat)
  return {k: v for k, v in items.items() if v}  # Orbax refuses empty trees.


def _manager(folder: pathlib.Path, **options: Any) -> ocp.CheckpointManager:
  logging.getLogger('absl').addFilter(disk.not_orbax)
  return ocp.CheckpointManager(
      folder.resolve() / FOLDER,
      # Handlers by name, so that a reader can ask for shapes before arrays.
      item_handlers={k: ocp.StandardCheckpointHandler() for k in _ARRAYS}
      | dict(meta=ocp.JsonCheckpointHandler()),
      options=ocp.CheckpointManagerOptions(**options),
  )


class Checkpoints:
  """The checkpoints of one stage folder."""

  def __init__(self, folder: pathlib.Path, config: Any):
    """`config` gives keep_last (newest) and keep_every (steps, 0: none)."""
    self.folder = folder
    self._config = identity.plain(config)
    self._manager = _manager(
        folder, max_to_keep=config.keep_last,
        keep_period=config.keep_every or None,
        cleanup_tmp_directories=True, enable_async_checkpointing=True,
    )  # pyformat: disable

  def check(self) -> None:
    """Raises ValueError if the folder holds a run of another config."""
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        meta = _read_meta(self._manager, step)
      except Exception:  # pylint: disable=broad-except
        continue  # Damaged: `restore` tells of it.
      identity.check_config(meta['config'], self._config, self.folder)
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
        format=_FORMAT, step=step, items=list(items), data=dict(data),
        config=self._config,
        fingerprint=int(fingerprint(items)), time=time.time(),
    )  # pyformat: disable
    arrays = {k: ocp.args.StandardSave(v) for k, v in items.items()}
    with self._disk_errors():
      self._manager.wait_until_finished()
      disk.check_space(self.folder, items)
      self._manager.save(step, args=ocp.args.Composite(
          meta=ocp.args.JsonSave(meta), **arrays))

  def restore(
      self, abstract: state_lib.TrainState
  ) -> tuple[state_lib.TrainState, dict[str, Any]] | None:
    """The newest whole state and its `data`; None where nothing is saved.

    Args:
      abstract: `jax.ShapeDtypeStruct`s with the shardings to restore onto.

    Raises:
      ValueError: checkpoints exist, but none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step in steps:
      try:
        meta = _read_meta(self._manager, step)
        like = _items(abstract)
        items = self._manager.restore(step, args=ocp.args.Composite(
            **{k: ocp.args.StandardRestore(v) for k, v in like.items()}))
        items = {k: items[k] for k in like}
        if int(fingerprint(items)) != meta['fingerprint']:
          raise ValueError('its numbers are not those that were saved')
      except Exception as e:  # pylint: disable=broad-except
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        warnings.warn(
            f'checkpoint {step} in {self.folder} cannot be read and is put'
            f' aside as damaged-{step}: {reason[:200]}'
        )
        self._put_aside(step)
        continue
      tree = jax.tree.structure(abstract.opt_state)
      paths = jax.tree_util.tree_flatten_with_path(abstract.opt_state)[0]
      opt = [items['opt_state'][jax.tree_util.keystr(p)] for p, _ in paths]
      state = state_lib.TrainState(
          step=jax.device_put(np.int32(step), abstract.step.sharding),
          params=items['params'], ema=items.get('ema', {}),
          opt_state=jax.tree.unflatten(tree, opt),
      )  # pyformat: disable
      return state, meta['data']
    if steps:
      raise ValueError(
          f'none of the checkpoints {steps} in {self.folder} can be read;'
          ' choose another --workdir to begin anew'
      )
    return None

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

  def _put_aside(self, step: int) -> None:
    path = self.folder / FOLDER / str(step)
    aside = self.folder / f'damaged-{step}'
    if path.exists() and not aside.exists():
      path.rename(aside)
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
        shutil.rmtree(part, ignore_errors=True)
      saved = (self.folder / FOLDER).iterdir()
      whole = [int(p.name) for p in saved if p.name.isdigit()]
      detail = f' ({e.strerror})' if isinstance(e, OSError) else ''
      raise ValueError(
          f'the disk is full while saving a checkpoint in {self.folder}'
          f'{detail}; the last whole one is {max(whole, default="none")}; free'
          ' space and start again'
      ) from e


def _read_meta(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
  meta = manager.restore(
      step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']
  if meta.get('format') != _FORMAT:
    raise ValueError(
        f'checkpoint format {meta.get("format")!r} is not known; legal is'
        f' {_FORMAT}'
    )
  return meta


def stage_folder(folder: str | pathlib.Path) -> pathlib.Path:
  """The stage folder meant by `folder`: itself or a workdir with stages.

  Of a workdir with several stages it is the one saved last.

  Raises:
    FileNotFoundError: no checkpoint there.
  """
  folder = pathlib.Path(folder)
  saved = [
      (_read_time(step), stage)
      for stage in (folder, *folder.glob('*/'))
      for step in (stage / FOLDER).glob('*/')
      if step.name.isdigit()
  ]
  if not saved:
    raise FileNotFoundError(
        f'{folder} holds no checkpoints; make some with python -m'
        f' ttt_jax.train --config=FILE --workdir={folder}'
    )
  return max(saved)[1]


def _read_time(step: pathlib.Path) -> float:
  return step.stat().st_mtime


def _newest_meta(folder: str | pathlib.Path) -> dict[str, Any]:
  with _manager(stage_folder(folder), read_only=True) as manager:
    return _read_meta(manager, manager.latest_step())


def load_config(folder: str | pathlib.Path) -> ml_collections.ConfigDict:
  """The config that the newest state was trained with."""
  return ml_collections.ConfigDict(_newest_meta(folder)['config'])


def load_data(folder: str | pathlib.Path) -> dict[str, Any]:
  """What was saved beside the newest state: data position and identity."""
  return _newest_meta(folder)['data']


def load_params(
    folder: str | pathlib.Path,
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
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    sharding = lambda _: device

  def like(leaf):
    leaf = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf.update(sharding=sharding(leaf))

  with _manager(stage, read_only=True) as manager:
    for step in sorted(manager.all_steps(), reverse=True):
      try:
        meta = _read_meta(manager, step)
        names = ['params'] + ['ema'] * (ema and 'ema' in meta['items'])
        trees = manager.item_metadata(step)
        items = manager.restore(step, args=ocp.args.Composite(**{
            k: ocp.args.StandardRestore(jax.tree.map(like, trees[k].tree))
            for k in names}))
      except Exception as e:  # pylint: disable=broad-except
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        warnings.warn(
            f'checkpoint {step} in {stage} cannot be read: {reason[:200]}'
        )
        continue
      params = items['params']
      if 'ema' in names:
        params = state_lib.merge(params, items['ema'])
      return params, ml_collections.ConfigDict(meta['config'])
  raise ValueError(f'no checkpoint in {stage} can be read')

"""A config made ready to train: checked, with its data; no device yet."""

from __future__ import annotations

from collections.abc import Callable, Set
import os
from typing import Any

from etils import epath
import jax
import ml_collections

from ttt_jax import backbones
from ttt_jax import sharding as sharding_lib
from ttt_jax.data import batches as batches_lib
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import reader as latents_lib
from ttt_jax.diffusion import schedulers
from ttt_jax.models import flops
from ttt_jax.runtime import paths
from ttt_jax.train import init_from as source_lib
from ttt_jax.train import objective as objective_lib
from ttt_jax.train import optimizer as optimizer_lib
from ttt_jax.train import timing

# Whole numbers of the config and their least values.
_LEAST = dict(
  seed=0,
  steps=1,
  batch_size=1,
  microbatches=1,
  log_every=1,
  diagnose_every=0,
  checkpoint_every=1,
  keep_last=1,
  keep_every=0,
  sample_every=0,
)


def check_config(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError for a value that cannot work; touches no device."""
  for name, least in _LEAST.items():
    value = config[name]
    if not isinstance(value, int) or value < least:
      raise ValueError(
        f'config.{name} is {value!r}; it must be a whole number of {least}'
        ' or more'
      )
  for name in ('ema_decay', 'text_dropout'):
    if not 0 <= config[name] < 1:
      raise ValueError(
        f'config.{name} is {config[name]}; it must be in [0, 1), for example'
        ' 0.1'
      )
  if not config.stage or '/' in config.stage:
    raise ValueError(
      f'config.stage is {config.stage!r}; it names a folder, for example 3s'
    )
  schedulers.scheduler(config.get('scheduler', schedulers.DEFAULT))
  network = backbones.of(config).network
  if config.diagnose_every and not hasattr(network, 'diagnostics'):
    raise ValueError(
      f'config.diagnose_every is {config.diagnose_every}; a U-Net has no'
      ' TTT layers to diagnose, set it to 0'
    )
  sharding_lib.check_mesh(
    config.mesh,
    batch_size=config.batch_size,
    microbatches=config.microbatches,
    num_heads=backbones.of(config).num_heads,
  )


class Experiment:
  """One stage in one folder.

  Attributes:
    config: the stage's config, checked.
    folder: of the stage, WORKDIR/STAGE.
    source: folder whose weights it starts from, or None.
    clips: of the manifest, by the clip index of a batch.
    abstract_params: nested dict of `jax.ShapeDtypeStruct`.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]
  ):
    """Checks the config, the data set and the earlier stage.

    Raises:
      ValueError: a value, a parameter group or a manifest that does not fit.
      FileNotFoundError: no data set, or no earlier stage.
    """
    check_config(config)
    workdir = epath.Path(workdir)
    self.config, self.folder = config, workdir / config.stage
    self._backbone = backbones.of(config)
    self.abstract_params = self._backbone.abstract_params()
    optimizer_lib.assign(config.optimizer.groups, self.abstract_params)
    self._dataset = _open_data(config, workdir)
    self._manifest = self._dataset.manifest
    self._null_text = self._dataset.null_text
    self.clips = self._manifest.clips
    self._source = _source(config, workdir)
    self.source = self._source and self._source.folder

  def init(self, key: jax.Array) -> Any:
    """Fresh parameters."""
    return self._backbone.init(key)

  def objective(self, mesh: jax.sharding.Mesh) -> objective_lib.Objective:
    """What is minimised, on a mesh."""
    return objective_lib.Objective(self.config, self._null_text, mesh)

  def batches(
    self, mesh: jax.sharding.Mesh | None = None
  ) -> batches_lib.BatchIterator:
    """Endless batches from the first on; on a mesh this process's rows."""
    size = self.config.batch_size
    rows = mesh and sharding_lib.local_rows(mesh, size)
    return batches_lib.batches(self._dataset, size, self.config.seed, rows=rows)

  def work(self, trainable: Set[str]) -> timing.Work:
    """What a clip costs if these parameters are trained."""
    sizes = (
      self._backbone.config,
      self._dataset.latent_shape,
      self._dataset.text_shape,
    )
    total = sum(flops.training_flops(*sizes, trainable).values())
    return timing.Work(flops.tokens(*sizes), total)

  def identity(self) -> dict[str, Any]:
    """What latents and texts mean: saved with the weights, JSON."""
    return self._manifest.identity()

  def check_identity(self, saved: dict[str, Any], where: epath.Path) -> None:
    """Raises ValueError if weights in `where` saw other latents or texts."""
    for name in ('vae_identity', 'text_identity', 'scene_token_ids'):
      ours = self.identity()[name]
      if saved[name] != ours:
        raise ValueError(
          f'the weights in {where} were trained with {name} {saved[name]!r},'
          f' but the data set has {ours!r}; precompute with the same encoders'
        )

  def load_source(self, sharding: Callable[..., Any]) -> Any:
    """Parameters to start from, averaged where a stage kept an average."""
    # Pre-trained weights do not say which encoders they saw.
    if (identity := self._source.identity()) is not None:
      self.check_identity(identity, self.source)
    return self._source.load(sharding)


def _open_data(
  config: ml_collections.ConfigDict, workdir: epath.Path
) -> latents_lib.LatentDataset:
  folder = epath.Path(
    config.data.folder.replace('{workdir}', os.fspath(workdir))
  )
  if not folder.exists():
    raise FileNotFoundError(
      f'no data set in {folder}; make it with python -m ttt_jax.precompute'
      f' and the same --config and --workdir={workdir}'
    )
  dataset = latents_lib.LatentDataset(folder)
  g, backbone = backbones.geometry(config), backbones.of(config)
  manifest_lib.check_manifest(
    dataset.manifest,
    fps=g.fps,
    height=g.height,
    width=g.width,
    frames=g.frames,
    segments=g.segments,
    text_length=g.text_length,
    mini_batch=g.mini_batch,
  )
  latents = (
    g.latent_frames,
    g.latent_height,
    g.latent_width,
    backbone.in_channels,
  )
  text = (g.segments, g.text_length, backbone.text_dim)
  for name, found, wanted in (
    ('latents', dataset.latent_shape, latents),
    ('texts', dataset.text_shape, text),
  ):
    if tuple(found) != wanted:
      raise ValueError(
        f'{name} in {folder} have shape {tuple(found)}, config.model needs'
        f' {wanted}'
      )
  return dataset


def _source(
  config: ml_collections.ConfigDict, workdir: epath.Path
) -> source_lib.Source | None:
  """The weights that a fresh stage starts from, if any."""
  named = config.get('init_from', '')
  if not named and not config.previous_stage:
    return None
  folder = epath.Path(named or workdir / config.previous_stage)
  if named.startswith(paths.PACKAGE):
    folder = paths.resolve(named)
  source = source_lib.find(folder, config.stage)
  source_lib.check(
    source, backbones.of(config).config, backbones.geometry(config)
  )
  return source

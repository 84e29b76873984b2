"""A checked config with its data set and initial weights; uses no device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
import os
from typing import Any

from etils import epath
import jax
import ml_collections

from ttt_jax import backbones
from ttt_jax import config_schema
from ttt_jax import sharding as sharding_lib
from ttt_jax.convert import model_folder
from ttt_jax.data import batches as batches_lib
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import reader as dataset_reader
from ttt_jax.diffusion import schedulers
from ttt_jax.models import flops
from ttt_jax.runtime import paths
from ttt_jax.train import init_from as init_from_lib
from ttt_jax.train import objective as objective_lib
from ttt_jax.train import optimizer as optimizer_lib
from ttt_jax.train import timing


def check_config(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError for a value that cannot work; touches no device."""
  config_schema.check(config)
  schedulers.scheduler(config.get('scheduler') or schedulers.DEFAULT)
  backbone = backbones.from_config(config)
  if config.diagnose_every and not hasattr(backbone.network, 'diagnostics'):
    raise ValueError(
      f'config.diagnose_every is {config.diagnose_every}; a U-Net has no'
      ' mixer to diagnose, set it to 0'
    )
  backbones.check_mini_batch(config)
  sharding_lib.check_mesh(
    config.mesh,
    batch_size=config.batch_size,
    microbatches=config.microbatches,
    num_heads=backbone.num_heads,
  )


def check_start(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]
) -> init_from_lib.InitFrom | None:
  """Checks everything but the data set, which may not exist yet.

  Returns:
    The weights that a new stage starts from, if any.

  Raises:
    ValueError: a value or a parameter group does not fit.
    FileNotFoundError: the weights are missing.
  """
  check_config(config)
  optimizer_lib.make_optimizer(
    config.optimizer, backbones.from_config(config).abstract_params(), 1
  )
  return _find_init_from(config, epath.Path(workdir))


class Experiment:
  """One stage in one folder.

  Attributes:
    config: Checked config of the stage.
    folder: Folder of the stage, WORKDIR/STAGE.
    init_folder: Folder of the weights that training starts from, or None.
    clips: Clips of the manifest, by the clip index of a batch.
    abstract_params: Nested dict of `jax.ShapeDtypeStruct`.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]
  ):
    """Checks the config, the data set and the previous stage.

    Raises:
      ValueError: a value, a parameter group or a manifest does not fit.
      FileNotFoundError: the data set or the previous stage is missing.
    """
    workdir = epath.Path(workdir)
    self._init_from = check_start(config, workdir)
    self.init_folder = self._init_from and self._init_from.folder
    self.config, self.folder = config, workdir / config.stage
    self._backbone = backbones.from_config(config)
    self.abstract_params = self._backbone.abstract_params()
    self._dataset = _open_data(config, workdir)
    self._manifest = self._dataset.manifest
    self._null_text = self._dataset.null_text
    self.clips = self._manifest.clips

  def init(self, key: jax.Array) -> Any:
    """Returns random parameters."""
    return self._backbone.init(key)

  def objective(self, mesh: jax.sharding.Mesh) -> objective_lib.Objective:
    """Returns the loss and the diagnostics on a mesh."""
    return objective_lib.Objective(self.config, self._null_text, mesh)

  def batches(
    self, mesh: jax.sharding.Mesh | None = None
  ) -> batches_lib.BatchIterator:
    """Returns endless batches; on a mesh, only the rows of this process."""
    size = self.config.batch_size
    rows = None if mesh is None else sharding_lib.local_rows(mesh, size)
    return batches_lib.batches(self._dataset, size, self.config.seed, rows=rows)

  def clip_cost(self, trainable: Set[str]) -> timing.ClipCost:
    """Returns the cost of one clip if these parameters are trained."""
    sizes = (
      self._backbone.config,
      self._dataset.latent_shape,
      self._dataset.text_shape,
    )
    total = sum(flops.training_flops(*sizes, trainable).values())
    return timing.ClipCost(flops.tokens(*sizes), total)

  def identity(self) -> dict[str, Any]:
    """Returns the fingerprints of the encoders, which checkpoints contain."""
    return self._manifest.identity()

  def check_identity(self, saved: Mapping[str, Any], where: epath.Path) -> None:
    """Raises ValueError if the weights in `where` had other encoders."""
    for name in ('vae_identity', 'text_identity', 'scene_token_ids'):
      ours, theirs = self.identity()[name], saved.get(name)
      if theirs != ours:
        raise ValueError(
          f'the weights in {where} were trained with {name} {theirs!r},'
          f' but the data set has {ours!r}; precompute with the same encoders'
        )

  def load_init_params(self, sharding: Callable[..., Any]) -> Any:
    """Loads the initial parameters, averaged if the stage kept an average."""
    init_from = self._init_from
    assert init_from is not None, 'config names no initial weights'
    # Pre-trained weights do not record their encoders.
    if (identity := init_from.identity()) is not None:
      self.check_identity(identity, init_from.folder)
    return init_from.load(sharding)


def _open_data(
  config: ml_collections.ConfigDict, workdir: epath.Path
) -> dataset_reader.LatentDataset:
  folder = epath.Path(paths.in_workdir(config.data.folder, workdir))
  if not folder.exists():
    raise FileNotFoundError(
      f'no data set in {folder}; make it with ttt-jax precompute'
      f' and the same --config and --workdir={workdir}'
    )
  dataset = dataset_reader.LatentDataset(folder)
  g, backbone = backbones.geometry(config), backbones.from_config(config)
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
  for name, shape, expected in (
    ('latents', dataset.latent_shape, latents),
    ('texts', dataset.text_shape, text),
  ):
    if tuple(shape) != expected:
      raise ValueError(
        f'{name} in {folder} have shape {tuple(shape)}, config.model needs'
        f' {expected}'
      )
  return dataset


def _find_init_from(
  config: ml_collections.ConfigDict, workdir: epath.Path
) -> init_from_lib.InitFrom | None:
  """Returns the weights that a new stage starts from, if any."""
  name = str(config.get('init_from', ''))
  if not name and not config.previous_stage:
    return None
  folder = epath.Path(name or workdir / config.previous_stage)
  if name.startswith(paths.PACKAGE):
    folder = epath.Path(paths.resolve(name))
  elif not name and not folder.exists():
    raise FileNotFoundError(
      f'stage {config.stage} starts from the weights of stage'
      f' {config.previous_stage}, but {folder} does not exist; train that stage'
      ' first, or set --config.init_from=FOLDER to start from other weights or'
      ' --config.previous_stage= to start from random ones'
    )
  elif name and not folder.exists():
    raise FileNotFoundError(
      f'config.init_from is {name}: {model_folder.describe(name)}; set'
      ' --config.init_from to the folder of a model or of a training run'
    )
  init_from = init_from_lib.resolve_init_from(folder, config.stage)
  init_from_lib.check(
    init_from, backbones.from_config(config).config, backbones.geometry(config)
  )
  return init_from

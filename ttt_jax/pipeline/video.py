"""From a storyboard to frames: what a notebook imports.

    from ttt_jax.pipeline import VideoPipeline
    pipe = VideoPipeline.load('workdir')
    frames = pipe(Storyboard.load('story.json'), steps=50, seed=0)

and, for the video that a run was tuned on, `EditPipeline`. The commands and the
samples made during training call the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import os
from typing import Any

import jax
import numpy as np

from ttt_jax import convert
from ttt_jax import geometry as geometry_lib
from ttt_jax import sharding
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.checkpoints import checkpoint
from ttt_jax.diffusion import guidance as guidance_lib
from ttt_jax.diffusion import schedulers
from ttt_jax.encoders import load_text as text_lib
from ttt_jax.encoders import text_cache as text_cache_lib
from ttt_jax.encoders import video_encoder
from ttt_jax.evaluation import shot_recall
from ttt_jax.models import dit
from ttt_jax.models.vae import causal3d
from ttt_jax.pipeline import edit
from ttt_jax.pipeline import pretrained
from ttt_jax.runtime import paths
from ttt_jax.video import video_file

EditPipeline = edit.EditPipeline

# Called with the number of steps done, e.g. to move a progress bar.
OnStep = Callable[[int], None]


class VideoPipeline:
  """Text encoder, transformer, sampler and VAE, each compiled once a shape.

  Attributes:
    config: of the transformer.
    params: of the transformer; may be replaced by others of the same shapes.
    text_encoder: of the storyboard's prompts.
    height: pixels of the video.
    width: pixels.
    fps: frames a second.
    scheduler: name of the one that samples where a call names none.
  """

  def __init__(
    self,
    config: dit.DiTConfig,
    params: Any,
    vae: tuple[causal3d.CausalVAEConfig, Any],
    text_encoder: text_lib.TextEncoder,
    *,
    height: int,
    width: int,
    fps: int = 16,
    schedule_shift: float = 1.0,
    scheduler: str = schedulers.DEFAULT,
    mesh: jax.sharding.Mesh | None = None,
    vae_options: Mapping[str, Any] | None = None,
    text_cache: str | os.PathLike[str] | None = None,
  ):
    """Puts the parts together.

    Args:
      vae: config and parameters.
      vae_options: of `CausalVideoEncoder`, such as `tiling`.
      text_cache: folder of embeddings, shared with other runs.
    """
    self.config = config
    self.params = params
    self.text_encoder = text_encoder
    self.height, self.width, self.fps = height, width, fps
    self.scheduler = scheduler
    self._shift = schedule_shift
    self._on_step: OnStep | None = None
    self._module = dit.DiffusionTransformer(config, sharding.Layout(mesh))
    self._vae_config = vae[0]
    # Every process decodes on devices of its own.
    devices = None if mesh is None else mesh.local_devices
    self._video_encoder = video_encoder.CausalVideoEncoder(
      *vae, devices=devices, **(vae_options or {})
    )
    self._texts = text_cache_lib.TextCache(text_encoder, folder=text_cache)
    self._sample = jax.jit(
      self._sample_latents,
      static_argnames=('scheduler', 'grid'),
      out_shardings=mesh and sharding.replicated(mesh),
    )

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike[str],
    ema: bool = True,
    mesh: jax.sharding.Mesh | None = None,
  ) -> VideoPipeline:
    """The pipeline of a trained stage, or of a pre-trained CogVideoX.

    Args:
      folder: a stage folder, or a workdir: then its stage saved last; or a
        whole model in diffusers' layout, see `pretrained`.
      ema: the averaged weights, where training kept an average.
      mesh: of `sharding.make_mesh`, over which the transformer is split; None
        is the first device.

    Raises:
      FileNotFoundError: no checkpoint, VAE or text encoder there.
      ValueError: the VAE or the text encoder is not the one of training.
    """
    if pretrained.is_model(folder):
      return cls(**pretrained.parts(folder, mesh))
    place = mesh and functools.partial(
      sharding.param_sharding, mesh, axes=sharding.AXES
    )
    params, config = checkpoint.load_params(folder, ema, sharding=place)
    params = dit.inference_params(dit.DiTConfig(**config.model), params)
    pipe = cls.from_config(config, params, mesh)
    video_encoder.check_identity(
      checkpoint.load_data(folder)['identity'],
      f'the run in {folder}',
      vae=pipe._video_encoder,
      text=pipe.text_encoder,
    )
    return pipe

  @classmethod
  def from_config(
    cls, config, params, mesh: jax.sharding.Mesh | None = None
  ) -> VideoPipeline:
    """The pipeline of a training config and parameters."""
    return cls(
      dit.DiTConfig(**config.model),
      params,
      convert.load_vae(paths.resolve(config.vae.folder)),
      text_lib.load_text_encoder(
        paths.resolve(config.text.folder),
        config.text.length,
        mesh=mesh,
        **video_encoder.text_options(config.text),
      ),
      height=config.data.height,
      width=config.data.width,
      fps=config.data.fps,
      schedule_shift=config.schedule_shift,
      scheduler=config.get('scheduler', schedulers.DEFAULT),
      mesh=mesh,
      vae_options=video_encoder.vae_options(config.vae),
      text_cache=config.text.get('cache') or None,
    )

  def geometry(
    self, storyboard: storyboard_lib.Storyboard
  ) -> geometry_lib.Geometry:
    """Sizes and token order of the video that a storyboard makes."""
    config = self.config
    return geometry_lib.Geometry(
      len(storyboard.segments) * self._segment_frames + 1,
      self.height,
      self.width,
      self.fps,
      text_length=self.text_encoder.text_length,
      mini_batch=config.mini_batch,
      spatial_compression=self._vae_config.spatial_compression,
      temporal_compression=self._vae_config.temporal_compression_ratio,
      patch_size=config.patch_size,
      segment_latent_frames=config.segment_latent_frames,
    )

  @property
  def _segment_frames(self) -> int:
    """Pixel frames of every segment but the first, which has one more."""
    ratio = self._vae_config.temporal_compression_ratio
    return self.config.segment_latent_frames * ratio

  def __call__(
    self,
    storyboard: storyboard_lib.Storyboard,
    *,
    steps: int = 50,
    guidance: float = 6.0,
    seed: int = 0,
    scheduler: str | None = None,
    guidance_schedule: str = 'cosine',
    on_step: OnStep | None = None,
  ) -> np.ndarray:
    """Samples the storyboard's video.

    Args:
      storyboard: one text a segment, negative texts if any.
      steps: sampling steps, 1 to 1000.
      guidance: strength of the text, see `ttt_jax.diffusion.guidance`.
      seed: of the noise; equal seeds give equal videos.
      scheduler: of `diffusion.schedulers`; None is the pipeline's own.
      guidance_schedule: 'cosine', 'constant' or 'reference'.
      on_step: called with the number of steps done.

    Returns:
      uint8 [frames, height, width, 3]; 3 s are 49 frames, 63 s 1009.

    Raises:
      ValueError: a text too long for the model, or an option out of range.
    """
    latents = self.sample_latents(
      storyboard,
      steps=steps,
      guidance=guidance,
      seed=seed,
      scheduler=scheduler,
      guidance_schedule=guidance_schedule,
      on_step=on_step,
    )
    return self.decode(latents)

  def sample_latents(
    self,
    storyboard: storyboard_lib.Storyboard,
    *,
    steps: int = 50,
    guidance: float = 6.0,
    seed: int = 0,
    scheduler: str | None = None,
    guidance_schedule: str = 'cosine',
    on_step: OnStep | None = None,
  ) -> jax.Array:
    """As `__call__`, but the latents, float32 [1, F, h, w, c]."""
    chosen = schedulers.scheduler(scheduler or self.scheduler)
    grid = chosen.grid(steps, self._shift)
    scales = guidance_lib.schedule(guidance_schedule)(
      guidance, steps, grid.timesteps
    )
    storyboard.lint(
      self.text_encoder.text_length, self.text_encoder.count_tokens
    )
    geometry = self.geometry(storyboard)
    encode = lambda texts: self._texts.encode(texts)[None]
    text = encode(storyboard.prompts())
    negative = None
    if not guidance_lib.is_off(scales):
      negative = encode(storyboard.negatives())
    key = jax.random.key(seed)
    noise = jax.random.normal(
      jax.random.fold_in(key, 0),
      (
        1,
        geometry.latent_frames,
        geometry.latent_height,
        geometry.latent_width,
        self.config.in_channels,
      ),
    )
    self._on_step = on_step
    try:
      latents = self._sample(
        self.params,
        noise,
        text,
        negative,
        np.asarray(scales, np.float32),
        jax.random.fold_in(key, 1),
        scheduler=chosen,
        grid=grid,
      )
      return latents.block_until_ready()
    finally:
      jax.effects_barrier()
      self._on_step = None

  def decode(self, latents: jax.Array) -> np.ndarray:
    """Latents [1, F, h, w, c] -> uint8 frames [F', H, W, 3]."""
    return self._video_encoder.decode(np.asarray(latents)[0])

  def reconstruct_shots(
    self,
    shots: Sequence[shot_recall.Shot],
    videos: str,
    soften: bool = True,
  ) -> dict[shot_recall.Shot, np.ndarray]:
    """One segment of each shot, through the VAE and back.

    Args:
      shots: (file, start in seconds) of each.
      videos: folder of the files, also 'package:...'.
      soften: as the frames of training were.

    Returns:
      uint8 [n + 1, H, W, 3] for each shot.
    """
    out = {}
    for name, start in shots:
      pixels = video_file.read_video(
        paths.resolve(f'{videos}/{name}'),
        fps=self.fps,
        height=self.height,
        width=self.width,
        start=start,
        frames=self._segment_frames + 1,
        soften=soften,
      )
      mean, _ = self._video_encoder.encode(pixels)
      out[name, start] = self.decode(mean[None])
    return out

  def _tick(self, step: int) -> None:
    # One function for all calls: it is part of the compiled program.
    if self._on_step is not None:
      self._on_step(step + 1)

  def _sample_latents(
    self, params, noise, text, negative, scales, key, *, scheduler, grid
  ):
    apply = functools.partial(self._module.apply, {'params': params})
    return scheduler.sample(
      guidance_lib.guided(apply, text, negative),
      noise,
      grid,
      scales,
      key,
      on_step=self._tick,
    )

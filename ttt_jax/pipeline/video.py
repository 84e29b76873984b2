"""Samples the video of a storyboard with a trained model.

    from ttt_jax.pipeline import VideoPipeline
    pipe = VideoPipeline.load('workdir')
    video = pipe('A cat sleeps.')
    video = pipe(['A cat sleeps.', 'It wakes up.'], steps=50, seed=0)
    video = pipe(Storyboard.load('story.json'))
    video.save('story.mp4')

The commands and the samples made during training call the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import operator
import os
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from ttt_jax import convert
from ttt_jax import geometry as geometry_lib
from ttt_jax import sharding
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.checkpoints import checkpoint
from ttt_jax.convert import model_folder
from ttt_jax.diffusion import guidance as guidance_lib
from ttt_jax.diffusion import noise as noise_lib
from ttt_jax.diffusion import samplers
from ttt_jax.diffusion import schedulers
from ttt_jax.encoders import load_text as text_lib
from ttt_jax.encoders import text_cache as text_cache_lib
from ttt_jax.encoders import video_encoder
from ttt_jax.models import dit
from ttt_jax.models.vae import causal3d
from ttt_jax.pipeline import pretrained
from ttt_jax.pipeline import sampling_loop
from ttt_jax.pipeline import sampling_program
from ttt_jax.pipeline import step_callback
from ttt_jax.pipeline.sampling import Sampling
from ttt_jax.runtime import progress as progress_lib
from ttt_jax.runtime import schema
from ttt_jax.video import video_array


class VideoPipeline:
  """Text encoder, transformer, sampler and VAE, each compiled once per shape.

  Attributes:
    config: Config of the transformer.
    params: Parameters of the transformer; they may be replaced by others of the
      same shapes.
    text_encoder: Encoder of the storyboard's texts.
    height: Height of the video in pixels.
    width: Width of the video in pixels.
    fps: Frames per second.
    scheduler: Name of the default scheduler.
    sampling: Default settings of sampling.
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
    sampling: Sampling | None = None,
    mesh: jax.sharding.Mesh | None = None,
    vae_options: Mapping[str, Any] | None = None,
    text_cache: str | os.PathLike[str] | None = None,
  ):
    """Builds the pipeline.

    Args:
      config: Config of the transformer.
      params: Parameters of the transformer.
      vae: Config and parameters of the VAE.
      text_encoder: Encoder of the storyboard's texts.
      height: Height of the video in pixels.
      width: Width of the video in pixels.
      fps: Frames per second.
      schedule_shift: Shift of the noise schedule.
      scheduler: Name of the default scheduler.
      sampling: Default settings of sampling; None is CogVideoX's.
      mesh: Mesh over which the transformer is split; None is the first device.
      vae_options: Options of `CausalVideoEncoder`, such as `tiling`.
      text_cache: Folder of embeddings that runs share.
    """
    self.config = config
    self.params = params
    self.text_encoder = text_encoder
    self.height, self.width, self.fps = height, width, fps
    self.scheduler = scheduler
    self.sampling = sampling or Sampling()
    self._shift, self._mesh = schedule_shift, mesh
    self._vae_config = vae[0]
    # Every process decodes on its own devices.
    devices = None if mesh is None else mesh.local_devices
    self._video_encoder = video_encoder.CausalVideoEncoder(
      *vae, devices=devices, **(vae_options or {})
    )
    self._texts = text_cache_lib.TextCache(text_encoder, folder=text_cache)
    self._program = sampling_program.SamplingProgram(config, mesh)

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike[str],
    ema: bool = True,
    mesh: jax.sharding.Mesh | None = None,
  ) -> VideoPipeline:
    """Loads a trained stage or a pre-trained CogVideoX.

    Args:
      folder: Folder of a stage; or a workdir, for its stage that was saved
        last; or a complete model in diffusers' layout, see `pretrained`.
      ema: Whether to load the averaged weights, if training kept an average.
      mesh: Mesh over which the transformer is split; None is the first device.

    Raises:
      FileNotFoundError: the checkpoint, VAE or text encoder is missing.
      ValueError: the VAE or the text encoder is not the one of training.
    """
    with progress_lib.Bar('loading the model', None):
      return cls._load(folder, ema, mesh)

  @classmethod
  def _load(
    cls,
    folder: str | os.PathLike[str],
    ema: bool,
    mesh: jax.sharding.Mesh | None,
  ) -> VideoPipeline:
    if pretrained.is_pretrained(folder):
      return cls(**pretrained.pipeline_arguments(folder, mesh))
    param_sharding = mesh and functools.partial(
      sharding.param_sharding, mesh, axes=sharding.AXES
    )
    try:
      backbone, params, config = checkpoint.load_network(
        folder, ema, sharding=param_sharding
      )
    except FileNotFoundError as e:
      what = model_folder.describe(folder, 'transformer')
      if what in str(e):  # That the folder does not exist.
        raise
      raise FileNotFoundError(f'{e}; {what}') from e
    if not isinstance(backbone.config, dit.DiTConfig) or 'vae' not in config:
      raise ValueError(
        f'the run in {folder} trained a U-Net, which makes no video of a'
        ' storyboard; edit its clip with ttt-jax edit'
      )
    params = dit.inference_params(backbone.config, params)
    params = sharding.copy_for_sampling(mesh, params)
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
    cls,
    config: ml_collections.ConfigDict,
    params: Any,
    mesh: jax.sharding.Mesh | None = None,
  ) -> VideoPipeline:
    """Builds the pipeline from a training config and parameters."""
    return cls(
      schema.construct(dit.DiTConfig, config.model, 'config.model'),
      params,
      convert.load_vae(model_folder.resolve(config.vae.folder)),
      text_lib.load_text_encoder(
        model_folder.resolve(config.text.folder),
        config.text.length,
        mesh=mesh,
        **video_encoder.text_options(config.text),
      ),
      height=config.data.height,
      width=config.data.width,
      fps=config.data.fps,
      schedule_shift=config.schedule_shift,
      scheduler=config.get('scheduler') or schedulers.DEFAULT,
      mesh=mesh,
      vae_options=video_encoder.vae_options(config.vae),
      text_cache=config.text.get('cache') or None,
    )

  def __repr__(self) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
    seconds = self.segment_frames / self.fps
    return (
      f'<VideoPipeline: {count:,} parameters, mixer {self.config.mixer},'
      f' {self.width}x{self.height} pixels at {self.fps:g} fps,'
      f' {seconds:g} s per text, scheduler {self.scheduler}>'
    )

  def geometry(
    self, storyboard: storyboard_lib.Storyboard
  ) -> geometry_lib.Geometry:
    """Returns sizes and token order of a storyboard's video."""
    config = self.config
    return geometry_lib.Geometry(
      len(storyboard.segments) * self.segment_frames + 1,
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
  def segment_frames(self) -> int:
    """The pixel frames per segment; the first segment has one more."""
    ratio = self._vae_config.temporal_compression_ratio
    return self.config.segment_latent_frames * ratio

  def __call__(
    self,
    story: storyboard_lib.StoryLike,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    scheduler: str | None = None,
    guidance_schedule: str | None = None,
    reuse: int = 1,
    on_step: step_callback.OnStep | None = None,
    progress: bool = True,
  ) -> video_array.Video:
    """Samples the video of a text or of a storyboard.

    Args:
      story: One text, which is three seconds; a list with one text per segment
        of three seconds; a dict as in a storyboard's file; or a `Storyboard`.
      steps: Sampling steps, 1 to 1000; None is the model's own, as for all
        settings: 50 unless it has others.
      guidance: Strength of the text, see `diffusion.guidance`; 6 unless the
        model has another.
      seed: Seed of the noise; equal seeds give equal videos.
      scheduler: Name in `diffusion.schedulers`.
      guidance_schedule: 'cosine', 'constant' or 'reference'; 'cosine' unless
        the model has another.
      reuse: Number of steps that share what the last three quarters of the
        blocks add, see `models.dit.LateBlocks`; 1 computes all in every step.
      on_step: Function called with the number of steps done.
      progress: Whether to show a progress bar.

    Returns:
      uint8 [frames, height, width, 3], an array with `fps`, `save('x.mp4')` and
      a view for notebooks; 3 s are 49 frames, 63 s 1009.

    Raises:
      ValueError: the storyboard is not valid, a text is too long for the model,
        or an option is invalid.
    """
    storyboard = storyboard_lib.as_storyboard(story)
    self._program.choose(reuse)
    chosen = self.sampling.replace(steps, guidance, guidance_schedule)
    self._check(storyboard, chosen, scheduler, seed)
    with progress_lib.Bar('sampling', chosen.steps, is_shown=progress) as bar:
      latents = self.sample_latents(
        storyboard,
        steps=chosen.steps,
        guidance=chosen.guidance,
        seed=seed,
        scheduler=scheduler,
        guidance_schedule=chosen.guidance_schedule,
        reuse=reuse,
        on_step=step_callback.advance(bar, on_step),
      )
      bar.note('decoding')
      frames = self.decode(latents)
    return video_array.Video(frames, self.fps)

  def sample_latents(
    self,
    storyboard: storyboard_lib.Storyboard,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    scheduler: str | None = None,
    guidance_schedule: str | None = None,
    reuse: int = 1,
    on_step: step_callback.OnStep | None = None,
  ) -> jax.Array:
    """Samples the latents of a storyboard's video.

    Args:
      storyboard: Storyboard with one text per segment, and negative texts if
        any.
      steps: Sampling steps, 1 to 1000; None is the model's own, as for all
        settings: 50 unless it has others.
      guidance: Strength of the text, see `diffusion.guidance`; 6 unless the
        model has another.
      seed: Seed of the noise; equal seeds give equal videos.
      scheduler: Name in `diffusion.schedulers`.
      guidance_schedule: 'cosine', 'constant' or 'reference'; 'cosine' unless
        the model has another.
      reuse: As for `__call__`.
      on_step: Function called with the number of steps done.

    Returns:
      float32 [1, F, h, w, c].

    Raises:
      ValueError: a text is too long for the model, or an option is invalid.
    """
    program = self._program.choose(reuse)
    chosen = self.sampling.replace(steps, guidance, guidance_schedule)
    steps_table, is_noisy, text, negative = self._prepare(
      storyboard, chosen, scheduler, seed
    )
    key = jax.random.key(seed)
    shape = self.latent_shape(storyboard)
    noise = noise_lib.normal(jax.random.fold_in(key, 0), shape)
    return sampling_loop.run(
      functools.partial(program, self.params),
      sampling_loop.place(noise, self.params, self._mesh),
      steps_table,
      on_step,
      reuse=reuse,
      text=text,
      negative=negative,
      key=jax.random.fold_in(key, 1),
      is_noisy=is_noisy,
    )

  def precompile(
    self,
    story: storyboard_lib.StoryLike,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    scheduler: str | None = None,
    guidance_schedule: str | None = None,
    reuse: int = 1,
  ) -> None:
    """Compiles what `__call__` with these arguments runs.

    With the cache of compiled programs, a later process finds them there.

    Args:
      story: As for `__call__`; only the number of its segments matters.
      steps: As for `__call__`.
      guidance: As for `__call__`.
      scheduler: As for `__call__`.
      guidance_schedule: As for `__call__`.
      reuse: As for `__call__`.

    Raises:
      ValueError: as `__call__`.
    """
    storyboard = storyboard_lib.as_storyboard(story)
    chosen = self.sampling.replace(steps, guidance, guidance_schedule)
    steps_table, is_noisy, text, negative = self._prepare(
      storyboard, chosen, scheduler
    )
    x = sampling_loop.place(
      jnp.zeros(self.latent_shape(storyboard)), self.params, self._mesh
    )
    arguments: dict[str, Any] = dict(
      x=x,
      previous=x,
      numbers=jax.tree.map(operator.itemgetter(0), steps_table),
      text=text,
      negative=negative,
      key=jax.random.key(0),
      is_noisy=is_noisy,
    )
    program = self._program.choose(reuse)
    step = program.lower(self.params, **arguments).compile()
    if reuse > 1 and chosen.steps > 2:
      added = jax.tree.leaves(step.out_info)[-1]
      arguments['added'] = jax.ShapeDtypeStruct(
        added.shape,
        added.dtype,
        sharding=jax.tree.leaves(step.output_shardings)[-1],
      )
      program.lower(self.params, **arguments).compile()
    # The first chunk of latents and the following ones are two programs.
    window = self._vae_config.decode_window
    count = causal3d.first_chunk_length(x.shape[1], window)
    self.decode(x[:, : count + window])

  def _check(
    self,
    storyboard: storyboard_lib.Storyboard,
    sampling: Sampling,
    scheduler: str | None,
    seed: int = 0,
  ):
    """Returns schedule, coefficients and strengths of the steps.

    Raises:
      ValueError: an option is invalid, or a text is too long for the model.
    """
    steps, guidance = sampling.steps, sampling.guidance
    sampling_loop.check_options(steps, guidance, seed)
    chosen = schedulers.scheduler(scheduler or self.scheduler)
    schedule = chosen.schedule(steps, self._shift)
    scales = guidance_lib.schedule(sampling.guidance_schedule)(
      guidance, steps, schedule.timesteps
    )
    storyboard.lint(
      self.text_encoder.text_length, self.text_encoder.count_tokens
    )
    return schedule, chosen.coefficients(schedule), scales

  def _prepare(self, storyboard: storyboard_lib.Storyboard, *options: Any):
    """Returns numbers of the steps, if they add noise, texts, negatives."""
    schedule, coefficients, scales = self._check(storyboard, *options)
    encode = lambda texts: sampling_loop.place(
      self._texts.encode(texts)[None], self.params, self._mesh
    )
    text = encode(storyboard.prompts())
    negative = None
    if not guidance_lib.is_off(scales):
      negative = encode(storyboard.negatives())
    steps_table = samplers.table(schedule, np.asarray(scales), coefficients)
    return steps_table, bool(np.any(coefficients.noise)), text, negative

  def latent_shape(
    self, storyboard: storyboard_lib.Storyboard
  ) -> tuple[int, ...]:
    """Returns the shape [1, F, h, w, c] of the latents of a storyboard."""
    geometry = self.geometry(storyboard)
    return (
      1,
      geometry.latent_frames,
      geometry.latent_height,
      geometry.latent_width,
      self.config.in_channels,
    )

  def decode(self, latents: jax.Array) -> np.ndarray:
    """Decodes latents [1, F, h, w, c] to uint8 frames [F', H, W, 3]."""
    return self._video_encoder.decode(np.asarray(latents)[0])

  def encode(self, frames: np.ndarray) -> np.ndarray:
    """Encodes uint8 frames [F', H, W, 3] to mean latents [1, F, h, w, c]."""
    return self._video_encoder.encode(frames)[0][None]

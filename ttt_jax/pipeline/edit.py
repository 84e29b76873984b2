"""Edits the video of a tuning (Tune-A-Video, Wu et al. 2023, section 3).

The clip is inverted to noise with DDIM, which preserves layout and motion, and
sampled again with the new text. The backbone is that of the training run:
Stable Diffusion's U-Net or CogVideoX's transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import io
import os
from typing import Any
import warnings

from etils import epath
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from ttt_jax import backbones
from ttt_jax import sharding
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.data import single_video
from ttt_jax.data.store import reader as dataset_reader
from ttt_jax.diffusion import guidance as guidance_lib
from ttt_jax.diffusion import inversion as inversion_lib
from ttt_jax.diffusion import noise as noise_lib
from ttt_jax.diffusion import samplers
from ttt_jax.encoders import text_cache
from ttt_jax.encoders import video_encoder
from ttt_jax.pipeline import sampling_loop
from ttt_jax.pipeline import step_callback
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import progress as progress_lib
from ttt_jax.runtime import wording
from ttt_jax.train import experiment as experiment_lib
from ttt_jax.video import video_array

# An edit with one text per segment: a storyboard, or the value of its file.
Edit = Mapping[str, Any] | storyboard_lib.Storyboard


class EditPipeline:
  """Inverts the clip of a training run and samples it with new texts.

  Attributes:
    config: Config of training.
    params: Parameters of the network; they may be replaced by others of the
      same shapes.
    latents: Latents of the clip, float32 [F, h, w, c].
    fps: Frames per second.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    params: Any,
    workdir: str | os.PathLike[str],
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Loads the clip and the encoders that the config names.

    Args:
      config: Config of training, such as configs/tune_a_video.py.
      params: Parameters of the network.
      workdir: Folder of the training run.
      mesh: Mesh over which the network is split; None is the first device.

    Raises:
      FileNotFoundError: the data set, autoencoder or text encoder is missing.
      ValueError: the encoders are not those of the data set.
    """
    if 'video' not in config:
      raise ValueError(
        f'the stage {config.stage} was not tuned on one video; editing needs'
        ' a run of configs/tune_a_video.py or configs/tune_dit.py'
      )
    self.config, self.params = config, params
    self._folder = epath.Path(workdir) / config.stage / 'inverted'
    self._backbone = backbones.from_config(config)
    self._geometry = backbones.geometry(config)
    dataset = dataset_reader.LatentDataset(
      paths.in_workdir(config.data.folder, workdir)
    )
    self.latents = dataset[0]['mean']
    self.fps = self._geometry.fps
    self._module = self._backbone.module(sharding.ShardingPlan(mesh))
    self._video = single_video.load_video_encoder(config)
    text_encoder = single_video.load_text_encoder(config)
    video_encoder.check_identity(
      dataset.manifest.identity(),
      f'the clip in {dataset.folder}',
      vae=self._video,
      text=text_encoder,
    )
    self._texts = text_cache.TextCache(text_encoder)
    self._step_callback = step_callback.StepCallback()
    self._invert = jax.jit(self._invert_latents, static_argnames='schedule')
    self._mesh = mesh
    self._step = jax.jit(
      self._sampling_step,
      donate_argnames=('x', 'previous'),
      out_shardings=mesh and sharding.replicated(mesh),
    )

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike[str],
    ema: bool = True,
    mesh: jax.sharding.Mesh | None = None,
  ) -> EditPipeline:
    """Loads a tuned stage.

    Args:
      folder: Folder of the training run or of the stage.
      ema: Whether to load the averaged weights, if training kept an average.
      mesh: Mesh over which the network is split; None is the first device.

    Raises:
      FileNotFoundError: the checkpoint or an encoder is missing.
      ValueError: the run did not tune a video, or its encoders have changed.
    """
    with progress_lib.Bar('loading the model', None):
      _, params, config = checkpoint.load_network(
        folder,
        ema,
        sharding=mesh and functools.partial(sharding.param_sharding, mesh),
      )
      return cls(
        config, params, checkpoint_format.stage_folder(folder).parent, mesh
      )

  @classmethod
  def untuned(
    cls,
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    mesh: jax.sharding.Mesh | None = None,
  ) -> EditPipeline:
    """Returns the pipeline before the first step of tuning."""
    experiment = experiment_lib.Experiment(config, workdir)
    param_sharding = functools.partial(
      sharding.param_sharding,
      mesh or sharding.make_mesh({}, jax.devices()[:1]),
    )
    params = experiment.init(jax.random.key(config.seed))
    if experiment.init_folder is not None:
      params, _ = state_lib.inherit(
        params, experiment.load_init_params(param_sharding)
      )
    return cls(config, params, workdir, mesh)

  def __repr__(self) -> str:
    frames, height, width = self.latents.shape[:3]
    return (
      f'<EditPipeline: stage {self.config.stage},'
      f' {frames} latent frames of {height}x{width} at {self.fps:g} fps>'
    )

  @property
  def source(self) -> video_array.Video:
    """The clip as the autoencoder reconstructs it, uint8 [F', H, W, 3]."""
    return video_array.Video(self._video.decode(self.latents), self.fps)

  def is_inverted(self, steps: int = 50) -> bool:
    """Returns whether the result of `invert` has been saved."""
    return self._inversion_file(steps)[0].exists()

  def invert(
    self, steps: int = 50, on_step: step_callback.OnStep | None = None
  ) -> jax.Array:
    """Returns the noise from which DDIM samples the clip without guidance.

    The noise is computed once per weights and number of steps, and saved in the
    folder of the stage.

    Args:
      steps: Steps of inversion and of sampling.
      on_step: Function called with the number of steps done.

    Returns:
      float32 [1, F, h, w, c].

    Raises:
      ValueError: the network predicts the clean latents, which do not tell the
        noise of a clean clip.
    """
    if self._backbone.prediction == 'sample':
      raise ValueError(
        'a network that predicts the clean latents cannot be inverted; edit'
        ' with inversion=False, on the command line --noinversion'
      )
    path, text = self._inversion_file(steps)
    if path.exists():
      noise = _read_noise(path)
      if noise is not None and noise.shape == (1, *self.latents.shape):
        return jax.numpy.asarray(noise)
      warnings.warn(f'{path} is damaged and is made again', stacklevel=2)
    schedule = backbones.ddim_schedule(self.config, steps)
    with self._step_callback.report_to(on_step):
      noise = self._invert(
        self.params, self.latents[None], text, schedule=schedule
      )
      noise = noise.block_until_ready()
    self._folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, np.asarray(noise))
    with files.atomic_write(path) as temporary:
      temporary.write_bytes(content.getvalue())
    return noise

  def __call__(
    self,
    prompts: str | Edit | Sequence[str | Edit],
    *,
    steps: int = 50,
    guidance: float = 12.5,
    seed: int = 0,
    negative: str = '',
    inversion: bool = True,
    batch: int | None = None,
    on_step: step_callback.OnStep | None = None,
    progress: bool = True,
  ) -> video_array.Video:
    """Edits the clip.

    Args:
      prompts: One edit or a list of n: a text for all of the clip, or a
        storyboard with one text per segment of the clip, as an object or as the
        dict in its file.
      steps: DDIM steps, 1 to 1000.
      guidance: Strength of the texts; 1 disables guidance.
      seed: Seed of the initial noise without inversion.
      negative: Text that guidance leads away from.
      inversion: Whether to start from the inverted clip; otherwise from noise,
        so that only the tuned weights preserve the clip.
      batch: Number of texts sampled at once; None is all of them.
      on_step: Function called with the number of steps done: of inversion, if
        it is not saved yet, and then of every batch.
      progress: Whether to show a progress bar.

    Returns:
      uint8 [n, F', H, W, 3], an array with `fps`, `save('x.mp4')` and a view
      for notebooks; result[0] is the first edit.

    Raises:
      ValueError: no text, a text that is too long for the encoder, a storyboard
        of another length, or an invalid option.
    """
    if isinstance(prompts, str | Mapping | storyboard_lib.Storyboard):
      prompts = [prompts]
    if not prompts or any(
      isinstance(p, str) and not p.strip() for p in prompts
    ):
      raise ValueError(
        f'the prompts are {prompts}; name at least one text, none of them empty'
      )
    texts = [self._segment_texts(edit) for edit in prompts]
    batch = len(texts) if batch is None else batch
    if not isinstance(batch, int) or batch < 1:
      raise ValueError(f'batch is {batch}; it must be 1 or more')
    sampling_loop.check_options(steps, guidance, seed)
    schedule = backbones.ddim_schedule(self.config, steps)
    scales = guidance_lib.constant(guidance, steps, schedule.timesteps)
    steps_table = samplers.table(
      schedule, scales, samplers.ddim_coefficients(schedule)
    )
    text = self._encode(texts)
    negative_text = None
    if not guidance_lib.is_off(scales):
      negative_text = self._encode([[negative]] * len(texts))
    rounds = -(-len(texts) // batch)
    rounds += inversion and not self.is_inverted(steps)
    out = []
    with progress_lib.Bar('editing', steps * rounds, is_shown=progress) as bar:
      report = step_callback.advance(bar, on_step)
      if inversion:
        noise = self.invert(steps, report)
      else:
        noise = noise_lib.normal(jax.random.key(seed), (1, *self.latents.shape))
      place = lambda x: sampling_loop.place(x, self.params, self._mesh)
      for start in range(0, len(texts), batch):
        # The last text is repeated, so that all batches share one program.
        rows = np.minimum(np.arange(start, start + batch), len(texts) - 1)
        shape = (len(rows), *self.latents.shape)
        latents = sampling_loop.run(
          functools.partial(self._step, self.params),
          # A copy, which the first step may overwrite.
          place(jnp.array(jnp.broadcast_to(noise, shape))),
          steps_table,
          report,
          text=place(text[rows]),
          negative=None
          if negative_text is None
          else place(negative_text[rows]),
        )
        bar.note('decoding')
        count = len(texts[start : start + batch])
        out += [self._video.decode(x) for x in np.asarray(latents)[:count]]
    return video_array.Video(np.stack(out), self.fps)

  def _segment_texts(self, edit: str | Edit) -> list[str]:
    """Returns the texts of an edit: one for all segments, or one for each."""
    if isinstance(edit, str):
      return [edit]
    texts = storyboard_lib.as_storyboard(edit).prompts()
    if len(texts) != self._geometry.segments:
      raise ValueError(
        f'a storyboard of an edit has'
        f' {wording.count(len(texts), "segment")}; the clip has'
        f' {self._geometry.segments}'
      )
    return texts

  def _inversion_file(self, steps: int) -> tuple[epath.Path, np.ndarray]:
    """Returns the file of an inversion and the text that it depends on."""
    text = self._encode([[self.config.inversion_prompt]])
    weights = int(checkpoint_format.fingerprint((self.params, text)))
    return self._folder / f'{weights:08x}_{steps}.npy', text

  def _encode(self, edits: Sequence[Sequence[str]]) -> np.ndarray:
    """Encodes n edits, one text or one per segment each, to [n, S, L, Dt]."""
    flat = [text for texts in edits for text in texts]
    states = iter(self._texts.encode(flat))
    segments = self._geometry.segments
    return np.stack(
      [
        np.broadcast_to(found, (segments, *found.shape[1:]))
        for texts in edits
        for found in [np.stack([next(states) for _ in texts])]
      ]
    )

  def _apply(self, params: Any) -> Callable[..., Any]:
    return functools.partial(self._module.apply, {'params': params})

  def _invert_latents(self, params, latents, text, *, schedule):
    return inversion_lib.invert(
      guidance_lib.guided(self._apply(params), text, None),
      latents,
      schedule,
      np.ones(schedule.steps, np.float32),
      prediction=self._backbone.prediction,
      on_step=self._step_callback,
    )

  def _sampling_step(self, params, x, previous, numbers, text, negative):
    """Takes a step, see `sampling_loop.step`."""
    network = inversion_lib.as_velocity(
      guidance_lib.guided(self._apply(params), text, negative),
      self._backbone.prediction,
      self._backbone.schedule,
    )
    return sampling_loop.step(network, x, previous, numbers, None)


def _read_noise(path: epath.Path) -> np.ndarray | None:
  """Returns the array in a file; None if the file is damaged."""
  try:
    found = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
  except (ValueError, EOFError, MemoryError):
    return None
  is_noise = isinstance(found, np.ndarray) and found.dtype == np.float32
  return found if is_noise and np.isfinite(found).all() else None

"""One tuned video with other words (Tune-A-Video, Wu et al. 2023, section 3).

The clip is inverted to noise with DDIM, which keeps where things are and how
they move, and sampled again with the new text. The backbone is that of the
training run: Stable Diffusion's U-Net or CogVideoX's transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import io
import os
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np

from ttt_jax import backbones
from ttt_jax import sharding
from ttt_jax.checkpoints import checkpoint
from ttt_jax.checkpoints import train_state as state_lib
from ttt_jax.data import single_video
from ttt_jax.data.store import reader as latents_lib
from ttt_jax.diffusion import guidance as guidance_lib
from ttt_jax.diffusion import inversion as inversion_lib
from ttt_jax.diffusion import samplers
from ttt_jax.encoders import text_cache
from ttt_jax.encoders import video_encoder
from ttt_jax.train import experiment as experiment_lib

# Called with the number of steps done, inversion first.
OnStep = Callable[[int], None]


class EditPipeline:
  """Inverts the clip of a training run and samples it with new texts.

  Attributes:
    config: of training.
    params: of the network; may be replaced by others of the same shapes.
    latents: of the clip, float32 [F, h, w, c].
    fps: frames a second.
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
      config: of training, such as configs/tune_a_video.py.
      params: of the network.
      workdir: of the run.
      mesh: of `sharding.make_mesh`; None is the first device.

    Raises:
      FileNotFoundError: no data set, autoencoder or text encoder.
      ValueError: they are not those of the data set.
    """
    if 'video' not in config:
      raise ValueError(
        f'the stage {config.stage} was not tuned on one video; editing needs'
        ' a run of configs/tune_a_video.py or configs/tune_dit.py'
      )
    self.config, self.params = config, params
    self._folder = epath.Path(workdir) / config.stage / 'inverted'
    self._backbone = backbones.of(config)
    self._geometry = backbones.geometry(config)
    dataset = latents_lib.LatentDataset(single_video.folder_of(config, workdir))
    self.latents = dataset[0]['mean']
    self.fps = self._geometry.fps
    self._module = self._backbone.module(sharding.Layout(mesh))
    self._video = single_video.video_encoder(config)
    text_encoder = single_video.text_encoder(config)
    video_encoder.check_identity(
      dataset.manifest.identity(),
      f'the clip in {dataset.folder}',
      vae=self._video,
      text=text_encoder,
    )
    self._texts = text_cache.TextCache(text_encoder)
    self._on_step: OnStep | None = None
    self._invert = jax.jit(self._invert_latents, static_argnames='grid')
    self._sample = jax.jit(self._sample_latents, static_argnames='grid')

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike[str],
    ema: bool = True,
    mesh: jax.sharding.Mesh | None = None,
  ) -> EditPipeline:
    """The pipeline of a tuned stage.

    Args:
      folder: a workdir or a stage folder.
      ema: the averaged weights, where training kept an average.
      mesh: over which the network is split; None is the first device.

    Raises:
      FileNotFoundError: no checkpoint there, or a part is missing.
      ValueError: a run that tuned no video, or parts that are not its own.
    """
    place = mesh and functools.partial(sharding.param_sharding, mesh)
    params, config = checkpoint.load_params(folder, ema, sharding=place)
    return cls(config, params, checkpoint.stage_folder(folder).parent, mesh)

  @classmethod
  def untuned(
    cls,
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    mesh: jax.sharding.Mesh | None = None,
  ) -> EditPipeline:
    """The pipeline as it is before the first step of tuning."""
    experiment = experiment_lib.Experiment(config, workdir)
    place = functools.partial(
      sharding.param_sharding,
      mesh or sharding.make_mesh({}, jax.devices()[:1]),
    )
    params = experiment.init(jax.random.key(config.seed))
    if experiment.source is not None:
      params, _ = state_lib.inherit(params, experiment.load_source(place))
    return cls(config, params, workdir, mesh)

  @property
  def source(self) -> np.ndarray:
    """The clip as the autoencoder keeps it, uint8 [F', H, W, 3]."""
    return self._video.decode(self.latents)

  def is_inverted(self, steps: int = 50) -> bool:
    """Whether `invert` has nothing to compute."""
    return self._inverted(steps)[0].exists()

  def invert(self, steps: int = 50, on_step: OnStep | None = None) -> jax.Array:
    """The noise from which DDIM would sample the clip without guidance.

    Computed once for these weights and this number of steps, and then read
    from the stage folder.

    Args:
      steps: of inversion and of sampling.
      on_step: called with the number of steps done.

    Returns:
      float32 [1, F, h, w, c].
    """
    path, text = self._inverted(steps)
    if path.exists():
      return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    grid = backbones.ddim_grid(self.config, steps)
    noise = self._with_ticks(
      on_step,
      lambda: self._invert(self.params, self.latents[None], text, grid=grid),
    )
    self._folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, np.asarray(noise))
    part = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    part.write_bytes(content.getvalue())
    part.replace(path)
    return noise

  def __call__(
    self,
    prompts: Sequence[str] | str,
    *,
    steps: int = 50,
    guidance: float = 12.5,
    seed: int = 0,
    negative: str = '',
    inversion: bool = True,
    batch: int | None = None,
    on_step: OnStep | None = None,
  ) -> np.ndarray:
    """Edits the clip.

    Args:
      prompts: n texts; one is enough.
      steps: of DDIM, 1 to 1000.
      guidance: strength of the texts; 1 is none.
      seed: of the noise where there is no inversion.
      negative: text that guidance leads away from.
      inversion: begin with the inverted clip; else with noise, which keeps
        nothing of it but what tuning learned.
      batch: texts at once; None is all of them.
      on_step: called with the number of steps done, of inversion, where it is
        not known yet, and then of every batch.

    Returns:
      uint8 [n, F', H, W, 3].

    Raises:
      ValueError: no text, a text too long for the encoder, or an option out
        of range.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts or not all(prompt.strip() for prompt in prompts):
      raise ValueError(
        f'the prompts are {prompts}; name at least one text, none of them empty'
      )
    batch = len(prompts) if batch is None else batch
    if batch < 1:
      raise ValueError(f'batch is {batch}; it must be 1 or more')
    grid = backbones.ddim_grid(self.config, steps)
    scales = guidance_lib.constant(guidance, steps, grid.timesteps)
    text = self._encode(prompts)
    without = None
    if not guidance_lib.is_off(scales):
      without = self._encode([negative] * len(prompts))
    if inversion:
      noise = self.invert(steps, on_step)
    else:
      noise = jax.random.normal(jax.random.key(seed), (1, *self.latents.shape))
    out = []
    for start in range(0, len(prompts), batch):
      # The last texts are repeated: all batches are one program.
      rows = np.minimum(np.arange(start, start + batch), len(prompts) - 1)
      latents = self._with_ticks(
        on_step,
        lambda rows=rows: self._sample(
          self.params,
          noise,
          text[rows],
          None if without is None else without[rows],
          np.asarray(scales, np.float32),
          grid=grid,
        ),
      )
      count = len(prompts[start : start + batch])
      out += [self._video.decode(x) for x in np.asarray(latents)[:count]]
    return np.stack(out)

  def _inverted(self, steps: int) -> tuple[epath.Path, np.ndarray]:
    """The file of an inversion, and the text that it reads."""
    text = self._encode([self.config.inversion_prompt])
    weights = int(checkpoint.fingerprint((self.params, text)))
    return self._folder / f'{weights:08x}_{steps}.npy', text

  def _encode(self, prompts: Sequence[str]) -> np.ndarray:
    """Texts [n] -> [n, S, L, Dt], the same for every segment."""
    states = self._texts.encode(prompts)[:, None]
    return np.repeat(states, self._geometry.segments, axis=1)

  def _with_ticks(self, on_step: OnStep | None, compute: Callable[[], Any]):
    self._on_step = on_step
    try:
      return compute().block_until_ready()
    finally:
      jax.effects_barrier()
      self._on_step = None

  def _tick(self, step: int) -> None:
    # One function for all calls: it is part of the compiled program.
    if self._on_step is not None:
      self._on_step(step + 1)

  def _apply(self, params):
    return functools.partial(self._module.apply, {'params': params})

  def _invert_latents(self, params, latents, text, *, grid):
    return inversion_lib.invert(
      guidance_lib.guided(self._apply(params), text, None),
      latents,
      grid,
      np.ones(grid.steps, np.float32),
      prediction=self._backbone.prediction,
      on_step=self._tick,
    )

  def _sample_latents(self, params, noise, text, negative, scales, *, grid):
    network = inversion_lib.as_velocity(
      guidance_lib.guided(self._apply(params), text, negative),
      self._backbone.prediction,
    )
    noise = jax.numpy.broadcast_to(noise, (len(text), *noise.shape[1:]))
    return samplers.ddim(network, noise, grid, scales, on_step=self._tick)

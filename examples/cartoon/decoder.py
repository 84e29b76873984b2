"""Trains a decoder that draws clean frames from the linear latents.

    python -m examples.cartoon.decoder --autoencoder=DIR --stories=DIR --out=DIR

The autoencoder of `examples.cartoon.linear` leaves grain on flat colours. The
one that is written here has the same encoder, so that models of its latents
stay valid; to the linear map of the decoder a network is added, which is
trained on the videos of `examples.cartoon.dataset`. It sees latents with a
little noise, as samples have. A run that was stopped resumes at its last
checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import pathlib

from absl import flags
from flax import traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from examples.cartoon import render
from examples.cartoon import story as story_lib
from examples.cartoon import world
from examples.vae import clips as clips_lib
from examples.vae import train as vae_train
from examples.vae import training
from examples.vae.clips import Clip
from ttt_jax import convert
from ttt_jax.models.vae.causal3d import CausalVAE
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import progress
from ttt_jax.runtime import schema
from ttt_jax.video import video_file

CONFIG = dict(
  seed=0,
  batch_size=2,
  frames=17,
  # Largest deviation of the noise on the latents, whose own is about 1.
  noise=0.15,
  muon_lr=0.03,
  adam_lr=2e-3,
  warmup=30,
  log_every=50,
)
_NETWORK = dict(
  # The finest level has the most pixels, and takes most of the time.
  block_out_channels=(64, 64, 32),
  layers_per_block=1,
  norm_num_groups=8,
  refine_linear=True,
)
_TEST_STORIES = 6


def make_step(vae: CausalVAE, encoder, tx, noise: float):
  """Returns the jitted training step of a decoder.

  The loss is the absolute error of the pixels.

  Args:
    vae: Autoencoder.
    encoder: Parameters of the encoder, which stay as they are.
    tx: Optimizer.
    noise: Largest standard deviation of the noise on the latents; each clip has
      one from 0 to this.

  Returns:
    A function of the decoder's parameters, optimizer state, frames [B, F, H, W,
    3] in [-1, 1] and a key.
  """

  def loss_fn(decoder, frames, key):
    latents, _ = vae.apply(
      {'params': {'encoder': encoder}}, frames, method='encode'
    )
    deviation_key, noise_key = jax.random.split(key)
    deviations = noise * jax.random.uniform(
      deviation_key, (len(frames), 1, 1, 1, 1)
    )
    latents += deviations * jax.random.normal(noise_key, latents.shape)
    out = vae.apply({'params': {'decoder': decoder}}, latents, method='decode')
    error = out - frames
    return jnp.mean(jnp.abs(error)), jnp.mean(jnp.square(error))

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(decoder, state, frames, key):
    grads, square = jax.grad(loss_fn, has_aux=True)(decoder, frames, key)
    updates, state = tx.update(grads, state, decoder)
    return optax.apply_updates(decoder, updates), state, square

  return step


def train(
  autoencoder: pathlib.Path, clips: Sequence[Clip], out: pathlib.Path, config
) -> float:
  """Trains the decoder, writes the autoencoder, and returns the PSNR in dB.

  Args:
    autoencoder: Folder of an autoencoder of `linear`.
    clips: Stories of training, and those that are held out.
    out: Folder to create; checkpoints are in the folder `<out>_checkpoints`
      beside it.
    config: Values of `CONFIG`, and `steps`.

  Raises:
    FileExistsError: `out` exists.
    ValueError: the autoencoder has no linear map.
  """
  if out.exists():
    raise FileExistsError(
      f'{out} exists and is not replaced; choose another folder'
    )
  linear, loaded = convert.load_vae(autoencoder)
  maps = {
    path: value
    for path, value in traverse_util.flatten_dict(loaded, sep='/').items()
    if '/linear_shortcut/' in path
  }
  if not maps:
    raise ValueError(
      f'{autoencoder} has no linear map; give the folder of an autoencoder of'
      ' examples.cartoon.linear'
    )
  sizes = dataclasses.replace(linear, **_NETWORK)
  params = vae_train.add_network(sizes, maps, jax.random.key(config.seed))
  # The network of the encoder adds zero, and zeros need little space.
  encoder = jax.tree.map(np.zeros_like, params['encoder'])
  encoder |= {
    name: params['encoder'][name] for name in ('linear_shortcut', 'conv_out')
  }
  reconstruct = training.make_reconstruct(CausalVAE(sizes))

  def measure(decoder):
    return vae_train.evaluate(
      reconstruct, dict(encoder=encoder, decoder=decoder), clips, config.frames
    )['mean']

  tx = training.make_optimizer(config)
  unrolled = CausalVAE(sizes, unroll=True)
  decoder = vae_train.fit(
    config,
    params['decoder'],
    tx,
    make_step(unrolled, encoder, tx, config.noise),
    measure,
    # Latents begin at every fourth frame.
    lambda rng: clips_lib.windows(
      clips, config.batch_size, config.frames, 0.0, rng, stride=4
    ),
    out.with_name(f'{out.name}_checkpoints'),
  )
  with files.atomic_folder(out) as folder:
    convert.save_vae(
      sizes, dict(encoder=encoder, decoder=decoder), folder, dtype=np.float16
    )
  return measure(decoder)


def read_clips(stories: pathlib.Path, most: int) -> list[Clip]:
  """Returns videos of a data set, and drawn test stories that are held out.

  Raises:
    FileNotFoundError: the folder is not a data set.
    ValueError: it contains no video.
  """
  settings = files.read_json(stories / 'dataset.json')
  found = sorted((stories / 'videos').glob('*.mp4'))[:most]
  if not found:
    raise ValueError(
      f'{stories / "videos"} has no videos; draw some with'
      ' examples.cartoon.dataset'
    )
  size = dict(height=settings['height'], width=settings['width'])
  clips = [
    Clip(
      path.stem,
      video_file.read_video(path, fps=settings['fps'], soften=False, **size),
      (),
    )
    for path in progress.track(found, 'read stories')
  ]
  choices = schema.convert(
    settings['settings'], world.Settings, f'{stories}/dataset.json'
  )
  for seed in range(_TEST_STORIES):
    story = world.draw_story(seed, settings['segments'], choices, 'test')
    step = story_lib.FPS // settings['fps']
    frames = render.frames(story, **size, step=step)
    clips.append(Clip(story.name, frames, ((0, len(frames)),)))
  return clips


def _define_flags() -> None:
  for name, text in (
    ('autoencoder', 'Folder of the linear autoencoder.'),
    ('stories', 'Folder of the data set of stories.'),
    ('out', 'Folder to create.'),
  ):
    flags.DEFINE_string(name, None, text, required=True)
  cli.define('steps', 1500, 'Training steps.', schema.PositiveInt)
  cli.define('most', 800, 'Stories to read at most.', schema.PositiveInt)


def main(argv: Sequence[str]) -> None:
  """Writes the autoencoder of the flags."""
  del argv
  values = flags.FLAGS
  out = paths.require_local(values.out, '--out')
  files.check_writable(out, folder=True)
  config = ml_collections.ConfigDict(CONFIG | dict(steps=values.steps))
  clips = read_clips(pathlib.Path(values.stories), values.most)
  psnr = train(pathlib.Path(values.autoencoder), clips, out, config)
  print(f'wrote {out}, {psnr:.1f} dB on unseen stories')


if __name__ == '__main__':
  _define_flags()
  cli.run(main)

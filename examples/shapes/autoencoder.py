"""Trains the small image autoencoder of the world of shapes.

64 x 64 pixels become 16 x 16 x 4 latents with mean 0 and standard deviation 1
per channel. The 1x1 convolutions before and after the latents contain the
normalization.
"""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
from typing import Any

import jax
import numpy as np

from examples.shapes import world
from examples.vae import training
from ttt_jax import convert
from ttt_jax.models.vae import kl

_HELD_OUT = 256  # pictures
_MEASURED = 512  # pictures, for the statistics of the latents
# Initial noise of exp(-6 / 2) = 0.05 standard deviations of the latents.
_FIRST_LOGVAR = -6.0


def pictures(count: int, seed: int, max_objects: int = 1) -> np.ndarray:
  """Draws random scenes, float32 [count, 1, 64, 64, 3] in [-1, 1].

  Args:
    count: Number of pictures.
    seed: Seed of the scenes.
    max_objects: Maximum number of objects per picture; the minimum is 1.
  """
  rng = np.random.default_rng(seed)
  frames = []
  for _ in range(count):
    objects = rng.integers(1, max_objects + 1)
    scenes = [world.random_scene(rng) for _ in range(objects)]
    frames.append(world.render(*scenes))
  return np.stack(frames)[:, None] / np.float32(127.5) - 1


def unit_latents(params: Mapping, latents: np.ndarray) -> dict[str, Any]:
  """Returns parameters whose latents have mean 0 and deviation 1 per channel.

  Args:
    params: Parameters of a `KLVAE` with scaling_factor 1.
    latents: Mean latents of many pictures, [..., c].
  """
  latents = latents.reshape(-1, latents.shape[-1])
  shift, scale = latents.mean(0), latents.std(0)
  out = dict(params)
  # As many log-variances follow the means.
  factor = np.concatenate([1 / scale, np.ones_like(scale)])
  offset = np.concatenate([-shift / scale, -2 * np.log(scale)])
  out['quant'] = {
    'kernel': params['quant']['kernel'] * factor,
    'bias': params['quant']['bias'] * factor + offset,
  }
  kernel = params['post_quant']['kernel']
  out['post_quant'] = {
    'kernel': kernel * scale[:, None],
    'bias': params['post_quant']['bias'] + shift @ kernel,
  }
  return out


def train(config, folder: pathlib.Path) -> float:
  """Trains, writes `folder` in diffusers' layout, and returns the PSNR.

  Args:
    config: Config with `vae` (fields of `KLVAEConfig`), `pictures`, `objects`
      (maximum per picture), `steps`, `batch_size`, `log_every`, `kl`,
      `muon_lr`, `adam_lr`, `warmup` and `seed`.
    folder: Folder of the autoencoder, to be created.

  Returns:
    PSNR on held-out pictures in dB.
  """
  vae = kl.KLVAE(
    kl.KLVAEConfig(
      **config.vae,
      scaling_factor=1.0,
      sample_size=world.SIZE,
    )
  )
  key = jax.random.key(config.seed)
  params = jax.jit(kl.init_params, static_argnums=0)(vae.config, key)
  channels = vae.config.latent_channels
  bias = params['quant']['bias']
  params['quant']['bias'] = bias.at[channels:].set(_FIRST_LOGVAR)
  tx = training.make_optimizer(config)
  state = jax.jit(tx.init)(params)
  step_fn = training.make_step(vae, tx, config.kl)
  # Edges are hard to learn, so most pictures have many.
  seen = pictures(config.pictures, config.seed, config.objects)
  rng = np.random.default_rng(config.seed)
  for step in range(1, config.steps + 1):
    batch = seen[rng.integers(len(seen), size=config.batch_size)]
    params, state, square = step_fn(
      params, state, batch, jax.random.fold_in(key, step)
    )
    if step % config.log_every == 0:  # in [-1, 1]: a range of 2
      seen_db = training.psnr([float(square) / 4])
      print(f'autoencoder, step {step}: {seen_db:.1f} dB', flush=True)
  params = jax.device_get(params)
  encode = jax.jit(lambda p, x: vae.apply({'params': p}, x, method='encode')[0])
  sample = pictures(_MEASURED, config.seed + 2)
  latents = [encode(params, part) for part in np.split(sample, 16)]
  params = unit_latents(params, np.concatenate(latents))
  convert.save_kl_vae(vae.config, params, folder, dtype=np.float16)
  _, params = convert.load_kl_vae(folder)
  reconstruct = training.make_reconstruct(vae)
  squares = []
  for part in np.split(pictures(_HELD_OUT, config.seed + 1), 8):
    out = np.clip(reconstruct(params, part), -1, 1)
    squares += list(np.square((out - part) / 2).mean((1, 2, 3, 4)))
  return training.psnr(squares)

"""Trains the small image autoencoder of the world of shapes.

64 x 64 pixels become 16 x 16 x 4 latents with mean 0 and standard deviation 1
a channel: what it takes to get there is part of the convolutions of one pixel
at the two ends of the latents.
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
_MEASURED = 512  # pictures, for the units of the latents
# exp(-6 / 2) = 0.05 latent standard deviations of noise to start with.
_FIRST_LOGVAR = -6.0


def pictures(count: int, seed: int, most: int = 1) -> np.ndarray:
  """Frames of random scenes, float32 [count, 1, 64, 64, 3] in [-1, 1].

  Args:
    count: of the pictures.
    seed: of the scenes.
    most: objects of a picture; each has 1 to that many.
  """
  rng = np.random.default_rng(seed)
  frames = []
  for _ in range(count):
    objects = rng.integers(1, most + 1)
    scenes = [world.random_scene(rng) for _ in range(objects)]
    frames.append(world.render(*scenes))
  return np.stack(frames)[:, None] / np.float32(127.5) - 1


def unit_latents(params: Mapping, latents: np.ndarray) -> dict[str, Any]:
  """Parameters of the same autoencoder whose latents are 0 +- 1 a channel.

  Args:
    params: of a `KLVAE` with scaling_factor 1.
    latents: means of many pictures, [..., c].
  """
  latents = latents.reshape(-1, latents.shape[-1])
  shift, scale = latents.mean(0), latents.std(0)
  out = dict(params)
  # Behind the means come as many log-variances.
  both = np.concatenate([1 / scale, np.ones_like(scale)])
  more = np.concatenate([-shift / scale, -2 * np.log(scale)])
  out['quant'] = {
    'kernel': params['quant']['kernel'] * both,
    'bias': params['quant']['bias'] * both + more,
  }
  kernel = params['post_quant']['kernel']
  out['post_quant'] = {
    'kernel': kernel * scale[:, None],
    'bias': params['post_quant']['bias'] + shift @ kernel,
  }
  return out


def train(config, folder: pathlib.Path) -> float:
  """Trains, writes `folder` in diffusers' layout, returns held-out dB.

  Args:
    config: `vae` (fields of `KLVAEConfig`), `pictures`, `objects` (the most
      of a picture), `steps`, `batch_size`, `log_every`, `kl`, `muon_lr`,
      `adam_lr`, `warmup`, `seed`.
    folder: of the autoencoder, new.
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
  # What is hard to learn are edges: most pictures have many.
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
  usual = pictures(_MEASURED, config.seed + 2)
  latents = [encode(params, part) for part in np.split(usual, 16)]
  params = unit_latents(params, np.concatenate(latents))
  convert.save_kl_vae(vae.config, params, folder, dtype=np.float16)
  _, shipped = convert.load_kl_vae(folder)
  rebuild = training.make_rebuild(vae)
  squares = []
  for part in np.split(pictures(_HELD_OUT, config.seed + 1), 8):
    out = np.clip(rebuild(shipped, part), -1, 1)
    squares += list(np.square((out - part) / 2).mean((1, 2, 3, 4)))
  return training.psnr(squares)

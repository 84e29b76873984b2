"""Trains a small video autoencoder on a few clips.

    python -m examples.vae.train --config=configs/quickstart_vae.py \\
        --workdir=DIR

Writes DIR/vae in diffusers' layout (float16 weights) and DIR/report.json with
the PSNR on held-out frames. Training starts from a principal component analysis
of 4x8x8 blocks of pixels; the network learns the residual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
import pathlib
import time
from typing import Any

from absl import flags
from flax import traverse_util
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np
import optax
import orbax.checkpoint as ocp

from examples.vae import clips as clips_lib
from examples.vae import training
from examples.vae.clips import Clip
from ttt_jax import convert
from ttt_jax.models.vae import causal3d
from ttt_jax.models.vae import coder
from ttt_jax.models.vae.causal3d import CausalVAE
from ttt_jax.models.vae.causal3d import CausalVAEConfig
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import progress

# Initial noise of exp(-6 / 2) = 0.05 standard deviations of the latents.
_FIRST_LOGVAR = -6.0
# Of a principal component analysis, which keeps all blocks in memory.
_MOST_CLIPS = 96
# Of a principal component, summed over the pixels of a block.
_LEAST_VARIANCE = 1e-3


def principal_maps(
  clips: Sequence[Clip], config: CausalVAEConfig
) -> dict[str, np.ndarray]:
  """Returns linear maps between pixel blocks and whitened components."""
  blocks = []
  time_ratio = config.temporal_compression_ratio
  for clip in clips[:_MOST_CLIPS]:
    for begin, end in clip.ranges():
      for offset in range(min(time_ratio, end - begin)):
        part = clips_lib.to_range(clip.frames[begin + offset : end])
        keep = (len(part) - 1) // time_ratio * time_ratio + 1
        out = coder.patchify3d(
          jnp.asarray(part[None, :keep]),
          time_ratio,
          config.spatial_compression,
        )
        blocks.append(np.asarray(out).reshape(-1, out.shape[-1]))
  maps = _components(np.concatenate(blocks), config.latent_channels)
  return {
    f'{side}/linear_shortcut/{name}': value
    for (side, name), value in zip(
      itertools.product(('encoder', 'decoder'), ('kernel', 'bias')), maps
    )
  }


def _components(blocks: np.ndarray, channels: int) -> tuple[np.ndarray, ...]:
  """Returns kernel and bias to whitened components, and those back.

  Args:
    blocks: Samples [n, D]; n may be smaller than D.
    channels: Number of components; those without variance are 0.
  """
  mean = blocks.mean(0)
  centred = blocks - mean
  if len(blocks) < blocks.shape[1]:
    values, left = np.linalg.eigh(centred @ centred.T)
    vectors = centred.T @ left / np.sqrt(np.maximum(values, 1e-9))
    values = values / len(blocks)
  else:
    values, vectors = np.linalg.eigh(centred.T @ centred / len(blocks))
  order = np.argsort(values)[::-1][:channels]
  order = order[values[order] > _LEAST_VARIANCE]
  std = np.sqrt(values[order])
  down = np.zeros((blocks.shape[1], channels), blocks.dtype)
  up = np.zeros((channels, blocks.shape[1]), blocks.dtype)
  down[:, : len(order)] = vectors[:, order] / std
  up[: len(order)] = (vectors[:, order] * std).T
  return down, -mean @ down, up, mean


def init_params(vae: CausalVAE, clips: Sequence[Clip], key) -> dict:
  """Returns initial parameters: the principal maps, and a network of zeros."""
  return add_network(vae.config, principal_maps(clips, vae.config), key)


def add_network(
  config: CausalVAEConfig, maps: Mapping[str, np.ndarray], key: jax.Array
) -> dict:
  """Returns parameters of linear maps, and of a network that adds zero.

  Args:
    config: Config of the autoencoder.
    maps: '/'-joined path -> value of kernels and biases of linear maps.
    key: Random key of the network.
  """
  params = causal3d.init_params(config, key)
  flat = traverse_util.flatten_dict(params, sep='/')
  for path, value in flat.items():
    if path.endswith('conv_y/bias'):  # a spatial norm starts as a plain one
      flat[path] = jnp.ones_like(value)
    elif 'conv_y/' in path or 'conv_b/' in path or 'conv_out/' in path:
      flat[path] = jnp.zeros_like(value)
  channels = config.latent_channels
  bias = flat['encoder/conv_out/bias']
  flat['encoder/conv_out/bias'] = bias.at[channels:].set(_FIRST_LOGVAR)
  for path, value in maps.items():
    flat[path] = jnp.asarray(value, jnp.float32)
  return traverse_util.unflatten_dict(flat, sep='/')


def evaluate(reconstruct, params, clips: Sequence[Clip], frames: int) -> dict:
  """Measures the PSNR of held-out frames in complete windows.

  Args:
    reconstruct: Jitted function (params, frames) -> frames.
    params: Parameters of the autoencoder.
    clips: Clips to measure.
    frames: Number of frames per window.

  Returns:
    PSNR in dB per clip, and their 'mean'.
  """
  report = {}
  for clip in clips:
    if not clip.held_out:
      continue
    squares = []
    for start, inside in clips_lib.held_out_windows(clip, frames):
      window = clip.frames[start : start + frames]
      out = reconstruct(params, clips_lib.to_range(window)[None])
      out = np.round((np.clip(np.asarray(out)[0], -1, 1) + 1) * 127.5)
      error = (out[inside] - window[inside]) / 255
      squares += list((error**2).mean((1, 2, 3)))
    report[clip.name] = training.psnr(squares)
  report['mean'] = float(np.mean(list(report.values())))
  return report


def normalize_latents(vae, params, clips: Sequence[Clip], frames: int):
  """Returns the config whose latents have mean 0, deviation 1 per channel."""
  encode = jax.jit(lambda p, x: vae.apply({'params': p}, x, method='encode'))
  latents = []
  for clip in clips:
    for begin, end in clip.ranges():
      length = min(frames, (end - begin - 1) // 4 * 4 + 1)
      for start in {begin, end - length}:
        window = clips_lib.to_range(clip.frames[start : start + length])[None]
        mean, _ = encode(params, window)
        latents.append(np.asarray(mean).reshape(-1, mean.shape[-1]))
  latents = np.concatenate(latents)
  return dataclasses.replace(
    vae.config,
    shift=tuple(map(float, latents.mean(0))),
    scaling_factor=tuple(map(float, 1 / latents.std(0))),
  )


def fit(
  config,
  params: Any,
  tx: optax.GradientTransformation,
  step_fn: Callable[..., tuple[Any, Any, jax.Array]],
  measure: Callable[[Any], float],
  batch: Callable[[np.random.Generator], np.ndarray],
  folder: pathlib.Path,
) -> Any:
  """Trains, and resumes a run that was stopped at its last checkpoint.

  Args:
    config: Config with `seed`, `steps` and `log_every`.
    params: Initial parameters.
    tx: Optimizer.
    step_fn: Function of parameters, optimizer state, frames and a key that
      returns the next parameters and state, and the mean square error.
    measure: Function that returns the PSNR of held-out frames in dB.
    batch: Function that draws the frames of a step, [B, F, H, W, 3] in [-1, 1].
    folder: Folder of the checkpoints.

  Returns:
    Parameters.
  """
  manager = ocp.CheckpointManager(
    folder.absolute(),
    options=ocp.CheckpointManagerOptions(
      save_interval_steps=config.log_every, max_to_keep=1
    ),
  )
  first = manager.latest_step() or 0
  state = jax.jit(tx.init)(params)
  if first:
    saved = ocp.args.StandardRestore((params, state))
    params, state = manager.restore(first, args=saved)
    print(f'resumes after step {first}', flush=True)
  start_time = time.time()
  squares = []
  steps = range(first, config.steps)
  with manager, progress.Bar('train the autoencoder', len(steps)) as bar:
    for step in steps:
      rng = np.random.default_rng((config.seed, step))
      key = jax.random.fold_in(jax.random.key(config.seed + 1), step)
      params, state, square = step_fn(params, state, batch(rng), key)
      squares.append(square)
      bar.advance()
      if (step + 1) % config.log_every == 0:
        # Pixels have the range [-1, 1].
        train_psnr = training.psnr([float(s) / 4 for s in squares])
        squares.clear()
        print(
          f'step {step + 1}: train {train_psnr:.2f} dB, held out'
          f' {measure(params):.2f} dB, {time.time() - start_time:.0f} s',
          flush=True,
        )
      saved = ocp.args.StandardSave((params, state))
      manager.save(step + 1, args=saved)
  return params


def _fit_autoencoder(config, vae, clips, folder):
  """Trains encoder and decoder on windows of clips."""
  tx = training.make_optimizer(config)
  reconstruct = training.make_reconstruct(vae)
  return fit(
    config,
    init_params(vae, clips, jax.random.key(config.seed)),
    tx,
    training.make_step(CausalVAE(vae.config, unroll=True), tx, config.kl),
    lambda params: evaluate(reconstruct, params, clips, config.eval_frames)[
      'mean'
    ],
    lambda rng: clips_lib.windows(
      clips, config.batch_size, config.frames, config.cuts, rng
    ),
    folder,
  )


def train(config, workdir: str | pathlib.Path, clips: Sequence[Clip]) -> dict:
  """Trains, writes DIR/vae and DIR/report.json, and returns the report.

  A run that was stopped resumes at its last checkpoint.
  """
  workdir = pathlib.Path(workdir)
  start_time = time.time()
  fields = config.vae.to_dict()
  vae = CausalVAE(CausalVAEConfig(**fields, scaling_factor=1.0))
  for name in ('frames', 'eval_frames'):
    if config[name] % vae.config.encode_window != 1:
      raise ValueError(
        f'{name} is {config[name]}; expected complete windows and the first'
        f' frame, for example {2 * vae.config.encode_window + 1}'
      )
  params = _fit_autoencoder(config, vae, clips, workdir / 'checkpoints')
  vae = CausalVAE(normalize_latents(vae, params, clips, config.eval_frames))
  folder = workdir / 'vae'
  convert.save_vae(vae.config, params, folder, dtype=np.float16)
  saved, params = convert.load_vae(folder)
  report = {
    'held_out_psnr_db': evaluate(
      training.make_reconstruct(CausalVAE(saved)),
      params,
      clips,
      config.eval_frames,
    ),
    'seconds': time.time() - start_time,
    'steps': config.steps,
  }
  files.write_json(report, workdir / 'report.json')
  return report


def define_flags() -> None:
  """Defines the flags of a training of an autoencoder."""
  config_flags.DEFINE_config_file('config', None, 'Config of the model.')
  flags.DEFINE_string('workdir', None, 'Folder of the training run.')
  flags.mark_flags_as_required(['config', 'workdir'])


def main(argv: Sequence[str]) -> int:
  """Trains the model of the flags."""
  del argv
  config = flags.FLAGS.config
  workdir = paths.require_local(flags.FLAGS.workdir, '--workdir')
  report = train(config, workdir, clips_lib.read_clips(config))
  for name, value in report['held_out_psnr_db'].items():
    print(f'held-out PSNR {name}: {value:.2f} dB')
  print(f'wrote {workdir / "vae"}')
  return 0


if __name__ == '__main__':
  define_flags()
  cli.run(main)

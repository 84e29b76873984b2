"""Stable Diffusion's autoencoder as an encoder of videos."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import convert
from ttt_jax import json_file
from ttt_jax.data import encoders
from ttt_jax.data import manifest
from ttt_jax.models.vae import kl


class FrameVideoEncoder:
  """`encoders.VideoEncoder` that reads and writes frame by frame.

  Attributes:
    identity: kind and content hash; a compute type other than float32 is part
      of the kind.
    scale: latent scale.
  """

  def __init__(
    self, config: kl.KLVAEConfig, params: Any, *, dtype: str = 'float32'
  ):
    """Args: of the autoencoder; `dtype` of its activations."""
    kind = 'kl' if dtype == 'float32' else f'kl-{dtype}'
    self.identity = manifest.content_identity(kind, config, params)
    self.scale = config.scaling_factor
    self._params = params
    module = kl.KLVAE(config, jnp.dtype(dtype))

    def encode(params, frames):
      x = frames.astype(jnp.float32) / 127.5 - 1
      return module.apply({'params': params}, x, method='encode')

    def decode(params, latents):
      x = module.apply({'params': params}, latents, method='decode')
      return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)

    self._encode, self._decode = jax.jit(encode), jax.jit(decode)

  def encode(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [F, H, W, 3] -> mean, logvar float32 [F, h, w, c]."""
    mean, logvar = jax.device_get(self._encode(self._params, frames[None]))
    return mean[0], logvar[0]

  def decode(self, latents: np.ndarray) -> np.ndarray:
    """float32 [F, h, w, c] in model units -> uint8 [F, H, W, 3]."""
    return np.asarray(self._decode(self._params, latents[None])[0])


def load_video_encoder(
  folder: str | os.PathLike[str], **options: Any
) -> FrameVideoEncoder | encoders.CausalVideoEncoder:
  """The encoder of a folder in diffusers' layout, by what config.json says.

  Args:
    folder: of the autoencoder.
    **options: of the encoder, see `encoders.vae_options`.
  """
  config = json_file.read(pathlib.Path(folder) / 'config.json')
  name = config.get('_class_name') if isinstance(config, dict) else None
  if name == 'AutoencoderKL':
    return FrameVideoEncoder(*convert.load_kl_vae(folder), **options)
  return encoders.CausalVideoEncoder.load(folder, **options)

"""What turns a clip's frames and texts into the arrays that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import convert
from ttt_jax.encoders import identity
from ttt_jax.encoders import load_text as text_encoder
from ttt_jax.models.vae import causal3d
from ttt_jax.models.vae import kl
from ttt_jax.models.vae import stream as vae_stream
from ttt_jax.models.vae import tiling as tiling_lib
from ttt_jax.runtime import json_file


class VideoEncoder(Protocol):
  """Pixels to latents.

  Attributes:
    identity: kind and content hash.
    scale: latent scale (or one a channel), for the record.
  """

  identity: str
  scale: float | Sequence[float]

  def encode(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [F', H, W, 3] -> mean, logvar float32 [F, h, w, c]."""


class CausalVideoEncoder:
  """`VideoEncoder` of the causal 3-D VAE, in constant device memory.

  Attributes:
    identity: kind and content hash; tiles and a compute type other than
      float32, which change the latents, are part of the kind.
    scale: latent scale (or one a channel).
    stream: the autoencoder, which decodes, too.
  """

  def __init__(
    self,
    config: causal3d.CausalVAEConfig,
    params: Any,
    *,
    tiling: tiling_lib.Tiling | None = None,
    dtype: str = 'float32',
    devices: Sequence[jax.Device] | None = None,
  ):
    """Args: see `VAEStream`."""
    kind = 'causal3d'
    if tiling is not None:
      kind += '-' + '-'.join(map(str, dataclasses.astuple(tiling)))
    if dtype != 'float32':
      kind += f'-{dtype}'
    self.identity = identity.content_identity(kind, config, params)
    self.scale = config.scaling_factor
    self.stream = vae_stream.VAEStream(
      config, params, tiling=tiling, dtype=dtype, devices=devices
    )

  @classmethod
  def load(
    cls, folder: str | os.PathLike[str], **options: Any
  ) -> CausalVideoEncoder:
    """From a folder in the diffusers layout, with options of `__init__`."""
    return cls(*convert.load_vae(folder), **options)

  def encode(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [F', H, W, 3] -> mean, logvar float32 [F, h, w, c]."""
    windows = zip(*self.stream.encode(frames[None]))
    mean, logvar = (np.concatenate(parts, axis=1)[0] for parts in windows)
    return mean, logvar

  def decode(self, latents: np.ndarray) -> np.ndarray:
    """float32 [F, h, w, c] in model units -> uint8 [F', H, W, 3]."""
    windows = self.stream.decode_pixels(np.asarray(latents)[None])
    return np.concatenate(list(windows), axis=1)[0]


def vae_options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Options of `CausalVideoEncoder` from config.vae.

  Optional fields: `tiling` (True takes CogVideoX's tiles), `dtype`.
  """
  options = {}
  if config.get('tiling'):
    options['tiling'] = tiling_lib.Tiling()
  if config.get('dtype'):
    options['dtype'] = config['dtype']
  return options


def text_options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Options of `load_text_encoder` from config.text: `dtype`, if there."""
  return {'dtype': config['dtype']} if config.get('dtype') else {}


def check_identity(
  known: Mapping[str, Any],
  where: str,
  *,
  vae: VideoEncoder,
  text: text_encoder.TextEncoder,
) -> None:
  """Raises ValueError unless these encoders made what is known.

  Args:
    known: with 'vae_identity' and 'text_identity', see `manifest.Manifest`.
    where: it comes from, for the message.
    vae: the autoencoder now.
    text: the text encoder now.
  """
  for name, encoder in (('vae', vae), ('text', text)):
    theirs = known[f'{name}_identity']
    if theirs != encoder.identity:
      raise ValueError(
        f'{where} was made with the {name} encoder {theirs}, but'
        f' config.{name}.folder holds {encoder.identity}; restore that folder'
      )


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
    self.identity = identity.content_identity(kind, config, params)
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
) -> FrameVideoEncoder | CausalVideoEncoder:
  """The encoder of a folder in diffusers' layout, by what config.json says.

  Args:
    folder: of the autoencoder.
    **options: of the encoder, see `encoders.vae_options`.
  """
  config = json_file.read(pathlib.Path(folder) / 'config.json')
  name = config.get('_class_name') if isinstance(config, dict) else None
  if name == 'AutoencoderKL':
    return FrameVideoEncoder(*convert.load_kl_vae(folder), **options)
  return CausalVideoEncoder.load(folder, **options)

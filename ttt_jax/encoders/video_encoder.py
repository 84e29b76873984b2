"""Encoders of frames: the autoencoders of CogVideoX and Stable Diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import convert
from ttt_jax.convert import model_folder
from ttt_jax.convert import model_format
from ttt_jax.encoders import identity
from ttt_jax.encoders import load_text as text_encoder
from ttt_jax.models.vae import causal3d
from ttt_jax.models.vae import kl
from ttt_jax.models.vae import stream as vae_stream
from ttt_jax.models.vae import tiling as tiling_lib


class VideoEncoder(Protocol):
  """Converts pixels to latents.

  Attributes:
    identity: Kind and content hash.
    scale: Scale of the latents, or one per channel, for the manifest.
  """

  identity: str
  scale: float | Sequence[float]

  def encode(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and logvar, float32 [F, h, w, c], of uint8 [F', H, W, 3]."""


class CausalVideoEncoder:
  """`VideoEncoder` with the causal 3-D VAE, in constant device memory.

  Attributes:
    identity: Kind and content hash; the kind contains tiles and a compute
      type other than float32, which change the latents.
    scale: Scale of the latents, or one per channel.
    stream: The autoencoder, which also decodes.
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
    """Creates an encoder.

    Args:
      config: Config of the autoencoder.
      params: Parameters of the autoencoder.
      tiling: Spatial tiles that are processed one by one; None is one tile.
      dtype: Type of the activations, 'float32' or 'bfloat16'.
      devices: Devices over which frames are split, see `VAEStream`; None is
        the first one.
    """
    kind = 'causal3d'
    if tiling is not None:
      kind += '-' + '-'.join(map(str, dataclasses.astuple(tiling)))
    if dtype != 'float32':
      kind += f'-{dtype}'
    self.identity = identity.content_identity(kind, config, params)
    self.scale: float | Sequence[float] = config.scaling_factor
    self.stream = vae_stream.VAEStream(
      config,
      params,
      tiling=tiling,
      dtype=jnp.dtype(dtype),
      devices=devices,
    )

  @classmethod
  def load(
    cls, folder: str | os.PathLike[str], **options: Any
  ) -> CausalVideoEncoder:
    """Loads a folder in diffusers' layout, with options of `__init__`."""
    return cls(*convert.load_vae(folder), **options)

  def encode(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and logvar, float32 [F, h, w, c], of uint8 [F', H, W, 3]."""
    parts = zip(*self.stream.encode(frames[None]))
    mean, logvar = (np.concatenate(part, axis=1)[0] for part in parts)
    return mean, logvar

  def decode(self, latents: np.ndarray) -> np.ndarray:
    """Returns uint8 [F', H, W, 3] of float32 [F, h, w, c] in model units."""
    latents = np.asarray(latents)
    # CogVideoX decodes the first latent to a single frame only if their number
    # is odd. Otherwise the first one is decoded twice.
    is_even = len(latents) % 2 == 0
    if is_even:
      latents = np.concatenate([latents[:1], latents])
    windows = self.stream.decode_pixels(latents[None])
    frames = np.concatenate(list(windows), axis=1)[0]
    if is_even:
      ratio = self.stream.config.temporal_compression_ratio
      frames = np.concatenate([frames[:1], frames[1 + ratio :]])
    return frames


class FrameVideoEncoder:
  """`VideoEncoder` with Stable Diffusion's VAE, which has no time axis.

  Attributes:
    identity: Kind and content hash; the kind contains a compute type other
      than float32.
    scale: Scale of the latents.
  """

  def __init__(
    self, config: kl.KLVAEConfig, params: Any, *, dtype: str = 'float32'
  ):
    """Creates an encoder.

    Args:
      config: Config of the autoencoder.
      params: Parameters of the autoencoder.
      dtype: Type of the activations, 'float32' or 'bfloat16'.
    """
    kind = 'kl' if dtype == 'float32' else f'kl-{dtype}'
    self.identity = identity.content_identity(kind, config, params)
    self.scale: float | Sequence[float] = config.scaling_factor
    self._params = params
    module = kl.KLVAE(config, jnp.dtype(dtype))

    def encode(params, frames):
      x = frames.astype(jnp.float32) / 127.5 - 1
      return module.apply({'params': params}, x, method='encode')

    def decode(params, latents):
      x: Any = module.apply({'params': params}, latents, method='decode')
      return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)

    self._encode, self._decode = jax.jit(encode), jax.jit(decode)

  def encode(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and logvar, float32 [F, h, w, c], of uint8 [F, H, W, 3]."""
    mean, logvar = jax.device_get(self._encode(self._params, frames[None]))
    return mean[0], logvar[0]

  def decode(self, latents: np.ndarray) -> np.ndarray:
    """Returns uint8 [F, H, W, 3] of float32 [F, h, w, c] in model units."""
    return np.asarray(self._decode(self._params, latents[None])[0])


def load_video_encoder(
  folder: str | os.PathLike[str], **options: Any
) -> FrameVideoEncoder | CausalVideoEncoder:
  """Loads the autoencoder whose class config.json contains.

  Args:
    folder: Folder of the autoencoder in diffusers' layout, or of a complete
      model with `vae`.
    **options: Options of the encoder, see `vae_options`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: another kind of model, or a damaged file.
  """
  folder = model_folder.find_part(folder, 'vae')
  name = model_format.read_object(folder / 'config.json').get('_class_name')
  if name == 'AutoencoderKL':
    return FrameVideoEncoder(*convert.load_kl_vae(folder), **options)
  return CausalVideoEncoder.load(folder, **options)


def vae_options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the options of `CausalVideoEncoder` in config.vae.

  Optional fields: `tiling` (True selects CogVideoX's tiles), `dtype`.
  """
  options = {}
  if config.get('tiling'):
    options['tiling'] = tiling_lib.Tiling()
  if config.get('dtype'):
    options['dtype'] = config['dtype']
  return options


def text_options(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the options `dtype` and `truncate` of `load_text_encoder`."""
  return {k: config[k] for k in ('dtype', 'truncate') if config.get(k)}


def check_identity(
  known: Mapping[str, Any],
  where: str,
  *,
  vae: VideoEncoder,
  text: text_encoder.TextEncoder,
) -> None:
  """Raises ValueError unless the recorded identities are those of the encoders.

  Args:
    known: Recorded 'vae_identity' and 'text_identity', see
      `manifest.Manifest`.
    where: Origin of the record, for the message.
    vae: Current autoencoder.
    text: Current text encoder.
  """
  for name, encoder in (('vae', vae), ('text', text)):
    theirs = known.get(f'{name}_identity')
    if theirs != encoder.identity:
      raise ValueError(
        f'{where} was made with the {name} encoder {theirs}, but'
        f' config.{name}.folder contains {encoder.identity}; restore that'
        ' folder'
      )

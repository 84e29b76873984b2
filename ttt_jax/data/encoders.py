"""What turns a clip's frames and texts into the arrays that are stored."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import os
import pathlib
from typing import Any, Protocol

import jax
import numpy as np

from ttt_jax import convert
from ttt_jax.data import manifest
from ttt_jax.models.text import encoder as text_encoder
from ttt_jax.models.vae import causal3d
from ttt_jax.models.vae import stream as vae_stream
from ttt_jax.models.vae import tiling as tiling_lib


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
    self.identity = manifest.content_identity(kind, config, params)
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


class TextCache:
  """Embeddings of texts; what is known is not computed again.

  Recent ones are in memory; in a folder are all, under a hash of the text and
  of the encoder's identity. Several processes may use one folder.
  """

  def __init__(
    self,
    encoder: text_encoder.TextEncoder,
    cache_bytes: int = 256 << 20,
    folder: str | os.PathLike[str] | None = None,
  ):
    """Args: the encoder, bytes to keep in memory, folder of files or None."""
    self._encoder = encoder
    self._bytes = cache_bytes
    self._folder = None if folder is None else pathlib.Path(folder)
    self._known: collections.OrderedDict[str, np.ndarray] = (
      collections.OrderedDict()
    )

  def encode(self, prompts: Sequence[str]) -> np.ndarray:
    """float32 [len(prompts), L, Dt]."""
    fresh = [p for p in dict.fromkeys(prompts) if p not in self._known]
    for prompt in fresh:
      if (found := self._read(prompt)) is not None:
        self._known[prompt] = found
    fresh = [p for p in fresh if p not in self._known]
    if fresh:
      for prompt, embedding in zip(fresh, self._encoder.encode(fresh)):
        self._known[prompt] = embedding
        self._write(prompt, embedding)
    for prompt in prompts:
      self._known.move_to_end(prompt)
    out = np.stack([self._known[p] for p in prompts])
    keep = max(1, self._bytes // out[0].nbytes)
    while len(self._known) > keep:
      self._known.popitem(last=False)
    return out

  def _path(self, prompt: str) -> pathlib.Path:
    encoder = self._encoder
    what = f'{encoder.identity}\n{encoder.text_length}\n{prompt}'
    name = hashlib.sha256(what.encode()).hexdigest()[:32]
    return self._folder / name[:2] / f'{name}.npy'

  def _read(self, prompt: str) -> np.ndarray | None:
    """None where there is no file, or only a damaged one."""
    if self._folder is None:
      return None
    try:
      found = np.load(self._path(prompt), allow_pickle=False)
    except (OSError, ValueError, EOFError):
      return None  # A folder that cannot be used fails when it is written.
    shape = self._encoder.text_length, self._encoder.width
    return found if found.shape == shape else None

  def _write(self, prompt: str, embedding: np.ndarray) -> None:
    if self._folder is None:
      return
    path = self._path(prompt)
    # Of this process alone, until it is whole.
    half = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with open(half, 'wb') as file:
        np.save(file, embedding, allow_pickle=False)
      half.replace(path)
    except OSError as e:
      with contextlib.suppress(OSError):
        half.unlink()
      raise manifest.write_error(path, e) from e

"""What turns a clip's frames and texts into the arrays that are stored."""

from __future__ import annotations

import collections
from collections.abc import Sequence
import os
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import convert
from ttt_jax.data import manifest
from ttt_jax.models.text import encoder as text_encoder
from ttt_jax.models.vae import causal3d


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
  """`VideoEncoder` of the causal 3-D VAE, compiled once a shape."""

  def __init__(self, config: causal3d.CausalVAEConfig, params: Any):
    self.identity = manifest.content_identity('causal3d', config, params)
    self.scale = config.scaling_factor
    self._params = jax.device_put(params)
    module = causal3d.CausalVAE(config)

    @jax.jit
    def encode(params, frames):
      frames = frames[None].astype(jnp.float32) / 127.5 - 1
      mean, logvar = module.apply({'params': params}, frames, method='encode')
      return mean[0], logvar[0]

    self._encode = encode

  @classmethod
  def load(cls, folder: str | os.PathLike[str]) -> CausalVideoEncoder:
    """From a folder in the diffusers layout."""
    return cls(*convert.load_vae(folder))

  def encode(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [F', H, W, 3] -> mean, logvar float32 [F, h, w, c]."""
    return jax.device_get(self._encode(self._params, frames))


class TextCache:
  """Embeddings of a clip's prompts; recent ones are not computed again."""

  def __init__(
      self, encoder: text_encoder.TextEncoder, cache_bytes: int = 256 << 20
  ):
    """Args: the encoder, bytes to keep."""
    self._encoder = encoder
    self._bytes = cache_bytes
    self._known: collections.OrderedDict[str, np.ndarray] = (
        collections.OrderedDict()
    )

  def encode(self, prompts: Sequence[str]) -> np.ndarray:
    """float32 [len(prompts), L, Dt]."""
    fresh = [p for p in dict.fromkeys(prompts) if p not in self._known]
    if fresh:
      self._known.update(zip(fresh, self._encoder.encode(fresh)))
    for prompt in prompts:
      self._known.move_to_end(prompt)
    out = np.stack([self._known[p] for p in prompts])
    keep = max(1, self._bytes // out[0].nbytes)
    while len(self._known) > keep:
      self._known.popitem(last=False)
    return out

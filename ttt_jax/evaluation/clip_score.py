"""Frame consistency and text alignment of videos, measured with a CLIP.

The metrics of Tune-A-Video (Wu et al. 2023, arXiv:2212.11565, section 4), times
100 as in its tables. The user provides the CLIP, for example
openai/clip-vit-large-patch14.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

import jax
import numpy as np

from ttt_jax import convert
from ttt_jax.encoders import clip_pixels
from ttt_jax.encoders import clip_tokenizer
from ttt_jax.models import clip

PAIRS = ('all', 'consecutive')
# Frames per call; one shape for all calls compiles once.
_BATCH = 8


class CLIPScore:
  """Computes scores of videos with a CLIP."""

  def __init__(
    self,
    config: clip.CLIPConfig,
    params: dict,
    tokenizer: clip_tokenizer.CLIPTokenizer,
    pixels: clip_pixels.ClipPixels,
  ):
    """Wraps a CLIP; `load` reads one from files."""
    self._tokenizer = dataclasses.replace(
      tokenizer, length=config.text.max_length
    )
    self._pixels = pixels
    self._params = jax.device_put(params)
    module = clip.CLIP(config)
    self._images, self._texts = (
      jax.jit(lambda p, *x, m=m: module.apply({'params': p}, *x, method=m))
      for m in ('images', 'texts')
    )

  @classmethod
  def load(cls, folder: str | os.PathLike[str]) -> CLIPScore:
    """Loads a CLIP in transformers' layout.

    Args:
      folder: Folder of a CLIPModel as transformers writes it, with the files
        of its processor.

    Raises:
      FileNotFoundError: one of the files is missing.
      ValueError: the folder contains another model, or a file is damaged.
    """
    folder = pathlib.Path(folder)
    sizes = convert.clip_model.FORMAT.load_config(folder)
    pixels = clip_pixels.ClipPixels.load(folder)
    tokenizer = clip_tokenizer.find_tokenizer(folder, sizes.text.vocab_size)
    config, params = convert.load_clip_model(folder, dtype=np.float32)
    if pixels.size != config.vision.image_size:
      raise ValueError(
        f'{clip_pixels.CONFIG} in {folder} makes pictures of'
        f' {pixels.size} pixels, but config.json requires'
        f' {config.vision.image_size}: they belong to different models'
      )
    return cls(config, params, tokenizer, pixels)

  def embed(self, frames: np.ndarray) -> np.ndarray:
    """Embeds frames as unit vectors.

    Args:
      frames: Frames, uint8 [F, H, W, 3].

    Returns:
      float32 [F, J].

    Raises:
      ValueError: the frames have another shape or dtype.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
      raise ValueError(
        f'frames are {frames.dtype} {list(frames.shape)}; they must be uint8'
        ' [F, H, W, 3]'
      )
    out = []
    for i in range(0, len(frames), _BATCH):
      pixels = self._pixels(frames[i : i + _BATCH])
      padding = ((0, _BATCH - len(pixels)), *[(0, 0)] * 3)
      vectors = self._images(self._params, np.pad(pixels, padding))
      out.append(np.asarray(vectors)[: len(pixels)])
    return np.concatenate(out)

  def fits(self, text: str) -> bool:
    """Returns whether a text is short enough for `embed_text`."""
    return len(self._tokenizer.tokens(text)) <= self._tokenizer.length

  def embed_text(self, text: str) -> np.ndarray:
    """Returns the unit vector [J] of a text; ValueError if it is too long."""
    ids = self._tokenizer([text])
    end = np.array([len(self._tokenizer.tokens(text)) - 1], np.int32)
    return np.asarray(self._texts(self._params, ids, end))[0]

  def frame_consistency(self, frames: np.ndarray, pairs: str = 'all') -> float:
    """Returns the mean cosine of the embeddings of two frames, times 100.

    Args:
      frames: Frames, uint8 [F, H, W, 3], F at least 2.
      pairs: 'all' pairs of frames, as in the paper, or 'consecutive' pairs, as
        in much later work.

    Raises:
      ValueError: too few frames, or unknown pairs.
    """
    return consistency(self.embed(frames), pairs)

  def text_alignment(self, frames: np.ndarray, prompt: str) -> float:
    """Returns the mean cosine of frames and prompt, times 100.

    Args:
      frames: Frames, uint8 [F, H, W, 3].
      prompt: Text of the edit.

    Raises:
      ValueError: the prompt is too long for the CLIP.
    """
    return alignment(self.embed(frames), self.embed_text(prompt))


def consistency(vectors: np.ndarray, pairs: str = 'all') -> float:
  """Computes `CLIPScore.frame_consistency` of unit vectors [F, J]."""
  if pairs not in PAIRS:
    raise ValueError(f'pairs {pairs!r}; expected one of {", ".join(PAIRS)}')
  if len(vectors) < 2:
    raise ValueError(
      f'{len(vectors)} frame cannot be compared with another; a video has 2'
      ' or more'
    )
  cosines = vectors.astype(np.float64) @ vectors.T
  if pairs == 'all':
    selected = cosines[np.triu_indices(len(vectors), 1)]
  else:
    selected = np.diagonal(cosines, 1)
  return float(100 * selected.mean())


def alignment(vectors: np.ndarray, text: np.ndarray) -> float:
  """Computes `CLIPScore.text_alignment` of unit vectors [F, J] and [J]."""
  return float(100 * (vectors.astype(np.float64) @ text).mean())

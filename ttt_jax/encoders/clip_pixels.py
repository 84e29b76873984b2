"""Preprocessing of pictures for CLIP, as preprocessor_config.json defines."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from ttt_jax.convert import model_format

CONFIG = 'preprocessor_config.json'

# Files that omit an option mean the supported value.
_FIXED = {
  'do_resize': True,
  'do_center_crop': True,
  'do_rescale': True,
  'do_normalize': True,
}


@dataclasses.dataclass(frozen=True)
class ClipPixels:
  """Resizes pictures, crops the center, and normalizes.

  Attributes:
    shortest: Length of the shorter side after resizing.
    size: Side of the cropped square.
    resample: Filter for resizing, a `PIL.Image.Resampling`.
    mean: Mean per channel.
    deviation: Standard deviation per channel.
  """

  shortest: int
  size: int
  resample: int
  mean: tuple[float, ...]
  deviation: tuple[float, ...]

  @classmethod
  def load(cls, folder: str | os.PathLike[str]) -> ClipPixels:
    """Reads preprocessor_config.json in a folder.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: an option is not supported.
    """
    path = pathlib.Path(folder, CONFIG)
    if not path.is_file():
      raise FileNotFoundError(
        f'{folder} has no {CONFIG}, which defines the preprocessing of'
        ' pictures; it is part of the model, copy it, too'
      )
    found = model_format.read_object(path)
    model_format.check_fixed(found, _FIXED, str(path))
    shortest = _side(found.get('size', 224), ['shortest_edge'])
    size = _side(found.get('crop_size', 224), ['height', 'width'])
    resample = found.get('resample', Image.Resampling.BICUBIC)
    mean, deviation = (
      found.get(f'image_{name}', []) for name in ('mean', 'std')
    )
    if (
      shortest is None
      or size is None
      or size > shortest
      or resample not in list(Image.Resampling)
      or not all(_is_color(x) for x in (mean, deviation))
      or min(deviation) <= 0
    ):
      raise ValueError(
        f'{path} is not supported: size must have a shortest_edge, crop_size'
        ' equal height and width of at most that, resample must be a filter'
        ' of PIL, image_mean and image_std three numbers each'
      )
    return cls(shortest, size, resample, tuple(mean), tuple(deviation))

  def __call__(self, frames: np.ndarray) -> np.ndarray:
    """Returns float32 [N, size, size, 3] of uint8 [N, H, W, 3]."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    height, width = (n * self.shortest // short for n in (height, width))
    top, left = (height - self.size) // 2, (width - self.size) // 2
    pixels = np.stack(
      [
        np.asarray(
          Image.fromarray(frame).resize((width, height), self.resample)
        )[top : top + self.size, left : left + self.size]
        for frame in frames
      ]
    )
    mean, deviation = (
      np.asarray(x, np.float32) for x in (self.mean, self.deviation)
    )
    return (pixels.astype(np.float32) / 255 - mean) / deviation


def _side(value: Any, keys: list[str]) -> int | None:
  """Returns the size in a number, or in equal numbers with these names."""
  if isinstance(value, dict):
    numbers = {value.get(key) for key in keys} if set(value) <= {*keys} else {0}
    value = numbers.pop() if len(numbers) == 1 else None
  return value if type(value) is int and value > 0 else None


def _is_color(value: Any) -> bool:
  return (
    isinstance(value, list)
    and len(value) == 3
    and all(isinstance(x, (int, float)) for x in value)
  )

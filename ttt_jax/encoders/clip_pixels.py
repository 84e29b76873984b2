"""Pictures as CLIP reads them, by its preprocessor_config.json."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from ttt_jax.runtime import json_file

CONFIG = 'preprocessor_config.json'

# What only one value of is supported, which is also what a file without it
# means.
_FIXED = {
  'do_resize': True,
  'do_center_crop': True,
  'do_rescale': True,
  'do_normalize': True,
}


@dataclasses.dataclass(frozen=True)
class ClipPixels:
  """Resizes, cuts out the centre, and normalises.

  Attributes:
    shortest: rows or columns after resizing, whichever are fewer.
    size: rows and columns that are cut out.
    resample: filter of the resizing, a number of PIL's.
    mean: of each channel.
    deviation: of each channel.
  """

  shortest: int
  size: int
  resample: int
  mean: tuple[float, ...]
  deviation: tuple[float, ...]

  @classmethod
  def load(cls, folder: str | os.PathLike[str]) -> ClipPixels:
    """Reads the file of a folder.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: something that we do not do.
    """
    path = pathlib.Path(folder, CONFIG)
    if not path.is_file():
      raise FileNotFoundError(
        f'{folder} has no {CONFIG}, which says how CLIP reads pictures; it'
        ' belongs to the model, copy it, too'
      )
    found = json_file.read(path)
    found = found if isinstance(found, dict) else {}
    for key, value in _FIXED.items():
      if found.get(key, value) is not value:
        raise ValueError(
          f'{path} has {key} = {found[key]!r}: only {value!r} is supported'
        )
    shortest = _whole(found.get('size', 224), ['shortest_edge'])
    size = _whole(found.get('crop_size', 224), ['height', 'width'])
    resample = found.get('resample', Image.Resampling.BICUBIC)
    mean, deviation = found.get('image_mean'), found.get('image_std')
    if (
      shortest is None
      or size is None
      or size > shortest
      or resample not in list(Image.Resampling)
      or not all(_is_color(x) for x in (mean, deviation))
      or min(deviation) <= 0
    ):
      raise ValueError(
        f'{path} is not understood: size needs a shortest_edge, crop_size'
        ' equal height and width, at most that, resample a filter of PIL,'
        ' image_mean and image_std three numbers each'
      )
    return cls(shortest, size, resample, tuple(mean), tuple(deviation))

  def __call__(self, frames: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] -> float32 [N, size, size, 3]."""
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
    mean, deviation = (np.float32(x) for x in (self.mean, self.deviation))
    return (pixels.astype(np.float32) / 255 - mean) / deviation


def _whole(value: Any, keys: list[str]) -> int | None:
  """The size that a number, or equal numbers with these names, say."""
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

"""Preprocessing of pictures for CLIP, as its model's files define it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from ttt_jax.convert import model_format
from ttt_jax.runtime import schema

CONFIG = 'preprocessor_config.json'
# The file of transformers 5, in which the same is one of several objects.
_PROCESSOR = 'processor_config.json'

# Files that omit an option mean the supported value.
_FIXED = {
  'do_resize': True,
  'do_center_crop': True,
  'do_rescale': True,
  'do_normalize': True,
}
_Side = schema.PositiveInt | dict[str, schema.PositiveInt]
_Color = tuple[schema.FiniteFloat, schema.FiniteFloat, schema.FiniteFloat]


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
    """Reads preprocessor_config.json or processor_config.json in a folder.

    Raises:
      FileNotFoundError: neither file exists.
      ValueError: an option is not supported.
    """
    path = pathlib.Path(folder, CONFIG)
    if path.is_file():
      found = model_format.read_object(path)
    elif (path := pathlib.Path(folder, _PROCESSOR)).is_file():
      found = model_format.read_object(path).get('image_processor')
      found = schema.convert(
        found, dict[str, Any], f'image_processor in {path}'
      )
    else:
      raise FileNotFoundError(
        f'{folder} has neither {CONFIG} nor {_PROCESSOR}; the model has one of'
        ' them, which defines the preprocessing of pictures: copy it, too'
      )
    model_format.check_fixed(found, _FIXED, str(path))
    where = f'{path}: '
    read = lambda name, kind, default: schema.convert(
      found.get(name, default), kind, where + name
    )
    shortest = _side(read('size', _Side, 224), 'shortest_edge')
    size = _side(read('crop_size', _Side, 224), 'height', 'width')
    resample = read('resample', schema.NonNegativeInt, Image.Resampling.BICUBIC)
    mean, deviation = (
      read('image_mean', _Color, []),
      read('image_std', _Color, []),
    )
    if (
      not 1 <= size <= shortest
      or resample not in list(Image.Resampling)
      or min(deviation) <= 0
    ):
      raise ValueError(
        f'{path} is not supported: size must have a shortest_edge, crop_size'
        ' equal height and width of at most that, resample must be a filter'
        ' of PIL, image_std three numbers above 0'
      )
    return cls(shortest, size, int(resample), mean, deviation)

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


def _side(value: int | dict[str, int], *names: str) -> int:
  """Returns a number, or the one that all names have; 0 if there is none."""
  if isinstance(value, int):
    return value
  numbers = {*value.values()} if {*value} == {*names} else set()
  return numbers.pop() if len(numbers) == 1 else 0

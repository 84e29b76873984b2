"""Resizes one frame to the size that a model needs."""

from __future__ import annotations

import numpy as np
from PIL import Image

_ROTATIONS = (
  Image.Transpose.ROTATE_90,
  Image.Transpose.ROTATE_180,
  Image.Transpose.ROTATE_270,
)


def resize_and_crop(
  pixels: np.ndarray,
  height: int,
  width: int,
  *,
  pixel_aspect: float = 1.0,
  quarter_turns: int = 0,
  soften: bool = False,
) -> np.ndarray:
  """Rotates, resizes until the size is covered, and crops to the centre.

  Args:
    pixels: Frame, uint8 [h, w, 3].
    height: Height of the result.
    width: Width of the result.
    pixel_aspect: Width of a stored pixel divided by its height.
    quarter_turns: Number of counterclockwise quarter turns, 0 to 3.
    soften: Whether to filter the result with (1, 2, 1) / 4 along both axes.

  Returns:
    uint8 [height, width, 3].
  """
  image = Image.fromarray(pixels)
  if quarter_turns:
    image = image.transpose(_ROTATIONS[quarter_turns - 1])
  if quarter_turns % 2:
    pixel_aspect = 1 / pixel_aspect
  # The largest centred box of the required aspect, in stored pixels.
  aspect = width / height / pixel_aspect
  box_width = min(image.width, image.height * aspect)
  box_height = min(image.height, box_width / aspect)
  left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
  image = image.resize(
    (width, height),
    Image.Resampling.LANCZOS,
    box=(left, top, left + box_width, top + box_height),
  )
  out = np.asarray(image)
  return _soften(out) if soften else out


def _soften(pixels: np.ndarray) -> np.ndarray:
  """Filters uint8 [H, W, 3] with (1, 2, 1) / 4 along both axes."""
  out = np.pad(pixels.astype(np.uint16), ((1, 1), (1, 1), (0, 0)), 'edge')
  out = out[:-2] + 2 * out[1:-1] + out[2:]
  out = out[:, :-2] + 2 * out[:, 1:-1] + out[:, 2:]
  return ((out + 8) // 16).astype(np.uint8)

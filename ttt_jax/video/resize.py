"""Resizes and softens one frame."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize_and_crop(
  pixels: np.ndarray,
  height: int,
  width: int,
  *,
  pixel_aspect: float = 1.0,
) -> np.ndarray:
  """Resizes with a Lanczos filter until the size is covered; crops the centre.

  Args:
    pixels: Frame, uint8 or uint16 [h, w, 3].
    height: Height of the result.
    width: Width of the result.
    pixel_aspect: Width of a stored pixel divided by its height.

  Returns:
    [height, width, 3], uint8 for uint8 and float32 for uint16.
  """
  h, w = pixels.shape[:2]
  # The largest centred box of the required aspect, in stored pixels.
  aspect = width / height / pixel_aspect
  box_width = min(w, h * aspect)
  box_height = min(h, box_width / aspect)
  left, top = (w - box_width) / 2, (h - box_height) / 2

  def resize(image):
    return image.resize(
      (width, height),
      Image.Resampling.LANCZOS,
      box=(left, top, left + box_width, top + box_height),
    )

  if pixels.dtype == np.uint8:
    return np.asarray(resize(Image.fromarray(pixels)))
  channels = np.moveaxis(pixels.astype(np.float32), 2, 0)
  return np.stack([resize(Image.fromarray(c)) for c in channels], 2)


def soften(pixels: np.ndarray) -> np.ndarray:
  """Filters uint8 [H, W, 3] with (1, 2, 1) / 4 along both axes."""
  out = np.pad(pixels.astype(np.uint16), ((1, 1), (1, 1), (0, 0)), 'edge')
  out = out[:-2] + 2 * out[1:-1] + out[2:]
  out = out[:, :-2] + 2 * out[:, 1:-1] + out[:, 2:]
  return ((out + 8) // 16).astype(np.uint8)

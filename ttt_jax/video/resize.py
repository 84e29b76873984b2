"""One picture to the size that a model wants."""

from __future__ import annotations

import numpy as np
from PIL import Image

_TURNS = (None, Image.ROTATE_90, Image.ROTATE_180, Image.ROTATE_270)


def fit(
  pixels: np.ndarray,
  height: int,
  width: int,
  *,
  pixel_aspect: float = 1.0,
  quarter_turns: int = 0,
  soften: bool = False,
) -> np.ndarray:
  """Turns, resizes until the size is covered, and cuts out the centre.

  Args:
    pixels: uint8 [h, w, 3].
    height: of the result.
    width: of the result.
    pixel_aspect: width of a stored pixel over its height.
    quarter_turns: counterclockwise, 0 to 3.
    soften: blur the result with (1, 2, 1) / 4 along both axes.

  Returns:
    uint8 [height, width, 3].
  """
  image = Image.fromarray(pixels)
  if quarter_turns:
    image = image.transpose(_TURNS[quarter_turns])
  if quarter_turns % 2:
    pixel_aspect = 1 / pixel_aspect
  # The largest centred box of the wanted shape, in stored pixels.
  shape = width / height / pixel_aspect
  box_width = min(image.width, image.height * shape)
  box_height = min(image.height, box_width / shape)
  left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
  image = image.resize(
    (width, height),
    Image.LANCZOS,
    box=(left, top, left + box_width, top + box_height),
  )
  out = np.asarray(image)
  return _blur(out) if soften else out


def _blur(pixels: np.ndarray) -> np.ndarray:
  """(1, 2, 1) / 4 along both axes of uint8 [H, W, 3]; edges repeat."""
  out = pixels.astype(np.uint16)
  for axis in (0, 1):
    pad = [(1, 1) if a == axis else (0, 0) for a in range(3)]
    p = np.moveaxis(np.pad(out, pad, 'edge'), axis, 0)
    out = np.moveaxis(p[:-2] + 2 * p[1:-1] + p[2:], 0, axis)
  return ((out + 8) // 16).astype(np.uint8)

"""Numbers of single frames that need no trained model.

A frame is reduced to 96x64 pixels, whatever its shape. The feature vector joins
three unit vectors with equal weights, so that the cosine of two frames is the
mean of three similarities:

- colour: the square roots of a histogram of luma and chroma (8x6x6 bins), whose
  cosine is the Bhattacharyya coefficient;
- edges: the same of a histogram of the orientations of edges (8) in 4x4 cells;
- structure: 16x16 means of luma without their mean, whose cosine is about the
  correlation.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

NAME = 'colour, edges and structure of frames of 96x64 pixels, version 1'

HEIGHT, WIDTH = 64, 96
_BINS = (8, 6, 6)
_ORIENTATIONS = 8
_CELLS = 4
_GRID = 16
# So that frames without edges or structure, and codec noise, are alike.
_EDGE_FLOOR = 4.0  # Levels of contrast per pixel.
_STRUCTURE_FLOOR = 4.0  # Levels.
_BLOCKS = 8  # Of the grid of `block_means`.
_BLUR = 11  # Pixels.
_MIN_STEP = 3  # Levels; smaller steps are those of rounding.


def reduce(pixels: np.ndarray) -> np.ndarray:
  """Returns a frame, uint8 [H, W, 3], as YCbCr, uint8 [64, 96, 3]."""
  image = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
  return np.asarray(image.convert('YCbCr'))


def describe(small: np.ndarray) -> np.ndarray:
  """Returns the feature vector of a reduced frame: unit, float32 [J]."""
  small = small.astype(np.float32)
  parts = [_colour(small), _edges(small[..., 0]), _structure(small[..., 0])]
  return np.concatenate([p / np.linalg.norm(p) for p in parts]).astype(
    np.float32
  ) / np.sqrt(len(parts), dtype=np.float32)


def block_means(
  luma: np.ndarray, rows: int = _BLOCKS, columns: int = _BLOCKS
) -> np.ndarray:
  """Returns the means of blocks: [64, 96, ...] -> [rows, columns, ...]."""
  height, width = luma.shape[:2]
  blocks = luma.reshape(
    rows, height // rows, columns, width // columns, *luma.shape[2:]
  )
  return blocks.mean((1, 3))


def sharpness(pixels: np.ndarray) -> float:
  """Measures how sharp a frame is, between 0 (blurred) and 1.

  1 minus the perceptual blur of Crete et al. (2007, 'The blur effect'): the
  share of the differences of adjacent pixels, of 3 levels and more, that a
  strong blur removes. A frame without such a difference has 0.

  Args:
    pixels: Frame in its own size, uint8 [H, W, 3].
  """
  luma = np.asarray(Image.fromarray(pixels).convert('L'), np.float32)
  removed = []
  for axis in (0, 1):
    if luma.shape[axis] <= _BLUR:
      continue
    size = luma.shape[axis] - _BLUR + 1
    total = np.cumsum(luma, axis, dtype=np.float64)
    total = np.concatenate([np.zeros_like(total.take([0], axis)), total], axis)
    window = np.arange(size)
    blurred = total.take(window + _BLUR, axis) - total.take(window, axis)
    sharp = np.abs(np.diff(luma.take(window + _BLUR // 2, axis), axis=axis))
    after = np.abs(np.diff(blurred / _BLUR, axis=axis))
    sharp *= sharp >= _MIN_STEP
    if sharp.sum():
      removed.append(np.maximum(sharp - after, 0).sum() / sharp.sum())
  return float(min(removed, default=0.0))


def _colour(small: np.ndarray) -> np.ndarray:
  """Square roots of a histogram in which a pixel counts for adjacent bins."""
  flat = small.reshape(-1, 3)
  index = np.zeros((1, len(flat)), np.int64)
  weight = np.ones((1, len(flat)), np.float32)
  for channel, bins in enumerate(_BINS):
    place = np.clip(flat[:, channel] / 256 * bins - 0.5, 0, bins - 1)
    low = np.minimum(place.astype(np.int64), bins - 2)
    high_share = place - low
    index = np.concatenate([index * bins + low, index * bins + low + 1])
    weight = np.concatenate([weight * (1 - high_share), weight * high_share])
  return np.sqrt(
    np.bincount(index.ravel(), weight.ravel(), minlength=int(np.prod(_BINS)))
  )


def _edges(luma: np.ndarray) -> np.ndarray:
  dy, dx = np.gradient(luma)
  size = np.hypot(dx, dy)
  place = (np.arctan2(dy, dx) % np.pi) / np.pi * _ORIENTATIONS
  low = place.astype(np.int64)
  share = place - low
  row = np.arange(HEIGHT)[:, None] * _CELLS // HEIGHT
  column = np.arange(WIDTH)[None] * _CELLS // WIDTH
  cell = (row * _CELLS + column) * _ORIENTATIONS
  length = _CELLS**2 * _ORIENTATIONS
  histogram = np.zeros(length + 1)
  for offset, part in ((0, 1 - share), (1, share)):
    index = cell + (low + offset) % _ORIENTATIONS
    histogram[:length] += np.bincount(
      index.ravel(), (size * part).ravel(), minlength=length
    )
  histogram[length] = _EDGE_FLOOR * luma.size / _CELLS**2
  return np.sqrt(histogram)


def _structure(luma: np.ndarray) -> np.ndarray:
  means = block_means(luma, _GRID, _GRID).ravel()
  return np.append(means - means.mean(), _STRUCTURE_FLOOR * _GRID)

"""Nearness of frames to pictures of this world, and steadiness of a video."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from examples.cartoon import pen as pen_lib

_INK = np.array(pen_lib.INK, np.float32).mean() / 255
# Distances of colours: perfect up to the first, worthless from the second.
_NEAR = (0.03, 0.25)
_DARK = (0.12, 0.4)  # the same for the brightness of an outline above ink
_EDGE = 0.08  # least step of brightness that is an edge
PARTS = ('sharpness', 'colours', 'outlines')
# The same for the flicker of still pixels.
_FLICKER = (0.006, 0.06)
_CUT = 0.05  # mean change of all pixels that is a cut,
_SUDDEN = 2.5  # if it is so many times the usual change around it
_STILL = 0.7  # share of the pixels that are still if the camera is


def grade(value, limits: tuple[float, float]):
  """Returns 1 up to the first limit, 0 from the second one on."""
  return np.clip((limits[1] - value) / (limits[1] - limits[0]), 0, 1)


def nearness(frame: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
  """Compares a frame with the nearest picture of the world.

  Nothing depends on displacements of a pixel.

  Args:
    frame: float32 [H, W, 3], 0 to 1.
    drawn: The picture, of the same shape.

  Returns:
    Numbers from 0 to 1: 'sharpness', how far the steps of brightness at the
    edges of the picture are as strong as its own; 'colours', the nearness of
    all pixels to a colour that the picture has within one pixel; 'outlines',
    how dark the frame is at the outlines.
  """
  luma, target = frame.mean(-1), drawn.mean(-1)
  steps, wanted = _steps(luma), _steps(target)
  is_edge = ndimage.maximum_filter(wanted, 3) > _EDGE
  sharpness = 1.0
  if is_edge.any():
    ratio = np.square(steps[is_edge]).mean() / np.square(wanted[is_edge]).mean()
    sharpness = float(min(ratio, 1 / max(ratio, 1e-9)) ** 0.5)
  padded = np.pad(drawn, ((1, 1), (1, 1), (0, 0)), mode='edge')
  h, w = luma.shape
  distance = np.full((h, w), np.inf, np.float32)
  for dy in range(3):
    for dx in range(3):
      other = padded[dy : dy + h, dx : dx + w]
      distance = np.minimum(distance, np.abs(frame - other).max(-1))
  # Of an edge, the colours on both sides are near.
  low = ndimage.minimum_filter(drawn, (3, 3, 1))
  high = ndimage.maximum_filter(drawn, (3, 3, 1))
  outside = np.maximum(low - frame, frame - high).max(-1)
  distance = np.where(is_edge, np.maximum(outside, 0), distance)
  colours = float(grade(distance, _NEAR).mean())
  is_ink = target < _INK + 0.12
  outlines = 1.0
  if is_ink.any():
    darkest = ndimage.minimum_filter(luma, 3)[is_ink]
    outlines = float(grade(darkest - _INK, _DARK).mean())
  return dict(sharpness=sharpness, colours=colours, outlines=outlines)


def _steps(luma: np.ndarray) -> np.ndarray:
  """Returns the steps to the next pixels, [H, W]."""
  dy = np.diff(luma, axis=0, append=luma[-1:])
  dx = np.diff(luma, axis=1, append=luma[:, -1:])
  return np.hypot(dx, dy)


def changes(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Measures cuts and flicker.

  Args:
    frames: float32 [F, H, W, 3], 0 to 1.

  Returns:
    Whether the change to the next frame is a cut, bool [F - 1]; and the flicker
    at every frame, [F], NaN next to a cut: how far a pixel is off the mean of
    the frames before and after, of which 70 % of the pixels are less.
  """
  change = np.array([np.abs(b - a).mean() for a, b in zip(frames, frames[1:])])
  is_cut = change > _CUT
  for i in np.flatnonzero(is_cut):
    # A pan changes as much, but for several frames.
    near = np.delete(change, i)[max(0, i - 4) : i + 4]
    is_cut[i] = not len(near) or change[i] > _SUDDEN * np.median(near)
  flicker = np.full(len(frames), np.nan)
  for i in range(1, len(frames) - 1):
    if is_cut[i - 1] or is_cut[i]:
      continue
    off = np.abs(frames[i] - (frames[i - 1] + frames[i + 1]) / 2).max(-1)
    flicker[i] = np.partition(off.ravel(), int(_STILL * off.size))[
      int(_STILL * off.size)
    ]
  return is_cut, flicker


def steadiness(flicker: np.ndarray) -> float:
  """Returns the mean grade of the flicker of some frames, 0 to 1."""
  values = flicker[~np.isnan(flicker)]
  return float(grade(values, _FLICKER).mean()) if len(values) else 1.0

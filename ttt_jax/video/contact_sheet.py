"""Contact sheets, GIFs and videos side by side."""

from __future__ import annotations

from collections.abc import Sequence
import math
import os

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from ttt_jax.runtime import files

_MAX_COLUMNS = 4  # Videos per row of `side_by_side`.


def segment_frames(frames: np.ndarray, segments: int) -> np.ndarray:
  """Returns the middle frame of every segment: [n, ...] -> [segments, ...]."""
  unit = (len(frames) - 1) // segments
  return frames[1 + unit // 2 :: unit][:segments]


def _num_columns(count: int) -> int:
  """Returns a width near a screen's aspect, with the fewest empty tiles."""
  width = min(count, max(1, math.ceil(math.sqrt(count * 1.5))))
  return min(range(width, min(count, width + 2) + 1), key=lambda c: -count % c)


def write_contact_sheet(
  frames: np.ndarray,
  path: str | os.PathLike[str],
  columns: int | None = None,
  labels: Sequence[str] | None = None,
) -> None:
  """Writes frames side by side as a PNG, completely or not at all.

  Args:
    frames: Frames, uint8 [n, H, W, 3]; small ones are enlarged.
    path: Path of the PNG; replaced if it exists.
    columns: Frames per row; None chooses about the aspect of a screen.
    labels: One line below each frame, cut off at the frame's width.

  Raises:
    ValueError: `labels` has not one label per frame, `columns` is not
      positive, or the file cannot be written.
    FileNotFoundError: the folder does not exist.
  """
  sheet = draw_contact_sheet(frames, columns, labels)
  with files.atomic_write(path) as temporary:
    sheet.save(temporary, 'PNG')


def draw_contact_sheet(
  frames: np.ndarray,
  columns: int | None = None,
  labels: Sequence[str] | None = None,
) -> Image.Image:
  """Returns the picture of `write_contact_sheet`."""
  count, height, width = frames.shape[:3]
  if labels is not None and len(labels) != count:
    raise ValueError(f'there are {len(labels)} labels for {count} frames')
  columns = _num_columns(count) if columns is None else columns
  if columns < 1:
    raise ValueError(f'columns is {columns}; it must be 1 or more')
  scale = max(1, round(192 / width))
  height, width = height * scale, width * scale
  font = ImageFont.load_default(12)
  gap, line = 4, 18 if labels else 0
  rows = math.ceil(count / columns)
  sheet = Image.new(
    'RGB',
    (gap + columns * (width + gap), gap + rows * (height + line + gap)),
    'white',
  )
  draw = ImageDraw.Draw(sheet)
  for i, frame in enumerate(frames):
    row, column = divmod(i, columns)
    x, y = gap + column * (width + gap), gap + row * (height + line + gap)
    tile = Image.fromarray(frame).resize(
      (width, height), Image.Resampling.BICUBIC
    )
    sheet.paste(tile, (x, y))
    if labels:
      text = labels[i]
      while draw.textlength(text, font) > width:
        text = text.rstrip('…')[:-1] + '…'
      draw.text((x, y + height + 2), text, 'black', font)
  return sheet


def write_gif(
  path: str | os.PathLike[str], frames: np.ndarray, fps: float
) -> None:
  """Writes a looping GIF, completely or not at all.

  Args:
    path: Path that ends in .gif; replaced if it exists.
    frames: Frames, uint8 [n, H, W, 3].
    fps: Frames per second; a GIF stores durations in hundredths of a second.

  Raises:
    ValueError: the file cannot be written.
    FileNotFoundError: the folder does not exist.
  """
  first, *rest = [Image.fromarray(frame) for frame in frames]
  with files.atomic_write(path) as temporary:
    first.save(
      temporary,
      'GIF',
      save_all=True,
      append_images=rest,
      duration=round(1000 / fps),
      loop=0,
    )


def side_by_side(source: np.ndarray, edits: np.ndarray) -> np.ndarray:
  """Returns the clip and its edits as one video, in rows of at most four.

  Args:
    source: The clip, uint8 [F, H, W, 3].
    edits: Its edits, uint8 [n, F, H, W, 3].

  Returns:
    uint8 [F, rows * H, columns * W, 3]; empty tiles are white.
  """
  videos = np.concatenate([source[None], edits])
  columns = min(len(videos), _MAX_COLUMNS)
  rows = -(-len(videos) // columns)
  empty = np.full_like(videos[:1], 255)
  videos = np.concatenate([videos] + [empty] * (rows * columns - len(videos)))
  grid = videos.reshape(rows, columns, *source.shape)
  # [rows, columns, F, H, W, 3] -> [F, rows, H, columns, W, 3]
  grid = grid.transpose(2, 0, 3, 1, 4, 5)
  frames, height, width = source.shape[:3]
  return grid.reshape(frames, rows * height, columns * width, 3)

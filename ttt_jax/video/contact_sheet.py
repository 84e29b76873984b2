"""A video at a glance: frames or videos side by side, PNGs and GIFs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
import os
import pathlib

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

_COLUMNS = 4  # of `side_by_side`


def segment_frames(frames: np.ndarray, segments: int) -> np.ndarray:
  """The middle frame of every segment: [n, H, W, 3] -> [segments, H, W, 3]."""
  unit = (len(frames) - 1) // segments
  return frames[1 + unit // 2 :: unit][:segments]


def _columns(count: int) -> int:
  """About as wide as a screen, with the fewest empty places."""
  wide = min(count, max(1, math.ceil(math.sqrt(count * 1.5))))
  return min(range(wide, min(count, wide + 2) + 1), key=lambda c: -count % c)


def contact_sheet(
  frames: np.ndarray,
  path: str | os.PathLike[str],
  columns: int | None = None,
  labels: Sequence[str] | None = None,
) -> None:
  """Writes frames side by side as a PNG, whole or not at all.

  Args:
    frames: uint8 [n, H, W, 3]; small ones are shown larger.
    path: of the PNG; replaced if it exists.
    columns: frames in a row; None makes it about as wide as a screen.
    labels: a line below each frame, cut off at its width.

  Raises:
    ValueError: not one label a frame, no columns, or the file cannot be
      written.
    FileNotFoundError: there is no such folder.
  """
  count, height, width = frames.shape[:3]
  if labels is not None and len(labels) != count:
    raise ValueError(f'there are {len(labels)} labels for {count} frames')
  columns = _columns(count) if columns is None else columns
  if columns < 1:
    raise ValueError(f'columns is {columns}; it must be 1 or more')
  zoom = max(1, round(192 / width))
  height, width = height * zoom, width * zoom
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
    tile = Image.fromarray(frame).resize((width, height), Image.BICUBIC)
    sheet.paste(tile, (x, y))
    if labels:
      text = labels[i]
      while draw.textlength(text, font) > width:
        text = text.rstrip('…')[:-1] + '…'
      draw.text((x, y + height + 2), text, 'black', font)
  _save(path, sheet.save, 'PNG')


def write_gif(
  path: str | os.PathLike[str], frames: np.ndarray, fps: float
) -> None:
  """Writes a GIF that repeats, whole or not at all.

  Args:
    path: ends in .gif; replaced if it exists.
    frames: uint8 [n, H, W, 3].
    fps: frames a second; the format knows hundredths of seconds.

  Raises:
    ValueError: the file cannot be written.
    FileNotFoundError: there is no such folder.
  """
  first, *rest = [Image.fromarray(frame) for frame in frames]
  _save(
    path,
    first.save,
    'GIF',
    save_all=True,
    append_images=rest,
    duration=round(1000 / fps),
    loop=0,
  )


def side_by_side(source: np.ndarray, edits: np.ndarray) -> np.ndarray:
  """The clip and its edits as one video, in rows of at most four.

  Args:
    source: uint8 [F, H, W, 3].
    edits: uint8 [n, F, H, W, 3].

  Returns:
    uint8 [F, rows H, columns W, 3]; places left over are white.
  """
  videos = np.concatenate([source[None], edits])
  columns = min(len(videos), _COLUMNS)
  rows = -(-len(videos) // columns)
  empty = np.full_like(videos[:1], 255)
  videos = np.concatenate([videos] + [empty] * (rows * columns - len(videos)))
  grid = videos.reshape(rows, columns, *source.shape)
  # [rows, columns, F, H, W, 3] -> [F, rows, H, columns, W, 3]
  grid = grid.transpose(2, 0, 3, 1, 4, 5)
  frames, height, width = source.shape[:3]
  return grid.reshape(frames, rows * height, columns * width, 3)


def _save(path, save: Callable[..., None], *args, **options) -> None:
  """Calls `save` on a name of its own, and renames."""
  path = pathlib.Path(path)
  if not path.parent.is_dir():
    raise FileNotFoundError(f'there is no folder {path.parent} for {path.name}')
  part = path.with_name(f'.{path.name}.{os.getpid()}.part')
  try:
    save(part, *args, **options)
    os.replace(part, path)
  except OSError as e:
    raise ValueError(f'{path} could not be written: {e.strerror}') from e
  finally:
    part.unlink(missing_ok=True)

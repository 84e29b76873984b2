"""Videos and pictures inside of a page, up to a number of bytes."""

from __future__ import annotations

import base64
import dataclasses
from fractions import Fraction
import io
import mimetypes
import pathlib
from typing import Any

from etils import epath
import numpy as np
from PIL import Image

from ttt_jax.pages import html
from ttt_jax.video import decode
from ttt_jax.video import picture

tag = html.tag

VIDEOS = ('.mp4', '.webm')
PICTURES = ('.png', '.jpg', '.jpeg', '.gif', '.webp')
_QUALITY = 80  # of JPEG


@dataclasses.dataclass
class Budget:
  """Bytes of media that a page may still embed.

  Attributes:
    left: Number of bytes that are left.
    left_out: Paths of the files that were too large.
  """

  left: int
  left_out: list[str] = dataclasses.field(default_factory=list)

  def take(self, size: int, name: str = '') -> bool:
    """Returns whether `size` bytes fit, and subtracts them.

    Args:
      size: Number of bytes.
      name: Path that `left_out` lists if they do not fit.
    """
    size = size * 4 // 3  # base64
    if size > self.left:
      self.left_out += [name] * bool(name)
      return False
    self.left -= size
    return True


def data_url(content: bytes, kind: str) -> str:
  """Returns a URL that contains its content; `kind` is a media type."""
  return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def jpeg(pixels: np.ndarray, quality: int = _QUALITY) -> bytes:
  """Returns a JPEG of uint8 [H, W, 3]."""
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, 'JPEG', quality=quality)
  return out.getvalue()


def thumbnail(
  path: pathlib.Path, seconds: float = 0.0, height: int = 96
) -> np.ndarray:
  """Returns the frame of a video that is shown at a time, small.

  Args:
    path: Path of a video, or of a folder of pictures, one per second.
    seconds: Time; the last frame stands for times after the end.
    height: Height of the result; its width follows the video's.

  Returns:
    uint8 [height, W, 3].

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a video that can be read.
  """
  begin, found = Fraction(seconds).limit_denominator(1000), None
  frames = picture.progressive(decode.frames(path, begin, Fraction(1)))
  for found in frames:
    if found.end > begin:
      break
  if found is None:
    raise ValueError(f'{path} has no frame that can be decoded')
  rows, columns = picture.displayed_size(found)
  width = max(1, round(columns * height / rows))
  return picture.Converter(path, height, width, soften=False)(found)


def show(
  path: epath.Path, name: str, budget: Budget, caption: Any = None
) -> html.Markup:
  """Returns a figure of a video or picture.

  If the budget is exceeded, it has the first frame and the path instead.

  Args:
    path: Path of the file; its suffix is one of `VIDEOS` or `PICTURES`.
    name: Path to show.
    budget: Bytes that may be embedded.
    caption: Child of `html.tag`, in place of `name`.
  """
  is_video = path.suffix.lower() in VIDEOS
  try:
    size = path.stat().length
    url = None
    if budget.take(size, name):
      kind = mimetypes.types_map.get(path.suffix.lower(), 'video/mp4')
      url = data_url(path.read_bytes(), kind)
  except OSError as e:
    return tag('figure', tag('p', f'{name} cannot be read: {e}'))
  if url and is_video:
    content = tag(
      'video', src=url, controls=True, loop=True, muted=True, playsinline=True
    )
  elif url:
    content = tag('img', src=url, alt=name)
  else:
    content = (
      _still(path, is_video),
      html.join(f'not embedded, it has {size / 2**20:.1f} MiB'),
    )
  return tag('figure', content, tag('figcaption', caption or name))


def _still(path: epath.Path, is_video: bool) -> html.Markup | None:
  try:
    if is_video:
      pixels = thumbnail(pathlib.Path(path))
    else:
      with Image.open(path) as opened:
        opened.thumbnail((320, 320))
        pixels = np.asarray(opened.convert('RGB'))
  except (ValueError, OSError):
    return None
  return tag('img', src=data_url(jpeg(pixels), 'image/jpeg'), alt='first frame')

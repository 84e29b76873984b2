"""Frames as a player shows them: upright, progressive, in the colours of sRGB.

FFmpeg's filters do it, except for the colours of HDR and wide gamuts.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import math
import os
from typing import Any

import av
import av.filter
import numpy as np

from ttt_jax.runtime import files
from ttt_jax.video import decode
from ttt_jax.video import resize

# Codes of ITU-T H.273: matrix, transfer and primaries.
_UNKNOWN = 2
_PQ, _HLG = 16, 18
_BT2020 = 9
_TRANSPOSE = ('transpose', 'cclock_flip')  # (x, y) to (y, x).
_P3 = (11, 12)
# Linear light of wide primaries to that of BT.709 (BT.2087; SMPTE RP 431-2).
_BT2020_TO_BT709 = (
  (1.660491, -0.587641, -0.072850),
  (-0.124550, 1.132900, -0.008349),
  (-0.018151, -0.100579, 1.118730),
)
_P3_TO_BT709 = (
  (1.224940, -0.224940, 0.0),
  (-0.042057, 1.042057, 0.0),
  (-0.019638, -0.078636, 1.098274),
)
_GAMMA = 2.4  # BT.1886.
_WHITE = 203  # cd/m^2 of white paper in HDR (BT.2408).
_KNEE = 0.9  # Values up to here are kept; highlights share the rest.


@dataclasses.dataclass(frozen=True)
class Plan:
  """The conversion of a stored frame to the frame that a player shows.

  Attributes:
    filters: FFmpeg's filters, each a name and its options.
    pixel_aspect: Width of a pixel divided by its height, after the filters.
    transfer: Code of the transfer function of HDR; 0 for SDR.
    to_bt709: Matrix from the primaries to BT.709's; () if they are near.
    matrix: Code of the YUV matrix.
    notes: Short texts for the user.
  """

  filters: tuple[tuple[str, str], ...]
  pixel_aspect: float
  transfer: int
  to_bt709: tuple[tuple[float, ...], ...]
  matrix: int
  notes: tuple[str, ...]


def plan(timed: decode.TimedFrame) -> Plan:
  """Returns the conversion that the metadata of a frame requires."""
  frame, aspect, notes = timed.frame, timed.pixel_aspect, []
  if frame.interlaced_frame:
    notes.append('deinterlaced')
  transfer, primaries = frame.color_trc, frame.color_primaries
  transfer = transfer if transfer in (_PQ, _HLG) else 0
  if transfer:
    name = 'PQ' if transfer == _PQ else 'HLG'
    notes.append(f'tone-mapped from HDR ({name}) to SDR')
  to_bt709: tuple = ()
  if primaries in _P3:
    to_bt709 = _P3_TO_BT709
    notes.append('converted from P3 to BT.709 colours')
  elif primaries == _BT2020 or (transfer and primaries == _UNKNOWN):
    to_bt709 = _BT2020_TO_BT709
    notes.append('converted from BT.2020 to BT.709 colours')
  matrix = frame.colorspace
  if transfer and matrix == _UNKNOWN:
    matrix = _BT2020
  depth = 'rgb48le' if transfer or to_bt709 else 'rgb24'
  filters = [('scale', 'flags=bilinear'), ('format', depth)]
  left, right, top, bottom = timed.crop
  if any(timed.crop):
    filters.append(
      ('crop', f'iw-{left + right}:ih-{top + bottom}:{left}:{top}')
    )
    notes.append('cropped')
  turns, turn_note = _orientation(frame)
  filters += turns
  notes += turn_note
  if aspect != 1:
    notes.append(f'stretched to square pixels from {aspect:.3g}:1')
  if _TRANSPOSE in turns:
    aspect = 1 / aspect
  return Plan(tuple(filters), aspect, transfer, to_bt709, matrix, tuple(notes))


def _orientation(frame) -> tuple[list[tuple[str, str]], list[str]]:
  """Returns filters and notes for the display matrix of a frame."""
  try:
    data = frame.side_data.get('DISPLAYMATRIX')
  except ValueError:  # PyAV does not support every kind of FFmpeg's data.
    angle = math.radians(-frame.rotation)
    a, b = math.cos(angle), math.sin(angle)
    c, d = -b, a
  else:
    if data is None:
      return [], []
    matrix = np.frombuffer(data, np.int32)[:9].reshape(3, 3).astype(float)
    (a, b, _), (c, d, _), _ = matrix.tolist()
  # A stored (x, y) is shown at (a x + c y, b x + d y).
  filters, turned = [], 0
  if abs(b) + abs(c) > abs(a) + abs(d):
    filters, turned = [_TRANSPOSE], 90 if b < 0 else 270
    a, d = c, b
  elif a < 0 and d < 0:
    turned = 180
  filters += [('hflip', '')] * (a < 0) + [('vflip', '')] * (d < 0)
  if len(filters) % 2:
    return filters, ['mirrored' + ' and turned' * (_TRANSPOSE in filters)]
  return filters, [f'turned by {turned} degrees'] * bool(turned)


def displayed_size(timed: decode.TimedFrame) -> tuple[int, int]:
  """Returns height and width at which a player shows a frame."""
  frame, todo = timed.frame, plan(timed)
  left, right, top, bottom = timed.crop
  height, width = frame.height - top - bottom, frame.width - left - right
  if _TRANSPOSE in todo.filters:
    height, width = width, height
  return height, round(width * todo.pixel_aspect)


class Converter:
  """Turns stored frames into pixels.

  Args:
    path: Path of the video, for errors.
    height: Height of the result.
    width: Width of the result.
    soften: Whether to filter with (1, 2, 1) / 4 along both axes.
  """

  def __init__(
    self, path: str | os.PathLike[str], height: int, width: int, soften: bool
  ):
    self._path = path
    self._size = (height, width)
    self._soften = soften
    self._key: Any = None
    self._graph: Any = None

  def __call__(self, timed: decode.TimedFrame) -> np.ndarray:
    """Returns uint8 [height, width, 3].

    Raises:
      ValueError: FFmpeg cannot convert the frame.
    """
    frame, todo = timed.frame, plan(timed)
    frame.colorspace = todo.matrix
    # Filters would convert them, or refuse reserved codes.
    frame.color_trc = frame.color_primaries = _UNKNOWN
    key = (todo.filters, _properties(frame))
    try:
      if key != self._key:
        self._key, self._graph = key, graph(frame, todo.filters)
      self._graph.push(frame)
      pixels = self._graph.pull().to_ndarray()
    except av.FFmpegError as e:
      raise ValueError(
        f'{self._path} has frames that cannot be shown ({frame.format.name},'
        f' matrix {todo.matrix} of H.273): {files.first_line(e)}'
      ) from e
    pixels = resize.resize_and_crop(
      pixels, *self._size, pixel_aspect=todo.pixel_aspect
    )
    if pixels.dtype != np.uint8:
      pixels = to_sdr(pixels / 65535, todo.transfer, todo.to_bt709)
    return resize.soften(pixels) if self._soften else pixels


def _properties(frame) -> str:
  """Returns the options of the filter 'buffer' that accepts a frame."""
  return (
    f'video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}'
    ':time_base=1/1:pixel_aspect=1/1'
    f':colorspace={frame.colorspace}:range={frame.color_range}'
  )


def graph(
  frame: av.VideoFrame, filters: Iterable[tuple[str, str]]
) -> av.filter.Graph:
  """Returns a graph of filters for frames like this one."""
  out = av.filter.Graph()
  nodes = [out.add('buffer', _properties(frame))]
  nodes += [out.add(name, options or None) for name, options in filters]
  out.link_nodes(*nodes, out.add('buffersink')).configure()
  return out


def progressive(
  frames: Iterable[decode.TimedFrame],
) -> Iterator[decode.TimedFrame]:
  """Deinterlaces the frames that are marked as interlaced."""
  pending: collections.deque = collections.deque()
  filters: list[av.filter.Graph] = []
  key = ''

  def push(frame):
    """Yields the frames that are ready; None ends the graph."""
    filters[0].push(frame)
    # Needs more input; has ended.
    with contextlib.suppress(BlockingIOError, EOFError):
      while True:
        frame = filters[0].pull()
        yield pending.popleft()._replace(frame=frame)

  for timed in frames:
    frame = timed.frame
    if filters and key != _properties(frame):
      yield from push(None)
      filters.clear()
    if not filters:
      if not frame.interlaced_frame:
        yield timed
        continue
      key = _properties(frame)
      options = 'mode=send_frame:deint=interlaced'
      filters.append(graph(frame, [('bwdif', options)]))
    pending.append(timed)
    yield from push(frame)
  if filters:
    yield from push(None)


def to_sdr(values: np.ndarray, transfer: int, to_bt709: tuple) -> np.ndarray:
  """Converts wide or HDR colours to those of an SDR screen.

  White paper, 203 cd/m^2 (BT.2408), becomes nearly white; highlights are
  compressed. Absolute light is that of a screen of 1000 cd/m^2 for HLG.

  Args:
    values: Coded values in [0, 1], [..., 3].
    transfer: 16 for PQ, 18 for HLG (both BT.2100), 0 for SDR.
    to_bt709: Matrix of linear light, () for none.

  Returns:
    uint8 [..., 3], BT.709 with BT.1886's gamma.
  """
  values = np.clip(values, 0, 1)
  if transfer == _PQ:
    root = values ** (1 / 78.84375)
    light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    light = light ** (1 / 0.1593017578125) * 10_000 / _WHITE
  elif transfer == _HLG:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(
      values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12
    )
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    light = scene * luminance[..., None] ** 0.2 * 1000 / _WHITE
  else:
    light = values**_GAMMA
  if to_bt709:
    light = light @ np.array(to_bt709).T
  out = np.maximum(light, 0) ** (1 / _GAMMA)
  if transfer:
    above = np.maximum(out - _KNEE, 0) / (1 - _KNEE)
    out = np.minimum(out, _KNEE) + (1 - _KNEE) * above / np.hypot(1, above)
  return np.round(255 * np.clip(out, 0, 1)).astype(np.uint8)

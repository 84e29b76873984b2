"""Tiny videos whose frames contain their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import fractions
import os
from typing import Any

import av
import numpy as np

HEIGHT, WIDTH = 32, 64
_BITS = 8
_OPTIONS: dict[str, dict[str, str]] = {
  'libx264': dict(crf='8', preset='ultrafast', sc_threshold='0', threads='1'),
  'libx265': {'preset': 'ultrafast', 'threads': '1'},
  'libvpx': {'deadline': 'realtime', 'cpu-used': '8', 'crf': '8', 'b': '1M'},
  'mpeg2video': dict(qscale='2', sc_threshold='1000000000'),
  'mpeg4': dict(qscale='2', sc_threshold='1000000000'),
}


def picture(number: int, height: int = HEIGHT, width: int = WIDTH):
  """Returns uint8 [H, W, 3]: the bits of a number as dark and bright bars."""
  bars = [220 if number >> bit & 1 else 32 for bit in range(_BITS)]
  row = np.repeat(np.array(bars, np.uint8), width // _BITS)
  return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def numbers(frames: np.ndarray) -> list[int]:
  """Returns the numbers of frames, uint8 [n, H, W, 3]."""
  bars = frames.reshape(*frames.shape[:2], _BITS, -1, 3)
  bits = bars[:, :, :, 2:-2].mean((1, 3, 4)) > 126
  return (bits @ (1 << np.arange(_BITS))).tolist()


def write(
  path: str | os.PathLike[str],
  frames: int | Iterable[Any] = 24,
  *,
  rate: int | fractions.Fraction = 16,
  codec: str = 'libx264',
  pix_fmt: str = 'yuv420p',
  gop: int = 12,
  bframes: int = 0,
  times: Sequence[int] | None = None,
  seconds_of_sound: float = 0,
  options: dict[str, str] | None = None,
  container_options: dict[str, str] | None = None,
  setup: Callable[[Any], None] | None = None,
):
  """Writes numbered frames, or pictures or `av.VideoFrame`s that are given.

  Args:
    path: Path; its suffix is the container.
    frames: Number of numbered frames, or the frames.
    rate: Frames per second.
    codec: Name of FFmpeg's encoder.
    pix_fmt: Pixel format.
    gop: Frames from one key frame to the next.
    bframes: Consecutive B-frames.
    times: Milliseconds at which the frames show; None follows `rate`.
    seconds_of_sound: Duration of a silent track.
    options: Options of the encoder.
    container_options: Options of the muxer.
    setup: Function that changes the stream before it is encoded.

  Returns:
    `path`.
  """
  if isinstance(frames, int):
    frames = [picture(i) for i in range(frames)]
  frames = [
    frame
    if isinstance(frame, av.VideoFrame)
    else av.VideoFrame.from_ndarray(frame, 'rgb24')
    for frame in frames
  ]
  options = {**_OPTIONS.get(codec, {}), **(options or {})}
  if codec == 'libx264':
    options |= {'bf': str(bframes), 'b_strategy': '0'}
  elif codec == 'libx265':
    options['x265-params'] = (
      f'keyint={gop}:min-keyint={gop}:bframes={bframes}:b-adapt=0:scenecut=0'
      ':open-gop=1:pools=none:frame-threads=1:log-level=none'
    )
  elif bframes:
    options['bf'] = str(bframes)
  with av.open(os.fspath(path), 'w', options=container_options or {}) as out:
    stream = out.add_stream(codec, fractions.Fraction(rate), options=options)
    stream.width, stream.height = frames[0].width, frames[0].height
    stream.pix_fmt = pix_fmt
    if codec in _OPTIONS:
      stream.gop_size = gop
    if setup:
      setup(stream)
    sound = seconds_of_sound and out.add_stream('libopus', 48000)
    for i, frame in enumerate(frames):
      if times is not None:
        frame.time_base, frame.pts = fractions.Fraction(1, 1000), times[i]
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
    for pts in range(0, round(seconds_of_sound * 48000), 960):
      silence = np.zeros((1, 960), np.float32)
      samples = av.AudioFrame.from_ndarray(silence, 'flt', 'mono')
      samples.sample_rate, samples.pts = 48000, pts
      out.mux(sound.encode(samples))
    if sound:
      out.mux(sound.encode())
  return path

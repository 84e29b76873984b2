"""Finds the cuts of a video with PySceneDetect.

The frames and their times are those of `video.decode`, so a cut is where
precompute has it, in seconds from the first frame.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from ttt_jax.video import decode

_WIDTH = 256  # Pixels; cuts show in small frames, too.
DEFAULT_THRESHOLD = 3.0
DEFAULT_SHORTEST = 0.2


@dataclasses.dataclass(frozen=True)
class Cuts:
  """The cuts of a video.

  Attributes:
    seconds: Duration of the video.
    times: Beginning of every scene but the first, in seconds.
  """

  seconds: float
  times: tuple[float, ...]

  def scenes(self) -> list[tuple[float, float]]:
    """Returns start and end of all scenes."""
    edges = [0.0, *self.times, self.seconds]
    return [(a, b) for a, b in zip(edges, edges[1:]) if b > a]


def require() -> Any:
  """Returns the module of detectors; raises ValueError if it is missing."""
  try:
    from scenedetect import detectors
  except ImportError as e:
    reason = ' '.join(str(e).split())  # That of OpenCV has several lines.
    raise ValueError(
      'finding scenes needs PySceneDetect, which is not installed'
      f' ({reason}): pip install "ttt_jax[annotate]"'
    ) from e
  return detectors


def find(
  path: pathlib.Path,
  *,
  threshold: float = DEFAULT_THRESHOLD,
  shortest: float = DEFAULT_SHORTEST,
  on_time: Callable[[float], None] | None = None,
) -> Cuts:
  """Finds the cuts of a video, in one pass over its frames.

  A cut is a frame that differs from the previous one `threshold` times as much
  as its neighbours do (`AdaptiveDetector`), so that a moving camera is none.

  Args:
    path: Path of the video.
    threshold: Ratio from which a difference is a cut.
    shortest: Seconds after a cut in which no other is found.
    on_time: Called with the seconds that were read, about once a second.

  Raises:
    FileNotFoundError: the video does not exist.
    ValueError: it cannot be read, or PySceneDetect is not installed.
  """
  detectors = require()
  from scenedetect import FrameTimecode

  # Frames have times of their own; the detector only counts them.
  detector = detectors.AdaptiveDetector(
    adaptive_threshold=threshold, min_scene_len=1
  )
  times: list[float] = []
  found: list[int] = []
  end = said = 0.0
  for number, timed in enumerate(decode.frames(path)):
    frame = timed.frame
    height = max(2, round(frame.height * _WIDTH / frame.width))
    small = frame.reformat(
      width=_WIDTH, height=height, format='bgr24', interpolation='AREA'
    )
    times.append(float(timed.time))
    end = float(timed.end)
    code = FrameTimecode(number, fps=25.0)
    found += [
      c.frame_num for c in detector.process_frame(code, small.to_ndarray())
    ]
    if on_time and end - said >= 1:
      said = end
      on_time(end)
  if not times:
    raise ValueError(f'{path} has no frame that can be decoded')
  kept: list[float] = []
  for index in found:
    if times[index] - (kept[-1] if kept else 0.0) >= shortest:
      kept.append(times[index])
  return Cuts(end, tuple(kept))

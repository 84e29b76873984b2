"""Measurements of any video, from its frames alone.

`measure` returns a JSON value per video; docs/evaluation.md defines each
number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
import re
from typing import Any

import numpy as np

from ttt_jax import storyboard as storyboard_lib
from ttt_jax.evaluation import distance_curve
from ttt_jax.evaluation import frame_features
from ttt_jax.evaluation import video_events
from ttt_jax.evaluation import video_frames
from ttt_jax.runtime import files
from ttt_jax.runtime import wording
from ttt_jax.video import decode
from ttt_jax.video import video_file

FORMAT = 'ttt_jax evaluation'
VERSION = 1
SEGMENT = storyboard_lib.SEGMENT_SECONDS
_FEATURES_FPS = 30  # At most.
_MOST_STRETCHES = 20

# name -> (title, definition)
SCORES = {
  'similarity_near': ('similarity at 1/8 s', 'of frames 1/8 s apart'),
  'similarity_second': ('similarity at 1 s', 'of frames 1 s apart'),
  'similarity_far': (
    'similarity far apart',
    'mean over distances of a third of the duration and more',
  ),
  'drift': ('drift', 'similarity at 1 s minus that far apart'),
  'change': ('motion', 'mean change from frame to frame without cuts, levels'),
  'jumps': (
    'jumps at borders',
    'mean rank of the change at a border of segments among all others; 0.5'
    ' means as everywhere',
  ),
  'jumps_in_scene': (
    'jumps inside of scenes',
    'the same of borders at which the scene goes on',
  ),
  'jumps_between_scenes': (
    'jumps between scenes',
    'the same of borders at which the scene changes',
  ),
  'cuts_per_minute': (
    'cuts per minute',
    'changes of 8 levels and more, five times those around',
  ),
  'flicker': ('flicker', 'of the brightness of the frame, levels'),
  'local_flicker': ('local flicker', 'of the brightness of 8x8 blocks, levels'),
  'sharpness': ('sharpness', '0 is blurred, 1 is sharp'),
  'sharpness_lost': (
    'loss of sharpness',
    'mean of the first third of the video minus that of the last third',
  ),
  'duplicates': ('duplicate frames', 'share that repeat the previous frame'),
  'frozen': ('frozen', 'share of the time without any change for 1/2 s'),
  'repeated': ('repeated', 'share of the time that was shown before'),
  'clip_similarity_near': ('CLIP similarity at 1/8 s', 'of frames 1/8 s apart'),
  'clip_similarity_second': ('CLIP similarity at 1 s', 'of frames 1 s apart'),
  'clip_similarity_far': (
    'CLIP similarity far apart',
    'mean over distances of a third of the duration and more',
  ),
  'clip_drift': ('CLIP drift', 'CLIP similarity at 1 s minus that far apart'),
  'clip_text': ('CLIP text score', '100 times the cosine of frames and text'),
  'clip_text_right': (
    'own text nearest',
    'share of segments whose own text fits best of all texts of the story',
  ),
}


def measure(
  path: str | os.PathLike[str],
  storyboard: storyboard_lib.Storyboard | None = None,
  clip: Any = None,
) -> tuple[dict[str, Any], list[np.ndarray]]:
  """Measures a video.

  Args:
    path: Path of a video file.
    storyboard: Its storyboard; None takes the texts that the file stores.
    clip: `clip_score.CLIPScore`, or None.

  Returns:
    JSON value of the video, and small pictures of its segments.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a video, is damaged, or has another duration than the
      storyboard.
  """
  settings, texts, scenes = describe(path, storyboard)
  frames = video_frames.read(path, clip)
  found = analyze(frames, texts, scenes, clip)
  return (
    dict(video=os.fspath(path), settings=settings) | found,
    frames.thumbnails,
  )


def describe(
  path: str | os.PathLike[str],
  storyboard: storyboard_lib.Storyboard | None = None,
) -> tuple[dict[str, Any], list[str], list[Any]]:
  """Reads the properties of a file, and checks that the storyboard fits.

  The settings of its making are those that `video_file.write_video` stored, or
  the values of a JSON object of the same name next to it.

  Returns:
    Settings of the file and of its making; texts and scenes of the segments,
    [] if they are not known.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a video, or has another duration than the storyboard.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise ValueError(f'{path} is a folder; name a video file')
  info = video_file.probe(path)
  encoding = decode.encoding(path)
  made = video_file.read_settings(path) or _sidecar(path)
  settings = dict(
    width=info.width,
    height=info.height,
    fps=round(info.fps, 3),
    seconds=round(info.seconds, 3),
    frames=info.frames,
    codec=encoding.codec,
    pixel_format=encoding.pixel_format,
    container=encoding.container,
    bytes=path.stat().st_size,
    conversions=list(info.conversions),
    sampling={
      k: v for k, v in made.items() if isinstance(v, str | int | float | bool)
    },
  )
  segments = info.seconds / SEGMENT
  if storyboard is not None:
    wanted = len(storyboard.segments)
    if abs(wanted - segments) > 0.5:
      raise ValueError(
        f'{path} lasts {info.seconds:.1f} s, but its storyboard'
        f' {storyboard.name!r} has {wording.count(wanted, "segment")},'
        f' {storyboard.seconds} s; name the storyboard of this video'
      )
    texts = [segment.text for segment in storyboard.segments]
    scenes: list[Any] = []
    for segment in storyboard.segments:
      goes_on = segment.scene is None and scenes
      scenes.append(scenes[-1] if goes_on else segment.scene)
  else:
    texts, scenes = made.get('texts'), []
    is_list = isinstance(texts, list) and all(isinstance(t, str) for t in texts)
    if not is_list or abs(len(texts) - segments) > 0.5:
      return settings, [], []
  return settings, [storyboard_lib.without_tokens(t) for t in texts], scenes


def analyze(
  frames: video_frames.Frames,
  texts: Sequence[str] = (),
  scenes: Sequence[Any] = (),
  clip: Any = None,
) -> dict[str, Any]:
  """Computes all numbers of a video; a JSON value, see `measure`.

  Args:
    frames: Numbers of its frames.
    texts: Texts of the segments.
    scenes: Labels of the segments' scenes.
    clip: `clip_score.CLIPScore` that embedded the frames.
  """
  times, small, spacing = frames.times, frames.small, frames.spacing
  duration = frames.seconds
  # Our videos have one frame before the first segment.
  has_extra = len(times) % max(2, round(SEGMENT / spacing)) == 1
  offset = spacing * has_extra
  count = len(texts) or max(1, round((duration - offset) / SEGMENT))
  starts = offset + SEGMENT * np.arange(1, count)

  def segment(at: np.ndarray) -> np.ndarray:
    return np.searchsorted(starts, at + 1e-6, 'right')

  change = video_events.changes(small)
  is_cut = video_events.find_cuts(change, times)
  is_same = video_events.repeats_previous(small)
  flicker, local_flicker = video_events.flicker(small, is_cut)
  frozen = video_events.frozen_stretches(small, times, times[0] + duration)
  repeats = video_events.repeated_stretches(small, times)
  borders = video_events.borders(change, times, starts, is_cut)
  for border, i in zip(borders, range(1, count)):
    border['new_scene'] = scenes[i] != scenes[i - 1] if scenes else None
  stride = max(1, round(1 / spacing / _FEATURES_FPS))
  vectors = np.stack([frame_features.describe(x) for x in small[::stride]])
  curves = _curves(vectors, times[::stride], segment, scenes)
  third = len(frames.sharpness) // 3
  sharp_first = frames.sharpness[:third]
  sharp_last = frames.sharpness[len(frames.sharpness) - third :]
  scores = _scores_of_curve(curves['all'], duration) | dict(
    change=_mean(change[~is_cut]),
    jumps=_mean([b['rank'] for b in borders]),
    jumps_in_scene=_mean(
      [b['rank'] for b in borders if b['new_scene'] is False]
    ),
    jumps_between_scenes=_mean([b['rank'] for b in borders if b['new_scene']]),
    cuts_per_minute=60 * is_cut.sum() / duration,
    flicker=_mean(flicker),
    local_flicker=_mean(local_flicker),
    sharpness=_mean(frames.sharpness),
    sharpness_lost=_mean(sharp_first - sharp_last),
    duplicates=_mean(is_same),
    frozen=sum(s['seconds'] for s in frozen) / duration,
    repeated=sum(s['seconds'] for s in repeats) / duration,
  )
  brightness = small[..., 0].mean((1, 2))
  of_frame, of_sharp = segment(times), segment(frames.sharp_times)
  rows = []
  for i in range(count):
    mine = of_frame == i
    inside = mine[1:] & mine[:-1]
    rows.append(
      dict(
        start=0.0 if i == 0 else float(starts[i - 1]),
        text=texts[i] if texts else None,
        scene=scenes[i] if scenes else None,
        change=_mean(change[inside & ~is_cut]),
        brightness=_mean(brightness[mine]),
        flicker=_mean(flicker[mine]),
        sharpness=_mean(frames.sharpness[of_sharp == i]),
        duplicates=_mean(is_same[inside]),
        jump=borders[i - 1]['rank'] if i else None,
      )
    )
  result: dict[str, Any] = dict(
    features=frame_features.NAME,
    scores=scores,
    curves={k: _to_dict(c) for k, c in curves.items()},
    segments=rows,
    borders=borders,
    cuts=times[1:][is_cut],
    frozen=frozen[:_MOST_STRETCHES],
    repeats=repeats[:_MOST_STRETCHES],
    series=dict(
      time=times[1:],
      change=change,
      brightness=brightness[1:],
      sharpness_time=frames.sharp_times,
      sharpness=frames.sharpness,
    ),
  )
  if clip is not None:
    _add_clip(result, frames, clip, texts, scenes, segment)
  result['scores'] = {
    name: scores[name] for name in SCORES if scores.get(name) is not None
  }
  return _rounded(files.to_json_types(result))


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
  """Splits a text at sentences, or at words, into parts that fit."""
  parts: list[str] = []
  for sentence in re.split(r'(?<=[.!?;])\s+', text.strip()):
    pieces = [sentence] if fits(sentence) else sentence.split()
    for piece in pieces:
      if parts and fits(f'{parts[-1]} {piece}'):
        parts[-1] += f' {piece}'
      else:
        parts.append(piece)
  return parts


def summary(
  videos: Sequence[Mapping[str, Any]], seed: int = 0
) -> dict[str, Any]:
  """Returns the mean of every score over videos, and the mean curves.

  Returns:
    'scores': name -> 'mean', and the 95 % interval 'low' and 'high' of a
    bootstrap over videos if there are several; 'curves' and 'clip_curves'.
  """
  rng = np.random.default_rng(seed)
  scores = {}
  for name in SCORES:
    values = [v['scores'][name] for v in videos if name in v['scores']]
    if not values:
      continue
    scores[name] = dict(mean=float(np.mean(values)), videos=len(values))
    if len(values) > 1:
      draws = rng.integers(len(values), size=(1000, len(values)))
      low, high = np.percentile(np.array(values)[draws].mean(1), [2.5, 97.5])
      scores[name] |= dict(low=float(low), high=float(high))
  out: dict[str, Any] = dict(videos=len(videos), scores=scores)
  for kind in ('curves', 'clip_curves'):
    names = dict.fromkeys(n for v in videos for n in v.get(kind, ()))
    out[kind] = {
      name: _to_dict(
        distance_curve.mean(
          [curve_of(v[kind][name]) for v in videos if name in v.get(kind, ())]
        )
      )
      for name in names
    }
  return _rounded(out)


def curve_of(value: Mapping[str, Any]) -> distance_curve.Curve:
  """Returns the curve of its JSON value."""
  return distance_curve.Curve(
    tuple(value['seconds']), tuple(value['similarity']), tuple(value['pairs'])
  )


def _sidecar(path: pathlib.Path) -> dict[str, Any]:
  """Returns the JSON object of the same name next to a video, or {}."""
  file = path.with_suffix('.json')
  try:
    found = files.read_json(file) if file.is_file() else {}
  except ValueError:
    return {}
  if not isinstance(found, dict) or found.get('format') == FORMAT:
    return {}
  inside = found.get('settings')
  return inside if isinstance(inside, dict) else found


def _curves(vectors, times, segment, scenes) -> dict[str, Any]:
  """Returns the curve of all pairs, and of those in one and in two scenes."""
  curves = dict(all=distance_curve.measure(vectors, times))
  labels = list(dict.fromkeys(scenes))
  if len(labels) > 1:
    number = np.array([labels.index(s) for s in scenes])[segment(times)]
    curves['same scene'] = distance_curve.measure(vectors, times, number)
    curves['other scene'] = distance_curve.measure(
      vectors, times, number, is_other=True
    )
  return curves


def _scores_of_curve(curve, duration, prefix: str = '') -> dict[str, Any]:
  second, far = curve.at(1), curve.far(duration)
  is_known = second is not None and far is not None
  return {
    f'{prefix}similarity_near': curve.at(1 / 8),
    f'{prefix}similarity_second': second,
    f'{prefix}similarity_far': far,
    f'{prefix}drift': second - far if is_known else None,
  }


def _add_clip(result, frames, clip, texts, scenes, segment) -> None:
  """Adds the curves and the text scores of a CLIP."""
  vectors, times = frames.clip_vectors, frames.clip_times
  curves = _curves(vectors, times, segment, scenes)
  result['clip_curves'] = {k: _to_dict(c) for k, c in curves.items()}
  scores = result['scores']
  scores |= _scores_of_curve(curves['all'], frames.seconds, 'clip_')
  if not texts:
    return
  distinct = list(dict.fromkeys(texts))
  cosines = 100 * np.stack(
    [(vectors @ embed_long(clip, text).T).mean(1) for text in distinct], 1
  )
  of_frame = segment(times)
  rights = []
  for i, row in enumerate(result['segments']):
    mine = of_frame == i
    if not mine.any():
      continue
    by_text = cosines[mine].mean(0)
    own = distinct.index(texts[i])
    row['clip_text'] = float(by_text[own])
    row['clip_text_rank'] = 1 + int((by_text > by_text[own]).sum())
    rights.append(row['clip_text_rank'] == 1)
  scores['clip_text'] = _mean([r.get('clip_text') for r in result['segments']])
  if len(distinct) > 1:
    scores['clip_text_right'] = _mean(rights)


def embed_long(clip: Any, text: str) -> np.ndarray:
  """Returns the vectors of the parts of a text that fit into a CLIP [n, J]."""
  parts = split_text(text, clip.fits)
  return np.stack([clip.embed_text(part) for part in parts])


def _to_dict(curve: distance_curve.Curve) -> dict[str, Any]:
  return dict(
    seconds=list(curve.seconds),
    similarity=list(curve.similarity),
    pairs=list(curve.pairs),
  )


def _mean(values: Any) -> float | None:
  """Returns the mean of the values that are defined, None without one."""
  values = np.array([np.nan if v is None else v for v in values], np.float64)
  values = values[np.isfinite(values)]
  return float(values.mean()) if len(values) else None


def _rounded(value: Any) -> Any:
  """Returns a JSON value whose numbers have five significant digits."""
  if isinstance(value, dict):
    return {k: _rounded(v) for k, v in value.items()}
  if isinstance(value, list):
    return [_rounded(v) for v in value]
  if isinstance(value, float):
    return float(f'{value:.5g}') if np.isfinite(value) else None
  return value

"""Results of measured videos, and of two of them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Annotated, Any

import msgspec
import numpy as np

from ttt_jax import storyboard as storyboard_lib
from ttt_jax.evaluation import frame_features
from ttt_jax.evaluation import video_frames
from ttt_jax.evaluation import video_report
from ttt_jax.runtime import files
from ttt_jax.runtime import progress
from ttt_jax.runtime import schema


class _Curve(msgspec.Struct):
  seconds: list[schema.PositiveFloat]
  similarity: list[schema.FiniteFloat]
  pairs: list[int]


class _Segment(msgspec.Struct):
  start: float
  change: float | None = None
  flicker: float | None = None
  sharpness: float | None = None
  jump: float | None = None
  clip_text: float | None = None


class _Border(msgspec.Struct):
  time: schema.FiniteFloat


class _Series(msgspec.Struct):
  time: list[schema.FiniteFloat]
  change: list[schema.FiniteFloat]
  brightness: list[schema.FiniteFloat]
  sharpness_time: list[schema.FiniteFloat]
  sharpness: list[schema.FiniteFloat]


class _Settings(msgspec.Struct):
  fps: float
  seconds: float
  height: int
  sampling: dict[str, Any]


class _Video(msgspec.Struct):
  video: schema.Text
  settings: _Settings
  scores: dict[str, schema.FiniteFloat]
  curves: dict[str, _Curve]
  segments: list[_Segment]
  borders: list[_Border]
  series: _Series
  clip_curves: dict[str, _Curve] = {}


class _Mean(msgspec.Struct):
  mean: schema.FiniteFloat


class _Summary(msgspec.Struct):
  scores: dict[str, _Mean]
  curves: dict[str, _Curve]
  clip_curves: dict[str, _Curve] = {}


class _File(msgspec.Struct):
  """The values of a result that a comparison reads."""

  features: str
  videos: Annotated[list[_Video], msgspec.Meta(min_length=1)]
  summary: _Summary
  clip: str | None = None
  clip_fps: int | None = None


@dataclasses.dataclass(frozen=True)
class Result:
  """A JSON value, and the additional contents of its page.

  Attributes:
    value: JSON value that is written.
    pictures: Small pictures of the segments, uint8 [h, w, 3], by the path of
      the video; videos that were measured before have none.
  """

  value: dict[str, Any]
  pictures: dict[str, list[np.ndarray]]


def measure(
  videos: Sequence[str],
  storyboard: str | None = None,
  clip_folder: str | None = None,
) -> Result:
  """Measures videos.

  Args:
    videos: Paths of video files.
    storyboard: File of their storyboards, see `storyboard.select`.
    clip_folder: Folder of a CLIP.

  Raises:
    FileNotFoundError: a file does not exist.
    ValueError: a file cannot be read, or does not fit its storyboard.
  """
  doubled = [v for i, v in enumerate(videos) if v in videos[:i]]
  if doubled:
    raise ValueError(f'{doubled[0]} is named twice; name every video once')
  boards: dict[str, Any] = dict.fromkeys(videos)
  if storyboard:
    boards = storyboard_lib.select(storyboard, videos)
  for path in videos:  # Before long work.
    video_report.describe(path, boards[path])
  clip = None
  if clip_folder:
    from ttt_jax.evaluation import clip_score  # Imports JAX.

    clip = clip_score.CLIPScore.load(clip_folder)
  found, pictures = [], {}
  for path in progress.track(videos, 'measuring'):
    value, pictures[path] = video_report.measure(path, boards[path], clip)
    found.append(value)
  value = dict(
    format=video_report.FORMAT,
    version=video_report.VERSION,
    features=frame_features.NAME,
    clip=pathlib.Path(clip_folder).resolve().name if clip_folder else None,
    clip_fps=video_frames.CLIP_FPS if clip_folder else None,
    storyboard=storyboard,
    summary=video_report.summary(found),
    videos=found,
  )
  return Result(value, pictures)


def compare(
  inputs: Sequence[str],
  storyboard: str | None = None,
  clip_folder: str | None = None,
) -> Result:
  """Puts two videos, or two JSON files of measured videos, side by side.

  Args:
    inputs: Two paths.
    storyboard: As for `measure`.
    clip_folder: As for `measure`.

  Returns:
    'a' and 'b', the names; 'results', those of `measure`; 'differences' of
    their scores; 'notes', sentences on what cannot be compared.

  Raises:
    FileNotFoundError: a file does not exist.
    ValueError: as `measure` and `load`, or there are not two inputs.
  """
  if len(inputs) != 2:
    raise ValueError(
      f'--compare shows two videos or JSON files, not {len(inputs)}; for'
      ' example --compare a.mp4 b.mp4'
    )
  is_json = {path: path.lower().endswith('.json') for path in inputs}
  loaded = {path: load(path) for path in inputs if is_json[path]}
  videos = [path for path in inputs if not is_json[path]]
  fresh = Result({}, {})
  if videos:
    fresh = measure(videos, storyboard, clip_folder)
  found = []
  for path in inputs:
    if is_json[path]:
      found.append(loaded[path])
      continue
    mine = [v for v in fresh.value['videos'] if v['video'] == path]
    found.append(
      fresh.value | dict(videos=mine, summary=video_report.summary(mine))
    )
  a, b = names(inputs)
  value = dict(
    format='ttt_jax comparison',
    version=video_report.VERSION,
    a=a,
    b=b,
    notes=notes({a: found[0], b: found[1]}),
    differences=differences(found[0], found[1]),
    results=found,
  )
  return Result(value, fresh.pictures)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads a result that `evaluate` wrote.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is another kind of file.
  """
  value = files.read_json(path)
  found = value.get('format') if isinstance(value, dict) else None
  if found != video_report.FORMAT:
    raise ValueError(
      f'{path} has the format {found!r}, expected {video_report.FORMAT!r}; name'
      ' a result of ttt-jax evaluate, or a video'
    )
  if value.get('version') != video_report.VERSION:
    raise ValueError(
      f'{path} has the version {value.get("version")!r}, expected'
      f' {video_report.VERSION}; measure its videos again'
    )
  found = schema.convert(value, _File, str(path))
  curves = [*found.summary.curves.values(), *found.summary.clip_curves.values()]
  lists = [(c.seconds, c.similarity, c.pairs) for c in curves]
  for video in found.videos:
    s = video.series
    lists += [(s.time, s.change, s.brightness), (s.sharpness_time, s.sharpness)]
  if any(len({len(x) for x in together}) > 1 for together in lists):
    raise ValueError(
      f'{path} has lists of different lengths; measure its videos again'
    )
  return value


def names(paths: Sequence[str]) -> list[str]:
  """Returns short names of two results that differ."""
  for short in (
    [pathlib.Path(p).stem for p in paths],
    ['/'.join(pathlib.Path(p).parts[-2:]) for p in paths],
    list(paths),
  ):
    if len(set(short)) == len(short):
      return short
  return [f'{paths[0]} (A)', f'{paths[1]} (B)']


def differences(
  a: Mapping[str, Any], b: Mapping[str, Any], seed: int = 0
) -> list[dict[str, Any]]:
  """Compares the scores of two results.

  Returns:
    A row per score that both have: its name 'score', the means 'a' and 'b', the
    'difference' b - a, and, where both have the same two or more stories (files
    with the same names), the 95 % interval 'low' and 'high' of a bootstrap over
    the stories.
  """
  rng = np.random.default_rng(seed)
  first, second = (
    {pathlib.Path(v['video']).stem: v['scores'] for v in r['videos']}
    for r in (a, b)
  )
  is_paired = first.keys() == second.keys()
  rows = []
  for name in video_report.SCORES:
    means = [r['summary']['scores'].get(name) for r in (a, b)]
    if None in means:
      continue
    row = dict(
      score=name,
      a=means[0]['mean'],
      b=means[1]['mean'],
      difference=means[1]['mean'] - means[0]['mean'],
    )
    pairs = [
      second[story][name] - scores[name]
      for story, scores in first.items()
      if is_paired and name in scores and name in second[story]
    ]
    if len(pairs) > 1:
      draws = rng.integers(len(pairs), size=(1000, len(pairs)))
      low, high = np.percentile(np.array(pairs)[draws].mean(1), [2.5, 97.5])
      row |= dict(low=float(low), high=float(high))
    rows.append(row)
  return rows


def notes(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Returns why numbers of two results should not be compared."""
  (name_a, a), (name_b, b) = results.items()
  found = []
  if a['features'] != b['features']:
    found.append(
      'The features differ, so similarities cannot be compared: measure the'
      ' older result again.'
    )
  if a.get('clip') != b.get('clip'):
    found.append(
      f'The CLIPs differ ({a.get("clip")} and {b.get("clip")}), so their scores'
      ' cannot be compared.'
    )
  for key, what in (
    ('fps', 'frames per second'),
    ('seconds', 'seconds'),
    ('height', 'pixels of height'),
  ):
    values = [sorted({v['settings'][key] for v in r['videos']}) for r in (a, b)]
    close = (
      np.allclose(values[0], values[1], rtol=0.01)
      if len(values[0]) == len(values[1])
      else False
    )
    if not close:
      shown = [', '.join(f'{v:g}' for v in vs[:5]) for vs in values]
      found.append(
        f'{name_a} has {shown[0]} {what}, {name_b} has {shown[1]}: changes,'
        ' flicker and sharpness depend on it.'
      )
  return found

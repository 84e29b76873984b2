"""Encodes storyboards and their videos into a data set.

Clips are read, encoded and written one after the other, while the frames of the
next one are read, so the memory does not depend on their number. A run that was
stopped resumes after the last complete clip.

Several processes share the work by a fixed split, row `i` to process `i mod
count`, and do not communicate. If one dies, its rows are missing: start it
again, or any number of processes, to encode the missing rows.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import dataclasses
import os
from typing import Any

from absl import logging
import numpy as np

from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import shots
from ttt_jax.data.store import arrays
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import writer as writer_lib
from ttt_jax.encoders import load_text as encoder_lib
from ttt_jax.encoders import text_cache as text_cache_lib
from ttt_jax.encoders import video_encoder
from ttt_jax.runtime import files
from ttt_jax.runtime import problems as problems_lib
from ttt_jax.runtime import progress as progress_lib


@dataclasses.dataclass(frozen=True)
class _Clip:
  """Properties of a clip that are known before any frame is read."""

  row: int
  storyboard: storyboard_lib.Storyboard
  prompts: tuple[str, ...]
  ranges: tuple[shots.FrameRange, ...]
  fingerprint: str

  @property
  def name(self) -> str:
    return self.storyboard.name


def precompute(
  storyboards: Sequence[storyboard_lib.Storyboard],
  *,
  videos_dir: str,
  vae: video_encoder.VideoEncoder,
  text_encoder: encoder_lib.TextEncoder,
  geometry: geometry_lib.Geometry,
  out: str | os.PathLike[str],
  soften: bool = True,
  text_cache: str | os.PathLike[str] | None = None,
  progress: bool = True,
  process_index: int = 0,
  process_count: int = 1,
  config: Mapping[str, Any] | None = None,
) -> manifest_lib.Manifest | None:
  """Encodes every storyboard into one clip of a data set.

  Numbers of segments, videos and lengths of texts are checked before the first
  clip. If a video cannot be read, its clip is left out: `manifest.corrupt`
  lists it with the reason, and the next run tries it again.

  Args:
    storyboards: Storyboards of `geometry.segments` segments each, with
      different names.
    videos_dir: Folder of the videos; may begin with 'package:'.
    vae: Video encoder, for example `CausalVideoEncoder.load(folder)`.
    text_encoder: Text encoder.
    geometry: Geometry of every clip.
    out: Folder of the data set; an unfinished data set is continued.
    soften: Whether to soften the frames, as `video_file.read_video` does.
    text_cache: Folder of embeddings shared by several runs, see `TextCache`.
    progress: Whether to show a bar.
    process_index: Index of this process.
    process_count: Number of processes that share the work and the folders.
    config: JSON value of the config, which is written next to the manifest.

  Returns:
    The manifest, which is also written; None if other processes have not
    encoded all of their clips: the last one writes it.

  Raises:
    ValueError, FileNotFoundError: the input is not valid, `out` has a data set
      of another identity, no clip can be read, or the disk is full.
  """
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'process_index is {process_index}; of {process_count} processes it'
      f' must be in 0 .. {process_count - 1}'
    )
  clips = list_clips(storyboards, videos_dir, geometry, soften)
  storyboard_lib.lint_all(
    storyboards, geometry.text_length, text_encoder.count_tokens
  )
  identity = manifest_lib.Manifest(
    vae_identity=vae.identity,
    text_identity=text_encoder.identity,
    scale=vae.scale,
    scene_token_ids=text_encoder.scene_token_ids,
    **manifest_lib.geometry_fields(geometry),
  )
  writer = writer_lib.LatentWriter(out, identity, rows=len(clips))
  if config is not None and process_index == 0:
    files.write_json(config, writer.folder / manifest_lib.CONFIG)
  share = clips[process_index::process_count]
  todo = [c for c in share if not writer.is_done(c.row, c.fingerprint)]
  # Clips of the same frames follow each other: they are encoded once.
  order: dict[tuple[shots.FrameRange, ...], int] = {}
  for clip in todo:
    order.setdefault(clip.ranges, len(order))
  todo.sort(key=lambda clip: order[clip.ranges])
  texts = text_cache_lib.TextCache(text_encoder, folder=text_cache)
  if process_index == 0 and not writer.finished:
    writer.write_null_text(texts.encode([''])[0])

  remedy = (
    f'use a VAE that compresses {geometry.temporal_compression}x in time and'
    f' {geometry.spatial_compression}x in space'
  )
  bar = contextlib.nullcontext()
  if progress and todo:
    completed = len(share) - len(todo)
    bar = progress_lib.Bar('encode clips', len(share), completed=completed)
  encoded: tuple[Any, Any] = ((), ())
  with bar as active_bar:
    for clip, frames in _read_ahead(todo, geometry, soften):
      try:
        # Other texts for the same frames have the same latents.
        if clip.ranges != encoded[0]:
          latents = encode_latents(vae, frames.result(), geometry, remedy)
          encoded = clip.ranges, latents
        mean, logvar = encoded[1]
        writer.write(
          clip.row,
          clip.name,
          clip.fingerprint,
          mean=mean,
          logvar=logvar,
          text=texts.encode(clip.prompts),
        )
      except (shots.UnreadableVideoError, arrays.CorruptClipError) as e:
        reason = files.first_line(e)
        logging.warning('clip %r left out: %s', clip.name, reason)
        writer.leave_out(clip.row, clip.name, clip.fingerprint, reason)
      if active_bar:
        active_bar.advance(note=clip.name)
  return _finish(writer, clips)


def _read_ahead(
  clips: Sequence[_Clip], geometry: geometry_lib.Geometry, soften: bool
) -> Iterator[tuple[_Clip, futures.Future]]:
  """Yields each clip with its frames, while the next ones are being read."""
  with futures.ThreadPoolExecutor(1) as reader:
    previous = None
    for clip in clips:
      if previous and clip.ranges == previous[0].ranges:
        frames = previous[1]
      else:
        frames = reader.submit(shots.read_frames, clip.ranges, geometry, soften)
      if previous:
        yield previous
      previous = clip, frames
    if previous:
      yield previous


def _finish(
  writer: writer_lib.LatentWriter, clips: Sequence[_Clip]
) -> manifest_lib.Manifest | None:
  """Writes the manifest if every row is settled, by any process."""
  states = [writer.settled(c.row, c.fingerprint) for c in clips]
  if None in states:
    return None
  corrupt: list[manifest_lib.CorruptClip] = [
    {'name': c.name, 'row': c.row, 'reason': state}
    for c, state in zip(clips, states)
    if state
  ]
  if len(corrupt) == len(clips):
    none = 'the only clip could not'
    if clips[1:]:
      none = f'none of the {len(clips)} clips could'
    raise ValueError(
      f'{none} be encoded; the first, {corrupt[0]["name"]!r}:'
      f' {corrupt[0]["reason"]}'
    )
  table = [_entry(c) for c, state in zip(clips, states) if not state]
  conversions = shots.conversions(
    part
    for clip, state in zip(clips, states)
    if not state
    for part in clip.ranges
  )
  return writer.finish(table, corrupt, conversions)


def list_clips(
  storyboards: Sequence[storyboard_lib.Storyboard],
  videos_dir: str,
  geometry: geometry_lib.Geometry,
  soften: bool = True,
) -> list[_Clip]:
  """Returns the clips of storyboards, without reading a frame.

  Raises:
    FileNotFoundError: videos are missing; names the first ten.
    ValueError: segments and geometry do not fit, or names repeat; likewise.
  """
  if not storyboards:
    raise ValueError('there are no storyboards; precompute needs at least 1')
  videos = [s.video for b in storyboards for s in b.segments if s.video]
  shots.check_videos(videos, videos_dir)
  problems = problems_lib.Problems('problems')
  names = collections.Counter(board.name for board in storyboards)
  problems.found += [
    f'{count} storyboards have the name {name!r}; give each clip a name of its'
    ' own'
    for name, count in names.items()
    if count > 1
  ]
  clips = []
  for row, board in enumerate(storyboards):
    with problems:
      ranges = shots.frame_ranges(board, videos_dir, geometry)
      prompts = tuple(board.prompts())
      fingerprint = shots.fingerprint(ranges, prompts, soften)
      clips.append(_Clip(row, board, prompts, ranges, fingerprint))
  problems.check()
  return clips


def encode_latents(
  vae: video_encoder.VideoEncoder,
  frames: np.ndarray,
  geometry: geometry_lib.Geometry | geometry_lib.FrameGeometry,
  remedy: str,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean and logvar of a clip; `remedy` ends the error.

  Raises:
    ValueError: the latents are not of the geometry's size.
  """
  mean, logvar = vae.encode(frames)
  expected = (
    geometry.latent_frames,
    geometry.latent_height,
    geometry.latent_width,
  )
  if mean.shape[:-1] != expected:
    raise ValueError(
      f'the VAE makes latents of {list(mean.shape[:-1])} frames, rows and'
      f' columns; the configuration requires {list(expected)}: {remedy}'
    )
  return mean, logvar


def _entry(clip: _Clip) -> manifest_lib.Clip:
  """Returns the manifest entry of a clip, with its storyboard as JSON."""
  segments = [
    {k: v for k, v in dataclasses.asdict(s).items() if v not in (None, '')}
    for s in clip.storyboard.segments
  ]
  return {
    'name': clip.name,
    'row': clip.row,
    'storyboard': {'name': clip.name, 'segments': segments},
  }

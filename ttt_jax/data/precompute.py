"""Storyboards and their videos to a data set of latents and embeddings.

Clips are read, encoded and written one after the other (the frames of the next
one are read meanwhile): memory does not grow with their number. A run that was
stopped goes on behind the last whole clip.

Several processes share the work by a fixed split, row `i` to process `i mod
count`, and need not know of each other. When one dies, its rows are missing:
start it again, or any number of processes, and they do what is not done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import reader as dataset_reader
from ttt_jax.encoders import load_text as encoder_lib
from ttt_jax.encoders import text_cache as text_cache_lib
from ttt_jax.encoders import video_encoder
from ttt_jax.runtime import files
from ttt_jax.runtime import progress as progress_lib


@dataclasses.dataclass(frozen=True)
class _Clip:
  """What is known of a clip before any pixel is read."""

  row: int
  storyboard: storyboard_lib.Storyboard
  prompts: tuple[str, ...]
  spans: tuple[shots.Span, ...]
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
) -> manifest_lib.Manifest | None:
  """Encodes every storyboard into one clip of a data set.

  All that the storyboards alone can tell (segments, videos, lengths of the
  texts) is checked before the first clip. A video that cannot be read leaves
  its clip out: it is listed in `manifest.corrupt` with the reason, and tried
  again by the next run.

  Args:
    storyboards: of `geometry.segments` segments each, with different names.
    videos_dir: folder of the videos, also 'package:...'.
    vae: for example `encoders.CausalVideoEncoder.load(folder)`.
    text_encoder: `TextEncoder`.
    geometry: of every clip.
    out: folder of the data set; one that holds some of the clips already is
      continued.
    soften: blur the frames a little, as `read_video` describes.
    text_cache: folder of embeddings that other runs share, see `TextCache`.
    progress: show a bar.
    process_index: this process.
    process_count: processes that share the work, in folders that all see.

  Returns:
    The manifest, which is written too; None where other processes have not
    done their clips yet: the last one writes it.

  Raises:
    ValueError, FileNotFoundError: bad input, a data set of another kind in
      `out`, no clip that can be read, or a full disk.
  """
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'process_index is {process_index}; of {process_count} processes it'
      f' must be in 0 .. {process_count - 1}'
    )
  clips = _plan(storyboards, videos_dir, text_encoder, geometry, soften)
  identity = manifest_lib.Manifest(
    vae_identity=vae.identity,
    text_identity=text_encoder.identity,
    scale=vae.scale,
    scene_token_ids=text_encoder.scene_token_ids,
    **manifest_lib.geometry_fields(geometry),
  )
  writer = dataset_reader.LatentWriter(out, identity, rows=len(clips))
  share = clips[process_index::process_count]
  todo = [c for c in share if not writer.is_done(c.row, c.fingerprint)]
  texts = text_cache_lib.TextCache(text_encoder, folder=text_cache)
  if process_index == 0 and not writer.finished:
    writer.write_null_text(texts.encode([''])[0])

  bar = contextlib.nullcontext()
  if progress and todo:
    done = len(share) - len(todo)
    bar = progress_lib.Bar('encode clips', len(share), completed=done)
  with bar as shown:
    for clip, frames in _read_ahead(todo, geometry, soften):
      try:
        mean, logvar = _latents(vae, frames.result(), geometry)
        writer.write(
          clip.row,
          clip.name,
          clip.fingerprint,
          mean=mean,
          logvar=logvar,
          text=texts.encode(clip.prompts),
        )
      except (shots.UnreadableVideoError, dataset_reader.CorruptClipError) as e:
        reason = files.first_line(e)
        logging.warning('clip %r left out: %s', clip.name, reason)
        writer.leave_out(clip.row, clip.name, clip.fingerprint, reason)
      if shown:
        shown.advance(note=clip.name)
  return _finish(writer, clips)


def _read_ahead(
  clips: Sequence[_Clip], geometry: geometry_lib.Geometry, soften: bool
) -> Iterator[tuple[_Clip, futures.Future]]:
  """Each clip with its frames, while those of the next one are being read."""
  with futures.ThreadPoolExecutor(1) as reader:
    before = None
    for clip in clips:
      frames = reader.submit(shots.read_frames, clip.spans, geometry, soften)
      if before:
        yield before
      before = clip, frames
    if before:
      yield before


def _finish(
  writer: dataset_reader.LatentWriter, clips: Sequence[_Clip]
) -> manifest_lib.Manifest | None:
  """Writes the manifest if every row is settled, by whichever process."""
  states = [writer.settled(c.row, c.fingerprint) for c in clips]
  if None in states:
    return None
  corrupt = [
    {'name': c.name, 'row': c.row, 'reason': state}
    for c, state in zip(clips, states)
    if state
  ]
  if len(corrupt) == len(clips):
    raise ValueError(
      f'none of the {len(clips)} clips could be encoded; the first,'
      f' {corrupt[0]["name"]!r}: {corrupt[0]["reason"]}'
    )
  table = [_entry(c) for c, state in zip(clips, states) if not state]
  return writer.finish(table, corrupt)


def _plan(
  storyboards: Sequence[storyboard_lib.Storyboard],
  videos_dir: str,
  text_encoder: encoder_lib.TextEncoder,
  geometry: geometry_lib.Geometry,
  soften: bool,
) -> list[_Clip]:
  if not storyboards:
    raise ValueError('there are no storyboards; precompute needs at least 1')
  clips = []
  names = set()
  for row, storyboard in enumerate(storyboards):
    if storyboard.name in names:
      raise ValueError(
        f'two storyboards have the name {storyboard.name!r}; give each clip'
        ' a name of its own'
      )
    names.add(storyboard.name)
    spans = shots.spans(storyboard, videos_dir, geometry)
    prompts = tuple(storyboard.prompts())
    fingerprint = shots.fingerprint(spans, prompts, soften)
    clips.append(_Clip(row, storyboard, prompts, spans, fingerprint))
  storyboard_lib.lint_all(
    storyboards, geometry.text_length, text_encoder.count_tokens
  )
  return clips


def _latents(
  vae: video_encoder.VideoEncoder,
  frames: np.ndarray,
  geometry: geometry_lib.Geometry,
) -> tuple[np.ndarray, np.ndarray]:
  mean, logvar = vae.encode(frames)
  expected = (
    geometry.latent_frames,
    geometry.latent_height,
    geometry.latent_width,
  )
  if mean.shape[:-1] != expected:
    raise ValueError(
      f'the VAE makes latents of {list(mean.shape[:-1])} frames, rows and'
      f' columns; the geometry asks for {list(expected)}: take a VAE that'
      f' compresses {geometry.temporal_compression}x in time and'
      f' {geometry.spatial_compression}x in space'
    )
  return mean, logvar


def _entry(clip: _Clip) -> dict[str, Any]:
  """A clip in the manifest, with a storyboard that `Storyboard.parse` reads."""
  segments = [
    {k: v for k, v in dataclasses.asdict(s).items() if v not in (None, '')}
    for s in clip.storyboard.segments
  ]
  return {
    'name': clip.name,
    'row': clip.row,
    'storyboard': {'name': clip.name, 'segments': segments},
  }

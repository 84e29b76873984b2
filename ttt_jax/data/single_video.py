"""Data sets of one clip: one video, one text (Tune-A-Video, section 3)."""

from __future__ import annotations

import hashlib
import os

from etils import epath
import ml_collections
import numpy as np

from ttt_jax import backbones
from ttt_jax.convert import model_folder
from ttt_jax.data import precompute
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import writer as writer_lib
from ttt_jax.encoders import load_text as text_lib
from ttt_jax.encoders import video_encoder as video_encoder_lib
from ttt_jax.runtime import paths
from ttt_jax.video import video_file


def load_video_encoder(
  config: ml_collections.ConfigDict,
) -> video_encoder_lib.FrameVideoEncoder | video_encoder_lib.CausalVideoEncoder:
  """Loads the autoencoder of a config."""
  return video_encoder_lib.load_video_encoder(
    model_folder.resolve(config.vae.folder),
    **video_encoder_lib.vae_options(config.vae),
  )


def load_text_encoder(
  config: ml_collections.ConfigDict,
) -> text_lib.TextEncoder:
  """Loads the text encoder of a config."""
  return text_lib.load_text_encoder(
    model_folder.resolve(config.text.folder),
    config.text.length,
    **video_encoder_lib.text_options(config.text),
  )


def read_frames(config: ml_collections.ConfigDict) -> np.ndarray:
  """Reads the frames of `config.video` that a config selects.

  For a U-Net that is one frame per `config.data.stride` frames of the file,
  from frame `config.data.start` on, however long each is shown; for a
  transformer `config.data.fps` frames per second, from second
  `config.data.start` on, where one missing frame at the end is held.

  Returns:
    uint8 [F', H, W, 3], F' pixel frames.

  Raises:
    FileNotFoundError: the video does not exist.
    ValueError: it is too short or cannot be read.
  """
  geometry, data = backbones.geometry(config), config.data
  path = paths.resolve(config.video)
  count = geometry.frames
  size = dict(
    height=geometry.height,
    width=geometry.width,
    soften=data.get('soften', False),
  )
  if not _counts_frames(config):
    return video_file.read_held(
      path, frames=count, fps=geometry.fps, start=data.get('start', 0.0), **size
    )
  try:
    return video_file.read_every(
      path, stride=data.stride, start=data.start, frames=count, **size
    )
  except video_file.TooShortError as e:
    stride = max(1, (e.available - 1 - data.start) // max(1, count - 1))
    raise ValueError(
      f'{path} has {e.available} frames; {count} of them at stride'
      f' {data.stride} from frame {data.start} on need'
      f' {data.start + (count - 1) * data.stride + 1}: set for example'
      f' --config.data.stride={stride} or fewer --config.data.frames'
    ) from e


def _counts_frames(config: ml_collections.ConfigDict) -> bool:
  return 'frames' in config.data


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError for a config without a video or a text."""
  if not config.video:
    raise ValueError(
      'config.video is empty; name the video, for example'
      ' --config.video=clip.mp4'
    )
  if not config.prompt.strip():
    raise ValueError(
      'config.prompt is empty; describe what the video shows, for example'
      ' --config.prompt="a man is skiing"'
    )
  data = config.data
  if _counts_frames(config) and (data.stride < 1 or data.start < 0):
    raise ValueError(
      f'config.data has stride {data.stride} and start {data.start}; they'
      ' must be at least 1 and 0'
    )


def prepare(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]
) -> None:
  """Encodes the clip of a config, unless its data set exists.

  Args:
    config: Configuration with `video` and `prompt`.
    workdir: Folder of the run, for '{workdir}' in `config.data.folder`.

  Raises:
    FileNotFoundError: the video, autoencoder or text encoder does not exist.
    ValueError: the input is not valid, or the data set is of another clip.
  """
  check(config)
  geometry = backbones.geometry(config)
  folder = epath.Path(paths.in_workdir(config.data.folder, workdir))
  fingerprint = _fingerprint(config)
  texts = load_text_encoder(config)
  embeddings = texts.encode([config.prompt, *config.edits, ''])
  frames = read_frames(config)
  encoder = load_video_encoder(config)
  writer = writer_lib.LatentWriter(
    folder,
    manifest_lib.Manifest(
      vae_identity=encoder.identity,
      text_identity=texts.identity,
      scale=encoder.scale,
      scene_token_ids=texts.scene_token_ids,
      **manifest_lib.geometry_fields(geometry),
    ),
    rows=1,
  )
  if writer.finished:
    if not writer.is_done(0, fingerprint):
      raise ValueError(
        f'{folder} has another clip or text; choose another --workdir for'
        f' {config.video}'
      )
    return
  mean, logvar = precompute.encode_latents(
    encoder,
    frames,
    geometry,
    "set config.data.spatial_compression to the VAE's",
  )
  writer.write_null_text(embeddings[-1])
  writer.write(
    0,
    'clip',
    fingerprint,
    mean=mean,
    logvar=logvar,
    text=np.repeat(embeddings[:1], geometry.segments, axis=0),
  )
  segment = dict(text=config.prompt)
  notes = video_file.conversions(paths.resolve(config.video))
  writer.finish(
    [
      dict(
        name='clip',
        row=0,
        storyboard=dict(name='clip', segments=[segment] * geometry.segments),
      )
    ],
    conversions={config.video: notes} if notes else {},
  )


def _fingerprint(config: ml_collections.ConfigDict) -> str:
  """Returns a hash of the contents and selected frames of a file and a text."""
  digest = hashlib.sha256()
  for path in video_file.stored_files(paths.resolve(config.video)):
    with open(path, 'rb') as file:
      digest.update(hashlib.file_digest(file, 'sha256').digest())
  data = config.data
  fields = [
    data.get(name)
    for name in (
      'frames',
      'seconds',
      'fps',
      'stride',
      'start',
      'height',
      'width',
      'soften',
    )
  ]
  digest.update(f'{fields} {config.prompt}'.encode())
  return digest.hexdigest()

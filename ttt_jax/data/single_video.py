"""A data set of one clip: one video, one text (Tune-A-Video, section 3)."""

from __future__ import annotations

import hashlib
import os

from etils import epath
import ml_collections
import numpy as np

from ttt_jax import backbones
from ttt_jax import geometry as geometry_lib
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import reader as dataset_reader
from ttt_jax.encoders import load_text as text_lib
from ttt_jax.encoders import video_encoder as video_encoder_lib
from ttt_jax.runtime import paths
from ttt_jax.video import video_file


def folder_of(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]
) -> epath.Path:
  """Where the data set of a config lies."""
  return epath.Path(config.data.folder.replace('{workdir}', str(workdir)))


def video_encoder(config: ml_collections.ConfigDict):
  """The autoencoder of a config, as `encoders.VideoEncoder` that decodes."""
  return video_encoder_lib.load_video_encoder(
    paths.resolve(config.vae.folder),
    **video_encoder_lib.vae_options(config.vae),
  )


def text_encoder(config: ml_collections.ConfigDict) -> text_lib.TextEncoder:
  """The text encoder of a config."""
  return text_lib.load_text_encoder(
    paths.resolve(config.text.folder),
    config.text.length,
    **video_encoder_lib.text_options(config.text),
  )


def read_frames(config: ml_collections.ConfigDict) -> np.ndarray:
  """The frames of `config.video` that a config asks for.

  A U-Net's are every `config.data.stride` frames of the file from frame
  `config.data.start` on, a transformer's `config.data.fps` a second from
  second `config.data.start` on.

  Returns:
    uint8 [F', H, W, 3].

  Raises:
    FileNotFoundError: no such video.
    ValueError: it is too short, or cannot be read.
  """
  geometry, data = backbones.geometry(config), config.data
  path = paths.resolve(config.video)
  fps, start = geometry.fps, data.get('start', 0.0)
  if _by_frames(config):
    found = video_file.probe(path)
    last = data.start + (geometry.frames - 1) * data.stride
    if found.frames and found.frames <= last:
      fit = max(1, (found.frames - 1 - data.start) // (geometry.frames - 1))
      raise ValueError(
        f'{path} has {found.frames} frames; {geometry.frames} of them at'
        f' stride {data.stride} from frame {data.start} on need'
        f' {last + 1}: set for example --config.data.stride={fit} or fewer'
        ' --config.data.frames'
      )
    fps, start = found.fps / data.stride, data.start / found.fps
  return video_file.read_video(
    path,
    fps=fps,
    start=start,
    height=geometry.height,
    width=geometry.width,
    frames=geometry.frames,
    soften=data.get('soften', False),
  )


def _by_frames(config: ml_collections.ConfigDict) -> bool:
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
      'config.prompt is empty; say what the video shows, for example'
      ' --config.prompt="a man is skiing"'
    )
  data = config.data
  if _by_frames(config) and (data.stride < 1 or data.start < 0):
    raise ValueError(
      f'config.data has stride {data.stride} and start {data.start}; they'
      ' must be at least 1 and 0'
    )


def prepare(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]
) -> None:
  """Encodes the clip of a config, unless its data set is there.

  Args:
    config: with `video` and `prompt`.
    workdir: of the run.

  Raises:
    FileNotFoundError: no video, autoencoder or text encoder.
    ValueError: bad input, or a data set of another clip.
  """
  check(config)
  geometry = backbones.geometry(config)
  folder = folder_of(config, workdir)
  fingerprint = _fingerprint(config)
  texts = text_encoder(config)
  embeddings = texts.encode([config.prompt, *config.edits, ''])
  frames = read_frames(config)
  encoder = video_encoder(config)
  writer = dataset_reader.LatentWriter(
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
        f'{folder} holds another clip or text; choose another --workdir for'
        f' {config.video}'
      )
    return
  mean, logvar = _encode(encoder, frames, geometry)
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
  writer.finish(
    [
      dict(
        name='clip',
        row=0,
        storyboard=dict(name='clip', segments=[segment] * geometry.segments),
      )
    ]
  )


def _encode(
  encoder: video_encoder_lib.VideoEncoder,
  frames: np.ndarray,
  geometry: geometry_lib.Geometry | geometry_lib.FrameGeometry,
) -> tuple[np.ndarray, np.ndarray]:
  mean, logvar = encoder.encode(frames)
  expected = (
    geometry.latent_frames,
    geometry.latent_height,
    geometry.latent_width,
  )
  if mean.shape[:-1] != expected:
    raise ValueError(
      f'the autoencoder makes latents of {list(mean.shape[:-1])} frames,'
      f' rows and columns; the config says {list(expected)}: set'
      ' config.data.spatial_compression to that of the autoencoder'
    )
  return mean, logvar


def _fingerprint(config: ml_collections.ConfigDict) -> str:
  """The same for the same frames of the same file, and the same text."""
  digest = hashlib.sha256()
  with open(paths.resolve(config.video), 'rb') as file:
    digest.update(hashlib.file_digest(file, 'sha256').digest())
  data = config.data
  what = [
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
  digest.update(f'{what} {config.prompt}'.encode())
  return digest.hexdigest()

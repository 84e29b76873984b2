"""Writes a data set of pictures: clips of one frame with captions."""

from __future__ import annotations

import pathlib

import numpy as np

from examples.shapes import captions
from examples.shapes import world
from ttt_jax import backbones
from ttt_jax.data.store import manifest
from ttt_jax.data.store import writer as writer_lib
from ttt_jax.encoders import load_text as text_lib
from ttt_jax.encoders import text_cache
from ttt_jax.encoders import video_encoder
from ttt_jax.runtime import progress

_BATCH = 64  # pictures that are encoded at once


def write_pictures(
  config, model: pathlib.Path, folder: pathlib.Path
) -> manifest.Manifest:
  """Draws, encodes and writes `config.pictures` random scenes.

  Existing pictures are not encoded again.

  Args:
    config: Config of the training.
    model: Folder of the autoencoder and the text encoder.
    folder: Folder of the data set.

  Raises:
    ValueError: the folder contains another data set, or the disk is full.
  """
  video = video_encoder.load_video_encoder(model / 'vae')
  words = text_lib.load_text_encoder(model / 'text_encoder', config.text.length)
  texts = text_cache.TextCache(words)
  writer = writer_lib.LatentWriter(
    folder,
    manifest.Manifest(
      vae_identity=video.identity,
      text_identity=words.identity,
      scale=video.scale,
      scene_token_ids=words.scene_token_ids,
      **manifest.geometry_fields(backbones.geometry(config)),
    ),
    rows=config.pictures,
  )
  rng = np.random.default_rng(config.seed)
  scenes = [world.random_scene(rng) for _ in range(config.pictures)]
  if not writer.finished:
    writer.write_null_text(texts.encode([''])[0])
  starts = range(0, len(scenes), _BATCH)
  for start in progress.track(starts, 'encode pictures'):
    rows = range(start, min(start + _BATCH, len(scenes)))
    todo = [i for i in rows if not writer.is_done(i, repr(scenes[i]))]
    if not todo:
      continue
    frames = np.stack([world.render(scenes[i]) for i in todo])
    mean, logvar = video.encode(frames)
    prompts = [captions.caption(scenes[i].attributes) for i in todo]
    for i, *values in zip(todo, mean, logvar, texts.encode(prompts)):
      # Adds the axis of frames or segments, of which there is one.
      mean_, logvar_, text = (value[None] for value in values)
      writer.write(
        i, f'{i:05d}', repr(scenes[i]), mean=mean_, logvar=logvar_, text=text
      )
  return writer.finish([_entry(i, s) for i, s in enumerate(scenes)])


def _entry(row: int, scene: world.Scene) -> dict:
  name, text = f'{row:05d}', captions.caption(scene.attributes)
  story = dict(name=name, segments=[dict(text=text)])
  return dict(name=name, row=row, storyboard=story)

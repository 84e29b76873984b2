"""The sequence of a minute of video; `Geometry` has the numbers."""

from __future__ import annotations

import canvas as lib

from ttt_jax import geometry

# The 5B model's own size and the text length of its config.
GEOMETRY = geometry.Geometry.from_seconds(63, 480, 720, text_length=480)


def draw() -> lib.Canvas:
  """Returns the drawing."""
  g = GEOMETRY
  rows, columns = g.grid
  per_segment = g.segment_latent_frames * g.tokens_per_frame
  steps = (
    (
      'video',
      f'{g.frames:,} frames\nof {g.height} x {g.width} pixels',
      f'autoencoder: {g.temporal_compression} frames to one,'
      f' {g.spatial_compression} x {g.spatial_compression} pixels to a cell',
    ),
    (
      'latents',
      f'{g.latent_frames} latent frames\nof {g.latent_height} x'
      f' {g.latent_width} cells',
      f'patches of {g.patch_size} x {g.patch_size} cells',
    ),
    (
      'tokens',
      f'{g.latent_frames} frames of {g.tokens_per_frame:,} tokens\n({rows} x'
      f' {columns})',
      f'segments of {g.segment_latent_frames} frames, each with its text',
    ),
    (
      'segments',
      f'{g.segments} segments: {g.text_length} text tokens\nand'
      f' {per_segment:,} of video, each',
      'one sequence; the first frame stands alone',
    ),
    (
      'sequence',
      f'{g.sequence_length:,} tokens\nin {g.mini_batches:,} mini-batches of'
      f' {g.mini_batch}',
      '',
    ),
  )
  step = 11
  c = lib.Canvas(step * len(steps) - 1.5)
  for i, (name, text, then) in enumerate(steps):
    y = c.height - 8.5 - step * i
    c.text(13, y + 3.5, name, align='right', bold=True)
    fill, edge = (
      (lib.PALE_GREEN, lib.GREEN)
      if i == len(steps) - 1
      else (lib.PALE_BLUE, lib.BLUE)
    )
    c.box(15, y, 34, 7, text, fill=fill, edge=edge)
    if then:
      c.arrow((18, y), (18, y - 4))
      c.text(19.5, y - 2, then, align='left', size=8.5)
  return c

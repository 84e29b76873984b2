"""Cuts episodes into segments, and makes a page for their texts.

    ttt-jax annotate ep01.mp4 ep02.mp4 --out=captions
    ttt-jax annotate episodes/ --out=captions --config=quickstart:3s

Finds the scenes of videos, or of all videos of folders, cuts them to complete
segments as precompute does, and writes

    captions/captions.json   the segments with empty texts
    captions/annotate.html   a page with frames and a text box for each segment
    captions/scenes.json     the scenes; correct a cut here and run again

The page saves what is typed and exports captions.json in the form that
precompute reads. Started again, the command keeps all texts of captions.json
and does only what is left.

    --caption_command='python caption.py'

fills the texts with a program of your own: it is called with a folder of PNGs
for each segment without a text, and prints the text.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib

from absl import flags
from ml_collections import config_flags

from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import schema

_OUT = flags.DEFINE_string('out', None, 'Folder to write; required.')
_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  cli.CONFIG_HELP.rstrip('.')
  + '; default: segments of 3 s at 16 frames per second.',
)
_THRESHOLD = cli.define(
  'threshold',
  3.0,
  'Difference of two frames, relative to their neighbours, from which they are'
  ' different scenes.',
  schema.PositiveFloat,
)
_SHORTEST = cli.define(
  'shortest_scene',
  0.2,
  'Seconds after a cut in which no other one is found.',
  schema.NonNegativeFloat,
)
_COMMAND = flags.DEFINE_string(
  'caption_command',
  '',
  'Command that prints the text of a segment; a folder of PNGs is appended.',
)
_FRAMES = cli.define(
  'caption_frames',
  8,
  'Number of PNGs per segment for the caption command.',
  schema.PositiveInt,
)


def main(argv: Sequence[str]) -> None:
  """Annotates the episodes in `argv`."""
  from ttt_jax.annotation import work

  if len(argv) < 2 or _OUT.value is None:
    missing = [] if argv[1:] else ['an episode']
    missing += ['--out'] if _OUT.value is None else []
    raise ValueError(
      f'{" and ".join(missing)} {"are" if missing[1:] else "is"} missing; for'
      ' example ttt-jax annotate ep01.mp4 ep02.mp4 --out=captions'
    )
  out = paths.require_local(_OUT.value, '--out')
  files.check_writable(out, folder=True)
  work.run(
    [pathlib.Path(paths.require_local(p, 'an episode')) for p in argv[1:]],
    pathlib.Path(os.path.abspath(out)),
    work.Options(
      geometry=work.geometry(_CONFIG.value),
      threshold=_THRESHOLD.value,
      shortest=_SHORTEST.value,
      command=_COMMAND.value,
      frames=_FRAMES.value,
    ),
  )


if __name__ == '__main__':
  cli.run(main, arguments=True)

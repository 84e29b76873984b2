"""Edits a clip of a red circle, measures it, and then edits a real clip.

    python -m examples.shapes.demo --workdir=demo_edit

`make demo-edit` is this. It runs the commands that a user would type, with
the small Stable Diffusion of the world of shapes (configs/shapes.py): tune on
one clip, edit it with texts that tuning has not seen, ask the judge, who knows
this world; then the same on a clip of a camera. Writes edit.md with its
pictures; --page=docs/demo_edit.md puts them there. Ends with exit status 1
where fewer than 90 % of the edits are followed, or the object's path is not
the source's.
"""

from __future__ import annotations

import json
import pathlib
import sys

from absl import flags
import numpy as np

from examples import demo_steps
from examples.shapes import demonstration
from examples.shapes import edit_page
from ttt_jax.runtime import cli

_WORKDIR = flags.DEFINE_string('workdir', 'demo_edit', 'Folder of outputs.')
_PAGE = flags.DEFINE_string(
  'page', None, 'Markdown file to write; default: WORKDIR/edit.md.'
)


def main(_) -> int:
  workdir = pathlib.Path(_WORKDIR.value)
  workdir.mkdir(parents=True, exist_ok=True)
  demonstration.write_source(workdir / 'source.mp4')
  done = [demo_steps.run(step, workdir) for step in demonstration.steps()]
  found = json.loads((workdir / 'judge.json').read_text())
  with np.load(workdir / 'judge.npz') as file:
    frames = dict(file)
  page = pathlib.Path(_PAGE.value or workdir / 'edit.md')
  edit_page.write(
    page,
    found,
    frames,
    (demonstration.REAL_PROMPT, *demonstration.REAL_EDITS),
    demonstration.real_clips(workdir),
    prompt=demonstration.PROMPT,
    settings=demonstration.SETTINGS,
    seconds=[(d.title, d.seconds) for d in done],
    fps=demonstration.FPS,
  )
  demo_steps.summary(done, workdir)
  print(f'read {page}; the bikes are in {workdir}/bikes/edits')
  if not demonstration.verdict(found):
    print(
      f'error: fewer than {demonstration.LEAST_FOLLOWED:.0%} of the edits are'
      ' followed, or their paths are less than'
      f" {demonstration.LEAST_CORRELATION} like the source's",
      file=sys.stderr,
    )
    return 1
  return 0


if __name__ == '__main__':
  cli.run(main)

"""Edits a clip of a red circle, measures the edits, and edits a real clip.

    python -m examples.shapes.demo --workdir=demo_edit

`make demo-edit` runs it. Its steps are the commands that a user would type,
with the small Stable Diffusion of the world of shapes (configs/shapes.py): tune
on one clip, edit it with unseen texts and judge the edits; then tune on a real
clip and edit it. Exits with status 1 if less than 90 % of the edits are
followed, or if the object's path differs from that of the source.
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from examples import demo_steps
from examples.shapes import demonstration
from ttt_jax.runtime import cli
from ttt_jax.runtime import files

_WORKDIR = flags.DEFINE_string('workdir', 'demo_edit', 'Folder of all outputs.')


def main(_) -> int:
  workdir = pathlib.Path(_WORKDIR.value)
  workdir.mkdir(parents=True, exist_ok=True)
  demonstration.write_source(workdir / 'source.mp4')
  results = [demo_steps.run(step, workdir) for step in demonstration.steps()]
  demo_steps.print_summary(results, workdir)
  print(
    f'edits of the circle: {workdir}/source_and_edits.mp4, scores in'
    f' {workdir}/judge.txt; edits of the bikes: {workdir}/bikes/edits'
  )
  if not demonstration.passes(files.read_json(workdir / 'judge.json')):
    print(
      f'error: less than {demonstration.LEAST_FOLLOWED:.0%} of the edits are'
      ' followed, or the correlation of their paths is less than'
      f' {demonstration.LEAST_CORRELATION}',
      file=sys.stderr,
    )
    return 1
  return 0


if __name__ == '__main__':
  cli.run(main)

"""Edits a tuned clip of the world of shapes, and judges the edits.

    python -m examples.shapes.evaluate --workdir=DIR --out=DIR/judge.json

DIR is the folder of a training run that tuned on a clip of the world; its
`config.edits` are the prompts. Every edit is made three times: with tuning and
inversion, without tuning, and without inversion. Writes the verdicts as JSON
and, in the same folder, their table, pictures and videos.
"""

from __future__ import annotations

import pathlib

from absl import flags
from rich import console as rich_console

from examples.shapes import comparison
from ttt_jax.pipeline import edit
from ttt_jax.runtime import cli
from ttt_jax.runtime import files

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the training run.', required=True
)
_OUT = flags.DEFINE_string('out', None, 'JSON file to write.', required=True)
_STEPS = flags.DEFINE_integer('steps', 50, 'Sampling steps, 1 to 1000.')
_GUIDANCE = flags.DEFINE_float('guidance', 12.5, 'Strength of the guidance.')
_BATCH = flags.DEFINE_integer(
  'batch', None, 'Texts sampled at once; default: all.'
)


def main(_) -> None:
  out, workdir = pathlib.Path(_OUT.value), pathlib.Path(_WORKDIR.value)
  pipe = edit.EditPipeline.load(workdir)
  verdicts, frames = comparison.evaluate(
    pipe,
    workdir,
    steps=_STEPS.value,
    guidance=_GUIDANCE.value,
    batch=_BATCH.value,
  )
  report = comparison.make_report(
    pipe.config.edits, pipe.config.prompt, verdicts
  )
  console = rich_console.Console(record=True)
  console.print(comparison.report_table(report))
  out.parent.mkdir(parents=True, exist_ok=True)
  console.save_text(str(out.with_suffix('.txt')))
  comparison.write_pictures(out.parent, pipe.config.edits, frames, pipe.fps)
  files.write_json(report, out)
  print(f'wrote {out}, {out.with_suffix(".txt")}, pictures and videos')


if __name__ == '__main__':
  cli.run(main)

"""Edits a tuned clip of the world of shapes, and lets the judge speak.

    python -m examples.shapes.evaluate --workdir=DIR --out=DIR/judge.json

DIR is that of a tuning on a clip of the world; its `config.edits` are the
prompts. They are edited three times: as they should be, without the tuning,
and without the inversion. Writes the verdicts, and the frames beside them.
"""

from __future__ import annotations

import json
import pathlib

from absl import flags
import numpy as np

from examples.shapes import comparison
from ttt_jax.pipeline import edit
from ttt_jax.runtime import cli

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the tuning.', required=True
)
_OUT = flags.DEFINE_string('out', None, 'JSON to write.', required=True)
_STEPS = flags.DEFINE_integer('steps', 50, 'DDIM steps, 1 to 1000.')
_GUIDANCE = flags.DEFINE_float('guidance', 12.5, 'Strength of the text.')
_BATCH = flags.DEFINE_integer('batch', None, 'Texts at once; default: all.')


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
  found = comparison.report(pipe.config.edits, pipe.config.prompt, verdicts)
  comparison.show(found)
  out.parent.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(out.with_suffix('.npz'), **frames)
  out.write_text(json.dumps(found, indent=1))
  print(f'wrote {out} and {out.with_suffix(".npz")}')


if __name__ == '__main__':
  cli.run(main)

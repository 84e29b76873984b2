"""Edits a tuned clip of the world of shapes, and lets the judge speak.

    python -m ttt_jax.shapes.evaluate --workdir=DIR --out=DIR/judge.json

DIR is that of a tuning on a clip of the world; its `config.edits` are the
prompts. They are edited three times: as they should be, without the tuning,
and without the inversion. Writes the verdicts, and the frames beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from absl import flags
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from ttt_jax import cli
from ttt_jax import editing
from ttt_jax.data import one_clip
from ttt_jax.shapes import judge

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the tuning.', required=True
)
_OUT = flags.DEFINE_string('out', None, 'JSON to write.', required=True)
_STEPS = flags.DEFINE_integer('steps', 50, 'DDIM steps, 1 to 1000.')
_GUIDANCE = flags.DEFINE_float('guidance', 12.5, 'Strength of the text.')
_BATCH = flags.DEFINE_integer('batch', None, 'Texts at once; default: all.')

FULL = 'inversion and tuning'
METHODS = (FULL, 'without tuning', 'without inversion')


def evaluate(
    pipe: editing.EditPipeline, workdir: pathlib.Path, **options: Any
) -> tuple[dict[str, list[judge.Verdict]], dict[str, np.ndarray]]:
  """Edits by each method, and judges.

  Args:
    pipe: of the tuning; the prompts are its `config.edits`.
    workdir: of the tuning.
    **options: of the pipeline's call.

  Returns:
    Verdicts by method, in order of the prompts; and frames uint8, of 'source'
    [F, H, W, 3] and of each method [n, F, H, W, 3].

  Raises:
    ValueError: no prompts, one that is no caption, or a clip whose object
      cannot be seen or does not move.
  """
  prompts = tuple(pipe.config.edits)
  if not prompts:
    raise ValueError(
        f'the run in {workdir} names no config.edits; tune with'
        " --config.edits=\"('a blue star over a red field',)\""
    )
  path = judge.path([
      judge.see(frame) for frame in one_clip.read_frames(pipe.config)
  ])  # pyformat: disable
  if path is None:
    raise ValueError(f'no object can be seen in {pipe.config.video}')
  frames, verdicts = {'source': pipe.source}, {}
  for method in METHODS:
    used = pipe
    if method == 'without tuning':
      used = editing.EditPipeline.untuned(pipe.config, workdir)
    inversion = method != 'without inversion'
    print(f'{len(prompts)} edits, {method} ...', flush=True)
    found = used(prompts, inversion=inversion, **options)
    frames[method] = found
    verdicts[method] = [
        judge.judge(clip, prompt, path) for clip, prompt in zip(found, prompts)
    ]
  return verdicts, frames


def summary(verdicts: Sequence[judge.Verdict]) -> dict[str, float]:
  """Means over the edits; 'followed' is their share."""
  names = ('followed', 'share', 'correlation', 'consistency', 'flicker')
  out = {
      name: float(np.mean([getattr(v, name) for v in verdicts]))
      for name in names
  }
  for name in judge.ASPECTS:
    out[name] = float(np.mean([v.aspects[name] for v in verdicts]))
  return out


def show(prompts: Sequence[str], verdicts: Mapping[str, Sequence]) -> None:
  """Prints what the judge says of each edit, and the means."""
  console = rich_console.Console()
  table = rich_table.Table(title='edits, as the judge sees them')
  table.add_column('edit')
  for method in METHODS:
    table.add_column(f'{method}: right frames, path', justify='right')
  for i, prompt in enumerate(prompts):
    cells = [verdicts[method][i] for method in METHODS]
    table.add_row(
        prompt, *(f'{v.share:.0%}  {v.correlation:.2f}' for v in cells)
    )
  console.print(table)
  table = rich_table.Table(title='means over the edits')
  table.add_column('')
  for method in METHODS:
    table.add_column(method, justify='right')
  rows = {method: summary(verdicts[method]) for method in METHODS}
  for name in rows[FULL]:
    table.add_row(name, *(f'{rows[method][name]:.3f}' for method in METHODS))
  console.print(table)


def main(_) -> None:
  out, workdir = pathlib.Path(_OUT.value), pathlib.Path(_WORKDIR.value)
  pipe = editing.EditPipeline.load(workdir)
  verdicts, frames = evaluate(
      pipe, workdir, steps=_STEPS.value, guidance=_GUIDANCE.value,
      batch=_BATCH.value,
  )  # pyformat: disable
  prompts = list(pipe.config.edits)
  show(prompts, verdicts)
  out.parent.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(out.with_suffix('.npz'), **frames)
  out.write_text(json.dumps({
      'prompts': prompts,
      'steps': _STEPS.value,
      'guidance': _GUIDANCE.value,
      'methods': {
          method: {
              'mean': summary(found),
              'edits': [dataclasses.asdict(v) for v in found],
          }
          for method, found in verdicts.items()
      },
  }, indent=1))  # pyformat: disable
  print(f'wrote {out} and {out.with_suffix(".npz")}')


if __name__ == '__main__':
  cli.run(main)

"""Edits by several methods, and what the judge says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from examples.shapes import captions
from examples.shapes import judge
from ttt_jax.data import single_video
from ttt_jax.pipeline import edit as edit_lib

FULL = 'inversion and tuning'
METHODS = (FULL, 'without tuning', 'without inversion')


def evaluate(
  pipe: edit_lib.EditPipeline, workdir: pathlib.Path, **options: Any
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
      ' --config.edits="(\'a blue star over a red field\',)"'
    )
  path = judge.path(
    [judge.see(frame) for frame in single_video.read_frames(pipe.config)]
  )
  if path is None:
    raise ValueError(f'no object can be seen in {pipe.config.video}')
  frames, verdicts = {'source': pipe.source}, {}
  for method in METHODS:
    used = pipe
    if method == 'without tuning':
      used = edit_lib.EditPipeline.untuned(pipe.config, workdir)
    inversion = method != 'without inversion'
    print(f'{len(prompts)} edits, {method} ...', flush=True)
    found = used(prompts, inversion=inversion, **options)
    frames[method] = found
    verdicts[method] = [
      judge.judge(clip, prompt, path) for clip, prompt in zip(found, prompts)
    ]
  return verdicts, frames


def is_hard(prompt: str, source: str) -> bool:
  """Whether an edit leaves neither of the source's two colours.

  The inverted noise keeps the contrast of object and background. Where the
  text asks for another one, objects get lost.
  """
  edit, before = captions.parse(prompt), captions.parse(source)
  return edit.colour != before.colour and edit.background != before.background


def report(
  prompts: Sequence[str],
  source: str,
  verdicts: Mapping[str, Sequence[judge.Verdict]],
) -> dict[str, Any]:
  """Verdicts and their means, as JSON has them.

  Args:
    prompts: of the edits.
    source: text of the source.
    verdicts: by method.

  Returns:
    prompts, and by method its 'edits' and their 'mean': of the 'usual' ones
    and of the 'hard' ones, where there are some.
  """
  kinds = {'usual': [], 'hard': []}
  for i, prompt in enumerate(prompts):
    kinds['hard' if is_hard(prompt, source) else 'usual'].append(i)
  methods = {}
  for method, found in verdicts.items():
    mean = {
      kind: summary([found[i] for i in rows])
      for kind, rows in kinds.items()
      if rows
    }
    each = [dataclasses.asdict(v) for v in found]
    methods[method] = dict(mean=mean, edits=each)
  return dict(prompts=list(prompts), methods=methods)


def summary(verdicts: Sequence[judge.Verdict]) -> dict[str, float]:
  """Means over the edits; 'followed' is their share."""
  names = ('followed', 'share', 'correlation', 'consistency', 'flicker')
  out = {
    name: float(np.mean([getattr(v, name) for v in verdicts])) for name in names
  }
  for name in judge.ASPECTS:
    out[name] = float(np.mean([v.aspects[name] for v in verdicts]))
  return out


def show(found: Mapping[str, Any]) -> None:
  """Prints a `report`."""
  console, methods = rich_console.Console(), found['methods']
  table = rich_table.Table(title='right frames, and likeness of the path')
  table.add_column('edit')
  for method in methods:
    table.add_column(method, justify='right')
  for i, prompt in enumerate(found['prompts']):
    each = [m['edits'][i] for m in methods.values()]
    table.add_row(
      prompt, *(f'{e["share"]:.0%} {e["correlation"]:.2f}' for e in each)
    )
  for kind, names in next(iter(methods.values()))['mean'].items():
    table.add_section()
    for name in names:
      means = [m['mean'][kind][name] for m in methods.values()]
      table.add_row(f'{kind}: {name}', *map('{:.2f}'.format, means))
  console.print(table)

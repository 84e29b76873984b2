"""Compares edits with and without tuning and inversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np
from rich import table as rich_table

from examples.shapes import captions
from examples.shapes import judge
from ttt_jax.data import single_video
from ttt_jax.pipeline import edit as edit_lib
from ttt_jax.video import contact_sheet
from ttt_jax.video import video_file

FULL = 'inversion and tuning'
METHODS = (FULL, 'without tuning', 'without inversion')

_SHOWN = 4  # frames of a clip, and edits of methods.png
_ZOOM = 2


def evaluate(
  pipe: edit_lib.EditPipeline, workdir: pathlib.Path, **options: Any
) -> tuple[dict[str, list[judge.Verdict]], dict[str, np.ndarray]]:
  """Edits by each method, and judges the results.

  Args:
    pipe: Pipeline of the tuning; the prompts are its `config.edits`.
    workdir: Folder of the training run.
    **options: Options of the pipeline's call.

  Returns:
    Verdicts by method, in the order of the prompts; and uint8 frames of
    'source' [F, H, W, 3] and of each method [n, F, H, W, 3].

  Raises:
    ValueError: there are no prompts, a prompt is not a caption, or the object
      of the clip is not visible or does not move.
  """
  prompts = tuple(pipe.config.edits)
  if not prompts:
    raise ValueError(
      f'config.edits of the run in {workdir} is empty; tune with'
      ' --config.edits="(\'a blue star over a red field\',)"'
    )
  path = judge.path(
    [judge.detect(frame) for frame in single_video.read_frames(pipe.config)]
  )
  if path is None:
    raise ValueError(
      f'{pipe.config.video} shows no object of the world; name another video'
    )
  frames, verdicts = {'source': pipe.source}, {}
  for method in METHODS:
    method_pipe = pipe
    if method == 'without tuning':
      method_pipe = edit_lib.EditPipeline.untuned(pipe.config, workdir)
    inversion = method != 'without inversion'
    print(f'{len(prompts)} edits, {method} ...', flush=True)
    edits = method_pipe(prompts, inversion=inversion, **options)
    frames[method] = edits
    verdicts[method] = [
      judge.judge(clip, prompt, path) for clip, prompt in zip(edits, prompts)
    ]
  return verdicts, frames


def is_hard(prompt: str, source: str) -> bool:
  """Returns whether an edit changes both colours of the source.

  The inverted noise preserves the contrast of object and background. If the
  text requires another contrast, the object is often lost.
  """
  new, old = captions.parse(prompt), captions.parse(source)
  return new.colour != old.colour and new.background != old.background


def make_report(
  prompts: Sequence[str],
  source: str,
  verdicts: Mapping[str, Sequence[judge.Verdict]],
) -> dict[str, Any]:
  """Converts verdicts and their means to JSON types.

  Args:
    prompts: Texts of the edits.
    source: Text of the source.
    verdicts: Verdicts by method.

  Returns:
    'prompts' and 'methods'. Each method has its 'edits' and their 'mean', by
    'usual' and 'hard' edits.
  """
  kinds = {'usual': [], 'hard': []}
  for i, prompt in enumerate(prompts):
    kinds['hard' if is_hard(prompt, source) else 'usual'].append(i)
  methods = {}
  for method, edits in verdicts.items():
    mean = {
      kind: mean_verdict([edits[i] for i in rows])
      for kind, rows in kinds.items()
      if rows
    }
    each = [dataclasses.asdict(v) for v in edits]
    methods[method] = dict(mean=mean, edits=each)
  return dict(prompts=list(prompts), methods=methods)


def mean_verdict(verdicts: Sequence[judge.Verdict]) -> dict[str, float]:
  """Returns means over the edits; 'followed' is the share of edits."""
  names = ('followed', 'share', 'correlation', 'consistency', 'flicker')
  out = {
    name: float(np.mean([getattr(v, name) for v in verdicts])) for name in names
  }
  for name in judge.ASPECTS:
    out[name] = float(np.mean([v.aspects[name] for v in verdicts]))
  return out


def report_table(report: Mapping[str, Any]) -> rich_table.Table:
  """Returns the table of a `make_report`."""
  methods = report['methods']
  table = rich_table.Table(title='correct frames, and correlation of the path')
  table.add_column('edit')
  for method in methods:
    table.add_column(method, justify='right')
  for i, prompt in enumerate(report['prompts']):
    each = [m['edits'][i] for m in methods.values()]
    table.add_row(
      prompt, *(f'{e["share"]:.0%} {e["correlation"]:.2f}' for e in each)
    )
  for kind, names in next(iter(methods.values()))['mean'].items():
    table.add_section()
    for name in names:
      means = [m['mean'][kind][name] for m in methods.values()]
      table.add_row(f'{kind}: {name}', *map('{:.2f}'.format, means))
  return table


def write_pictures(
  folder: pathlib.Path,
  prompts: Sequence[str],
  frames: Mapping[str, np.ndarray],
  fps: float,
) -> None:
  """Writes source and edits as videos and pictures.

  Args:
    folder: Folder of source_and_edits.mp4, .gif and .png, and of methods.png.
    prompts: Texts of the edits.
    frames: Frames of the source and of each method, see `evaluate`.
    fps: Frames per second.
  """
  out = folder / 'source_and_edits'
  both = contact_sheet.side_by_side(frames['source'], frames[FULL])
  both = both.repeat(_ZOOM, axis=1).repeat(_ZOOM, axis=2)
  contact_sheet.write_gif(out.with_suffix('.gif'), both, fps)
  video_file.write_video(out.with_suffix('.mp4'), both, fps=fps)
  clips = np.concatenate([frames['source'][None], frames[FULL]])
  _write_strips(out.with_suffix('.png'), clips, ['source', *prompts], 2)
  shown = np.linspace(0, len(prompts) - 1, _SHOWN).round().astype(int)
  cells = [(method, i) for i in shown for method in METHODS]
  _write_strips(
    folder / 'methods.png',
    np.stack([frames[method][i] for method, i in cells]),
    [f'{method}: {prompts[i]}' for method, i in cells],
    len(METHODS),
  )


def _write_strips(path, clips, labels, columns):
  """Writes a few frames of each clip [n, F, H, W, 3] with its label."""
  count = clips.shape[1]
  shown = np.linspace(0, count - 1, min(_SHOWN, count)).round().astype(int)
  strips = np.concatenate(list(clips[:, shown].swapaxes(0, 1)), axis=2)
  strips = strips.repeat(_ZOOM, axis=1).repeat(_ZOOM, axis=2)
  contact_sheet.write_contact_sheet(strips, path, columns, labels)

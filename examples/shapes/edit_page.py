"""The page that tells what the demonstration of editing found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from examples.shapes import comparison
from ttt_jax.video import contact_sheet
from ttt_jax.video import video_file

_SHOWN = 4  # frames of a clip in a picture
_ZOOM = 2
_COMPARED = 4  # edits in the picture of the ablations
_MEANS = {
  'followed': 'edits followed',
  'share': 'frames that show all of it',
  'shape': 'frames with the shape',
  'colour': 'frames with its colour',
  'background': "frames with the background's colour",
  'texture': 'frames with its texture',
  'correlation': "path like the source's",
  'consistency': 'neighbours that show the same',
  'flicker': 'flicker of the background (of 255)',
}

_TEXT = """\
# Editing one clip, measured

Written by `make demo-edit`. A small Stable Diffusion of a world of shapes
(`configs/shapes.py` makes it from nothing) is inflated, tuned on one clip of
{frames} frames ("{prompt}"), and edits it with
{count} texts that tuning has not seen.
Tuning: {tuning} steps, learning rate {lr:g}.
Editing: {steps} steps of DDIM inversion and of sampling, guidance {guidance:g}.
A judge that knows this world (`examples/shapes/judge.py`) finds the object, its
shape, its colour, its path and the background in the frames alone. An edit is
followed where most frames show all that the text says. The path is compared by
the correlation of x and y together; it is 0 where fewer than three quarters of
the frames have an object.

![source and edits]({stem}.png)
![source and edits, moving]({stem}.gif)

{usual}

The table counts the edits that leave at least one of the two colours of the
source as it is. {hard_count} others change both, such as "{hard_one}".
They are counted apart because they do not work, which we found by trying: in
some frames the object is lost, with tuning and without. Over all {count} edits
{all_followed:.0%} are followed, and the mean likeness of the paths is
{all_correlation:.2f}.

{hard}

Each edit, by the share of its frames that show all of it, and the correlation
of its path:

{edits}

Without tuning is the network as it is inflated: attention over frames adds
nothing yet, the queries are those of pictures. Without inversion is the tuned
network from noise that knows nothing of the clip.

![without tuning, without inversion]({stem}_ablations.png)

## A clip of a camera

The same commands on {real_frames} frames of the quickstart's clip of bikes
("{real}"), with the same small models. They run; the result is no edit that
anyone wants. The models have seen flat colours and five shapes: the autoencoder
blurs what is neither, and of the texts they know the colours and the textures
alone. For real clips bring a real Stable Diffusion 1.x or 2.x: the commands
stay the same, `--config=configs/tune_a_video.py:FOLDER`.

![source and edits]({stem}_bikes.png)

## Time

{times}
"""


def write(
  page: pathlib.Path,
  found: Mapping[str, Any],
  frames: Mapping[str, np.ndarray],
  real: Sequence[str],
  real_frames: np.ndarray,
  *,
  prompt: str,
  settings: Mapping[str, float],
  seconds: Sequence[tuple[str, float]],
  fps: float,
) -> None:
  """Writes the page, and pictures and a video beside it.

  Args:
    page: Markdown file; the others begin with its name.
    found: what `shapes.evaluate` wrote.
    frames: its frames.
    real: texts of the real clip, the source's first.
    real_frames: of them, uint8 [n, F, H, W, 3].
    prompt: of the source.
    settings: tuning, lr, steps, guidance.
    seconds: (step, wall time).
    fps: of the clips.
  """
  page.parent.mkdir(parents=True, exist_ok=True)
  beside = lambda end: page.with_name(page.stem + end)
  prompts, (full, *_) = found['prompts'], found['methods']
  clips = np.concatenate([frames['source'][None], frames[full]])
  labels = [f'source: {prompt}', *prompts]
  picture(beside('.png'), clips, labels, 2)
  compared = np.linspace(0, len(prompts) - 1, _COMPARED).round().astype(int)
  cells = [(name, i) for i in compared for name in found['methods']]
  picture(
    beside('_ablations.png'),
    np.stack([frames[name][i] for name, i in cells]),
    [f'{name}: {prompts[i]}' for name, i in cells],
    len(found['methods']),
  )
  picture(beside('_bikes.png'), real_frames, real, 2)
  both = contact_sheet.side_by_side(frames['source'], frames[full])
  both = both.repeat(_ZOOM, axis=1).repeat(_ZOOM, axis=2)
  contact_sheet.write_gif(beside('.gif'), both, fps)
  video_file.write_video(beside('.mp4'), both, fps=fps)
  hard = [p for p in prompts if comparison.is_hard(p, prompt)]
  each = found['methods'][full]['edits']
  mean = lambda name: np.mean([e[name] for e in each])
  page.write_text(
    _TEXT.format(
      **settings,
      prompt=prompt,
      count=len(prompts),
      stem=page.stem,
      frames=len(frames['source']),
      usual=means(found, 'usual'),
      hard=means(found, 'hard'),
      hard_one=hard[0],
      hard_count=len(hard),
      all_followed=mean('followed'),
      all_correlation=mean('correlation'),
      edits=edits(found),
      real=real[0],
      real_frames=real_frames.shape[1],
      times=table(
        ['step', 'seconds'], [[name, f'{value:.0f}'] for name, value in seconds]
      ),
    )
  )


def picture(
  path: pathlib.Path, clips: np.ndarray, labels: Sequence[str], columns: int
) -> None:
  """A few frames of each clip [n, F, H, W, 3] in a strip with its label."""
  count = clips.shape[1]
  shown = np.linspace(0, count - 1, min(_SHOWN, count)).round().astype(int)
  strips = np.concatenate(list(clips[:, shown].swapaxes(0, 1)), axis=2)
  strips = strips.repeat(_ZOOM, axis=1).repeat(_ZOOM, axis=2)
  contact_sheet.contact_sheet(strips, path, columns, labels)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table in Markdown; the first column is text."""
  line = lambda cells: f'| {" | ".join(cells)} |'
  ruler = ['---'] + ['---:'] * (len(head) - 1)
  return '\n'.join(map(line, [head, ruler, *rows]))


def means(found: Mapping[str, Any], kind: str) -> str:
  """The means over the 'usual' or the 'hard' edits, by method."""
  named = found['methods']
  rows = []
  for name, title in _MEANS.items():
    values = [named[method]['mean'][kind][name] for method in named]
    form = '{:.2f}' if name in ('correlation', 'flicker') else '{:.0%}'
    rows.append([title, *map(form.format, values)])
  return table(['mean over the edits', *named], rows)


def edits(found: Mapping[str, Any]) -> str:
  """Each edit, by method."""
  named = found['methods']
  rows = []
  for i, prompt in enumerate(found['prompts']):
    each = [named[method]['edits'][i] for method in named]
    rows.append(
      [prompt, *(f'{e["share"]:.0%}, {e["correlation"]:.2f}' for e in each)]
    )
  return table(['edit', *named], rows)

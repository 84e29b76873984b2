"""The page on which texts are written, next to the strips of frames."""

from __future__ import annotations

from collections.abc import Sequence
import itertools
import os
import pathlib
import urllib.parse

from ttt_jax.annotation import frames
from ttt_jax.annotation import project as project_lib
from ttt_jax.data import annotations as annotations_lib
from ttt_jax.pages import html
from ttt_jax.pages import page
from ttt_jax.runtime import wording

tag, join = html.tag, html.join

NAME = 'annotate.html'
_KEYS = (
  ('Ctrl+Enter', 'next segment'),
  ('Ctrl+Shift+Enter', 'previous segment'),
  ('Alt+Enter', 'next segment without a text'),
  ('Alt+C', 'text of the previous segment'),
  ('Alt+P', 'plays the segment'),
)


def build(
  project: project_lib.Project, segments: Sequence[project_lib.Segment]
) -> str:
  """Returns the page of a project; texts are written into the browser.

  Args:
    project: Folder of the page.
    segments: Segments of all videos, in order.
  """
  numbers = itertools.count()
  parts = []
  for video, of_video in itertools.groupby(segments, lambda s: s.video):
    parts.append(tag('h2', video))
    for scene, group in itertools.groupby(of_video, lambda s: s.scene):
      found = list(group)
      end = project.end(found[-1])
      title = f'Scene {scene + 1}, {clock(found[0].start)} to {clock(end)}'
      parts.append(tag('h3', title))
      parts += [_card(next(numbers), s, project) for s in found]
  short = [
    (video, clock(start), f'{end - start:.2f} s')
    for video, start, end in project.too_short
  ]
  data = dict(
    id=project.id,
    seconds=project.seconds,
    frame=1 / project.fps,
    segments=[
      dict(
        video=s.video,
        name=annotations_lib.default_name(s.video),
        scene=s.scene,
        start=s.start,
        stop=s.stop,
        text=s.text,
      )
      for s in segments
    ],
  )
  return page.page(
    f'Captions of {project.folder.name}',
    _bar(),
    tag('h1', f'Captions of {project.folder.name}'),
    tag(
      'p',
      'Describe what each segment shows. What you type is saved in this'
      ' browser at once; Export writes captions.json, with every segment that'
      ' has a text, for precompute (',
      tag('code', f'--config.data.videos={project.videos}'),
      '). Put the file into this folder to keep the texts here, too.',
    ),
    page.folded('Keys', page.table(['key', 'what it does'], _KEYS)),
    page.folded(
      wording.count(len(short), 'scene', 'is too short for a segment'),
      page.table(['video', 'from', 'duration'], short),
    )
    if short
    else None,
    tag('main', parts),
    html.data(data, id='project'),
    page.made(),
    styles=['annotate.css'],
    scripts=['annotate.js'],
    policy=None,
  )


def _bar() -> html.Markup:
  button = lambda text, name: tag('button', text, type='button', id=name)
  return tag(
    'div',
    tag('progress', id='progress', value=0, max=1),
    tag('span', '', id='count', aria_live='polite'),
    tag(
      'span',
      button('Next empty', 'next'),
      tag(
        'label',
        tag('input', type='checkbox', id='only-empty'),
        ' only empty',
      ),
      button('Export', 'export'),
      tag(
        'label',
        'Import',
        tag('input', type='file', id='import', accept='.json', hidden=True),
        class_='button',
      ),
      class_='tools',
    ),
    tag('span', '', id='status', role='status'),
    class_='toolbar',
  )


def _card(
  number: int, segment: project_lib.Segment, project: project_lib.Project
) -> html.Markup:
  end = project.end(segment)
  source = _url(project.path(segment.video), project.folder)
  return tag(
    'article',
    tag(
      'div',
      tag(
        'img',
        src=urllib.parse.quote(frames.strip_path(project, segment)),
        alt=f'frames of {segment.video} from {clock(segment.start)}',
        loading='lazy',
        width=4 * 256,
        height=144,
      ),
      class_='strip',
    ),
    tag(
      'div',
      tag('span', f'{number + 1}'),
      tag('span', f'{clock(segment.start)} to {clock(end)}'),
      tag(
        'button',
        'Play',
        type='button',
        class_='play',
        data_src=f'{source}#t={segment.start:.3f},{end:.3f}',
      ),
      tag('span', '', class_='words'),
      class_='about',
    ),
    tag('textarea', segment.text, rows=3, aria_label=f'text {number + 1}'),
    tag('p', '', class_='earlier', hidden=True),
    class_='card',
    id=f's{number}',
  )


def _url(path: pathlib.Path, folder: pathlib.Path) -> str:
  """Returns the address of a video as seen from the page."""
  try:
    relative = os.path.relpath(path, folder.resolve())
  except ValueError:  # Another drive of Windows.
    return path.as_uri()
  return urllib.parse.quote(pathlib.Path(relative).as_posix())


def clock(seconds: float) -> str:
  """Returns '1:02:03.5' for a time in a video."""
  tenths = round(seconds * 10)
  minutes, tenths = divmod(tenths, 600)
  hours, minutes = divmod(minutes, 60)
  end = f'{tenths / 10:04.1f}'.removesuffix('.0')
  return f'{hours}:{minutes:02d}:{end}' if hours else f'{minutes}:{end}'

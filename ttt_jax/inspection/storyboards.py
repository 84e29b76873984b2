"""The page of a file of storyboards, annotations or captions."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import annotations as annotations_lib
from ttt_jax.data import captions as captions_lib
from ttt_jax.data import shots
from ttt_jax.inspection import segments
from ttt_jax.pages import html
from ttt_jax.pages import page
from ttt_jax.runtime import paths

tag, join = html.tag, html.join


def read(path: str | os.PathLike[str]) -> list[storyboard_lib.Storyboard]:
  """Reads the storyboards of a file, or its episodes as storyboards.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it has none, or they are not valid.
  """
  value, is_rows = captions_lib.read_file(path, '.')
  stem = paths.resolve(path).stem
  try:
    if captions_lib.are_captions(value, is_rows):
      return list(map(_as_storyboard, captions_lib.parse(value)))
    if annotations_lib.is_annotation(value):
      return list(map(_as_storyboard, annotations_lib.parse(value)))
    return storyboard_lib.parse_storyboards(value, stem, is_rows)
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e


def _as_storyboard(
  episode: annotations_lib.Episode,
) -> storyboard_lib.Storyboard:
  """Returns the texts of an episode, which may have more than a minute."""
  seconds = storyboard_lib.SEGMENT_SECONDS
  return storyboard_lib.Storyboard(
    episode.name,
    tuple(
      storyboard_lib.Segment(
        text, scene=scene, video=span.video, start=span.start + i * seconds
      )
      for span in episode.spans
      for i, (text, scene) in enumerate(zip(span.texts, span.scenes))
    ),
  )


def build(
  path: str | os.PathLike[str],
  boards: Sequence[storyboard_lib.Storyboard],
  *,
  pictures: segments.Pictures,
  tokens: segments.Tokens | None = None,
  geometry: geometry_lib.Geometry | None = None,
) -> str:
  """Returns the page of storyboards.

  Args:
    path: Path of their file.
    boards: Storyboards.
    pictures: Reader of the frames of their videos.
    tokens: Counter of the tokens of their texts.
    geometry: Geometry of the model, for the tokens of the video.
  """
  seconds: float = storyboard_lib.SEGMENT_SECONDS
  if geometry:
    seconds = shots.segment_seconds(geometry)
  parts = [
    _board(i, board, pictures, tokens, geometry, seconds)
    for i, board in enumerate(boards)
  ]
  name = os.fspath(path)
  nav = tag(
    'nav', (tag('a', b.name, href=f'#b{i}') for i, b in enumerate(boards))
  )
  note = None
  if tokens is None:
    note = page.note(
      'Tokens are not counted, because no tokenizer is known: name the config'
      ' of the model (--config), or a training run (--workdir).'
    )
  elif tokens.name:
    note = tag('p', f'Tokens are those of {tokens.name}.', class_='soft')
  return page.page(
    f'Storyboard {name}',
    tag('h1', f'{"Storyboards" if len(boards) > 1 else "Storyboard"} {name}'),
    nav if len(boards) > 1 else None,
    note,
    [page.note(text) for text in pictures.notes()],
    parts,
    page.made(),
    styles=['segments.css'],
  )


def _board(
  index: int,
  board: storyboard_lib.Storyboard,
  pictures: segments.Pictures,
  tokens: segments.Tokens | None,
  geometry: geometry_lib.Geometry | None,
  seconds: float,
) -> html.Markup:
  count = len(board.segments)
  runs = segments.scene_runs(board)
  places = len({label for label, _ in runs})
  numbers: list[tuple[str, Any, str]] = [
    ('duration', f'{count * seconds:g} s', f'segments: {count}'),
    ('scenes', len(runs), f'different ones: {places}'),
  ]
  if tokens:
    counts = [tokens.count(p) for p in board.prompts()]
    most = f'of {tokens.most}' if tokens.most else ''
    numbers.append(('longest text', f'{max(counts)} tokens', most))
    if tokens.most:
      long = sum(c > tokens.most for c in counts)
      numbers.append(('texts that are too long', long, ''))
  if geometry:
    order = dataclasses.replace(geometry.order, segments=count)
    numbers += [
      ('sequence', f'{order.length:,}', 'tokens of text and video'),
      ('attention window', f'{order.window:,}', 'tokens'),
    ]
  return tag(
    'section',
    tag('h2', board.name),
    page.numbers(numbers),
    segments.strip(
      board, seconds, pictures=pictures, tokens=tokens, prefix=f'b{index}-'
    ),
    id=f'b{index}',
    class_='clip',
  )

"""The page of a data set: its clips, and those left out, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
import ml_collections

from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import episodes
from ttt_jax.data import shots
from ttt_jax.data.store import arrays
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.inspection import segments
from ttt_jax.pages import html
from ttt_jax.pages import page
from ttt_jax.runtime import files
from ttt_jax.runtime import wording

tag, join = html.tag, html.join


def is_data_set(folder: epath.Path) -> bool:
  """Returns whether a folder has a manifest, finished or not."""
  return any(
    (folder / name).exists()
    for name in (manifest_lib.FINAL, manifest_lib.UNFINISHED)
  )


def build(
  folder: epath.Path,
  *,
  pictures: segments.Pictures,
  tokens: segments.Tokens | None = None,
  config: Mapping[str, Any] | None = None,
) -> str:
  """Returns the page of a data set.

  Args:
    folder: Folder of the data set.
    pictures: Reader of the frames of its videos.
    tokens: Counter of the tokens of its texts.
    config: Config that made it, to read the captions that are in no clip.

  Raises:
    ValueError: the manifest cannot be read.
  """
  is_finished = (folder / manifest_lib.FINAL).exists()
  manifest = manifest_lib.load(
    folder / (manifest_lib.FINAL if is_finished else manifest_lib.UNFINISHED)
  )
  seconds = (manifest.frames - 1) / manifest.fps
  boards = [_board(clip) for clip in manifest.clips]
  clips = [
    _clip(clip, board, seconds / manifest.segments, pictures, tokens)
    for clip, board in zip(manifest.clips, boards)
  ]
  videos = {
    segment.video
    for board in boards
    if isinstance(board, storyboard_lib.Storyboard)
    for segment in board.segments
  }
  numbers = [
    ('clips', f'{len(manifest.clips):,}', f'of {seconds:g} s'),
    ('left out', f'{len(manifest.corrupt):,}', ''),
    ('together', _hours(seconds * len(manifest.clips)), ''),
    ('videos', f'{len(videos - {None}):,}', ''),
    (
      'frames per clip',
      f'{manifest.frames}',
      f'{manifest.fps:g} per second',
    ),
    ('pixels', f'{manifest.height} x {manifest.width}', ''),
    ('segments per clip', manifest.segments, ''),
    ('text tokens', manifest.text_length, 'per segment'),
  ]
  layout = 'grid' if manifest.segments == 1 else None
  notes = [page.note(text) for text in pictures.notes()]
  return page.page(
    f'Data set {folder}',
    tag('h1', f'Data set {folder}'),
    None if is_finished else _unfinished(folder),
    page.numbers(numbers) if is_finished else None,
    _left_out(folder, manifest, is_finished, config),
    _conversions(manifest),
    page.folded(
      'Encoders',
      page.table(
        ['field', 'value'],
        [(k, tag('code', v)) for k, v in manifest.identity().items()],
      ),
    ),
    [tag('h2', 'Clips'), notes, tag('div', clips, class_=layout)]
    if clips
    else None,
    page.made(),
    styles=['segments.css'],
  )


def _board(clip: manifest_lib.Clip) -> storyboard_lib.Storyboard | str:
  """Returns the storyboard of a clip, or why it cannot be shown."""
  try:
    return storyboard_lib.Storyboard.parse(clip['storyboard'])
  except ValueError as e:
    return str(e)


def _clip(
  clip: manifest_lib.Clip,
  board: storyboard_lib.Storyboard | str,
  seconds: float,
  pictures: segments.Pictures,
  tokens: segments.Tokens | None,
) -> html.Markup:
  """Returns the part of a clip; `seconds` is the duration of a segment."""
  row = clip['row']
  title = tag('h3', clip['name'], ' ', tag('small', f'row {row}'))
  if isinstance(board, str):
    text = tag('p', f'It has no storyboard: {board}', class_='soft')
    return tag('section', title, text, class_='clip')
  strip = segments.strip(
    board, seconds, pictures=pictures, tokens=tokens, prefix=f'clip{row}-'
  )
  return tag('section', title, strip, class_='clip')


def _unfinished(folder: epath.Path) -> html.Markup:
  """Returns how far precompute has come."""
  rows = arrays.marked_rows(folder)
  return page.note(
    'The data set is unfinished:'
    f' {wording.count(len(rows), "clip", "is")} settled so far. The'
    ' list of clips is written at the end; run precompute again to complete'
    ' it.'
  )


def _left_out(
  folder: epath.Path,
  manifest: manifest_lib.Manifest,
  is_finished: bool,
  config: Mapping[str, Any] | None,
) -> html.Markup:
  """Returns the clips that were left out, and the captions in no clip."""
  rows = [(c['name'], c['row'], c['reason']) for c in manifest.corrupt]
  if not is_finished:
    markers = {
      r: arrays.read_marker(folder, r) for r in arrays.marked_rows(folder)
    }
    rows = [
      (m.get('name', ''), row, m['left_out'])
      for row, m in markers.items()
      if m.get('left_out')
    ]
  parts: list[Any] = [tag('h2', 'Left out')]
  if rows:
    parts.append(page.table(['clip', 'row', 'why'], rows))
  else:
    parts.append(tag('p', 'Every clip could be encoded.', class_='soft'))
  parts += [tag('p', line) for line in _captions_in_no_clip(config)]
  return join(*parts)


def _captions_in_no_clip(config: Mapping[str, Any] | None) -> Sequence[str]:
  """Returns the messages of precompute about captions that make no clip."""
  unknown = (
    'Scenes that are too short, and segments at the ends of episodes, are not'
    ' known'
  )
  if config is None or not config.get('data', {}).get('storyboards'):
    return [f'{unknown}: name the config that made the data set (--config).']
  data = config['data']
  try:
    geometry = geometry_lib.Geometry.from_config(
      ml_collections.ConfigDict(config)
    )
    stride = round(data.get('stride', 0) / shots.segment_seconds(geometry))
    found = episodes.read_clips(
      data['storyboards'], data.get('videos', ''), geometry, stride
    )
  except (ValueError, OSError, KeyError) as e:
    return [f'{unknown}: {files.first_line(e)}']
  return [line[0].upper() + line[1:] + '.' for line in found.summary()]


def _conversions(manifest: manifest_lib.Manifest) -> html.Markup | None:
  if not manifest.conversions:
    return None
  rows = [(n, ', '.join(done)) for n, done in manifest.conversions.items()]
  return page.folded(
    wording.count(len(rows), 'video', 'was converted'),
    page.table(['video', 'how'], rows),
  )


def _hours(seconds: float) -> str:
  if seconds < 600:
    return f'{seconds:g} s'
  if seconds < 2 * 3600:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'

"""Pages of measured videos: one result, or two of them side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import os
from typing import Any

import numpy as np

from ttt_jax.evaluation import results as results_lib
from ttt_jax.evaluation import video_report
from ttt_jax.pages import charts
from ttt_jax.pages import html
from ttt_jax.pages import media
from ttt_jax.pages import page

tag, join = html.tag, html.join

_MOST_DETAILS = 10  # Videos that are shown in detail.
_MOST_PICTURES = 60  # Of a video.
_SHORT = (
  'similarity_second',
  'similarity_far',
  'drift',
  'jumps',
  'flicker',
  'sharpness',
  'change',
  'duplicates',
  'clip_drift',
  'clip_text',
)
_SHARES = ('duplicates', 'frozen', 'repeated', 'clip_text_right')
_READ_ME = (
  'Computed from the frames alone. The numbers measure whether a video stays'
  ' the same, jumps, flickers or blurs, not whether that is right: a story with'
  ' scene changes must be less similar far apart than a still. Compare videos'
  ' of the same story.'
)


def report(found: results_lib.Result) -> str:
  """Returns the page of `results.measure`."""
  result, pictures = found.value, found.pictures
  videos = result['videos']
  one = len(videos) == 1
  title = (
    os.path.basename(videos[0]['video']) if one else f'{len(videos)} videos'
  )
  means = result['summary']['scores']
  body = [
    tag('h1', f'Evaluation of {title}'),
    tag('p', _READ_ME, class_='soft'),
    page.numbers(
      (
        video_report.SCORES[name][0],
        _number(name, means[name]['mean']),
        _interval(name, means[name]),
      )
      for name in _SHORT
      if name in means
    ),
  ]
  if not one:
    body.append(
      tag('div', _curve_charts({'': result['summary']}), class_='grid')
    )
    names = [n for n in _SHORT if n in means]
    body += [
      tag('h2', 'Videos'),
      _table(
        ['video', *(video_report.SCORES[n][0] for n in names)],
        (
          [
            os.path.basename(v['video']),
            *(_number(n, v['scores'].get(n)) for n in names),
          ]
          for v in videos
        ),
      ),
    ]
  for video in videos[:_MOST_DETAILS]:
    body.append(_details(video, pictures.get(video['video'], ()), one))
  if videos[_MOST_DETAILS:]:
    body.append(
      page.note(
        f'{len(videos) - _MOST_DETAILS} more videos are in the JSON file.'
      )
    )
  body.append(_definitions(result))
  return _page(f'Evaluation of {title}', body)


def compare(found: results_lib.Result) -> str:
  """Returns the page of `results.compare`."""
  value, pictures = found.value, found.pictures
  results = dict(zip('AB', value['results']))
  summaries = {name: r['summary'] for name, r in results.items()}
  body = [
    tag('h1', f'A: {value["a"]}', tag('br'), f'B: {value["b"]}'),
    tag('p', _READ_ME, class_='soft'),
    [page.note(note) for note in value['notes']],
    _table(
      ['', 'A', 'B', 'B minus A', ''],
      (
        [
          video_report.SCORES[d['score']][0],
          _number(d['score'], d['a']),
          _number(d['score'], d['b']),
          _number(d['score'], d['difference'], sign=True),
          _interval(d['score'], d, sign=True),
        ]
        for d in value['differences']
      ),
    ),
  ]
  firsts = {name: r['videos'][0] for name, r in results.items()}
  is_pair = all(len(r['videos']) == 1 for r in results.values())
  body.append(
    tag(
      'div',
      _curve_charts(summaries),
      _time_charts(firsts) if is_pair else None,
      class_='grid',
    )
  )
  if is_pair:
    for name, video in firsts.items():
      shown = pictures.get(video['video'], ())
      if shown:
        body += [tag('h3', name), _strip(shown, video)]
    body += [tag('h2', 'Segments'), _segments_of_two(firsts)]
  body += [tag('h2', 'Settings'), _settings(firsts)]
  body.append(_definitions(value['results'][0], with_values=False))
  return _page(f'{value["a"]} and {value["b"]}', body)


def _page(title: str, body: Sequence[Any]) -> str:
  return page.page(
    title,
    body,
    page.made(),
    styles=['charts.css'],
    scripts=['charts.js'],
  )


def _table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Any:
  """Returns a table whose numbers stay on one line."""
  return tag('div', page.table(header, rows), class_='exact')


def _details(
  video: Mapping[str, Any], pictures: Sequence[np.ndarray], one: bool
) -> Any:
  name = os.path.basename(video['video'])
  parts = [
    _strip(pictures, video) if len(pictures) else None,
    tag(
      'div',
      _curve_charts({'': video}),
      _time_charts({'': video}),
      class_='grid',
    ),
    _events(video),
    page.folded('Segments', _segments(video), is_open=one),
    page.folded('Settings', _settings({'': video}), is_open=one),
  ]
  if one:
    return parts
  return page.folded(name, parts)


def _curve_charts(sources: Mapping[str, Mapping[str, Any]]) -> list[Any]:
  """Returns the charts of the curves of summaries or videos."""
  figures = []
  for kind, features in (('curves', ''), ('clip_curves', ', CLIP')):
    for title, parts, caption in (
      (
        'Similarity against distance in time',
        ('all',),
        'Mean similarity of two frames, 1 if they are equal, and the seconds'
        ' between them. Flat: the video stays the same. Falling: it drifts, or'
        ' scenes change.',
      ),
      (
        'The same by scene',
        ('same scene', 'other scene'),
        'Pairs of frames of one scene, and of two: scene changes lower only the'
        ' second, drift lowers the first.',
      ),
    ):
      series = [
        charts.Series(
          f'{name} {part}'.strip() if len(parts) > 1 else name or 'similarity',
          np.array([curve['seconds'], curve['similarity']], float).T,
          colour,
          is_dashed=part == 'other scene',
        )
        for (name, source), colour in zip(sources.items(), charts.COLOURS)
        for part in parts
        if (curve := source.get(kind, {}).get(part))
      ]
      if series:
        figures.append(
          charts.lines(title + features, series, caption, 's', is_log_x=True)
        )
  return figures


def _time_charts(videos: Mapping[str, Mapping[str, Any]]) -> list[Any]:
  """Returns the charts over the time of a video, or of two."""
  first = next(iter(videos.values()))
  borders = [b['time'] for b in first['borders']]
  figures = []
  for key, time, title, least, caption in (
    (
      'change',
      'time',
      'Change from frame to frame',
      0.01,  # For the logarithmic axis.
      'Levels of 255; vertical lines are borders of segments.',
    ),
    (
      'sharpness',
      'sharpness_time',
      'Sharpness',
      0.0,
      '0 is blurred, 1 is sharp.',
    ),
    (
      'brightness',
      'time',
      'Brightness',
      0.0,
      'Mean luma of a frame, 0 to 255.',
    ),
  ):
    figures.append(
      charts.lines(
        title,
        [
          charts.Series(
            name or title,
            np.array(
              [v['series'][time], np.maximum(v['series'][key], least)]
            ).T,
            colour,
          )
          for (name, v), colour in zip(videos.items(), charts.COLOURS)
        ],
        caption,
        's',
        marks=borders,
      )
    )
  return figures


def _strip(pictures: Sequence[np.ndarray], video: Mapping[str, Any]) -> Any:
  """Returns a row of pictures, one per segment."""
  figures = []
  for i, (pixels, row) in enumerate(zip(pictures, video['segments'])):
    if i == _MOST_PICTURES:
      break
    figures.append(
      tag(
        'figure',
        tag(
          'img',
          src=media.data_url(media.jpeg(pixels), 'image/jpeg'),
          alt=row['text'] or f'segment {i + 1}',
          title=row['text'],
        ),
        tag('figcaption', f'{i + 1}: {row["start"]:.0f} s'),
      )
    )
  return tag('div', figures, class_='strip')


def _events(video: Mapping[str, Any]) -> Any:
  """Returns the cuts, frozen and repeated stretches in words."""
  lines = []
  for stretch in video['frozen']:
    lines.append(
      f'frozen for {stretch["seconds"]:.1f} s at {stretch["start"]:.1f} s'
    )
  for stretch in video['repeats']:
    lines.append(
      f'{stretch["seconds"]:.1f} s at {stretch["start"]:.1f} s repeat those at'
      f' {stretch["from"]:.1f} s'
    )
  cuts = ', '.join(f'{c:.1f} s' for c in video['cuts'][:30])
  if cuts:
    lines.append(f'cuts at {cuts}' + ', ...' * (len(video['cuts']) > 30))
  return tag('ul', (tag('li', line) for line in lines)) if lines else None


def _segments(video: Mapping[str, Any]) -> Any:
  """Returns the table of the segments of one video."""
  rows = video['segments']
  columns = [
    ('change', 'motion'),
    ('flicker', 'flicker'),
    ('sharpness', 'sharpness'),
    ('duplicates', 'duplicates'),
    ('jump', 'jump at its start'),
    ('clip_text', 'CLIP text'),
    ('clip_text_rank', 'rank of its text'),
  ]
  columns = [c for c in columns if any(r.get(c[0]) is not None for r in rows)]
  extra = [k for k in ('scene', 'text') if any(r[k] is not None for r in rows)]
  return _table(
    ['', 'start', *(title for _, title in columns), *extra],
    (
      [
        i,
        f'{row["start"]:.1f} s',
        *(_number(key, row.get(key)) for key, _ in columns),
        *(
          tag('div', row[k], class_='words' if k == 'text' else None)
          for k in extra
        ),
      ]
      for i, row in enumerate(rows, 1)
    ),
  )


def _segments_of_two(videos: Mapping[str, Mapping[str, Any]]) -> Any:
  columns = ('change', 'sharpness', 'flicker', 'jump', 'clip_text')
  all_rows = [v['segments'] for v in videos.values()]
  columns = [
    c
    for c in columns
    if any(r.get(c) is not None for rs in all_rows for r in rs)
  ]
  header = [f'{c}, {name}' for c in columns for name in videos]
  return _table(
    ['', 'start', *header],
    (
      [
        i + 1,
        f'{i * video_report.SEGMENT} s',
        *(
          _number(c, rows[i].get(c)) if i < len(rows) else ''
          for c in columns
          for rows in all_rows
        ),
      ]
      for i in range(max(map(len, all_rows)))
    ),
  )


def _settings(videos: Mapping[str, Mapping[str, Any]]) -> Any:
  """Returns the settings, those that differ first."""
  tables = []
  for video in videos.values():
    found = {'file': video['video'], **video['settings']}
    made = found.pop('sampling')
    tables.append(found | made)
  keys = list(dict.fromkeys(k for t in tables for k in t))
  keys.sort(key=lambda k: len({str(t.get(k)) for t in tables}) == 1)
  rows = []
  for key in keys:
    values = [t.get(key) for t in tables]
    if any(v not in (None, []) for v in values):
      rows.append([key, *('' if v is None else _plain(v) for v in values)])
  return _table(['', *(n or 'value' for n in videos)], rows)


def _plain(value: Any) -> str:
  return ', '.join(map(str, value)) if isinstance(value, list) else str(value)


def _definitions(result: Mapping[str, Any], with_values: bool = True) -> Any:
  """Returns the table of all scores, with their meaning."""
  means = result['summary']['scores']
  rows = [
    [
      title,
      *([_number(name, means[name]['mean'])] if with_values else []),
      tag('div', what, class_='words'),
    ]
    for name, (title, what) in video_report.SCORES.items()
    if name in means
  ]
  clip = result.get('clip')
  return page.folded(
    'All numbers, and their meaning',
    _table([''] * len(rows[0]), rows),
    tag('p', f'Features of a frame: {result["features"]}.'),
    clip and tag('p', f'CLIP: {clip}, {result["clip_fps"]} frames per second.'),
  )


def _number(name: str, value: float | None, sign: bool = False) -> str:
  if value is None:
    return ''
  plus = '+' if sign else ''
  if name in _SHARES:
    return f'{100 * value:{plus}.1f} %'
  if isinstance(value, int):
    return f'{value:{plus}d}'
  return f'{value:{plus}.3f}' if abs(value) < 10 else f'{value:{plus}.1f}'


def _interval(name: str, row: Mapping[str, Any], sign: bool = False) -> str:
  if row.get('low') is None:
    return ''
  low, high = (_number(name, row[k], sign) for k in ('low', 'high'))
  return f'95 %: {low} to {high}'

"""Segments of a storyboard or clip as a strip: scenes, pictures and tokens."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import os
import pathlib
import re
from typing import Any

import numpy as np

from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import shots
from ttt_jax.pages import html
from ttt_jax.pages import media
from ttt_jax.runtime import files

tag, join = html.tag, html.join

_SCENE_TOKENS = (storyboard_lib.START_SCENE, storyboard_lib.END_SCENE)
_OPEN = 256  # Pictures that are kept for segments that repeat a shot.


class Pictures:
  """Reads two frames of each segment, while there are bytes and pictures left.

  Attributes:
    left_out: Number of segments without pictures, because there are too many.
    problems: Reason by the name of each video that cannot be read.
  """

  def __init__(self, videos: str, budget: media.Budget, most: int):
    """Prepares to read.

    Args:
      videos: Folder of the videos; '' if it is not known.
      budget: Bytes that the page may still embed.
      most: Largest number of pictures.
    """
    self._videos, self._budget, self._left = videos, budget, most
    self.left_out = 0
    self.problems: dict[str, str] = {}
    self._read = functools.lru_cache(_OPEN)(self._frame)

  def of(
    self, segment: storyboard_lib.Segment, seconds: float
  ) -> html.Markup | None:
    """Returns the first and the middle frame; None if there are none.

    Args:
      segment: Segment.
      seconds: Duration of a segment.
    """
    name = segment.video
    if not name or name in self.problems:
      return None
    if self._left < 2:
      self.left_out += 1
      return None
    start = float(segment.start or 0.0)
    try:
      found = [self._read(name, t) for t in (start, start + seconds / 2)]
    except (ValueError, OSError) as e:
      self.problems[name] = files.first_line(e)
      return None
    if not self._budget.take(sum(map(len, found))):
      self._left = 0
      self.left_out += 1
      return None
    self._left -= 2
    urls = [media.data_url(content, 'image/jpeg') for content in found]
    labels = 'first frame', 'middle frame'
    return tag(
      'div',
      (tag('img', src=u, alt=a, loading='lazy') for u, a in zip(urls, labels)),
      class_='frames',
    )

  def _frame(self, name: str, seconds: float) -> bytes:
    return media.jpeg(media.thumbnail(self._resolve(name), seconds))

  def _resolve(self, name: str) -> pathlib.Path:
    if not self._videos and not os.path.isabs(name):
      raise FileNotFoundError('the folder of the videos is not known')
    return shots.resolve(name, self._videos)

  def notes(self) -> list[str]:
    """Returns notes on missing pictures and their reasons."""
    out = []
    if self.left_out:
      out.append(
        f'Segments without pictures: {self.left_out}, because the page would'
        ' become too large; larger --embed_mib and --pictures show more.'
      )
    reasons: dict[str, list[str]] = {}
    for name, reason in self.problems.items():
      reasons.setdefault(reason.replace(name, '…'), []).append(name)
    out += [
      f'No pictures of {files.first_ten(names)}: {reason}'
      for reason, names in reasons.items()
    ]
    return out


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Counts the tokens of a text.

  Attributes:
    count: Number of tokens of a text, with special tokens.
    most: Tokens per segment, L; None if it is not known.
    name: The tokenizer, for the reader.
  """

  count: Callable[[str], int]
  most: int | None = None
  name: str = ''


def colour(index: int) -> str:
  """Returns the colour of a scene, by its number."""
  return f'hsl({(210 + 67 * index) % 360} 48% 47%)'


def strip(
  board: storyboard_lib.Storyboard,
  seconds: float,
  *,
  pictures: Pictures | None = None,
  tokens: Tokens | None = None,
  prefix: str = '',
) -> html.Markup:
  """Returns a bar of the scenes, and a card for each segment.

  Args:
    board: Storyboard.
    seconds: Duration of a segment.
    pictures: Reader of the frames; None shows none.
    tokens: Counter of the tokens; None shows no number.
    prefix: Beginning of the anchors, which differs by the strips of a page.
  """
  runs = scene_runs(board)
  label_of = [i for i, (_, count) in enumerate(runs) for _ in range(count)]
  hues = {label: i for i, label in enumerate(dict.fromkeys(r[0] for r in runs))}
  colours = [colour(hues[label]) for label, _ in runs]
  firsts = np.cumsum([0, *(count for _, count in runs)])[:-1].tolist()
  bar = tag(
    'div',
    (
      tag(
        'a',
        name(label),
        href=f'#{prefix}{first}',
        title=f'{name(label)}: {count} segments, {count * seconds:g} s',
        style=f'--c:{c};flex:{count}',
      )
      for (label, count), c, first in zip(runs, colours, firsts)
    ),
    class_='bar-of-scenes',
  )
  cards = []
  prompts = board.prompts() if board.segments else []
  for i, (segment, prompt) in enumerate(zip(board.segments, prompts)):
    run = label_of[i]
    cards.append(
      tag(
        'article',
        tag(
          'header',
          tag('span', f'{i + 1}, {i * seconds:g} s'),
          tag('span', name(runs[run][0])) if len(runs) > 1 else None,
        ),
        pictures and pictures.of(segment, seconds),
        tag('p', _mark_tokens(prompt)),
        tag('p', f'not: {segment.negative}', class_='soft')
        if segment.negative
        else None,
        tokens and _count(tokens, prompt),
        _source(segment),
        class_='segment',
        id=f'{prefix}{i}',
        style=f'--c:{colours[run]}',
      )
    )
  return join(
    bar if len(runs) > 1 else None, tag('div', cards, class_='segments')
  )


def scene_runs(board: storyboard_lib.Storyboard) -> list[tuple[Any, int]]:
  """Returns (label, number of segments) of the scenes in their order."""
  out: list[tuple[Any, int]] = []
  for segment in board.segments:
    label = segment.scene
    if out and (label is None or label == out[-1][0]):
      out[-1] = out[-1][0], out[-1][1] + 1
    else:
      out.append((label, 1))
  return out


def name(label: Any) -> str:
  """Returns the name of a scene for the reader."""
  if label is None:
    return 'no scene'
  return f'scene {label}' if isinstance(label, int) else label


def _mark_tokens(prompt: str) -> list[Any]:
  parts = re.split(f'({"|".join(_SCENE_TOKENS)})', prompt)
  return [
    tag('span', p, class_='token') if p in _SCENE_TOKENS else p for p in parts
  ]


def _count(tokens: Tokens, prompt: str) -> html.Markup:
  count = tokens.count(prompt)
  if tokens.most is None:
    return tag('p', f'{count} tokens', class_='count')
  is_long = count > tokens.most
  return tag(
    'p',
    f'{count} of {tokens.most} tokens' + (', too many' if is_long else ''),
    class_='count too-many' if is_long else 'count',
  )


def _source(segment: storyboard_lib.Segment) -> html.Markup | None:
  if not segment.video:
    return None
  start = f' from {segment.start:g} s' if segment.start else ''
  return tag('p', f'{segment.video}{start}', class_='count')

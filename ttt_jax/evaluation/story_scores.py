"""Scores of videos of a story with a known truth.

A judge recognizes the contents of a video and compares them with the story.
It gives the four axes of the paper (section 4.1 of arXiv:2504.05298) as numbers
from 0 to 1, and memory events: appearances of something that the video has
shown before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

AXES = ('text', 'motion', 'aesthetics', 'consistency')
MEAN = 'mean'
# Limits of the distances in time in a curve, seconds.
EDGES = (0.0, 3.5, 6.5, 12.5, 24.5, 48.5, float('inf'))
_RESAMPLES = 1000
_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Event:
  """An appearance of something that was to be seen before.

  Attributes:
    kind: Kind of the subject, for example 'character', 'place' or 'prop'.
    subject: Name of the subject.
    segment: Index of the segment.
    since_first: Seconds since the beginning of the subject's first segment.
    since_last: Seconds since the beginning of its previous segment.
    is_return: Whether it was away for one or more segments.
    occurred: Whether something recognizable of this kind is there.
    right: Whether all attributes are those of its first appearance in the
      video; False if it did not occur.
    score: Share of right attributes, graded where they can be measured, 0 to 1.
    told: Whether all attributes are those that the text describes.
    attributes: Whether each attribute is that of the first appearance; empty if
      it did not occur.
    margin: Confidence of the recognition, 0 to 1.
  """

  kind: str
  subject: str
  segment: int
  since_first: float
  since_last: float
  is_return: bool
  occurred: bool
  right: bool
  score: float
  told: bool
  attributes: dict[str, bool] = dataclasses.field(default_factory=dict)
  margin: float = 0.0


@dataclasses.dataclass(frozen=True)
class Count:
  """The number of segments in which an attribute was right.

  Attributes:
    right: Number of segments in which it was right.
    total: Number of segments in which it was judged.
    chance: Expected share of a random choice.
  """

  right: float
  total: int
  chance: float

  @property
  def share(self) -> float | None:
    return self.right / self.total if self.total else None


@dataclasses.dataclass(frozen=True)
class StoryScore:
  """Scores of one video.

  Attributes:
    story: Name of the story.
    axes: Score of every one of `AXES`, and their 'mean'; an axis that cannot be
      judged is absent.
    parts: Parts that the axes are means of, by 'axis.part'.
    events: Memory events.
    counts: Attributes by their name.
  """

  story: str
  axes: dict[str, float]
  parts: dict[str, float]
  events: tuple[Event, ...]
  counts: dict[str, Count]


def with_mean(axes: Mapping[str, float | None]) -> dict[str, float]:
  """Returns the axes that were judged, in their order, and their mean."""
  found = {a: v for a in AXES if (v := axes.get(a)) is not None}
  if found:
    found[MEAN] = float(np.mean(list(found.values())))
  return found


def by_model(
  scores: Mapping[str, Sequence[StoryScore]],
) -> dict[str, dict[str, dict[str, float]]]:
  """Returns model -> story -> axis -> score, for `votes.verdicts_from_scores`.

  Pairwise verdicts on these scores give ratings on the scale of people's votes.
  """
  return {
    model: {
      s.story: {a: v for a, v in s.axes.items() if a in AXES} for s in mine
    }
    for model, mine in scores.items()
  }


def curve(
  stories: Sequence[StoryScore],
  by: str = 'since_last',
  kind: str | None = None,
  edges: Sequence[float] = EDGES,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Computes the recall of memory events by their distance in time.

  Args:
    stories: Scores of one or more videos of one model.
    by: 'since_last' or 'since_first'.
    kind: Kind of the events; None takes all.
    edges: Limits of the distances in seconds.
    seed: Seed of the bootstrap over the stories.

  Returns:
    A row per interval with events: 'from' and 'to' in seconds (None is
    without limit), the number of 'events', the shares that 'occurred', were
    'right' of those that occurred ('right_if_occurred'), were 'right' of all,
    and the mean 'score'; 'low' and 'high' are the 95 % interval of 'right',
    None for a single story.
  """
  limits = np.asarray(edges, float)
  count = len(limits) - 1
  sums = np.zeros((len(stories), count, 4))
  for i, story in enumerate(stories):
    for event in story.events:
      if kind is not None and event.kind != kind:
        continue
      at = int(np.searchsorted(limits, getattr(event, by), 'right')) - 1
      if 0 <= at < count:
        sums[i, at] += 1, event.occurred, event.right, event.score
  total = sums.sum(0)
  low, high = _interval(sums[:, :, 2], sums[:, :, 0], seed)
  rows = []
  for at in range(count):
    events, occurred, right, score = total[at].tolist()
    if not events:
      continue
    rows.append(
      {
        'from': float(limits[at]),
        'to': float(limits[at + 1]) if np.isfinite(limits[at + 1]) else None,
        'events': int(events),
        'occurred': occurred / events,
        'right_if_occurred': right / occurred if occurred else None,
        'right': right / events,
        'score': score / events,
        'low': low[at],
        'high': high[at],
      }
    )
  return rows


def _interval(
  numerator: np.ndarray, denominator: np.ndarray, seed: int
) -> tuple[list[float | None], list[float | None]]:
  """Returns the interval of a ratio of sums over stories, per column.

  Args:
    numerator: [stories, columns].
    denominator: [stories, columns].
    seed: Seed of the bootstrap.
  """
  stories, columns = numerator.shape
  if stories < 2:
    return [None] * columns, [None] * columns
  rng = np.random.default_rng(seed)
  draws = rng.multinomial(stories, np.full(stories, 1 / stories), _RESAMPLES)
  below = draws @ denominator
  ratio = np.where(
    below > 0, draws @ numerator / np.maximum(below, 1e-9), np.nan
  )
  low, high = [], []
  tail = 50 * (1 - _LEVEL)
  for column in ratio.T:
    values = column[~np.isnan(column)]
    ends = np.percentile(values, [tail, 100 - tail]) if len(values) else None
    low.append(None if ends is None else float(ends[0]))
    high.append(None if ends is None else float(ends[1]))
  return low, high


def summary(stories: Sequence[StoryScore], seed: int = 0) -> dict[str, Any]:
  """Puts the scores of several stories together.

  Args:
    stories: Scores of the videos of one model.
    seed: Seed of the bootstrap over the stories.

  Returns:
    'stories', their number; 'axes' and 'parts', each with 'mean', 'low' and
    'high' (95 %, None for a single story); 'counts', each with 'right' (share),
    'total', 'chance' and the interval; 'curves' for all events ('all') and for
    every kind, by 'since_last' and 'since_first'; 'returns', the counts of
    events after an absence, also of those that are as 'told' by the text.

  Raises:
    ValueError: there is no story.
  """
  if not stories:
    raise ValueError('there are no stories to put together; give one or more')
  kinds = list(dict.fromkeys(e.kind for s in stories for e in s.events))
  curves = {
    name: {
      by: curve(stories, by, kind, seed=seed)
      for by in ('since_last', 'since_first')
    }
    for name, kind in (('all', None), *((k, k) for k in kinds))
  }
  return dict(
    stories=len(stories),
    axes=_means([s.axes for s in stories], seed),
    parts=_means([s.parts for s in stories], seed),
    counts=_counts([s.counts for s in stories], seed),
    returns={kind: _returns(stories, kind, seed) for kind in ('all', *kinds)},
    curves=curves,
  )


def _means(
  values: Sequence[Mapping[str, float]], seed: int
) -> dict[str, dict[str, Any]]:
  out = {}
  for name in dict.fromkeys(k for v in values for k in v):
    column = np.array([[v.get(name, np.nan)] for v in values])
    there = ~np.isnan(column)
    column = np.where(there, column, 0.0)
    low, high = _interval(column, there.astype(float), seed)
    out[name] = dict(
      mean=float(column.sum() / there.sum()),
      low=low[0],
      high=high[0],
      stories=int(there.sum()),
    )
  return out


def _counts(
  values: Sequence[Mapping[str, Count]], seed: int
) -> dict[str, dict[str, Any]]:
  out = {}
  for name in dict.fromkeys(k for v in values for k in v):
    mine = [v.get(name, Count(0, 0, 0.0)) for v in values]
    right = np.array([[c.right] for c in mine], float)
    total = np.array([[c.total] for c in mine], float)
    if not total.sum():
      continue
    low, high = _interval(right, total, seed)
    chance = sum(c.chance * c.total for c in mine) / total.sum()
    out[name] = dict(
      right=float(right.sum() / total.sum()),
      total=int(total.sum()),
      chance=float(chance),
      low=low[0],
      high=high[0],
    )
  return out


def _returns(
  stories: Sequence[StoryScore], kind: str, seed: int
) -> dict[str, Any] | None:
  """Returns the counts of events after an absence."""
  rows = np.zeros((len(stories), 4))
  for i, story in enumerate(stories):
    for e in story.events:
      if e.is_return and kind in ('all', e.kind):
        rows[i] += 1, e.occurred, e.right, e.told
  events, occurred, right, told = rows.sum(0).tolist()
  if not events:
    return None
  low, high = _interval(rows[:, 2:], rows[:, :1], seed)
  return dict(
    events=int(events),
    told=told / events,
    told_low=low[1],
    told_high=high[1],
    occurred=occurred / events,
    right_if_occurred=right / occurred if occurred else None,
    right=right / events,
    low=low[0],
    high=high[0],
  )

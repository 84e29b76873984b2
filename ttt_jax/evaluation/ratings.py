"""Ratings of models from pairwise votes: Bradley-Terry with intervals.

The probability that model i is preferred to model j is 1 / (1 + 10^((R_j - R_i)
/ 400)) (Bradley and Terry 1952, on the scale of Elo's ratings); the ratings of
all models have the mean 1000. A tie is half a win for both, and so is "both are
bad". Ratings maximize the likelihood of all votes together, so their order does
not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools
import math
from typing import Any

import numpy as np

from ttt_jax.evaluation import votes as votes_lib

SCALE = 400 / np.log(10)  # Points per unit of log-odds.
CENTER = 1000.0
MEAN = 'mean'
_LEVEL = 0.95
_RESAMPLES = 1000
# Below it, stories are too few to be drawn instead of votes.
_MIN_STORIES = 10
# Standard deviations: 95 % interval, and 80 % power.
_POWER = (1.959964 + 0.841621) / 1.959964
_MAX_NEEDED = 100_000
# Added where the votes have no finite ratings: half a win for both of a pair.
_PRIOR = 0.5


def fit(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Fits ratings by maximum likelihood.

  Ratings are finite if and only if the models cannot be divided into two groups
  of which one never won against the other (Ford 1957). Otherwise one tie is
  added to every pair of models.

  Args:
    wins: Wins of model i against model j, with halves, [..., K, K].

  Returns:
    Ratings [..., K], and whether they are finite without additional ties,
    bool [...].
  """
  wins = np.asarray(wins, np.float64)
  count = wins.shape[-1]
  is_finite = _reaches(wins).all((-2, -1))
  added = _PRIOR * (1 - np.eye(count))
  wins = wins + np.where(is_finite, 0.0, 1.0)[..., None, None] * added
  games = wins + wins.swapaxes(-1, -2)
  won = wins.sum(-1)
  strength = np.zeros(wins.shape[:-1])
  # Newton's method; the matrix of ones fixes the mean at 0.
  for _ in range(200):
    odds = strength[..., :, None] - strength[..., None, :]
    p = 0.5 * (1 + np.tanh(odds / 2))
    gradient = won - (games * p).sum(-1)
    weight = games * p * (1 - p)
    hessian = np.eye(count) * weight.sum(-1)[..., None] - weight + 1 / count
    step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
    strength += step * np.minimum(
      1, 1 / np.maximum(np.abs(step).max(-1, keepdims=True), 1e-300)
    )
    if np.abs(step).max() < 1e-10:
      break
  strength -= strength.mean(-1, keepdims=True)
  return CENTER + SCALE * strength, np.asarray(is_finite)


def rate(
  votes: Sequence[votes_lib.Vote],
  resamples: int = _RESAMPLES,
  seed: int = 0,
) -> dict[str, Any]:
  """Rates models on every axis, and on average over the axes.

  The 95 % intervals are quantiles of a bootstrap, which draws stories with all
  their votes if there are 10 or more, otherwise single votes.

  Args:
    votes: Votes of at least two models.
    resamples: Number of the bootstrap's resamples.
    seed: Seed of the bootstrap.

  Returns:
    JSON value: 'models', in the order of the last table; 'axes', for every axis
    and for 'mean' a table with 'ratings', 'pairs', 'agreement', 'notes' and the
    counts; 'drawn', what the bootstrap draws.

  Raises:
    ValueError: there are no votes.
  """
  if not votes:
    raise ValueError('there are no votes to rate; give one or more')
  models = sorted({name for v in votes for name in (v.a, v.b)})
  axes = list(dict.fromkeys(v.axis for v in votes))
  axes.sort(key=lambda axis: (*votes_lib.AXES, axis).index(axis))
  clusters, drawn = _clusters(votes)
  rng = np.random.default_rng(seed)
  count = clusters.max() + 1
  # The same draws for all axes: their mean has one interval.
  draws = rng.multinomial(count, np.full(count, 1 / count), resamples)
  tables, points, samples = {}, [], []
  for axis in axes:
    mine = np.array([v.axis == axis for v in votes])
    subset = [v for v in votes if v.axis == axis]
    per_cluster = _wins(subset, models, clusters[mine], count)
    wins = per_cluster.sum(0)
    point, is_finite = fit(wins)
    total = np.tensordot(draws.astype(float), per_cluster, 1)
    sample, finite = fit(total)
    points.append(point)
    samples.append(sample)
    tables[axis] = _table(subset, models, point, sample) | dict(
      notes=_notes(wins, models) if not is_finite else [],
      unbounded_resamples=float(1 - finite.mean()),
    )
  if len(axes) > 1:
    tables[MEAN] = _table(
      votes, models, np.mean(points, 0), np.mean(samples, 0)
    ) | dict(
      notes=[f'{axis}: {n}' for axis in axes for n in tables[axis]['notes']],
      unbounded_resamples=max(
        tables[axis]['unbounded_resamples'] for axis in axes
      ),
    )
  last = tables[list(tables)[-1]]['ratings']
  return dict(
    models=sorted(models, key=lambda m: -last[m]['rating']),
    resamples=resamples,
    drawn=drawn,
    axes=tables,
  )


def krippendorff_alpha(units: Sequence[Sequence[float]]) -> float | None:
  """Computes Krippendorff's alpha for numbers (the metric 'interval').

  1 is perfect agreement, 0 that of chance.

  Args:
    units: Values that different voters gave to the same thing, per thing.

  Returns:
    Alpha; None if no thing has two values, or all values are equal.
  """
  several = [np.asarray(unit, np.float64) for unit in units if len(unit) > 1]
  if not several:
    return None
  values = np.concatenate(several)
  # Of all ordered pairs of values, the sum of squares is 2 n^2 variance.
  observed = sum(2 * len(u) ** 2 * u.var() / (len(u) - 1) for u in several)
  expected = 2 * len(values) ** 2 * values.var() / (len(values) - 1)
  return float(1 - observed / expected) if expected else None


def agreement(votes: Sequence[votes_lib.Vote]) -> dict[str, Any]:
  """Compares the answers of several voters to the same questions.

  The answers are -1, 0 (a tie, or both are bad) and 1.

  Returns:
    'questions': number of those that two or more answered; 'same': share of
    equal answers among all pairs of voters; 'alpha': Krippendorff's. The last
    two are None if they are not defined.
  """
  units: dict[tuple[str, ...], dict[str, float]] = {}
  for v in votes:
    pair = sorted((v.a, v.b))
    sign = 1 if v.a == pair[0] else -1
    answers = units.setdefault((v.axis, v.story, *pair), {})
    answers[v.voter] = sign * (2 * v.score - 1)
  several = [list(u.values()) for u in units.values() if len(u) > 1]
  pairs = [p for u in several for p in itertools.combinations(u, 2)]
  return dict(
    questions=len(several),
    same=float(np.mean([x == y for x, y in pairs])) if pairs else None,
    alpha=krippendorff_alpha(several),
  )


def _clusters(votes: Sequence[votes_lib.Vote]) -> tuple[np.ndarray, str]:
  """Returns the number of the unit that every vote is drawn with."""
  stories = sorted({v.story for v in votes})
  if len(stories) >= _MIN_STORIES:
    number = {story: i for i, story in enumerate(stories)}
    return np.array([number[v.story] for v in votes]), 'stories'
  return np.arange(len(votes)), 'votes'


def _wins(votes, models, clusters, count) -> np.ndarray:
  """Returns the wins in every cluster, [count, K, K]."""
  number = {name: i for i, name in enumerate(models)}
  wins = np.zeros((count, len(models), len(models)))
  for v, cluster in zip(votes, clusters):
    i, j = number[v.a], number[v.b]
    wins[cluster, i, j] += v.score
    wins[cluster, j, i] += 1 - v.score
  return wins


def _reaches(wins: np.ndarray) -> np.ndarray:
  """Returns whether i won against j, directly or over others, [..., K, K]."""
  count = wins.shape[-1]
  reach = ((wins > 0) | np.eye(count, dtype=bool)).astype(np.float64)
  for _ in range(max(1, count.bit_length())):
    reach = ((reach @ reach) > 0).astype(np.float64)
  return reach > 0


def _notes(wins: np.ndarray, models: Sequence[str]) -> list[str]:
  """Returns why no finite ratings fit the votes."""
  reach = _reaches(wins)
  together = reach & reach.T
  notes = []
  seen: set[int] = set()
  for i in range(len(models)):
    if i in seen:
      continue
    group = np.flatnonzero(together[i])
    seen.update(group.tolist())
    others = np.setdiff1d(np.arange(len(models)), group)
    names = ', '.join(models[k] for k in group.tolist())
    lost = wins[np.ix_(others, group)].sum()
    won = wins[np.ix_(group, others)].sum()
    if not lost and not won:
      notes.append(f'{names} was never compared with the others')
    elif not lost:
      notes.append(f'{names} won every vote against the others')
    elif not won:
      notes.append(f'{names} lost every vote against the others')
  notes.append(
    'no finite ratings fit these votes, so one tie was added to every pair of'
    ' models; the differences are lower bounds'
  )
  return notes


def _table(votes, models, point, sample) -> dict[str, Any]:
  """Returns the table of one axis."""
  tail = 50 * (1 - _LEVEL)
  low, high = np.percentile(sample, [tail, 100 - tail], axis=0)
  ratings = {}
  for i, name in enumerate(models):
    mine = [v for v in votes if name in (v.a, v.b)]
    decided = [v for v in mine if v.choice in ('a', 'b')]
    won = sum((v.choice == 'a') == (v.a == name) for v in decided)
    ratings[name] = dict(
      rating=float(point[i]),
      low=float(low[i]),
      high=float(high[i]),
      votes=len(mine),
      wins=won,
      losses=len(decided) - won,
      ties=sum(v.choice == 'tie' for v in mine),
      bad=sum(v.choice == 'bad' for v in mine),
    )
  pairs = []
  for i, j in itertools.combinations(range(len(models)), 2):
    direct = sum({v.a, v.b} == {models[i], models[j]} for v in votes)
    difference = float(point[i] - point[j])
    low, high = np.percentile(
      sample[:, i] - sample[:, j], [tail, 100 - tail]
    ).tolist()
    is_apart = low > 0 or high < 0
    pairs.append(
      dict(
        a=models[i],
        b=models[j],
        votes=direct,
        difference=difference,
        low=low,
        high=high,
        probability=float(1 / (1 + 10 ** (-difference / 400))),
        apart=is_apart,
        votes_needed=0
        if is_apart
        else votes_needed(direct, difference, (high - low) / 2),
      )
    )
  return dict(
    votes=len(votes),
    voters=len({v.voter for v in votes}),
    stories=len({v.story for v in votes}),
    ratings=ratings,
    pairs=pairs,
    agreement=agreement(votes),
  )


def votes_needed(votes: int, difference: float, half: float) -> int | None:
  """Returns how many more votes distinguish two models, with 80 % power.

  An interval becomes narrower with the square root of the votes. If the true
  difference is the one that was found, then with this many more votes of the
  pair, and as many times more of the others, the 95 % interval excludes 0 in
  four of five studies.

  Args:
    votes: Number of votes of the pair.
    difference: Difference of the ratings.
    half: Half the width of its 95 % interval.

  Returns:
    The number; None if it is more than 100,000 or there are no votes yet.
  """
  if not votes or not difference:
    return None
  factor = (half * _POWER / difference) ** 2
  needed = max(1, math.ceil(votes * (factor - 1)))
  return needed if needed <= _MAX_NEEDED else None

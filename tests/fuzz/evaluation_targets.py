"""Votes, keys, verdicts and measured videos."""

from __future__ import annotations

import functools
import json
import pathlib

import matplotlib.ticker  # noqa: F401 (its first import makes a folder)
import numpy as np

from tests.fuzz import target as target_lib
from ttt_jax.evaluation import ratings
from ttt_jax.evaluation import report_page
from ttt_jax.evaluation import results
from ttt_jax.evaluation import video_frames
from ttt_jax.evaluation import video_report
from ttt_jax.evaluation import votes


def _study() -> dict[str, bytes]:
  clips = {
    f'{model}{i}': dict(model=model, story=f's{i}', file=f'{model}/s{i}.mp4')
    for model in ('ours', 'theirs')
    for i in range(3)
  }
  answers = [
    dict(axis=axis, left=f'ours{i}', right=f'theirs{i}', choice=choice)
    for i, (axis, choice) in enumerate(
      (('text', 'left'), ('motion', 'tie'), ('text', 'bad'))
    )
  ]
  verdicts = [
    dict(axis='text', story='s1', a='ours', b='mamba2', choice=c) for c in 'ab'
  ]
  files = {
    'key.json': dict(
      format=votes.KEY_FORMAT, version=1, study='a1', clips=clips
    ),
    'ann.json': dict(
      format=votes.VOTES_FORMAT,
      version=1,
      study='a1',
      voter='ann',
      votes=answers,
    ),
    'judge.json': dict(
      format=votes.VERDICTS_FORMAT, version=1, verdicts=verdicts
    ),
  }
  return {name: json.dumps(value).encode() for name, value in files.items()}


def _rate(folder: pathlib.Path) -> None:
  files = [folder / 'ann.json', folder / 'judge.json']
  found, voters = votes.load(votes.expand(files), folder / 'key.json')
  assert voters
  target_lib.check_sane(ratings.rate(found, 20), 'ratings')


@functools.cache
def _result() -> bytes:
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (2, 8, 12, 3)).astype(np.uint8)
  source = ((i / 4, frames[i // 20]) for i in range(37))
  video = dict(
    video='a/s1.mp4',
    settings=dict(fps=4.0, seconds=9.25, height=8, sampling=dict(seed=1)),
  )
  video |= video_report.analyze(
    video_frames.collect(source), ['a', 'b', 'c'], [1, 1, 2]
  )
  value = dict(
    format=video_report.FORMAT,
    version=video_report.VERSION,
    features=video['features'],
    clip=None,
    clip_fps=None,
    summary=video_report.summary([video]),
    videos=[video],
  )
  return json.dumps(value).encode()


def _compare(folder: pathlib.Path) -> None:
  found = results.compare([str(folder / 'a.json'), str(folder / 'b.json')])
  target_lib.check_sane(found.value['differences'], 'differences')
  assert report_page.compare(found).endswith('</html>\n')


target_lib.add_folder('votes', 'evaluation', _study, _rate, weight=0.5)
target_lib.add_folder(
  'results',
  'evaluation',
  lambda: {'a.json': _result(), 'b.json': _result()},
  _compare,
  weight=0.5,
)

"""Judges a video by its story, from its frames alone.

    python -m examples.cartoon.judge sample.mp4 --truth=truth/test_000003.json
    python -m examples.cartoon.judge sample.mp4 --storyboard=my.json
    python -m examples.cartoon.judge samples/ --truth=data/truth --out=a.json
    python -m examples.cartoon.judge --compare a.json b.json --out=verdicts.json
    python -m examples.cartoon.judge --self_test

`sight` recognizes what every segment shows without the story; `scoring`
compares it with what the story tells, and with what the video showed before.
All numbers are defined in docs/judge.md.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib

from absl import flags
import numpy as np

from examples.cartoon import dataset
from examples.cartoon import degrade
from examples.cartoon import scoring
from examples.cartoon import script
from examples.cartoon import self_test
from examples.cartoon import sight
from examples.cartoon import story as story_lib
from examples.cartoon import verdict as verdict_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.evaluation import votes
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import progress
from ttt_jax.runtime import schema
from ttt_jax.video import video_file

TIE = 0.005  # largest difference of an axis that is a tie


def judge(
  frames: np.ndarray,
  told: story_lib.Story | script.Script,
  name: str | None = None,
) -> verdict_lib.Verdict:
  """Judges a video.

  Args:
    frames: uint8 [n S + 1, H, W, 3] of S segments; n is 48 or a divisor of it,
      H is 32 or more and W is 1.5 H.
    told: Story or script of S segments. Where a script leaves something open,
      only its agreement with the first appearance is judged.
    name: Name of the story in the result; a drawn story has its own.

  Raises:
    ValueError: the frames do not fit the story.
  """
  seen = sight.watch(frames, len(told.segments))
  return scoring.verdict(seen, told, name)


def _define_flags() -> None:
  flags.DEFINE_string(
    'truth',
    None,
    'File of a story that examples.cartoon.dataset wrote, or the folder of the'
    ' stories of several videos with the same names.',
  )
  flags.DEFINE_string(
    'storyboard',
    None,
    'File of a storyboard, whose text is read, or of several with the names of'
    ' the videos; FILE#NAME selects one.',
  )
  flags.DEFINE_string('out', None, 'JSON file of the verdicts.')
  flags.DEFINE_bool(
    'compare',
    False,
    'Comparison of models: the arguments are files of --out, one per model'
    ' with its name, and --out receives pairwise verdicts for python -m'
    ' ttt_jax.evaluate --ratings.',
  )
  flags.DEFINE_bool(
    'self_test',
    False,
    'Test of the judge on a true video and on videos degraded on purpose.',
  )
  cli.define('segments', 9, 'Segments of the self-test.', schema.PositiveInt)


def _videos(arguments: Sequence[str]) -> list[pathlib.Path]:
  found: list[pathlib.Path] = []
  for argument in arguments:
    path = pathlib.Path(argument)
    if path.is_dir():
      inside = sorted(path.glob('*.mp4'))
      if not inside:
        raise FileNotFoundError(f'{path} has no .mp4 file')
      found += inside
    elif path.exists():
      found.append(path)
    else:
      raise FileNotFoundError(f'{path} does not exist; name a video')
  if not found:
    raise ValueError('no video is named; give one, for example sample.mp4')
  return list(dict.fromkeys(found))


def _told(
  paths: Sequence[pathlib.Path], truth: str | None, storyboard: str | None
) -> list[story_lib.Story | script.Script]:
  """Returns the story or script of every video."""
  if (truth is None) == (storyboard is None):
    raise ValueError(
      'give one of --truth and --storyboard, for example --truth=data/truth'
    )
  if storyboard is not None:
    boards = storyboard_lib.select(storyboard, [str(p) for p in paths])
    return [
      script.story_from_text([s.text for s in boards[str(p)].segments])
      for p in paths
    ]
  where = pathlib.Path(truth or '')
  return [
    dataset.read_story(where / f'{p.stem}.json' if where.is_dir() else where)
    for p in paths
  ]


def read_frames(path: str | os.PathLike[str], segments: int) -> np.ndarray:
  """Reads a video of a story at 16 frames per second and 64 or 32 rows.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a video, or is too short.
  """
  info = video_file.probe(path)
  height = 64 if info.height >= 64 else 32
  return video_file.read_video(
    path,
    fps=story_lib.FPS,
    height=height,
    width=round(height * story_lib.ASPECT),
    frames=story_lib.SEGMENT_FRAMES * segments + 1,
    soften=False,
  )


def _self_test(segments: int) -> int:
  clip = degrade.Clip(degrade.story_of(segments))
  cache: dict = {}

  def axes_of(frames: np.ndarray) -> dict[str, float]:
    seen = sight.watch(frames, segments, cache)
    return scoring.verdict(seen, clip.story).axes

  result = self_test.run(clip, axes_of)
  self_test.print_result(result)
  return int(bool(result.problems))


def _compare(arguments: Sequence[str], out: str | None) -> None:
  """Writes pairwise verdicts on the stories that all models have."""
  if len(arguments) < 2 or not out:
    raise ValueError(
      '--compare takes the results of two or more models and --out, for example'
      ' --compare ttt_mlp.json mamba2.json --out=verdicts.json'
    )
  scores = {}
  for path in map(pathlib.Path, arguments):
    if path.stem in scores:
      raise ValueError(f'two files have the name {path.stem!r} of a model')
    scores[path.stem] = verdict_lib.read_axes(path)
  found = votes.verdicts_from_scores(scores, margin=TIE)
  if not found:
    raise ValueError('the models have no story in common')
  votes.write_verdicts(found, out, 'cartoon judge')
  print(f'wrote {out}: {len(found)} verdicts on pairs of videos')


def main(argv: Sequence[str]) -> int:
  """Judges the videos of the command line."""
  values = flags.FLAGS
  if values.self_test:
    return _self_test(values.segments)
  if values.out:
    files.check_writable(pathlib.Path(values.out))
  if values.compare:
    _compare(argv[1:], values.out)
    return 0
  videos = _videos(argv[1:])
  told = _told(videos, values.truth, values.storyboard)
  verdicts = []
  for path, each in progress.track(list(zip(videos, told)), 'judge'):
    frames = read_frames(path, len(each.segments))
    verdicts.append(judge(frames, each, path.stem))
  if len(verdicts) == 1:
    verdict_lib.print_verdict(verdicts[0])
  else:
    verdict_lib.print_scores([verdict.score for verdict in verdicts])
  if values.out:
    files.write_json(verdict_lib.to_json(verdicts), values.out)
    print(f'wrote {values.out}')
  return 0


if __name__ == '__main__':
  _define_flags()
  cli.run(main, arguments=True)

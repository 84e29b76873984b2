"""Measures videos, collects people's votes on them, and rates models.

    ttt-jax evaluate story.mp4
    ttt-jax evaluate a.mp4 b.mp4 --storyboard=stories.json --clip=FOLDER \\
        --out=result

Measures videos of any origin: similarity over the distance in time, jumps,
flicker, sharpness, repeated frames. Writes NAME.json and a page, NAME.html;
--out=NAME. Without it they are story_evaluation.json and .html, next to
story.mp4. --storyboard and --clip add numbers of scenes and of a CLIP.

    ttt-jax evaluate --compare before.mp4 after.mp4
    ttt-jax evaluate --compare before.json after.json --out=comparison

Shows two videos, or two of these JSON files, side by side. Without --out it
writes comparison.json and comparison.html in the current folder.

    ttt-jax evaluate --vote ours theirs --out=study --storyboard=stories.json

Writes a page on which people compare the videos of two or more models: a folder
per model, and a video per story. The key, study.key.json, maps the random
names of the videos to the models.

    ttt-jax evaluate --ratings votes/*.json --key=study.key.json

Rates the models from these votes, or from the verdicts of an automatic judge.

    ttt-jax evaluate --workdir=DIR --storyboards=stories.json --seeds=3

Samples every storyboard with a model that was trained on a few clips, and
counts how often the expected clip is shown.

The page docs/evaluation.md defines each number.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from absl import flags
import msgspec
import numpy as np

from ttt_jax import common_flags
from ttt_jax.evaluation import votes as votes_lib
from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import compilation
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import schema
from ttt_jax.runtime import wording

_COMPARE = flags.DEFINE_bool(
  'compare', False, 'Comparison of two videos, or of two results in JSON.'
)
_VOTE = flags.DEFINE_bool(
  'vote', False, 'Page on which people compare the videos of the folders.'
)
_RATINGS = flags.DEFINE_bool(
  'ratings', False, 'Ratings from files of votes, or folders of such files.'
)
_OUT = flags.DEFINE_string(
  'out',
  '',
  'NAME of the results NAME.json and NAME.html, by default VIDEO_evaluation'
  ' next to the first video; with --compare the same, by default comparison in'
  ' this folder; with --vote, the folder of the page; with --ratings and'
  ' --workdir, a JSON file, by default none and WORKDIR/evaluation.json.',
)
_STORYBOARD = flags.DEFINE_string(
  'storyboard',
  None,
  'JSON file with the storyboard of the videos; of several, the one with the'
  " name of the video's file.",
)
_CLIP = flags.DEFINE_string(
  'clip', None, "Folder of a CLIP in transformers' layout."
)
_KEY = flags.DEFINE_string(
  'key',
  None,
  'Key of the study: file to write with --vote, by default OUT.key.json; file'
  ' to read with --ratings.',
)
_QUESTIONS = cli.define(
  'questions',
  votes_lib.QUESTIONS,
  'Questions per voter, without attention checks.',
  schema.PositiveInt,
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the training run.')
_STORYBOARDS = flags.DEFINE_string(
  'storyboards',
  None,
  'JSON file of the storyboards, with a video for each segment.',
)
_VIDEOS = flags.DEFINE_string(
  'videos', '', 'Folder of the videos; default: that of the config.'
)
_SEEDS = cli.define('seeds', 1, 'Samples per storyboard.', schema.PositiveInt)
_STEPS = common_flags.steps(25)
_GUIDANCE = common_flags.guidance(6.0)
_GUIDANCE_SCHEDULE = common_flags.guidance_schedule()
_SCHEDULER = common_flags.scheduler()
_REUSE = common_flags.reuse()
_MESH = common_flags.mesh()
_EMA = common_flags.ema()
_FIRST = cli.define(
  'first_segment',
  0,
  'Index of the first segment that is scored.',
  schema.NonNegativeInt,
)


def main(argv: Sequence[str]) -> None:
  """Runs the mode of the flags; `argv` has the videos, folders or files."""
  arguments = list(argv[1:])
  modes = {
    '--compare': (_COMPARE.value, _compare),
    '--vote': (_VOTE.value, _vote),
    '--ratings': (_RATINGS.value, _rate),
    '--workdir': (
      _WORKDIR.value is not None or _STORYBOARDS.value is not None,
      _count_shots,
    ),
  }
  chosen = [name for name, (is_set, _) in modes.items() if is_set]
  if len(chosen) > 1:
    raise ValueError(f'{" and ".join(chosen)} exclude each other; give one')
  if chosen:
    modes[chosen[0]][1](arguments)
  elif arguments:
    _measure(arguments)
  else:
    raise ValueError(
      'there is nothing to evaluate; name a video, or give --compare, --vote,'
      ' --ratings or --workdir; see --help'
    )


def _measure(videos: list[str]) -> None:
  from ttt_jax.evaluation import report_page
  from ttt_jax.evaluation import results

  out = _outputs(f'{pathlib.Path(videos[0]).with_suffix("")}_evaluation')
  found = results.measure(videos, _STORYBOARD.value, _CLIP.value)
  _write(found.value, report_page.report(found), out)


def _compare(inputs: list[str]) -> None:
  from ttt_jax.evaluation import report_page
  from ttt_jax.evaluation import results

  out = _outputs('comparison')
  found = results.compare(inputs, _STORYBOARD.value, _CLIP.value)
  _write(found.value, report_page.compare(found), out)


def _outputs(default: str) -> tuple[pathlib.Path, pathlib.Path]:
  """Returns the paths of the JSON file and of the page, both writable."""
  name = str(paths.require_local(_OUT.value or default, '--out'))
  for suffix in ('.json', '.html'):
    name = name.removesuffix(suffix)
  out = pathlib.Path(f'{name}.json'), pathlib.Path(f'{name}.html')
  for path in out:
    files.check_writable(path)
  return out


def _write(value, page: str, out: tuple[pathlib.Path, pathlib.Path]) -> None:
  files.write_json(value, out[0])
  with files.atomic_write(out[1]) as temporary:
    temporary.write_text(page)
  print(f'wrote {out[0]}')
  print(f'wrote {out[1]}: open it in a browser')


def _vote(folders: list[str]) -> None:
  from ttt_jax.evaluation import vote_page

  if not _OUT.value:
    raise ValueError('--vote needs --out=FOLDER, a new folder for the page')
  out = paths.require_local(_OUT.value, '--out')
  key = pathlib.Path(_KEY.value or f'{str(out).rstrip("/")}.key.json')
  files.check_writable(out, folder=True)
  clips = vote_page.find_clips(folders)
  texts = vote_page.find_texts(clips, _STORYBOARD.value)
  study = vote_page.write(clips, out, key, texts, _QUESTIONS.value)
  print(
    f'{len(study.models)} models ({", ".join(study.models)}),'
    f' {wording.count(len(study.stories), "story")},'
    f' {wording.count(study.questions, "question")} per voter'
  )
  for note in study.notes:
    print(f'note: {note}')
  print(f'wrote {out}/index.html: open it, or publish the folder')
  print(f'wrote {key}: keep it to yourself; --ratings needs it')


def _rate(arguments: list[str]) -> None:
  from ttt_jax.evaluation import ratings
  from ttt_jax.evaluation import ratings_text
  from ttt_jax.runtime import progress

  if not arguments:
    raise ValueError(
      '--ratings needs files of votes, for example --ratings votes/*.json'
      ' --key=study.key.json'
    )
  out = _OUT.value and paths.require_local(
    _OUT.value.removesuffix('.json') + '.json', '--out'
  )
  if out:
    files.check_writable(out)
  votes, voters = votes_lib.load(votes_lib.expand(arguments), _KEY.value)
  with progress.Bar('rating', None):
    result = ratings.rate(votes)
  result['voters'] = [
    dataclasses.asdict(v) | dict(excluded=v.is_excluded) for v in voters
  ]
  ratings_text.show(result)
  if out:
    files.write_json(result, out)
    print(f'wrote {out}')


def _count_shots(arguments: list[str]) -> None:
  if arguments:
    raise ValueError(f'unexpected argument {arguments[0]!r}; see --help')
  workdir, story_file = _WORKDIR.value, _STORYBOARDS.value
  if workdir is None or story_file is None:
    missing = '--workdir' if workdir is None else '--storyboards'
    raise ValueError(
      f'{missing} is missing; the shots of a trained model are counted with'
      ' --workdir=DIR --storyboards=FILE'
    )
  from ttt_jax import storyboard as storyboard_lib
  from ttt_jax.evaluation import shot_recall

  storyboards = storyboard_lib.load_storyboards(story_file)
  shots = shot_recall.distinct_shots(storyboards)
  for story in storyboards:  # The name becomes part of a file's.
    paths.check_name(story.name, 'the name of a storyboard')
  shortest = min(len(s.segments) for s in storyboards)
  if _FIRST.value >= shortest:
    raise ValueError(
      f'--first_segment is {_FIRST.value}, but a storyboard has {shortest}'
      f' segments; the last index is {shortest - 1}'
    )

  from ttt_jax import pipeline
  from ttt_jax import sharding
  from ttt_jax.checkpoints import checkpoint
  from ttt_jax.pipeline import pretrained
  from ttt_jax.runtime import progress
  from ttt_jax.video import contact_sheet

  out = paths.require_local(_OUT.value or f'{workdir}/evaluation.json', '--out')
  files.check_writable(out)
  bucket.check(workdir)
  compilation.enable_compilation_cache(
    pretrained.run_folder(workdir), optional=True
  )
  config = checkpoint.load_config(workdir)
  mesh = None
  if _MESH.value:
    mesh = sharding.make_mesh(sharding.parse_mesh(_MESH.value))
  pipe = pipeline.VideoPipeline.load(workdir, _EMA.value, mesh)
  sampling = pipe.sampling.replace(
    _STEPS.value, _GUIDANCE.value, _GUIDANCE_SCHEDULE.value
  )
  options: dict[str, Any] = dict(
    **msgspec.structs.asdict(sampling),
    scheduler=_SCHEDULER.value or pipe.scheduler,
    reuse=_REUSE.value,
  )
  with progress.Bar('encoding the shots', None):
    references = shot_recall.reconstruct_shots(
      pipe, shots, _VIDEOS.value or config.data.videos, config.data.soften
    )
  recalls = []
  runs = [(s, seed) for s in storyboards for seed in range(_SEEDS.value)]
  for story, seed in progress.track(runs, 'sampling and scoring'):
    frames = pipe(story, seed=seed, **options)
    recalls.append((seed, shot_recall.judge(story, frames, references)))
    if seed == 0:
      contact_sheet.write_contact_sheet(
        contact_sheet.segment_frames(frames, len(story.segments)),
        out.with_name(f'{out.stem}_{story.name}.png'),
      )
  first = _FIRST.value
  for seed, recall in recalls:
    right = recall.share_right(first)
    print(
      f'  {recall.name:<24} seed {seed}: right {right:6.1%}, nearest shot at'
      f' {np.mean(recall.psnr):.1f} dB,'
      f' shown {"".join(map(str, recall.shown))}'
    )
  share = float(np.mean([r.share_right(first) for _, r in recalls]))
  print(
    f'right in {share:.1%} of the segments from index {first}; chance is'
    f' {1 / len(shots):.0%}'
  )
  result = dict(
    storyboards=story_file,
    averaged_weights=_EMA.value,
    **options,
    first_segment=first,
    shots=shots,
    share_right=share,
    chance=1 / len(shots),
    samples=[dict(seed=s) | dataclasses.asdict(r) for s, r in recalls],
  )
  files.write_json(result, out)
  print(f'wrote {out} and a contact sheet per storyboard')


if __name__ == '__main__':
  cli.run(main, arguments=True)

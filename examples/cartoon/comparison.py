"""Compares mixers on the cartoon world: the paper's table in miniature.

    python -m examples.cartoon.comparison --workdir=comparison
    python -m examples.cartoon.comparison --workdir=comparison \\
        --mixers=none,ttt_mlp --seeds=1 --stories=25
    python -m examples.cartoon.comparison --workdir=comparison \\
        --archive=found.zip

docs/remember.md has the protocol and the results. Every mixer searches its
learning rate, trains through the stages of configs/comparison.py once per seed,
samples unseen stories, and is judged. All parts resume where they were stopped,
so the same command continues after an interruption. Once the stories are
encoded, a second process can run other mixers in the same folder:

    WORKDIR/search/MIXER/RATE/   runs of the search of the learning rate
    WORKDIR/search/MIXER.json    loss of each learning rate
    WORKDIR/runs/MIXER/SEED/     runs of the stages
    WORKDIR/verdicts/            one file per mixer, seed, length and story

--archive keeps what was found in one file, and what is in it is not run again,
so several machines, one after another, can share the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import json
import pathlib
import zipfile
import zlib

from absl import flags
import numpy as np

from examples import demo_steps
from examples.cartoon import captions
from examples.cartoon import comparison_report
from examples.cartoon import judge
from examples.cartoon import linear
from examples.cartoon import world
from examples.demo_steps import Step
from ttt_jax import pipeline
from ttt_jax.checkpoints import checkpoint
from ttt_jax.models.dit import mixers as mixers_lib
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import progress
from ttt_jax.runtime import schema

MIXERS = (
  'none',
  'sliding_window',
  'mamba2',
  'gated_deltanet',
  'ttt_linear',
  'ttt_mlp',
  'large_chunk_ttt',
  'full',
)
RATES = (0.02, 0.04, 0.08)
STAGES = ('3s', '9s')
LENGTHS = (9, 18, 30, 63)  # seconds of the videos that are judged

_CONFIG = 'configs/comparison.py'
_INVALID = 2  # status of commands that were given something invalid
# Version of the protocol in docs/remember.md. Results of two versions do not
# belong in one table.
_PROTOCOL = 6
# Seconds: stories and segments per story. Stories of one segment would have no
# second mention, so the first stage cuts longer ones.
_STORIES = {3: (200, 3), 9: (1000, 3)}
_RENAMINGS = 4
_FIRST_SEED = 10_000  # times the seconds: stages have different stories
_SAMPLING_STEPS = 16
_MOST_STORIES = 1000  # per length and seed: every seed has stories of its own


def preparation() -> list[tuple[str, Step]]:
  """Returns the steps before the first run, with the path each writes."""
  found = [
    (
      'text_encoder',
      Step(
        'text encoder',
        'examples.cartoon.text_encoder',
        ('--out={workdir}/text_encoder',),
      ),
    ),
    (
      'autoencoder',
      Step(
        'autoencoder',
        'examples.cartoon.linear',
        ('--out={workdir}/autoencoder',),
      ),
    ),
  ]
  for seconds, (stories, segments) in _STORIES.items():
    draw = (
      '--out={workdir}/stories/' + f'{seconds}s',
      f'--stories={stories}',
      f'--segments={segments}',
      '--settings=simple',
      f'--height={linear.HEIGHT}',
      f'--width={linear.WIDTH}',
      f'--fps={linear.FPS}',
      f'--renamings={_RENAMINGS}',
      f'--seed={seconds * _FIRST_SEED}',
    )
    encode = (
      f'--config={_CONFIG}:{seconds}s',
      '--workdir={workdir}',
      *_folders(),
    )
    found += [
      (
        f'stories/{seconds}s/storyboards.json',
        Step(f'draw {seconds}s', 'examples.cartoon.dataset', draw),
      ),
      ('', Step(f'precompute {seconds}s', 'ttt_jax.precompute', encode)),
    ]
  return found


def _folders() -> tuple[str, ...]:
  return (
    '--config.vae.folder={workdir}/autoencoder',
    '--config.text.folder={workdir}/text_encoder',
  )


def training(
  run: str, stage: str, seconds: int, mixer: str, rate: float, seed: int = 0
) -> Step:
  """Returns the step that trains one stage.

  Args:
    run: Folder of the run, relative to the workdir.
    stage: Name of the stage.
    seconds: Seconds of its clips.
    mixer: Name of the mixer.
    rate: Peak learning rate of Muon.
    seed: Seed of the initial weights, batches and noise.
  """
  return Step(
    f'train {run} {stage}',
    'ttt_jax.train',
    (
      f'--config={_CONFIG}:{stage},{mixer},{rate}',
      '--workdir={workdir}/' + run,
      '--config.data.folder={workdir}/data/' + f'{seconds}s',
      f'--config.seed={seed}',
      *_folders(),
    ),
  )


class Comparison:
  """The comparison in one folder.

  Attributes:
    workdir: Folder of everything.
  """

  def __init__(self, workdir: pathlib.Path):
    self.workdir = workdir

  def check_protocol(self) -> None:
    """Writes the version of the protocol to a new folder.

    Raises:
      ValueError: the folder has results of another version.
    """
    path = self.workdir / 'protocol.json'
    if path.exists() or (self.workdir / 'runs').exists():
      found = files.read_json(path)['version'] if path.exists() else 1
      if found != _PROTOCOL:
        raise ValueError(
          f'{self.workdir} has runs of version {found} of the protocol, and'
          f' this is version {_PROTOCOL}; choose another --workdir'
        )
      return
    self.workdir.mkdir(parents=True, exist_ok=True)
    files.write_json(dict(version=_PROTOCOL), path)

  def prepare(self) -> None:
    """Draws and encodes the training stories."""
    for path, step in preparation():
      if not path or not (self.workdir / path).exists():
        demo_steps.run(step, self.workdir)

  def learning_rate(self, mixer: str) -> float:
    """Searches the learning rate of a mixer, and returns the best one.

    Raises:
      ValueError: all of them are too large.
    """
    path = self.workdir / 'search' / f'{mixer}.json'
    if not path.exists():
      losses = self._search(mixer)
      if not losses:
        raise ValueError(f'every learning rate is too large for {mixer}')
      files.write_json({f'{rate}': x for rate, x in losses.items()}, path)
    losses = {float(rate): x for rate, x in files.read_json(path).items()}
    best = min(losses, key=lambda rate: losses[rate])
    found = ', '.join(f'{r}: {x:.4f}' for r, x in losses.items())
    print(f'{mixer}: learning rate {best} (losses {found})', flush=True)
    return best

  def _search(self, mixer: str) -> dict[float, float]:
    """Returns the losses of the learning rates that are not too large."""
    losses = {}
    for rate in RATES:
      run = f'search/{mixer}/{rate}'
      stage = self.workdir / run / 'search'
      if not _is_finished(stage):
        step = training(run, 'search', 9, mixer, rate)
        try:
          demo_steps.run(step, self.workdir)
        except demo_steps.StepFailedError as e:
          # A loss that is not finite ends a training that has begun with the
          # status of invalid input; every other failure is an error.
          metrics = stage / 'metrics.jsonl'
          if e.status != _INVALID or not metrics.exists():
            raise
          print(f'{mixer}: {rate} is too large; see above', flush=True)
          continue
      losses[rate] = comparison_report.search_loss(stage / 'metrics.jsonl')
    return losses

  def is_judged(self, mixer: str, seed: int, stories: int) -> bool:
    """Returns whether all test stories of a seed are judged."""
    return not any(self._missing(mixer, seed, stories))

  def train(self, mixer: str, seed: int, rate: float) -> None:
    """Trains all stages of one mixer with one seed.

    Raises:
      ValueError: the run was begun with another learning rate.
    """
    run = f'runs/{mixer}/{seed}'
    path = self.workdir / run / 'learning_rate.json'
    begun = files.read_json(path) if path.exists() else rate
    if begun != rate:
      raise ValueError(
        f'{path.parent} was begun with the learning rate {begun}, and the'
        f' search found {rate}; remove the folder, or choose another --workdir'
      )
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(rate, path)
    for stage in STAGES:
      if not _is_finished(self.workdir / run / stage):
        step = training(run, stage, int(stage[:-1]), mixer, rate, seed)
        demo_steps.run(step, self.workdir)

  def judge(self, mixer: str, seed: int, stories: int) -> None:
    """Samples and judges test stories of all lengths."""
    missing = list(self._missing(mixer, seed, stories))
    if not missing:
      return
    pipe = pipeline.VideoPipeline.load(
      self.workdir / 'runs' / mixer / f'{seed}' / STAGES[-1]
    )
    for seconds, number, path in progress.track(missing, 'judge stories'):
      story = world.draw_story(
        number, seconds // 3, world.SETTINGS['simple'], 'test'
      )
      video = pipe(
        captions.storyboard(story),
        steps=_SAMPLING_STEPS,
        guidance=1.0,
        guidance_schedule='constant',
        seed=number,
        progress=False,
      )
      verdict = judge.judge(np.asarray(video), story, story.name)
      path.parent.mkdir(parents=True, exist_ok=True)
      files.write_json(
        files.to_json_types(dataclasses.asdict(verdict.score)), path
      )

  def _missing(
    self, mixer: str, seed: int, stories: int
  ) -> Iterator[tuple[int, int, pathlib.Path]]:
    """Yields seconds, number and path of the verdicts that are not there."""
    for number in range(seed * _MOST_STORIES, seed * _MOST_STORIES + stories):
      for seconds in LENGTHS:
        folder = self.workdir / 'verdicts' / mixer / f'{seed}' / f'{seconds}s'
        path = folder / f'{number}.json'
        if not path.exists():
          yield seconds, number, path

  def unpack(self, archive: pathlib.Path) -> None:
    """Adds the results of an archive that this folder does not have.

    Raises:
      ValueError: it is no archive of this version of the protocol, or the
        folder has results of another one.
    """
    try:
      with zipfile.ZipFile(archive) as zipped:
        found = json.loads(zipped.read('protocol.json'))['version']
        if found != _PROTOCOL:
          raise ValueError(
            f'{archive} has results of version {found} of the protocol, and'
            f' this is version {_PROTOCOL}; choose another --archive'
          )
        if damaged := zipped.testzip():
          raise zipfile.BadZipFile(f'{damaged} is damaged')
        self.check_protocol()
        for name in zipped.namelist():
          if not (self.workdir / name).exists():
            zipped.extract(name, self.workdir)
    except (
      zipfile.BadZipFile,
      zlib.error,
      json.JSONDecodeError,
      KeyError,
      TypeError,
    ) as e:
      raise ValueError(
        f'{archive} is no archive of results ({e}); choose a file that'
        ' --archive wrote, or a new name'
      ) from e

  def pack(self, archive: pathlib.Path) -> None:
    """Writes the results of this folder to an archive, without the weights."""
    paths = [
      self.workdir / 'protocol.json',
      *(self.workdir / 'search').glob('*.json'),
      *(self.workdir / 'verdicts').rglob('*.json'),
    ]
    with files.atomic_write(archive) as partial:
      with zipfile.ZipFile(
        partial, 'w', zipfile.ZIP_DEFLATED, compresslevel=9
      ) as zipped:
        for path in sorted(paths):
          zipped.write(path, path.relative_to(self.workdir))


def _is_finished(stage: pathlib.Path) -> bool:
  """Returns whether the training of a stage was completed."""
  try:
    step = checkpoint.describe(stage)['checkpoint_step']
  except FileNotFoundError:
    return False
  return step >= checkpoint.load_config(stage).steps


def _define_flags() -> None:
  flags.DEFINE_string('workdir', None, 'Folder of the comparison.')
  flags.DEFINE_list('mixers', [*MIXERS], 'Mixers to compare.')
  cli.define('seeds', 3, 'Number of runs per mixer.', schema.PositiveInt)
  cli.define(
    'stories',
    34,
    f'Test stories per length and seed, at most {_MOST_STORIES}.',
    schema.PositiveInt,
  )
  flags.DEFINE_bool(
    'report', False, 'Tables of the existing results, without new runs.'
  )
  flags.DEFINE_string(
    'archive',
    None,
    'Zip file of results. Those that it has count as done, and new ones are'
    ' added to it.',
  )
  flags.DEFINE_string('out', None, 'JSON file of the results.')
  flags.DEFINE_string('figure', None, 'PNG file of curves and ratings.')


def main(argv: Sequence[str]) -> int:
  """Runs the comparison of the flags."""
  del argv
  values = flags.FLAGS
  if values.workdir is None:
    raise ValueError(
      '--workdir is missing; give a folder, for example --workdir=comparison'
    )
  for name in values.mixers:
    if name not in mixers_lib.MIXERS:
      raise ValueError(
        f'--mixers has {name!r}; expected names out of'
        f' {", ".join(mixers_lib.MIXERS)}'
      )
  if values.stories > _MOST_STORIES:
    raise ValueError(
      f'--stories is {values.stories}; expected at most {_MOST_STORIES}'
    )
  workdir = paths.require_local(values.workdir, '--workdir')
  for path in (values.out, values.figure):
    if path:
      files.check_writable(pathlib.Path(path))
  comparison = Comparison(workdir)
  archive = pathlib.Path(values.archive) if values.archive else None
  if archive:
    files.check_writable(archive)
    if archive.exists():
      comparison.unpack(archive)
  if not values.report:
    comparison.check_protocol()
    left = [
      (mixer, seed)
      for seed in range(values.seeds)
      for mixer in values.mixers
      if not comparison.is_judged(mixer, seed, values.stories)
    ]
    if left:
      comparison.prepare()
    for mixer, seed in left:
      comparison.train(mixer, seed, comparison.learning_rate(mixer))
      comparison.judge(mixer, seed, values.stories)
      if archive:
        comparison.pack(archive)
  results = comparison_report.read(workdir)
  comparison_report.print_tables(results)
  if values.out:
    files.write_json(results, values.out)
    print(f'wrote {values.out}')
  if values.figure:
    comparison_report.draw(results, pathlib.Path(values.figure))
    print(f'wrote {values.figure}')
  return 0


if __name__ == '__main__':
  _define_flags()
  cli.run(main)

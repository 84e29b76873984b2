"""Encodes videos and their captions into a data set for training.

    ttt-jax precompute --config=quickstart:9s --workdir=DIR
    ttt-jax precompute --config=cogvideox:CogVideoX-5b,3s --workdir=DIR \\
        --config.data.storyboards=captions.jsonl --config.data.videos=videos
    ttt-jax precompute --config=quickstart:9s --workdir=DIR --check

`config.data.storyboards` is a file of storyboards, of annotations of long
videos (`data/annotations.py`) or of captions (`data/captions.py`). They are
split into clips of `config.data.seconds`. The command can be stopped at any
moment and resumes when it is started again. With `--check` it reads the data
set and lists every problem.

Several processes can share the work: start the same command N times, on any
machines that share the folders, with --process_id=0..N-1 --num_processes=N. On
TPU pods, on GKE and under Slurm JAX provides these numbers itself. The process
that finishes last writes the manifest. A process that dies can be restarted.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import dataclasses
import shlex
import time

from absl import flags
import jax
import ml_collections
from ml_collections import config_flags

from ttt_jax import config_schema
from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.convert import model_folder
from ttt_jax.data import check as check_lib
from ttt_jax.data import episodes
from ttt_jax.data import precompute as precompute_lib
from ttt_jax.data import shots
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.encoders import load_text as text_lib
from ttt_jax.encoders import video_encoder
from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import distributed
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import progress
from ttt_jax.runtime import schema
from ttt_jax.runtime import shipped
from ttt_jax.runtime import wording

_FIELDS = (
  'data.storyboards',
  'data.videos',
  'data.folder',
  'data.seconds',
  'data.fps',
  'data.height',
  'data.width',
  'vae.folder',
  'text.folder',
  'text.length',
  'model.mini_batch',
)


def run(
  config: ml_collections.ConfigDict,
  workdir: str,
  process_index: int = 0,
  process_count: int = 1,
) -> manifest_lib.Manifest | None:
  """Encodes the videos of `config.data`; prints inputs and outputs.

  Args:
    config: Configuration.
    workdir: Folder of the run, for '{workdir}' in the paths of `config.data`.
    process_index: Index of this process.
    process_count: Number of processes that share the work.

  Returns:
    The manifest, or None, as `data.precompute.precompute`.
  """
  _check_fields(config)
  started = time.time()
  # With '{workdir}' in its paths, so that a run may be moved.
  saved = files.to_json_types(config.copy_and_resolve_references())
  config = _in_workdir(config, workdir)
  data = config.data
  folder = data.folder
  geometry = geometry_lib.Geometry.from_config(config)
  with progress.Bar('reading captions and videos', None):
    clip_set = _read_clips(config, geometry)
  print(f'captions     {data.storyboards}')
  for line in clip_set.summary():
    print(f'  {line}')
  print(f'videos       {data.videos}')
  print(f'video VAE    {config.vae.folder}')
  print(f'text encoder {config.text.folder}')
  for name, value in geometry.table():
    print(f'  {name:<22} {value}')
  if process_count > 1:
    print(f'process      {process_index} of {process_count}')
  # Checked before the weights are loaded, which may take minutes.
  files.check_writable(folder, folder=True)
  if cache := config.text.get('cache'):
    files.check_writable(cache, folder=True)
  with progress.Bar('checking videos', None):
    precompute_lib.list_clips(clip_set.clips, data.videos, geometry)
  text_folder = model_folder.resolve(config.text.folder)
  tokenize, _ = text_lib.load_tokenizer(text_folder)
  count = lambda text: len(tokenize(text))
  if config.text.get('truncate'):
    prompts = {p for clip in clip_set.clips for p in clip.prompts()}
    long = sum(count(prompt) > config.text.length for prompt in prompts)
    print(f'{long} texts are cut to {config.text.length} tokens')
  else:
    storyboard_lib.lint_all(
      clip_set.clips,
      config.text.length,
      count,
      ', or cut the texts by --config.text.truncate=True',
    )
  with progress.Bar('loading the encoders', None):
    vae = video_encoder.CausalVideoEncoder.load(
      model_folder.resolve(config.vae.folder),
      devices=jax.local_devices(),
      **video_encoder.vae_options(config.vae),
    )
    text_encoder = text_lib.load_text_encoder(
      text_folder,
      config.text.length,
      **video_encoder.text_options(config.text),
    )
  manifest = precompute_lib.precompute(
    clip_set.clips,
    videos_dir=data.videos,
    vae=vae,
    text_encoder=text_encoder,
    geometry=geometry,
    out=folder,
    soften=data.get('soften', True),
    text_cache=cache or None,
    process_index=process_index,
    process_count=process_count,
    config=saved,
  )
  seconds = time.time() - started
  if manifest is None:
    print(
      f"encoded this process's clips of {folder} in {seconds:.0f} s; other"
      ' processes are not finished, the last one writes the manifest'
    )
    return None
  clips = wording.count(len(manifest.clips), 'clip')
  print(f'wrote {folder}: {clips} in {seconds:.0f} s')
  _print_videos(manifest)
  return manifest


def _in_workdir(
  config: ml_collections.ConfigDict, workdir: str
) -> ml_collections.ConfigDict:
  """Returns a copy of a config with '{workdir}' replaced in its paths."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for name in ('folder', 'storyboards', 'videos'):
      config.data[name] = paths.in_workdir(config.data[name], workdir)
  return config


def _read_clips(
  config: ml_collections.ConfigDict, geometry: geometry_lib.Geometry
) -> episodes.ClipSet:
  """Returns the clips of `config.data`."""
  seconds = config.data.get('stride', 0)
  unit = shots.segment_seconds(geometry)
  segments = round(seconds / unit)
  if seconds < 0 or segments * unit != seconds:
    raise ValueError(
      f'config.data.stride is {seconds:g} s; clips begin at multiples of'
      f' {unit:g} s, for example {max(1, segments) * unit:g} (0: no overlap)'
    )
  try:
    return episodes.read_clips(
      config.data.storyboards, config.data.videos, geometry, segments
    )
  except FileNotFoundError as e:
    command = shipped.demonstration(config.get('name') or '')
    if not command:
      raise
    raise FileNotFoundError(
      f'{e}; the data of this recipe are made in a clone of the repository, by'
      f' {command}'
    ) from e


def check(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Reads the data set once and prints every problem.

  Raises:
    FileNotFoundError: there is no data set.
    ValueError: it has problems.
  """
  _check_fields(config)
  config = _in_workdir(config, workdir)
  folder = config.data.folder
  geometry = geometry_lib.Geometry.from_config(config)
  expected = check_lib.Expected(
    geometry=geometry,
    videos_dir=config.data.videos,
    soften=config.data.get('soften', True),
  )
  try:
    clips = _read_clips(config, geometry).clips
    expected = dataclasses.replace(expected, clips=clips)
  except FileNotFoundError as e:
    print(f'the captions are not compared: {e}')
  try:
    tokenize, ids = text_lib.load_tokenizer(
      model_folder.resolve(config.text.folder),
      config.text.length if config.text.get('truncate') else None,
    )
    expected = dataclasses.replace(
      expected, tokenize=tokenize, scene_token_ids=ids
    )
  except FileNotFoundError as e:
    print(f'the tokens are not counted: {e}')
  report = check_lib.check(folder, expected, progress=True)
  print(
    f'read {report.clips} clips of {folder}; latents have mean'
    f' {report.mean:.3f} and standard deviation {report.std:.3f}'
  )
  for problem in report.problems:
    print(f'  {problem}')
  if report.problems:
    raise ValueError(
      f'{len(report.problems)} problems in {folder}, listed above; delete'
      f' {folder}/clips/ROW.json to encode the clip of that row again'
    )
  print('all clips are complete')
  _print_videos(manifest_lib.read_manifest(folder))


def _check_fields(config: ml_collections.ConfigDict) -> None:
  for field in _FIELDS:
    section, name = field.split('.')
    if name not in (config.get(section) or {}):
      raise ValueError(
        f'the configuration has no {field}; configs/quickstart.py has'
        ' every field that precompute needs'
      )
  for name, kind in (
    ('data', config_schema.VideoData),
    ('vae', config_schema.Vae),
    ('text', config_schema.TextEncoder),
  ):
    values = files.to_json_types(config[name])
    schema.convert(values, kind, f'config.{name}')


def _print_videos(manifest: manifest_lib.Manifest) -> None:
  """Prints the changes of the videos' frames, and the clips left out."""
  videos = collections.defaultdict(list)
  for name, notes in manifest.conversions.items():
    videos[', '.join(notes)].append(name)
  for notes, names in videos.items():
    count = wording.count(len(names), 'video', f'was {notes}')
    print(f'{count}: {files.first_ten(names)}')
  if manifest.corrupt:
    clips = wording.count(len(manifest.corrupt), 'clip')
    print(f'left out {clips} that cannot be encoded:')
  for clip in manifest.corrupt:
    print(f'  {clip["name"]}: {clip["reason"]}')


def main(argv: Sequence[str]) -> None:
  """Runs the command."""
  del argv
  config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
  _check_fields(config)
  bucket.check(
    paths.in_workdir(config.data.folder, workdir), write=not flags.FLAGS.check
  )
  if flags.FLAGS.check:
    check(config, workdir)
  elif run(config, workdir, *distributed.process_index_and_count()) is None:
    return
  flag = flags.FLAGS['config']
  overrides = config_flags.get_override_values(flag)
  name = shipped.short_config(config_flags.get_config_filename(flag))
  arguments = [f'--config={name}']
  arguments += [f'--config.{name}={value}' for name, value in overrides.items()]
  arguments += [f'--workdir={workdir}']
  print(f'next: ttt-jax train {shlex.join(arguments)}')


def define_flags() -> None:
  """Defines the flags of the command."""
  config_flags.DEFINE_config_file(
    'config', help_string=cli.CONFIG_HELP, lock_config=True
  )
  flags.DEFINE_string('workdir', None, 'Folder of the training run.')
  flags.DEFINE_bool(
    'check', False, 'List of the problems of the data set, which is only read.'
  )
  flags.mark_flags_as_required(['config', 'workdir'])


if __name__ == '__main__':
  define_flags()
  cli.run(main)

"""Writes one HTML page that shows a run, a data set or a storyboard.

    ttt-jax inspect WORKDIR
    ttt-jax inspect WORKDIR/data/3s --out=data.html
    ttt-jax inspect storyboard.json --workdir=WORKDIR
    ttt-jax inspect one_minute

A run, or one of its stages: losses by timestep, gates and inner losses by
layer, samples, speed and the config. It may be in progress or killed. A data
set: clips with their captions and pictures, and what was left out and why. A
file of storyboards, annotations or captions, or the name of a shipped one: a
strip of segments with scenes and numbers of tokens.

The page is one file without links to others. No accelerator is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
import pathlib
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags

from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import progress
from ttt_jax.runtime import schema
from ttt_jax.runtime import shipped

_EXPECTED = 'a training run, a data set or a file of storyboards'

_OUT = flags.DEFINE_string(
  'out',
  '',
  'HTML file to write; default: inspect.html in the folder, or NAME.html next'
  ' to the file; of a shipped storyboard, NAME.html here.',
)
_CONFIG = config_flags.DEFINE_config_file('config', None, cli.CONFIG_HELP)
_WORKDIR = flags.DEFINE_string(
  'workdir', '', 'Folder of a training run whose config is used.'
)
_VIDEOS = flags.DEFINE_string(
  'videos', '', 'Folder of the videos; default: that of the config.'
)
_EMBED = cli.define(
  'embed_mib',
  30.0,
  'Size of the videos and pictures in the page, in MiB.',
  schema.NonNegativeFloat,
)
_PICTURES = cli.define(
  'pictures',
  600,
  'Largest number of frames of clips and storyboards in the page.',
  schema.NonNegativeInt,
)


def main(argv: Sequence[str]) -> None:
  """Writes the page of the path in `argv`."""
  if len(argv) != 2:
    raise ValueError(
      f'expected one folder or file, not {len(argv) - 1}; for example'
      ' ttt-jax inspect WORKDIR'
    )
  source = shipped.storyboard(argv[1])
  if not paths.is_remote(source):
    found = paths.resolve(source, _EXPECTED, shipped.storyboards())
    _check_kind(found)
  out = pathlib.Path(_OUT.value or _default_out(argv[1]))
  if not f'{_OUT.value or out}'.endswith('.html'):
    raise ValueError(f'--out is {_OUT.value}; it must end in .html')
  for path in (source, _WORKDIR.value):
    bucket.check(path)
  files.check_writable(out)
  with progress.Bar(f'reading {source}', None):
    text = _build(source)
  with files.atomic_write(out) as temporary:
    temporary.write_text(text, encoding='utf-8')
  print(f'wrote {out} ({len(text) / 2**20:.1f} MiB); open it in a browser')


def _default_out(source: str) -> str:
  if paths.is_remote(source):
    return 'inspect.html'
  if os.path.isdir(source):
    return os.path.join(source, 'inspect.html')
  if not os.path.exists(source):  # A shipped one.
    source = os.path.basename(source)
  return os.path.splitext(source)[0] + '.html'


def _check_kind(path: pathlib.Path) -> None:
  """Raises ValueError for a file that is a video."""
  from ttt_jax.data import captions

  if path.is_file() and path.suffix.lower() in captions.VIDEO_SUFFIXES:
    raise ValueError(
      f'{path} is a video; name {_EXPECTED}, or measure it with ttt-jax'
      f' evaluate {path}'
    )


def _build(source: str) -> str:
  """Returns the page."""
  import jax

  # A run on this machine keeps its accelerator.
  jax.config.update('jax_platforms', 'cpu')
  from ttt_jax.checkpoints import checkpoint_format
  from ttt_jax.inspection import context
  from ttt_jax.inspection import data_set
  from ttt_jax.inspection import run
  from ttt_jax.inspection import segments
  from ttt_jax.inspection import stage
  from ttt_jax.inspection import storyboards
  from ttt_jax.pages import media
  from ttt_jax.train import metrics

  budget = media.Budget(int(_EMBED.value * 2**20))
  folder = epath.Path(source)
  config: Mapping[str, Any] | None = None
  if _CONFIG.value is not None:
    config = _CONFIG.value.to_dict()
  elif _WORKDIR.value:
    config = context.of_run(_WORKDIR.value)

  def details() -> dict[str, Any]:
    videos = _VIDEOS.value or context.videos(config)
    pictures = segments.Pictures(videos, budget, _PICTURES.value)
    return dict(pictures=pictures, tokens=context.tokens(config))

  if not folder.is_dir():
    boards = storyboards.read(source)
    size = context.geometry(config)
    return storyboards.build(source, boards, geometry=size, **details())
  if data_set.is_data_set(folder):
    if _CONFIG.value is not None:
      config = context.near_data_set(_CONFIG.value.to_dict(), folder)
    config = config or context.of_data_set(folder)
    return data_set.build(folder, config=config, **details())
  if stages := stage.find(folder):
    return run.build(folder, stages, budget)
  raise ValueError(
    f'{folder} is not a run, data set or storyboard: neither it nor a folder in'
    f' it has {metrics.LOG} or {checkpoint_format.FOLDER}/ (a run), and it'
    ' has no manifest.json (a data set); name such a folder, or a .json file'
  )


if __name__ == '__main__':
  cli.run(main, arguments=True)

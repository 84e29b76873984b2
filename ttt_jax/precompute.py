"""Encodes the clips of a configuration, once, for training.

    python -m ttt_jax.precompute --config=configs/quickstart.py:9s \\
        --workdir=DIR [--config.data.videos=FOLDER ...] [--check]

Stopped at any moment and started again, it goes on where it stopped. With
`--check` it reads the finished data set and reports every damaged clip.
"""

from __future__ import annotations

from collections.abc import Sequence
import shlex
import time

from absl import flags
import ml_collections
from ml_collections import config_flags

from ttt_jax import cli
from ttt_jax import geometry as geometry_lib
from ttt_jax import paths
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import encoders
from ttt_jax.data import latents
from ttt_jax.data import manifest as manifest_lib
from ttt_jax.data import precompute as precompute_lib
from ttt_jax.models.text import encoder as text_lib

_FIELDS = (
    'data.storyboards', 'data.videos', 'data.folder', 'data.seconds',
    'data.fps', 'data.height', 'data.width', 'vae.folder', 'text.folder',
    'text.length', 'model.mini_batch',
)


def run(
    config: ml_collections.ConfigDict, workdir: str
) -> manifest_lib.Manifest:
  """Encodes what `config.data` names; prints inputs and outputs."""
  _check_fields(config)
  started = time.time()
  data = config.data
  folder = data_folder(config, workdir)
  geometry = geometry_lib.Geometry.from_config(config)
  source = paths.resolve(data.storyboards)
  storyboards = storyboard_lib.load_storyboards(source)
  print(f'storyboards  {source} ({len(storyboards)})')
  print(f'videos       {data.videos}')
  print(f'video VAE    {config.vae.folder}')
  print(f'text encoder {config.text.folder}')
  for name, value in geometry.table():
    print(f'  {name:<22} {value}')
  manifest = precompute_lib.precompute(
      storyboards,
      videos_dir=data.videos,
      vae=encoders.CausalVideoEncoder.load(paths.resolve(config.vae.folder)),
      text_encoder=text_lib.load_text_encoder(
          paths.resolve(config.text.folder), config.text.length
      ),
      geometry=geometry,
      out=folder,
      soften=data.get('soften', True),
  )
  print(
      f'wrote {folder}: {len(manifest.clips)} clips in'
      f' {time.time() - started:.0f} s'
  )
  _print_corrupt(manifest)
  return manifest


def check(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Reads the data set once.

  Raises:
    ValueError: clips are damaged; the message names them.
  """
  _check_fields(config)
  dataset = latents.LatentDataset(data_folder(config, workdir), cache_bytes=0)
  problems = dataset.check()
  if problems:
    raise ValueError(
        f'{len(problems)} of {len(dataset)} clips in {dataset.folder} are'
        f' damaged: {"; ".join(problems)}'
    )
  print(
      f'{dataset.folder}: all {len(dataset)} clips are whole; latents'
      f' {list(dataset.latent_shape)}, text {list(dataset.text_shape)}'
  )
  _print_corrupt(dataset.manifest)


def data_folder(config: ml_collections.ConfigDict, workdir: str) -> str:
  """Where the data set of a configuration lies."""
  return config.data.folder.replace('{workdir}', workdir)


def _check_fields(config: ml_collections.ConfigDict) -> None:
  for field in _FIELDS:
    section, name = field.split('.')
    if name not in config.get(section, {}):
      raise ValueError(
          f'the configuration has no {field}; configs/quickstart.py shows all'
          ' that precompute needs'
      )


def _print_corrupt(manifest: manifest_lib.Manifest) -> None:
  if manifest.corrupt:
    print(f'left out {len(manifest.corrupt)} clips that cannot be read:')
  for clip in manifest.corrupt:
    print(f'  {clip["name"]}: {clip["reason"]}')


def main(argv: Sequence[str]) -> None:
  del argv
  config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
  if flags.FLAGS.check:
    check(config, workdir)
  else:
    run(config, workdir)
  flag = flags.FLAGS['config']
  overrides = config_flags.get_override_values(flag)
  same = [f'--config={config_flags.get_config_filename(flag)}']
  same += [f'--config.{name}={value}' for name, value in overrides.items()]
  same += [f'--workdir={workdir}']
  print(f'next: python -m ttt_jax.train {shlex.join(same)}')


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', lock_config=True)
  flags.DEFINE_string('workdir', None, 'folder of all outputs')
  flags.DEFINE_bool('check', False, 'read the finished data set, write nothing')
  flags.mark_flags_as_required(['config', 'workdir'])
  cli.run(main)

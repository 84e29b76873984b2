"""Writes one HTML page that shows a training run.

    python -m ttt_jax.inspect WORKDIR [--out=FILE.html]

The folder of a run or of one of its stages: losses by timestep, gates and inner
losses by layer, samples, speed and the config. The run may be in progress or
killed; nothing is computed, and no accelerator is used.

The page is one file without links to others.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib

from absl import flags
from etils import epath

from ttt_jax.runtime import bucket
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import schema

_OUT = flags.DEFINE_string(
  'out', '', 'HTML file to write; default: inspect.html in the folder.'
)
_EMBED = cli.define(
  'embed_mib',
  30.0,
  'Size of the videos and pictures in the page, in MiB.',
  schema.NonNegativeFloat,
)


def main(argv: Sequence[str]) -> None:
  """Writes the page of the folder in `argv`."""
  if len(argv) != 2:
    raise ValueError(
      f'expected one folder, not {len(argv) - 1}; for example python -m'
      ' ttt_jax.inspect WORKDIR'
    )
  source = argv[1]
  out = pathlib.Path(_OUT.value or _default_out(source))
  if out.suffix != '.html':
    raise ValueError(f'--out is {out}; it must end in .html')
  bucket.check(source)
  if not paths.is_remote(source):
    paths.resolve(source)
  files.check_writable(out)
  text = _build(epath.Path(source))
  with files.atomic_write(out) as temporary:
    temporary.write_text(text)
  print(f'wrote {out} ({len(text) / 2**20:.1f} MiB); open it in a browser')


def _default_out(source: str) -> str:
  if paths.is_remote(source):
    return 'inspect.html'
  return os.path.join(source, 'inspect.html')


def _build(folder: epath.Path) -> str:
  """Returns the page."""
  import jax

  # A run on this machine keeps its accelerator.
  jax.config.update('jax_platforms', 'cpu')
  from ttt_jax.inspection import run
  from ttt_jax.pages import media

  budget = media.Budget(int(_EMBED.value * 2**20))
  if folder.is_dir() and (stages := run.find_stages(folder)):
    return run.build(folder, stages, budget)
  raise ValueError(
    f'{folder} is not a training run: neither it nor a folder in it has'
    f' {run.metrics.LOG} or {run.checkpoint_format.FOLDER}/; name the'
    ' --workdir of python -m ttt_jax.train'
  )


if __name__ == '__main__':
  cli.run(main, arguments=True)

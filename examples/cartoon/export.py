"""Writes a trained stage of the cartoon as a complete model.

    python -m examples.cartoon.export --workdir=DIR/63s --out=FOLDER \\
        [--vae=DIR/decoder/vae]

The folder has diffusers' layout, in float16: `VideoPipeline.load(FOLDER)` loads
it. It contains the text encoder of the training, too, and the autoencoder or
another one with the same latents.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import shutil

from absl import flags
import jax
import numpy as np

from examples import cogvideox_folder
from ttt_jax import convert
from ttt_jax.checkpoints import checkpoint
from ttt_jax.convert import model_folder
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.runtime import paths


def export(workdir: str, out: pathlib.Path, vae: str | None = None) -> None:
  """Writes the model of a stage, with averaged weights, to a new folder.

  Args:
    workdir: Folder of the stage.
    out: Folder to create.
    vae: Folder of the autoencoder; None is that of the training.

  Raises:
    ValueError: the latents of `vae` are in other units.
  """
  backbone, params, config = checkpoint.load_network(workdir, ema=True)
  folders = [model_folder.resolve(config.vae.folder)]
  if vae:
    folders.append(paths.resolve(vae))
    units = [convert.load_vae(f)[0] for f in folders]
    if len({(u.scaling_factor, u.shift) for u in units}) > 1:
      raise ValueError(
        f'{vae} has latents in other units than {folders[0]}; expected a'
        ' decoder that was trained for this autoencoder'
      )
  with files.atomic_folder(out) as folder:
    convert.save_dit(
      backbone.config, params, folder / 'transformer', dtype=np.float16
    )
    for part, source in (
      ('vae', folders[-1]),
      ('text_encoder', model_folder.resolve(config.text.folder)),
    ):
      shutil.copytree(source, folder / part)
    cogvideox_folder.complete(
      folder,
      text_encoder='BertModel',
      tokenizer='PreTrainedTokenizerFast',
      schedule_shift=config.schedule_shift,
      fps=config.data.fps,
    )


def _define_flags() -> None:
  flags.DEFINE_string(
    'workdir', None, 'Folder of the stage, or of the run.', required=True
  )
  flags.DEFINE_string('out', None, 'Folder to create.', required=True)
  flags.DEFINE_string(
    'vae', None, 'Folder of the autoencoder; None is that of the training.'
  )


def main(argv: Sequence[str]) -> None:
  """Exports the stage of the flags."""
  del argv
  jax.config.update('jax_platforms', 'cpu')
  out = pathlib.Path(flags.FLAGS.out)
  export(flags.FLAGS.workdir, out, flags.FLAGS.vae)
  size = sum(p.stat().st_size for p in out.rglob('*') if p.is_file())
  print(f'wrote {out}, {size / 2**20:.1f} MB')


if __name__ == '__main__':
  _define_flags()
  cli.run(main)

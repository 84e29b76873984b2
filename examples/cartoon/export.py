"""Writes a trained stage of the cartoon as a complete model.

    python -m examples.cartoon.export --workdir=DIR/63s --out=FOLDER

The folder has diffusers' layout, in float16: `VideoPipeline.load(FOLDER)` loads
it. It contains the autoencoder and the text encoder of the training, too; or
with `--vae` another autoencoder of the same latents, of
`examples.cartoon.decoder`.
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

# Few steps are enough for flat colours, and the texts were never left out in
# training, so there is no guidance.
SAMPLING = dict(steps=8, guidance=1.0, guidance_schedule='constant')


# What the latents of two autoencoders must have in common.
_LATENTS = ('latent_channels', 'scaling_factor', 'shift', 'spatial_compression')


def export(workdir: str, out: pathlib.Path, vae: str | None = None) -> None:
  """Writes the model of a stage, with averaged weights, to a new folder.

  Args:
    workdir: Folder of the stage, or of the run.
    out: Folder to create.
    vae: Folder of the autoencoder; None is that of the training.

  Raises:
    ValueError: the autoencoder has other latents than that of the training.
  """
  backbone, params, config = checkpoint.load_network(workdir, ema=True)
  if vae is not None:
    check_latents(vae, config.vae.folder)
  with files.atomic_folder(out) as folder:
    convert.save_dit(
      backbone.config, params, folder / 'transformer', dtype=np.float16
    )
    for part, source in (
      ('vae', vae or config.vae.folder),
      ('text_encoder', config.text.folder),
    ):
      shutil.copytree(model_folder.resolve(source), folder / part)
    cogvideox_folder.complete(
      folder,
      text_encoder='BertModel',
      tokenizer='PreTrainedTokenizerFast',
      schedule_shift=config.schedule_shift,
      prediction=backbone.prediction,
      fps=config.data.fps,
      sampling=SAMPLING,
    )


def check_latents(vae: str, trained: str) -> None:
  """Raises ValueError unless two autoencoders have latents of one kind."""
  ours, theirs = (convert.load_vae(folder)[0] for folder in (vae, trained))
  for name in _LATENTS:
    if getattr(ours, name) != getattr(theirs, name):
      raise ValueError(
        f'the autoencoder {vae} has another {name} than {trained}, with which'
        ' the stage was trained; give one of examples.cartoon.decoder'
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

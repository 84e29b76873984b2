"""Compares the speed of our transformer with diffusers'.

    .venv-parity/bin/python -m benchmarks.transformer --heads=30 --layers=2

`make parity` creates the environment. Both have the same weights, sizes and
inputs: the width of CogVideoX-2B with a few of its layers, one segment of 13
latent frames. Forward passes in float32 alternate in one process; the least of
a few calls each counts.
"""

from __future__ import annotations

import tempfile
import time

from absl import flags
import diffusers
from diffusers.models import embeddings
import jax
import numpy as np
import torch

from ttt_jax import convert
from ttt_jax.models import dit
from ttt_jax.runtime import cli

_HEADS = flags.DEFINE_integer(
  'heads', 30, 'Number of heads of 64 features: 30 for 2B, 48 for 5B.'
)
_LAYERS = flags.DEFINE_integer('layers', 2, 'Number of layers.')
_ROWS = flags.DEFINE_integer('rows', 8, 'Token rows of a frame.')
_COLUMNS = flags.DEFINE_integer('columns', 12, 'Token columns of a frame.')
_CALLS = flags.DEFINE_integer(
  'calls', 5, 'Number of timed calls; the fastest counts.'
)


@torch.no_grad()
def main(_) -> None:
  rows, columns = _ROWS.value, _COLUMNS.value
  theirs = diffusers.CogVideoXTransformer3DModel(
    num_attention_heads=_HEADS.value,
    num_layers=_LAYERS.value,
    sample_height=2 * rows,
    sample_width=2 * columns,
    use_rotary_positional_embeddings=True,
  ).eval()
  with tempfile.TemporaryDirectory() as folder:
    theirs.save_pretrained(folder)
    config, params = convert.load_dit(folder)
  params = jax.device_put(params)
  rng = np.random.default_rng(0)
  shape = (1, 13, 16, 2 * rows, 2 * columns)
  latents = rng.normal(size=shape).astype(np.float32)
  text = rng.normal(size=(1, 226, 4096)).astype(np.float32)
  turns = embeddings.get_3d_rotary_pos_embed(
    64, ((0, 0), (rows, columns)), (rows, columns), 13
  )
  network = jax.jit(dit.DiffusionTransformer(config).apply)

  def ours():
    return np.asarray(
      network(
        {'params': params},
        np.moveaxis(latents, 2, -1),
        text[:, None],
        np.full(1, 500.0, np.float32),
      )
    )

  def diffusers_own():
    return theirs(
      torch.tensor(latents),
      torch.tensor(text),
      torch.tensor([500]),
      image_rotary_emb=turns,
    ).sample.numpy()

  error = np.abs(np.moveaxis(ours(), -1, 2) - diffusers_own()).max()
  least = dict.fromkeys((ours, diffusers_own), float('inf'))
  for _ in range(_CALLS.value):
    for call in least:
      start = time.perf_counter()
      call()
      least[call] = min(least[call], time.perf_counter() - start)
  tokens = 13 * rows * columns + 226
  print(
    f'{tokens} tokens, {_LAYERS.value} layers of {64 * _HEADS.value}:'
    f' ttt_jax {least[ours]:.2f} s, diffusers {least[diffusers_own]:.2f} s,'
    f' ratio {least[ours] / least[diffusers_own]:.2f};'
    f' largest difference {error:.1e}'
  )


if __name__ == '__main__':
  cli.run(main)

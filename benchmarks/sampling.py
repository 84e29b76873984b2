"""Measures a denoising step at 3, 9, 30 and 63 seconds of video.

    python -m benchmarks.sampling --workdir=demo/clips [--out=FILE]

The architecture promises linear growth: a token of the 63-second video should
cost as much as a token of the 9-second one. Times are the least of a few calls
in one process; every step uses guidance, with a batch of two.
"""

from __future__ import annotations

import functools
import resource
import time

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from ttt_jax import pipeline
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.models import dit
from ttt_jax.runtime import cli
from ttt_jax.runtime import files

_WORKDIR = flags.DEFINE_string(
  'workdir', 'demo/clips', 'Folder of a trained model.'
)
_OUT = flags.DEFINE_string('out', None, 'JSON file of the numbers.')
_CALLS = flags.DEFINE_integer(
  'calls', 5, 'Number of timed calls; the fastest counts.'
)


def least_seconds(call, calls: int) -> float:
  """Returns the seconds of the fastest call, after one that compiles."""
  jax.block_until_ready(call())
  times = []
  for _ in range(calls):
    start = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  return min(times)


def main(_) -> None:
  if _OUT.value:
    files.check_writable(_OUT.value)
  pipe = pipeline.VideoPipeline.load(_WORKDIR.value)
  step = jax.jit(dit.DiffusionTransformer(pipe.config).apply)
  rows = []
  for seconds in (3, 9, 30, 63):
    text = dict(text='A rabbit.')
    board = storyboard_lib.Storyboard.parse(
      dict(name='x', segments=[text] * (seconds // 3))
    )
    g = pipe.geometry(board)
    latents = jnp.zeros(
      (
        2,
        g.latent_frames,
        g.latent_height,
        g.latent_width,
        pipe.config.in_channels,
      )
    )
    texts = np.stack([pipe.text_encoder.encode(board.prompts())] * 2)
    times = jnp.full(2, 500.0)
    inputs = ({'params': pipe.params}, latents, texts, times)
    rows.append(
      dict(
        seconds=seconds,
        tokens=g.sequence_length,
        step_seconds=least_seconds(
          functools.partial(step, *inputs), _CALLS.value
        ),
        decode_seconds=least_seconds(
          functools.partial(pipe.decode, latents[:1]), 1
        ),
      )
    )
  at_9 = rows[1]['step_seconds'] / rows[1]['tokens']
  table = rich_table.Table(title='one denoising step with guidance')
  for name in ('video', 'tokens', 'seconds', 'per token, 9 s = 1', 'decoding'):
    table.add_column(name, justify='right')
  for row in rows:
    row['per_token_to_9s'] = row['step_seconds'] / row['tokens'] / at_9
    table.add_row(
      f'{row["seconds"]} s',
      f'{row["tokens"]:,}',
      f'{row["step_seconds"]:.3f}',
      f'{row["per_token_to_9s"]:.2f}',
      f'{row["decode_seconds"]:.2f} s',
    )
  rich_console.Console().print(table)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(f'peak memory {peak:.2f} GB, {jax.devices()[0].device_kind}')
  if _OUT.value:
    files.write_json(rows, _OUT.value)


if __name__ == '__main__':
  cli.run(main)

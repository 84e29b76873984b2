"""Times the autoencoder and T5 against diffusers and transformers, on CPU.

    python -m benchmarks.codec [--frames=9] [--size=64x96] [--layers=2]
        [--calls=3] [--threads=2] [--cpu_time] [--out=FILE]

Requires the environment of `make parity`. Both sides have the same random
weights, of CogVideoX's sizes (T5 v1.1 XXL with fewer layers), and alternate in
one process on the same cores, in float32. The fastest of several calls counts.
On a shared machine, use --threads=1 --cpu_time under `taskset -c 0`: with two
threads PyTorch waits for the slower one after every operation, and wall time
includes the work of other processes.
"""

from __future__ import annotations

import pathlib
import tempfile
import time

from absl import flags
import jax
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from ttt_jax import convert
from ttt_jax.models.text import t5
from ttt_jax.models.vae import stream as stream_lib
from ttt_jax.runtime import cli
from ttt_jax.runtime import files

_FRAMES = flags.DEFINE_integer(
  'frames', 9, 'Number of frames of the video, 4 n + 1.'
)
_SIZE = flags.DEFINE_string('size', '64x96', 'Height and width of the video.')
_LAYERS = flags.DEFINE_integer(
  'layers', 2, 'Number of layers of T5; XXL has 24.'
)
_PROMPTS = flags.DEFINE_integer('prompts', 4, 'Number of texts of 226 tokens.')
_CALLS = flags.DEFINE_integer(
  'calls', 3, 'Number of timed calls; the fastest counts.'
)
_THREADS = flags.DEFINE_integer('threads', 2, 'Number of threads of PyTorch.')
_CPU_TIME = flags.DEFINE_bool(
  'cpu_time', False, 'Processor time instead of wall time.'
)
_OUT = flags.DEFINE_string('out', None, 'JSON file of the numbers.')


def alternate(calls: int, ours, theirs) -> tuple[float, float]:
  """Returns the least seconds of each, after a call of each that compiles."""
  ours(), theirs()
  clock = time.process_time if _CPU_TIME.value else time.perf_counter
  times = [], []
  for _ in range(calls):
    for call, found in zip((ours, theirs), times):
      start = clock()
      call()
      found.append(clock() - start)
  return min(times[0]), min(times[1])


def autoencoder(folder: str, frames: int, height: int, width: int):
  """Yields (name, our call, their call) of encoding and of decoding."""
  import diffusers
  import torch

  torch.manual_seed(0)
  theirs = diffusers.AutoencoderKLCogVideoX(
    down_block_types=('CogVideoXDownBlock3D',) * 4,
    up_block_types=('CogVideoXUpBlock3D',) * 4,
    block_out_channels=(128, 256, 256, 512),
    layers_per_block=3,
    latent_channels=16,
    scaling_factor=0.7,
  ).eval()
  theirs.save_pretrained(folder)
  ours = stream_lib.VAEStream(*convert.load_vae(folder))
  rng = np.random.default_rng(0)
  pixels = rng.uniform(-1, 1, (1, frames, height, width, 3)).astype('float32')
  latents = rng.normal(
    size=(1, (frames - 1) // 4 + 1, height // 8, width // 8, 16)
  ).astype('float32')
  to_torch = lambda x: torch.from_numpy(
    np.ascontiguousarray(np.moveaxis(x, -1, 1))
  )
  x, z = to_torch(pixels), to_torch(latents) / 0.7
  last = lambda tensor: np.moveaxis(tensor.numpy(), 1, -1)
  yield (
    'VAE encode',
    lambda: np.concatenate([m for m, _ in ours.encode(pixels)], axis=1),
    lambda: last(theirs.encode(x).latent_dist.mean * 0.7),
  )
  yield (
    'VAE decode',
    lambda: np.concatenate(list(ours.decode(latents)), axis=1),
    lambda: last(theirs.decode(z).sample),
  )


def text_encoder(folder: str, layers: int, prompts: int):
  """Yields (name, our call, their call) of T5."""
  import torch
  import transformers

  torch.manual_seed(0)
  theirs = transformers.T5EncoderModel(
    transformers.T5Config(
      # XXL, except for the depth and the size of the embedding table.
      vocab_size=1000,
      d_model=4096,
      d_kv=64,
      num_heads=64,
      d_ff=10240,
      num_layers=layers,
      feed_forward_proj='gated-gelu',
      is_encoder_decoder=False,
    )
  ).eval()
  theirs.save_pretrained(folder)
  config, params = convert.load_t5(folder)
  params = jax.device_put(params)
  apply = jax.jit(t5.T5Encoder(config).apply)
  ids = np.random.default_rng(0).integers(0, 1000, (prompts, 226))
  yield (
    f'T5 XXL, {layers} layers',
    lambda: np.asarray(apply({'params': params}, ids)),
    lambda: theirs(torch.from_numpy(ids)).last_hidden_state.numpy(),
  )


def main(_) -> None:
  if _OUT.value:
    files.check_writable(_OUT.value)
  import torch

  torch.set_num_threads(_THREADS.value)
  height, width = map(int, _SIZE.value.split('x'))
  rows = []
  with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    for part in (
      autoencoder(str(root / 'vae'), _FRAMES.value, height, width),
      text_encoder(str(root / 't5'), _LAYERS.value, _PROMPTS.value),
    ):
      for name, ours, theirs in part:
        want = theirs()
        error = np.abs(ours() - want).max() / np.abs(want).max()
        our_time, their_time = alternate(_CALLS.value, ours, theirs)
        rows.append(
          dict(
            name=name,
            jax=our_time,
            torch=their_time,
            ratio=their_time / our_time,
            error=float(error),
          )
        )
  table = rich_table.Table(
    title=f'{_FRAMES.value} frames of {_SIZE.value};'
    f' {_PROMPTS.value} texts of 226 tokens'
  )
  for name in ('', 'JAX, s', 'PyTorch, s', 'PyTorch / JAX', 'difference'):
    table.add_column(name, justify='right')
  for row in rows:
    table.add_row(
      row['name'],
      f'{row["jax"]:.2f}',
      f'{row["torch"]:.2f}',
      f'{row["ratio"]:.2f}',
      f'{row["error"]:.1e}',
    )
  rich_console.Console().print(table)
  if _OUT.value:
    files.write_json(rows, _OUT.value)


if __name__ == '__main__':
  cli.run(main)

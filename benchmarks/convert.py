"""Measures converting a transformer of the 5B model: time and memory.

    python -m benchmarks.convert --layers=2,8 --shard_gb=10

Writes models of random weights with the given numbers of the 42 layers, in the
format of `save_pretrained`, and converts each: to our Orbax tree, back, and
onto a mesh of eight simulated devices. Each conversion is a separate process,
whose peak resident memory is measured. The bound per process is 1.3 times the
largest file plus 1 GB. Simulated devices use the memory of the host; the size
of the result on them is subtracted.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from absl import flags
import jax
import numpy as np

from ttt_jax import convert
from ttt_jax import sharding
from ttt_jax.models import dit
from ttt_jax.runtime import cli

_LAYERS = flags.DEFINE_list(
  'layers', ['2', '8'], 'Number of layers of each model.'
)
_SHARD_GB = flags.DEFINE_float(
  'shard_gb', 10.0, 'Maximum size of a file in GB.'
)
_DTYPE = flags.DEFINE_string('dtype', 'bfloat16', 'Dtype of the files.')
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for the models; a temporary one if not set.'
)
_ONTO_MESH = flags.DEFINE_string(
  'onto_mesh', None, 'Folder of a model to load onto a mesh; internal.'
)

_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Noise:
  """A parameter with random values that are drawn when it is written."""

  shape: tuple[int, ...]
  dtype: np.dtype

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    rng = np.random.default_rng(0)
    out = np.empty(self.shape, self.dtype)
    for part in out if out.ndim > 1 else [out]:
      part[...] = rng.standard_normal(part.shape, np.float32)
    return out


def write(folder: pathlib.Path, layers: int) -> None:
  """Writes a model of random weights."""
  config = dit.DiTConfig(
    num_layers=layers, mixer='none', base_rows=30, base_columns=45
  )
  params = jax.tree.map(
    lambda leaf: Noise(leaf.shape, np.dtype(_DTYPE.value)),
    dit.abstract_params(config),
  )
  convert.save_dit(
    config, params, folder, shard_bytes=int(_SHARD_GB.value * _GB)
  )


def onto_mesh(folder: str) -> None:
  """Loads a transformer onto eight devices."""
  mesh = sharding.make_mesh(dict(data=8))
  _, params = convert.load_dit(
    folder, sharding=functools.partial(sharding.param_sharding, mesh)
  )
  jax.block_until_ready(params)


def measure(*arguments: str) -> tuple[float, float]:
  """Returns the seconds and peak GB of a Python process."""
  start = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, '-m', *arguments],
    stdout=subprocess.DEVNULL,
    env=dict(os.environ, XLA_FLAGS='--xla_force_host_platform_device_count=8'),
  )
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise RuntimeError(f'{arguments} failed')
  return time.perf_counter() - start, usage.ru_maxrss * 1024 / _GB


def main(_) -> None:
  if _ONTO_MESH.value:
    onto_mesh(_ONTO_MESH.value)
    return
  workdir = pathlib.Path(tempfile.mkdtemp(dir=_WORKDIR.value))
  try:
    for layers in _LAYERS.value:
      source = workdir / layers
      write(source, int(layers))
      sizes = [path.stat().st_size for path in source.glob('*.safetensors')]
      total, largest = sum(sizes) / _GB, max(sizes) / _GB
      print(
        f'{layers} layers: {total:.2f} GB in {len(sizes)} file(s), the'
        f' largest of {largest:.2f} GB; bound'
        f' {1.3 * largest + 1:.2f} GB',
        flush=True,
      )
      ours, back = (f'{source}-{name}' for name in ('ours', 'back'))
      for name, held, arguments in (
        (
          'to an Orbax tree',
          0,
          ('ttt_jax.convert', f'--source={source}', f'--out={ours}'),
        ),
        (
          'and back',
          0,
          (
            'ttt_jax.convert',
            f'--source={ours}',
            f'--out={back}',
            f'--shard_gb={_SHARD_GB.value}',
          ),
        ),
        (
          'onto eight devices',
          total,
          ('benchmarks.convert', f'--onto_mesh={source}'),
        ),
      ):
        seconds, peak = measure(*arguments)
        print(
          f'  {name:<20} {seconds:6.1f} s, peak {peak:.2f} GB'
          + (f', {peak - held:.2f} GB without the result' if held else ''),
          flush=True,
        )
      for path in sorted(source.glob('*.safetensors')):
        same = path.read_bytes() == pathlib.Path(back, path.name).read_bytes()
        print(f'  {path.name} was restored {"exactly" if same else "CHANGED"}')
      for path in (source, ours, back):
        shutil.rmtree(path)
  finally:
    shutil.rmtree(workdir)


if __name__ == '__main__':
  cli.run(main)

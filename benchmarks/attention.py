"""Times softmax attention on CPU, ours and `jax.nn.dot_product_attention`.

    python -m benchmarks.attention

Windows of the transformer, bands over a sequence (`softmax.attend_back` and
the same mask in one call), and the sparse-causal attention of the U-Net.
Float32; forward, and gradients of queries, keys and values. Both alternate in
one process, and the least of the calls counts.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.models import softmax
from ttt_jax.runtime import cli

# Name: entries, queries, keys, heads, features per head, reach of a band.
SHAPES = {
  'windows of the quickstart': (3, 344, 344, 4, 32, None),
  'a window of 64x96 pixels': (21, 346, 346, 6, 32, None),
  'U-Net, 32x32': (4, 1024, 2048, 8, 40, None),
  'U-Net, 16x16': (8, 256, 512, 8, 80, None),
  'full, 2226 tokens': (1, 2226, 2226, 4, 32, 2226),
  'band of 53, 2226 tokens': (1, 2226, 2226, 4, 32, 53),
}
_CALLS = flags.DEFINE_integer('calls', 5, 'Number of timed calls.')


def _functions(shape) -> list[Callable[..., Any]]:
  """Returns ours and theirs, both [N, T, H, D] -> [N, T, H, D]."""
  _, queries, keys, _, dim, reach = shape
  if reach is None:
    return [softmax.products, jax.nn.dot_product_attention]
  merge = lambda x: x.reshape(*x.shape[:2], -1)

  def ours(q, k, v):
    rows = (merge(x) for x in (q, k, v))
    return softmax.attend_back(*rows, dim, reach, 'xla').reshape(q.shape)

  distance = np.arange(queries)[:, None] - np.arange(keys)
  mask = ((distance >= 0) & (distance < reach))[None, None]

  def theirs(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, mask=mask)

  return [ours, theirs]


def measure(shape, calls: int) -> tuple[list[float], list[float]]:
  """Returns the milliseconds of forward and of gradients, ours first."""
  n, queries, keys, heads, dim, _ = shape
  arrays = [
    jax.random.normal(jax.random.key(i), (n, count, heads, dim))
    for i, count in enumerate((queries, keys, keys))
  ]
  programs = [jax.jit(f) for f in _functions(shape)]
  found, want = (np.asarray(f(*arrays)) for f in programs)
  np.testing.assert_allclose(found, want, atol=1e-4)
  loss = lambda f: lambda *qkv: jnp.sum(jnp.sin(f(*qkv)))
  gradients = [jax.jit(jax.grad(loss(f), (0, 1, 2))) for f in programs]
  times = []
  for pair in (programs, gradients):
    least = [np.inf, np.inf]
    for call in range(calls + 1):
      for i, f in enumerate(pair):
        start = time.perf_counter()
        jax.block_until_ready(f(*arrays))
        if call:  # The first one compiles.
          least[i] = min(least[i], 1e3 * (time.perf_counter() - start))
    times.append(least)
  return times[0], times[1]


def main(_) -> None:
  jax.config.update('jax_platforms', 'cpu')
  print('ms (ours / theirs)          forward          gradients')
  for name, shape in SHAPES.items():
    row = ''
    for ours, theirs in measure(shape, _CALLS.value):
      row += f'{ours:8.1f} {theirs:8.1f} {theirs / ours:5.2f}x'
    print(f'{name:26}{row}', flush=True)


if __name__ == '__main__':
  cli.run(main)

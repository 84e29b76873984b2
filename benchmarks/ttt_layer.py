"""Times TTT-MLP in JAX against the same maths in eager PyTorch, on CPU.

    python benchmarks/ttt_layer.py [--shapes=quickstart_63s,benchmark]
        [--repeats=5] [--passes=forward,both] [--threads=1] [--out=FILE]

Both alternate in this process on the same cores. --by_core splits the heads of
JAX's op over one device per core, as a mesh does: each device has its own
thread. GLIBC_TUNABLES=glibc.malloc.hugetlb=1 gives both large pages, which
Linux provides faster. On a shared machine, compare with --threads=1: PyTorch
waits for its slowest thread after every operation. PyTorch runs in two forms:
`primal`, the steps of `pallas_kernels/ttt_mlp/xla.py`, and `dual`, the form of
the paper's code, which reads without forming the updated weights (Sun et al.
2024, arXiv:2407.04620, section 2.5). PyTorch's backward pass is autograd's
without recomputation, JAX's recomputes from the states: PyTorch needs more
memory and fewer products. All in float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import pathlib
import sys
import time

import jax
from jax.sharding import PartitionSpec as P
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from pallas_kernels import ttt_mlp
from pallas_kernels.specs import SPECS
from pallas_kernels.ttt_mlp.specs import random_arguments
from ttt_jax.runtime import files

COLUMNS = ('jax', 'torch primal', 'torch dual')


def torch_ttt_mlp(
  q, k, v, eta, w1, b1, w2, b2, ln_scale, ln_bias, *, mini_batch, dual
):
  """Computes `pallas_kernels.ttt_mlp` for PyTorch tensors.

  The other arguments are those of `pallas_kernels.ttt_mlp`, weights without B.

  Args:
    q: [B, H, T, D]; T must be a multiple of mini_batch.
    mini_batch: C.
    dual: whether to read with q k^T products, not with the updated weights.
  """
  import torch
  from torch.nn import functional

  scale, bias = ln_scale[:, None], ln_bias[:, None]
  b1, b2 = b1[:, None], b2[:, None]

  def normalize(z):
    centred = z - z.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-8).rsqrt()

  def gradient(z, k, v):
    centred = z - z.mean(-1, keepdim=True)
    rstd = (centred.square().mean(-1, keepdim=True) + 1e-8).rsqrt()
    normal = centred * rstd
    d = (normal * scale + bias - (v - k)) * scale
    return rstd * (
      d
      - d.mean(-1, keepdim=True)
      - normal * (d * normal).mean(-1, keepdim=True)
    )

  def slope(x):
    rate, cubic = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(rate * x * (1 + cubic * x * x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * rate * (
      1 + 3 * cubic * x * x
    )

  out = []
  parts = (x.split(mini_batch, dim=2) for x in (q, k, v, eta[..., None]))
  for q, k, v, eta in zip(*parts):
    z1 = k @ w1 + b1
    a = functional.gelu(z1, approximate='tanh')
    g2 = eta * gradient(a @ w2 + b2, k, v)
    g1 = g2 @ w2.mT * slope(z1)
    next_b1 = b1 - g1.sum(-2, keepdim=True)
    next_b2 = b2 - g2.sum(-2, keepdim=True)
    if dual:
      z = q @ w1 - (q @ k.mT) @ g1 + next_b1
      read = functional.gelu(z, approximate='tanh')
      z = read @ w2 - (read @ a.mT) @ g2 + next_b2
    w1, b1 = w1 - k.mT @ g1, next_b1
    w2, b2 = w2 - a.mT @ g2, next_b2
    if not dual:
      z = functional.gelu(q @ w1 + b1, approximate='tanh') @ w2 + b2
    out.append(q + normalize(z) * scale + bias)
  return torch.cat(out, dim=2), (w1, b1[..., 0, :], w2, b2[..., 0, :])


def jax_calls(arguments, cotangent, mini_batch, devices):
  """Returns {'forward': f, 'both': f}, each waiting for its result.

  Args:
    arguments: arrays of the op; heads are axis 1 of tokens, 0 of weights.
    cotangent: cotangent of out.
    mini_batch: C.
    devices: number of devices over which the heads are split.
  """

  def op(*arguments):
    return ttt_mlp(*arguments, mini_batch=mini_batch)[0]

  mesh = jax.make_mesh(
    (devices,),
    ('heads',),
    devices=jax.devices()[:devices],
    axis_types=(jax.sharding.AxisType.Auto,),
  )
  tokens, weights = P(None, 'heads'), P('heads')
  if devices > 1:
    op = jax.shard_map(
      op,
      mesh=mesh,
      in_specs=(*[tokens] * 4, *[weights] * 6),
      out_specs=tokens,
    )

  def both(*arguments):
    out, pull = jax.vjp(op, *arguments)
    return out, pull(cotangent)

  put = lambda x, spec: jax.device_put(
    x, jax.sharding.NamedSharding(mesh, spec)
  )
  arrays = [
    put(x, tokens if i < 4 else weights) for i, x in enumerate(arguments)
  ]
  cotangent = put(cotangent, tokens)
  forward, both = jax.jit(op), jax.jit(both)
  return {
    'forward': lambda: jax.block_until_ready(forward(*arrays)),
    'both': lambda: jax.block_until_ready(both(*arrays)),
  }


def torch_calls(arguments, cotangent, mini_batch, dual):
  """Returns {'forward': f, 'both': f}."""
  import torch

  tensors = [torch.from_numpy(x) for x in arguments]
  leaves = [x.clone().requires_grad_() for x in tensors]
  cotangent = torch.from_numpy(cotangent)

  def op(tensors):
    return torch_ttt_mlp(*tensors, mini_batch=mini_batch, dual=dual)[0]

  def forward():
    with torch.no_grad():
      return op(tensors)

  def both():
    out = op(leaves)
    return out, torch.autograd.grad(out, leaves, cotangent)

  return {'forward': forward, 'both': both}


def measure(name: str, passes: list[str], repeats: int) -> list[dict]:
  """Returns one row per pass: seconds of every column and their ratios."""
  spec = SPECS[name]
  tokens = -(-spec.tokens // spec.mini_batch) * spec.mini_batch
  spec = dataclasses.replace(spec, tokens=tokens)
  arguments = [x.astype(np.float32) for x in random_arguments(spec).values()]
  cotangent = np.ones_like(arguments[0])
  calls = dict(
    zip(
      COLUMNS,
      (
        jax_calls(
          arguments,
          cotangent,
          spec.mini_batch,
          math.gcd(len(jax.devices()), arguments[0].shape[1]),
        ),
        torch_calls(arguments, cotangent, spec.mini_batch, dual=False),
        torch_calls(arguments, cotangent, spec.mini_batch, dual=True),
      ),
    )
  )
  rows = []
  for which in passes:
    check_equal([np.asarray(calls[c]['forward']()) for c in COLUMNS])
    times = {column: [] for column in COLUMNS}
    for repeat in range(repeats + 1):
      for column in COLUMNS:
        start = time.perf_counter()
        calls[column][which]()
        if repeat:  # The first call compiles or warms up.
          times[column].append(time.perf_counter() - start)
    best = {column: min(t) for column, t in times.items()}
    rows.append(
      {
        'shape': name,
        'sizes': vars(spec),
        'pass': which,
        'best_seconds': best,
        'median_seconds': {c: float(np.median(t)) for c, t in times.items()},
        'ratio': {c: best[c] / best['jax'] for c in COLUMNS[1:]},
      }
    )
  return rows


def check_equal(results: list[np.ndarray]) -> None:
  """Raises AssertionError unless all results agree to float32 rounding."""
  for result in results[1:]:
    worst = np.abs(result - results[0]).max() / np.abs(results[0]).max()
    assert worst < 1e-4, f'the implementations differ by {worst:.1e}'


def table(rows: list[dict]) -> str:
  """Returns the rows as text: best milliseconds, and ratios to JAX."""
  head = f'{"shape":26}{"pass":9}' + ''.join(f'{c:>14}' for c in COLUMNS)
  lines = [head + f'{"primal/jax":>13}{"dual/jax":>11}']
  for row in rows:
    times = ''.join(f'{1e3 * row["best_seconds"][c]:11.1f} ms' for c in COLUMNS)
    primal, dual = (row['ratio'][c] for c in COLUMNS[1:])
    lines.append(
      f'{row["shape"]:26}{row["pass"]:9}{times}{primal:12.2f}x{dual:10.2f}x'
    )
  return '\n'.join(lines)


def main() -> None:
  """Prints the table of times."""
  parser = argparse.ArgumentParser(
    description='Times TTT-MLP in JAX against eager PyTorch on CPU.'
  )
  parser.add_argument(
    '--shapes',
    default='quickstart_63s,benchmark',
    help=f'Comma-separated sizes, any of {", ".join(SPECS)}.',
  )
  parser.add_argument(
    '--passes', default='forward,both', help='Comma-separated passes.'
  )
  parser.add_argument(
    '--repeats', type=int, default=5, help='Number of timed calls.'
  )
  parser.add_argument(
    '--threads',
    type=int,
    help='Number of cores to use; default: all that are available.',
  )
  parser.add_argument(
    '--by_core',
    action='store_true',
    help='Heads split over one XLA device per core.',
  )
  parser.add_argument('--out', help='JSON file of the rows.')
  flags = parser.parse_args()
  if flags.out:
    files.check_writable(flags.out)
  unknown = set(flags.shapes.split(',')) - set(SPECS)
  if unknown:
    sys.exit(
      f'error: --shapes={",".join(sorted(unknown))}: expected any of'
      f' {", ".join(SPECS)}'
    )
  try:
    import torch
  except ImportError:
    sys.exit(
      'error: the comparison requires PyTorch: pip install torch==2.13.0 (in a'
      ' separate environment, next to jax)'
    )
  jax.config.update('jax_platforms', 'cpu')
  # XLA sizes its thread pool, at its first use, by the available cores.
  cores = sorted(os.sched_getaffinity(0))[-(flags.threads or 0) :]
  os.sched_setaffinity(0, cores)
  threads = len(cores)
  torch.set_num_threads(threads)
  if flags.by_core:
    jax.config.update('jax_num_cpu_devices', threads)
  rows = []
  for name in flags.shapes.split(','):
    rows += measure(name, flags.passes.split(','), flags.repeats)
  print(
    f'{threads} threads, float32, jax {jax.__version__}, torch'
    f' {torch.__version__}; best of {flags.repeats}'
  )
  print(table(rows))
  if flags.out:
    files.write_json(rows, flags.out)


if __name__ == '__main__':
  main()

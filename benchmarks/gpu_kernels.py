"""Checks and times the GPU kernels on a GPU, against XLA and PyTorch kernels.

    python benchmarks/gpu_kernels.py [--specs=paper_3s,paper_63s]
        [--ops=ttt_mlp,ttt_linear] [--repeats=5] [--out=FILE]
        [--skip=xla,torch] [--shapes]

First each kernel is compared with the XLA path in float32 on a short sequence:
outputs, states and all gradients, with float32 and with bfloat16 tokens. Then,
with bfloat16 tokens at the sizes of the model, the forward pass and forward
with backward are timed one after the other (so that only one must fit into
memory): the kernel, the XLA path and, where installed, at the same width and
length,

    flash-linear-attention   its TTT-Linear (it has no TTT-MLP), Gated DeltaNet
    mamba-ssm                Mamba 2, with a state of 128

(pip install torch flash-linear-attention mamba-ssm). The fastest of the repeats
counts. --shapes prints the calls that would be timed, without a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import functools
import importlib
import os
import pathlib
import sys
import time
from typing import Any

os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # For PyTorch.

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import pallas_kernels
from pallas_kernels.specs import Spec
from pallas_kernels.specs import SPECS
from ttt_jax.runtime import files

# Dtype of the tokens -> sizes and tolerance of the check against float32; the
# last mini-batch is not full. The results differ only by rounding of operands.
CHECKS = {
  'float32': (Spec(1, 4, 1000, 32, 128), 1e-4),
  'bfloat16': (Spec(1, 4, 1000, 64, 256), 5e-2),
}
PASSES = ('forward', 'both')
NO_GPU = 3


def load(op: str, name: str) -> Callable[..., Any]:
  """Returns implementation `name` of an op."""
  return functools.partial(getattr(pallas_kernels, op), implementation=name)


def specs_of(op: str) -> Any:
  """Returns the module of an op's argument shapes."""
  return importlib.import_module(f'pallas_kernels.{op}.specs')


def check(op: str, dtype: str) -> float:
  """Returns the largest relative error of the kernel, with gradients."""
  spec, _ = CHECKS[dtype]
  arguments = {
    name: jnp.asarray(x, jnp.float32)
    for name, x in specs_of(op).random_arguments(spec).items()
  }
  arguments['eta'] *= 100  # So that every path through the state matters.
  tokens = {
    name: x.astype(dtype) if name in ('q', 'k', 'v') else x
    for name, x in arguments.items()
  }
  wide = {name: x.astype(jnp.float32) for name, x in tokens.items()}

  def loss(function, arguments):
    out, state = function(**arguments, mini_batch=spec.mini_batch)
    total = jnp.sum(jnp.sin(out.astype(jnp.float32)))
    total += sum(jnp.sum(jnp.cos(x)) for x in state)
    return total, (out, state)

  def run(name, arguments):
    function = functools.partial(loss, load(op, name))
    return jax.jit(jax.grad(function, has_aux=True))(arguments)

  with jax.default_matmul_precision('highest'):
    want = run('xla', wide)
  got = run('pallas_gpu', tokens)
  return max(
    float(jnp.max(jnp.abs(x.astype(jnp.float32) - y)) / jnp.max(jnp.abs(y)))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want))
  )


def time_jax(op: str, name: str, spec: Spec, both: bool) -> Callable[[], None]:
  """Returns a function that runs one compiled call and waits for its end."""
  function = functools.partial(load(op, name), mini_batch=spec.mini_batch)
  shapes = specs_of(op).shapes(spec)

  @jax.jit
  def arguments():
    keys = jax.random.split(jax.random.key(0), len(shapes))
    made = {}
    for key, (name, x) in zip(keys, shapes.items()):
      dtype = jnp.bfloat16 if name in ('q', 'k', 'v') else jnp.float32
      made[name] = jax.random.normal(key, x.shape, dtype)
    for name in ('q', 'k'):
      made[name] *= spec.head_dim**-0.5  # Near the layer's unit norm.
    made['eta'] = (
      0.05 * jax.nn.sigmoid(made['eta']) / (spec.head_dim * spec.mini_batch)
    )
    made['ln_scale'] = 1 + 0.1 * made['ln_scale']
    for name in made:
      if name[0] in 'wb':
        made[name] *= 0.02
    return made

  def call(arguments):
    return function(**arguments)

  def gradient(arguments):
    (out, state), pull = jax.vjp(call, arguments)
    cotangents = jnp.ones_like(out), jax.tree.map(jnp.zeros_like, state)
    return pull(cotangents)[0]

  values = arguments()
  run = jax.jit(gradient if both else call).lower(values).compile()
  return lambda: jax.block_until_ready(run(values))


def time_torch(name: str, spec: Spec, both: bool) -> Callable[[], None]:
  """Returns a function that runs a PyTorch kernel and waits for its end.

  Raises:
    ImportError: the package is not installed.
  """
  import torch

  rows = (spec.batch, spec.tokens, spec.heads)

  def tensor(*shape, dtype=torch.bfloat16, scale=1.0):
    array = scale * torch.randn(shape, device='cuda', dtype=dtype)
    return array.requires_grad_(both)

  unit = spec.head_dim**-0.5
  q, k, v = (tensor(*rows, spec.head_dim, scale=x) for x in (unit, unit, 1.0))
  if name == 'fla ttt_linear':
    from fla.ops.ttt import chunk_ttt_linear

    norm = [
      tensor(spec.heads, spec.head_dim, dtype=torch.float32) for _ in range(2)
    ]
    eta = tensor(*rows, 1, scale=1e-5)
    call = lambda: chunk_ttt_linear(
      q, k, v, *norm, eta, scale=1.0, chunk_size=16
    )[0]
  elif name == 'fla gated_deltanet':
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    decay = tensor(*rows, dtype=torch.float32)
    beta = tensor(*rows)
    call = lambda: chunk_gated_delta_rule(
      q,
      k,
      v,
      torch.nn.functional.logsigmoid(decay),
      beta.sigmoid(),
      use_qk_l2norm_in_kernel=True,
    )[0]
  else:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    decay = torch.full((spec.heads,), -1.0, device='cuda')
    inputs = [tensor(spec.batch, spec.tokens, 1, 128) for _ in range(2)]
    dt = tensor(*rows)
    call = lambda: mamba_chunk_scan_combined(
      v, dt, decay, *inputs, chunk_size=256, dt_softplus=True
    )

  def run():
    out = call()
    if both:
      out.backward(torch.ones_like(out))
    torch.cuda.synchronize()

  return run


def measure(run: Callable[[], None], repeats: int) -> float:
  """Returns the least milliseconds of a run, after one that is not timed."""
  run()
  best = float('inf')
  for _ in range(repeats):
    start = time.perf_counter()
    run()
    best = min(best, 1e3 * (time.perf_counter() - start))
  return best


def candidates(flags: argparse.Namespace, spec: Spec, both: bool):
  """Yields (name, function that prepares the run) of each timed call."""
  skip = flags.skip.split(',')
  for op in flags.ops.split(','):
    for name in ('pallas_gpu', 'xla'):
      if name not in skip:
        yield f'{op} {name}', functools.partial(time_jax, op, name, spec, both)
  if 'torch' not in skip:
    for name in ('fla ttt_linear', 'fla gated_deltanet', 'mamba2'):
      yield name, functools.partial(time_torch, name, spec, both)


def time_all(flags: argparse.Namespace, name: str) -> list[dict[str, Any]]:
  """Prints and returns a row of the table for each candidate at one spec."""
  rows = {}
  for which in PASSES:
    for title, prepare in candidates(flags, SPECS[name], which == 'both'):
      row = rows.setdefault(title, {'spec': name, 'what': title})
      try:
        row[which] = measure(prepare(), flags.repeats)
      except ImportError as error:
        row['note'] = f'not installed: {error.name}'
      except Exception as error:  # Out of memory, a compiler of a package.
        row['note'] = f'failed: {str(error).splitlines()[0][:90]}'
  for row in rows.values():
    times = ' | '.join(
      f'{row[which]:9.2f}' if which in row else '        -' for which in PASSES
    )
    print(f'| {name} | {row["what"]:24} | {times} | {row.get("note", "")} |')
  return list(rows.values())


def print_shapes(flags: argparse.Namespace) -> None:
  """Prints every call that would be timed, with its arguments' shapes."""
  for name in flags.specs.split(','):
    spec = SPECS[name]
    for op in flags.ops.split(','):
      shapes = {n: x.shape for n, x in specs_of(op).shapes(spec).items()}
      print(f'{name} {op} mini_batch={spec.mini_batch}', shapes)


def main() -> int:
  """Runs the checks and timings; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    '--specs', default='paper_3s,paper_63s', help='Comma-separated sizes.'
  )
  parser.add_argument(
    '--ops', default='ttt_mlp,ttt_linear', help='Comma-separated ops.'
  )
  parser.add_argument(
    '--repeats', type=int, default=5, help='Number of timed calls.'
  )
  parser.add_argument(
    '--skip',
    default='',
    help='Implementations to skip: any of xla, torch, pallas_gpu.',
  )
  parser.add_argument('--out', help='JSON file of the numbers.')
  parser.add_argument(
    '--shapes',
    action='store_true',
    help='List of the calls, which are not run.',
  )
  flags = parser.parse_args()
  if flags.out:
    files.check_writable(flags.out)
  unknown = set(flags.specs.split(',')) - set(SPECS)
  if unknown:
    parser.error(f'unknown specs {sorted(unknown)}: use {", ".join(SPECS)}')
  if flags.shapes:
    print_shapes(flags)
    return 0
  if jax.default_backend() != 'gpu':
    print(
      f'no GPU: jax runs on {jax.default_backend()!r} here. --shapes prints the'
      ' calls; pallas_kernels.tools.compile_gpu compiles without a GPU',
      file=sys.stderr,
    )
    return NO_GPU
  device = jax.devices()[0].device_kind
  errors, status = {}, 0
  for op in flags.ops.split(','):
    errors[op] = {dtype: check(op, dtype) for dtype in CHECKS}
    for dtype, error in errors[op].items():
      bad = not np.isfinite(error) or error > CHECKS[dtype][1]
      status |= bad
      print(f'{op} {dtype}: relative error {error:.1e}', 'WRONG' * bad)
  print(f'\n{device}, milliseconds, least of {flags.repeats}\n')
  print('| sizes | what | forward | forward + backward | |')
  print('| --- | --- | ---: | ---: | --- |')
  rows = [row for n in flags.specs.split(',') for row in time_all(flags, n)]
  if flags.out:
    files.write_json(
      {'device': device, 'errors': errors, 'milliseconds': rows}, flags.out
    )
  return status


if __name__ == '__main__':
  sys.exit(main())

"""Compiles the TPU kernels for real TPUs on a machine that has none.

    python -m pallas_kernels.compile_tpu [--chips=v5e,v5p,v6e,7x]
        [--ops=ttt_mlp,ttt_linear] [--calls=one_chip,paper_63s] [--jobs=2]
        [--check | --write]

For every chip and op it compiles two calls, forward and backward: 48 heads on
one chip, and the paper's 63 s (T = 352 008) with 48 heads over the four chips
of a mesh inside `shard_map`. It prints the schedule's bundles per mini-batch
and head (of 64 tokens), about cycles; the two cores of a v5p chip share a
call. `--check` compares with `budget.json` and exits 1 when
a count has grown by more than 3 %; `--write` replaces the file.

Needs libtpu, which compiles on any machine: pip install "jax[tpu]==0.10.2".
Exit status 3 when it is missing.
"""

from __future__ import annotations

import argparse
from concurrent import futures
import importlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import schedule

MISSING = 3
BUDGET = pathlib.Path(__file__).parent / 'budget.json'
GROWTH = 1.03
# Topologies with four chips at least.
TOPOLOGIES = {
    'v5e': 'v5e:2x2',
    'v5p': 'v5p:2x2x1',
    'v6e': 'v6e:2x2',
    '7x': 'tpu7x:2x2x1',
}
OPS = ('ttt_mlp', 'ttt_linear')
# Name -> (heads, tokens, chips that share the heads).
CALLS = {'one_chip': (48, 70656, 1), 'paper_63s': (48, 352008, 4)}
_ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}


def step(op: str, heads: int, tokens: int, shards: int, mesh: Any):
  """Returns (function, its shapes): the op's forward and backward.

  The tokens come and go as [1, T, H D], as they do in a model whose
  projections surround the op; the heads are split over the mesh.

  Args:
    op: 'ttt_mlp' or 'ttt_linear'.
    heads: H of all shards.
    tokens: T.
    shards: chips that share the heads.
    mesh: a mesh with one axis, 'heads'.
  """
  specs = importlib.import_module(f'pallas_kernels.{op}.specs')
  kernel = importlib.import_module(f'pallas_kernels.{op}.pallas_tpu')
  shapes = specs.shapes(
      specs.Spec(1, heads, tokens, head_dim=64, hidden=256)
  )
  lanes = jax.ShapeDtypeStruct((1, tokens, heads * 64), jnp.bfloat16)
  rates = jax.ShapeDtypeStruct((1, tokens, heads), jnp.float32)
  weights = [s for n, s in shapes.items() if n not in ('q', 'k', 'v', 'eta')]

  def to_heads(x):
    return x.reshape(1, tokens, heads // shards, 64).swapaxes(1, 2)

  def both(d_out, q, k, v, eta, *weights):
    def forward(q, k, v, eta, *weights):
      out, _ = getattr(kernel, op)(
          to_heads(q), to_heads(k), to_heads(v), eta.swapaxes(1, 2), *weights,
          mini_batch=64,
      )
      return out.swapaxes(1, 2).reshape(q.shape)

    out, pull = jax.vjp(forward, q, k, v, eta, *weights)
    return out, pull(d_out)

  p = jax.sharding.PartitionSpec
  sequence, per_head = p(None, None, 'heads'), p('heads')
  specs = (sequence,) * 5 + (per_head,) * len(weights)
  function = jax.shard_map(
      both, mesh=mesh, in_specs=specs,
      out_specs=(sequence, specs[1:]), check_vma=False,
  )
  arguments = [
      jax.ShapeDtypeStruct(
          s.shape, s.dtype, sharding=jax.sharding.NamedSharding(mesh, spec)
      )
      for s, spec in zip([lanes] * 4 + [rates] + weights, specs)
  ]
  return function, arguments


def compile_call(chip: str, op: str, call: str) -> dict[str, Any]:
  """Compiles in this process and returns memory and XLA's own cycles."""
  from jax.experimental import topologies

  heads, tokens, shards = CALLS[call]
  devices = topologies.get_topology_desc(
      platform='tpu', topology_name=TOPOLOGIES[chip]
  ).devices
  mesh = jax.sharding.Mesh(np.array(devices[:shards]), ('heads',))
  function, arguments = step(op, heads, tokens, shards, mesh)
  with jax.set_mesh(mesh):
    compiled = jax.jit(function).lower(*arguments).compile()
  memory = compiled.memory_analysis()
  return {
      'hbm': sum(
          getattr(memory, f'{kind}_size_in_bytes')
          for kind in ('argument', 'output', 'temp')
      ),
      'temporary': memory.temp_size_in_bytes,
      'other_cycles': _other_cycles(compiled),
  }


def _other_cycles(compiled: Any) -> int:
  """Returns XLA's estimate for all but the kernels."""
  text = compiled.as_text()
  entry = text[text.index('\nENTRY') :]
  return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', entry)))


def measure(chip: str, op: str, call: str) -> dict[str, Any]:
  """Compiles in a child process and returns a row of the table."""
  heads, tokens, shards = CALLS[call]
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    result = subprocess.run(
        [sys.executable, '-m', __spec__.name, '--compile', chip, op, call],
        env=os.environ | _ENVIRONMENT | {
            'LIBTPU_INIT_ARGS': schedule.dump_flags(folder)
        },
        capture_output=True,
        text=True,
    )
    if result.returncode:
      raise RuntimeError(
          f'{chip} {op} {call} does not compile:\n{result.stderr[-3000:]}'
      )
    facts = json.loads(result.stdout.splitlines()[-1])
    kernels = schedule.read_kernels(folder, op)
  units = -(-tokens // 64) * heads // shards
  row = {'chip': chip, 'op': op, 'call': call}
  for kernel in kernels:
    name = 'forward' if 'forward' in kernel.name else 'backward'
    row[name] = round(kernel.cycles / units, 1)
    row[f'{name}_vmem'] = kernel.vmem
  inside = sum(kernel.cycles for kernel in kernels)
  row['whole_to_kernels'] = round(1 + facts['other_cycles'] / inside, 3)
  return row | {'hbm': facts['hbm'], 'temporary': facts['temporary']}


def check(rows: list[dict[str, Any]]) -> list[str]:
  """Returns what has grown beyond the budget, one line each."""
  if not BUDGET.exists():
    return [f'{BUDGET} is missing: write it with --write']
  budget = {
      (r['chip'], r['op'], r['call']): r for r in json.loads(BUDGET.read_text())
  }
  complaints = []
  for row in rows:
    key = row['chip'], row['op'], row['call']
    if key not in budget:
      complaints.append(f'{" ".join(key)}: not in the budget')
      continue
    for name in ('forward', 'backward', 'whole_to_kernels', 'temporary'):
      allowed = budget[key][name]
      if row[name] > GROWTH * allowed:
        complaints.append(
            f'{" ".join(key)}: {name} is {row[name]}, the budget is'
            f' {allowed} and {GROWTH - 1:.0%}'
        )
  return complaints


def table(rows: list[dict[str, Any]]) -> str:
  """Returns the rows as Markdown."""
  lines = [
      '| chip | op | call | forward | backward | whole call | VMEM MB |'
      ' HBM GB |',
      '| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |',
  ]
  for row in rows:
    vmem = max(row['forward_vmem'], row['backward_vmem']) / 1e6
    lines.append(
        f"| {row['chip']} | {row['op']} | {row['call']} |"
        f" {row['forward']:.0f} | {row['backward']:.0f} |"
        f" {row['whole_to_kernels']:.2f} | {vmem:.0f} |"
        f" {row['hbm'] / 1e9:.1f} |"
    )
  return '\n'.join(lines)


def main() -> int:
  """Runs the command line; returns the exit status."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--chips', default=','.join(TOPOLOGIES))
  parser.add_argument('--ops', default=','.join(OPS))
  parser.add_argument('--calls', default=','.join(CALLS))
  parser.add_argument('--jobs', type=int, default=2)
  parser.add_argument('--check', action='store_true')
  parser.add_argument('--write', action='store_true')
  parser.add_argument('--compile', nargs=3, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.compile:
    print(json.dumps(compile_call(*options.compile)))
    return 0
  if importlib.util.find_spec('libtpu') is None:
    print('libtpu is missing: pip install "jax[tpu]==0.10.2"', file=sys.stderr)
    return MISSING
  jobs = [
      (chip, op, call)
      for chip in options.chips.split(',')
      for op in options.ops.split(',')
      for call in options.calls.split(',')
  ]
  rows = []
  with futures.ThreadPoolExecutor(options.jobs) as pool:
    for row in pool.map(lambda job: measure(*job), jobs):
      rows.append(row)
      print('compiled', row['chip'], row['op'], row['call'], flush=True)
  print(table(rows))
  if options.write:
    BUDGET.write_text(json.dumps(rows, indent=1) + '\n')
  if options.check:
    complaints = check(rows)
    print('\n'.join(complaints) or 'within the budget')
    return 1 if complaints else 0
  return 0


if __name__ == '__main__':
  sys.exit(main())

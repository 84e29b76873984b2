"""Compiles the TPU kernels for real TPUs on a machine that has none.

    python -m pallas_kernels.tools.compile_tpu [--chips=v5e,v5p,v6e,tpu7x]
        [--ops=ttt_mlp,ttt_linear,ttt_inputs,permute_rows,...]
        [--calls=one_chip,paper_63s] [--jobs=2] [--check | --write]

Compiles forward and backward passes for every chip and op: 48 heads on one
chip, and the paper's 63 s (T = 352 008) with 48 heads over the four chips of a
mesh inside `shard_map`; all but the inner loops only in the second way. Prints
the schedule's bundles per mini-batch and head (64 tokens of 64 features), for
attention per window and head, which approximate cycles; the two cores of a v5p
chip share a call.
`--check` compares them with `pallas_kernels/tools/budget.json` and exits with 1
if a count has grown by more than 3 %; `--write` replaces the file's rows of the
compiled calls.

Requires libtpu, which compiles on any machine: `pip install "jax[tpu]"`. Exits
with 3 if it is missing.
"""

from __future__ import annotations

import argparse
from concurrent import futures
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
import numpy as np

from pallas_kernels.tools import libtpu
from pallas_kernels.tools import schedule
from pallas_kernels.tools import tpu_calls

MISSING = 3
BUDGET = pathlib.Path(__file__).parent / 'budget.json'
GROWTH = 1.03
# Numbers of a row that must not grow.
_COUNTED = ('forward', 'backward', 'whole_to_kernels', 'temporary')
_ENVIRONMENT = {'JAX_PLATFORMS': 'cpu', **libtpu.ENVIRONMENT}


def compile_call(chip: str, op: str, call: str) -> dict[str, Any]:
  """Compiles in this process; returns memory and the cycles of XLA's code."""
  from jax.experimental import topologies

  chips = tpu_calls.SIZES[call][2]
  devices = topologies.get_topology_desc(
    platform='tpu', topology_name=libtpu.SMALLEST_SLICES[chip]
  ).devices
  mesh = jax.sharding.Mesh(np.array(devices[:chips]), ('heads',))
  function, arguments = tpu_calls.make(op, call, mesh)
  with jax.set_mesh(mesh):
    compiled = jax.jit(function).lower(*arguments).compile()
    loop_shares = tpu_calls.loop_shares(op, call)
  memory = compiled.memory_analysis()
  assert memory is not None  # libtpu always reports it.
  return {
    'hbm': sum(
      getattr(memory, f'{kind}_size_in_bytes')
      for kind in ('argument', 'output', 'temp')
    ),
    'temporary': memory.temp_size_in_bytes,
    'other_cycles': _other_cycles(compiled),
    'loop_shares': loop_shares,
  }


def _other_cycles(compiled: Any) -> int:
  """Returns XLA's estimated cycles of everything except the kernels."""
  text = compiled.as_text()
  entry = text[text.index('\nENTRY') :]
  return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', entry)))


def measure(chip: str, op: str, call: str) -> dict[str, Any]:
  """Compiles in a child process; returns a row of the table."""
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    result = subprocess.run(
      [sys.executable, '-m', __spec__.name, '--compile', chip, op, call],
      env=os.environ
      | _ENVIRONMENT
      | {'LIBTPU_INIT_ARGS': schedule.dump_flags(folder)},
      capture_output=True,
      text=True,
    )
    if result.returncode:
      raise RuntimeError(
        f'{chip} {op} {call} does not compile:\n{result.stderr[-3000:]}'
      )
    facts = json.loads(result.stdout.splitlines()[-1])
    kernels = [
      kernel
      for name in ('forward', 'backward')
      for kernel in schedule.read_kernels(
        folder, f'{op}_{name}', facts['loop_shares'].get(name)
      )
    ] or schedule.read_kernels(folder, op)
  units = tpu_calls.units(op, call)
  row: dict[str, Any] = {'chip': chip, 'op': op, 'call': call}
  for kernel in kernels:
    name = 'backward' if 'backward' in kernel.name else 'forward'
    row[name] = round(kernel.cycles / units, 1)
    row[f'{name}_vmem'] = kernel.vmem
  inside = sum(kernel.cycles for kernel in kernels)
  row['whole_to_kernels'] = round(1 + facts['other_cycles'] / inside, 3)
  return row | {'hbm': facts['hbm'], 'temporary': facts['temporary']}


def check(rows: list[dict[str, Any]]) -> list[str]:
  """Returns one line for each number that exceeds the budget."""
  if not BUDGET.exists():
    return [f'{BUDGET} is missing: write it with --write']
  budget = {_key(row): row for row in json.loads(BUDGET.read_text())}
  regressions = []
  for row in rows:
    key = _key(row)
    if key not in budget:
      regressions.append(f'{" ".join(key)}: not in the budget')
      continue
    for name in _COUNTED:
      if name not in budget[key]:
        continue  # Not every op has a backward kernel.
      allowed = budget[key][name]
      if row[name] > GROWTH * allowed:
        regressions.append(
          f'{" ".join(key)}: {name} is {row[name]}, the budget is'
          f' {allowed} and {GROWTH - 1:.0%}'
        )
  return regressions


def write(rows: list[dict[str, Any]]) -> None:
  """Writes the rows into the budget; rows of other calls stay."""
  budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else []
  merged = {_key(row): row for row in budget + rows}
  BUDGET.write_text(json.dumps(list(merged.values()), indent=1) + '\n')


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
  return row['chip'], row['op'], row['call']


def table(rows: list[dict[str, Any]]) -> str:
  """Returns the rows as Markdown."""
  lines = [
    '| chip | op | call | forward | backward | whole call | VMEM MB | HBM GB |',
    '| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |',
  ]
  for row in rows:
    vmem = max(row['forward_vmem'], row.get('backward_vmem', 0)) / 1e6
    backward = f'{row["backward"]:.0f}' if 'backward' in row else '-'
    lines.append(
      f'| {row["chip"]} | {row["op"]} | {row["call"]} |'
      f' {row["forward"]:.0f} | {backward} |'
      f' {row["whole_to_kernels"]:.2f} | {vmem:.0f} |'
      f' {row["hbm"] / 1e9:.1f} |'
    )
  return '\n'.join(lines)


def main() -> int:
  """Runs the command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--chips',
    default=','.join(libtpu.SMALLEST_SLICES),
    help='Comma-separated TPU generations.',
  )
  parser.add_argument(
    '--ops', default=','.join(tpu_calls.CALLS), help='Comma-separated ops.'
  )
  parser.add_argument(
    '--calls', default=','.join(tpu_calls.SIZES), help='Comma-separated sizes.'
  )
  parser.add_argument(
    '--jobs', type=int, default=2, help='Number of parallel compilations.'
  )
  parser.add_argument(
    '--check',
    action='store_true',
    help='Comparison of the results with the budget.',
  )
  parser.add_argument(
    '--write',
    action='store_true',
    help='Replacement of the budget by the results.',
  )
  parser.add_argument('--compile', nargs=3, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.compile:
    print(json.dumps(compile_call(*options.compile)))
    return 0
  if importlib.util.find_spec('libtpu') is None:
    print(
      f'libtpu is missing: pip install "jax[tpu]=={jax.__version__}"',
      file=sys.stderr,
    )
    return MISSING
  jobs = [
    (chip, op, call)
    for chip in options.chips.split(',')
    for op in options.ops.split(',')
    for call in tpu_calls.CALLS[op]
    if call in options.calls.split(',')
  ]
  rows = []
  with futures.ThreadPoolExecutor(options.jobs) as pool:
    for row in pool.map(lambda job: measure(*job), jobs):
      rows.append(row)
      print('compiled', row['chip'], row['op'], row['call'], flush=True)
  print(table(rows))
  if options.write:
    write(rows)
  if options.check:
    regressions = check(rows)
    print('\n'.join(regressions) or 'within the budget')
    return 1 if regressions else 0
  return 0


if __name__ == '__main__':
  sys.exit(main())

"""Compiles the GPU kernels for an H100 on a machine that has no GPU.

    python -m pallas_kernels.tools.compile_gpu [--ops=ttt_mlp,ttt_linear]
        [--spec=paper_63s] [--dtype=bfloat16] [--passes=forward,both]

Prints, as JSON, for every op and pass the memory of the compiled call and, for
each of its kernels, registers per thread, bytes spilled per thread (counted per
instruction of the code, not per execution), and shared memory per program.
Nothing runs.

Requires jax's CUDA plugin and ptxas, in a separate environment:

    pip install jax
    pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt \\
        nvidia-cuda-nvcc-cu12

with the plugin and jax of one version (`make kernel-check`).

Exit status: 0 if every kernel compiled, 1 if one failed, 3 if the plugin or
ptxas is missing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp

import pallas_kernels
from pallas_kernels.specs import Spec
from pallas_kernels.specs import SPECS

MISSING = 3

# The compiler's description of an H100 SXM.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def cuda_directory() -> pathlib.Path | None:
  """Returns the folder whose bin/ contains ptxas, or None."""
  nvidia = importlib.util.find_spec('nvidia')
  for path in (nvidia and nvidia.submodule_search_locations) or ():
    found = sorted(pathlib.Path(path).glob('*/bin/ptxas'))
    if found:
      return found[0].parents[1]
  ptxas = shutil.which('ptxas')
  return pathlib.Path(ptxas).parents[1] if ptxas else None


def missing() -> str | None:
  """Returns one line about a missing requirement, or None."""
  if importlib.util.find_spec('jax_cuda12_plugin') is None:
    return (
      "jax's CUDA plugin is not installed: pip install"
      f' jax-cuda12-plugin=={jax.__version__}'
      f' jax-cuda12-pjrt=={jax.__version__} nvidia-cuda-nvcc-cu12'
    )
  if cuda_directory() is None:
    return 'ptxas is not installed: pip install nvidia-cuda-nvcc-cu12'
  return None


def compile_call(
  op: str, spec: Spec, dtype: jnp.dtype, backward: bool
) -> dict[str, Any]:
  """Returns memory, kernels and seconds of one compiled call.

  Args:
    op: 'ttt_mlp' or 'ttt_linear'.
    spec: sizes.
    dtype: dtype of the tokens; eta, states and norms are float32.
    backward: whether to compile the gradient of a call too.

  Raises:
    Exception: any error of the compiler.
  """
  function = getattr(pallas_kernels, op)
  specs = importlib.import_module(f'pallas_kernels.{op}.specs')
  sharding = jax.sharding.SingleDeviceSharding(_h100())
  arguments = {
    name: jax.ShapeDtypeStruct(
      x.shape, dtype if name in 'qkv' else jnp.float32, sharding=sharding
    )
    for name, x in specs.shapes(spec).items()
  }

  def call(arguments):
    return function(
      **arguments, mini_batch=spec.mini_batch, implementation='pallas_gpu'
    )

  def gradient(arguments, cotangents):
    return jax.vjp(call, arguments)[1](cotangents)[0]

  inputs = [arguments]
  if backward:
    cotangents = jax.eval_shape(call, arguments)
    inputs.append(
      jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        cotangents,
      )
    )
  with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    compiled = (
      jax.jit(gradient if backward else call)
      .lower(*inputs)
      .compile(
        {'xla_dump_to': folder, 'xla_gpu_cuda_data_dir': str(cuda_directory())}
      )
    )
    seconds = time.perf_counter() - start
    kernels = kernel_report(pathlib.Path(folder))
  memory = compiled.memory_analysis()
  assert memory is not None  # The CUDA compiler always reports it.
  return {
    'op': op,
    'pass': 'both' if backward else 'forward',
    'dtype': jnp.dtype(dtype).name,
    'gigabytes': {
      'arguments': memory.argument_size_in_bytes / 1e9,
      'results': memory.output_size_in_bytes / 1e9,
      'temporary': memory.temp_size_in_bytes / 1e9,
    },
    'seconds_to_compile': round(seconds, 1),
    'kernels': kernels,
  }


def kernel_report(folder: pathlib.Path) -> dict[str, dict[str, int]]:
  """Returns kernel name -> registers, spills, products, shared memory, grid.

  Args:
    folder: folder that XLA dumped to.
  """
  directory = cuda_directory()
  if directory is None:
    raise FileNotFoundError(missing())
  ptxas = directory / 'bin' / 'ptxas'
  launches = {}
  for path in folder.glob('*thunk_sequence.txt'):
    for name, grid, shared in re.findall(
      r'(ttt_\w+) grid: \[([\d, ]+)\].*shared_memory: (\d+)',
      path.read_text(),
    ):
      launches[name] = {
        'programs': math.prod(map(int, grid.split(','))),
        'shared_bytes': int(shared),
      }
  report = {}
  for path in sorted(folder.glob('*.ptx')):
    code = path.read_text()
    name = re.search(r'\.entry (\w+)', code)
    if not name or not name[1].startswith('ttt_'):
      continue
    target = _search(r'\.target (\w+)', code)
    log = subprocess.run(
      [ptxas, '-v', f'-arch={target}', path, '-o', os.devnull],
      capture_output=True,
      text=True,
      check=True,
    ).stderr
    report[name[1]] = {
      **launches.get(name[1], {}),
      'registers': int(_search(r'Used (\d+) registers', log)),
      'spilled_stores': int(_search(r'(\d+) bytes spill stores', log)),
      'spilled_loads': int(_search(r'(\d+) bytes spill loads', log)),
      'warps': int(_search(r'\.reqntid (\d+)', code)) // 32,
      'wgmma': code.count('wgmma.mma_async'),
      'mma': code.count('mma.sync'),
    }
  return report


def _search(pattern: str, text: str) -> str:
  """Returns the first group of the first match; ValueError without one."""
  match = re.search(pattern, text)
  if match is None:
    raise ValueError(f'no {pattern!r} in {text[:200]!r}')
  return match[1]


def _h100():
  """Returns a device of kind H100 to compile for."""
  from jax.experimental import topologies

  return topologies.get_topology_desc(
    'h100', platform='cuda', topology='1x1x1', target_config=H100
  ).devices[0]


def main() -> int:
  """Compiles the calls that the flags select; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    '--ops', default='ttt_mlp,ttt_linear', help='Comma-separated ops.'
  )
  parser.add_argument(
    '--spec', default='paper_63s', choices=SPECS, help='Sizes of the call.'
  )
  parser.add_argument(
    '--dtype',
    default='bfloat16',
    choices=('bfloat16', 'float32'),
    help='Dtype of the tokens.',
  )
  parser.add_argument(
    '--passes', default='forward,both', help='Comma-separated passes.'
  )
  flags = parser.parse_args()
  reason = missing()
  if reason:
    print(f'cannot compile for an H100 here: {reason}', file=sys.stderr)
    return MISSING
  jax.config.update('jax_platforms', 'cpu')
  results, status = [], 0
  for op in flags.ops.split(','):
    for name in flags.passes.split(','):
      try:
        results.append(
          compile_call(
            op, SPECS[flags.spec], jnp.dtype(flags.dtype), name == 'both'
          )
        )
      except Exception as error:  # Any compiler error is the finding.
        status = 1
        results.append(
          {'op': op, 'pass': name, 'error': str(error).splitlines()[0]}
        )
  print(json.dumps({'spec': flags.spec, 'calls': results}, indent=2))
  return status


if __name__ == '__main__':
  sys.exit(main())

"""Estimates whether a stage fits a TPU slice and what a step costs.

    ttt-jax plan --config=ttt_video:63s --topology=v5p:8x8x4 \\
        --mesh=data:64,sp:4
    ttt-jax plan --config=ttt_video:63s --topology=v6e:16x16 --sweep
    ttt-jax plan --config=ttt_video:63s --topology=v5p:4x4x2 --mode=sample
    ttt-jax plan --config=quickstart:3s --topology=gpu:h100x8

Compiles the trainer's own step, or sampling with guidance, with the TPU
compiler, which runs on hosts without a chip (`pip install "jax[tpu]"`). Memory,
collectives and cycles are the compiler's; no time was measured on a chip. The
compiler receives the flags that the launchers set (`launch.xla_flags`); flags
in LIBTPU_INIT_ARGS or XLA_FLAGS win. `--topology=gpu:h100x8` does the same with
the CUDA plugin, without cycles. A large step compiles for minutes; `--cache`
is a folder that keeps what was compiled. `--sweep` compiles several meshes,
numbers of microbatches and remat policies and recommends one. Exit status 1 if
nothing fits. In a clone it is also `python -m launch.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
from typing import Any

from absl import flags
import jax
import ml_collections
from ml_collections import config_flags

from launch import topology as topology_lib
from launch import xla_flags
from launch.planner import advice
from launch.planner import budget as budget_lib
from launch.planner import compiled as compiled_lib
from launch.planner import program as program_lib
from launch.planner import report
from launch.planner import sweep
from pallas_kernels.tools import compile_gpu
from pallas_kernels.tools import compile_tpu
from ttt_jax import backbones
from ttt_jax import sharding
from ttt_jax.models import dit
from ttt_jax.models.dit import mixers
from ttt_jax.runtime import cli
from ttt_jax.runtime import files
from ttt_jax.train import experiment

MODES = ('train', 'sample')

_CONFIG = config_flags.DEFINE_config_file('config', None, cli.CONFIG_HELP)
_TOPOLOGY = flags.DEFINE_string(
  'topology', 'v5p:8x8x4', 'Name of the TPU slice, such as v5p:8x8x4.'
)
_MESH = flags.DEFINE_string(
  'mesh',
  None,
  'Devices per axis of the mesh, for example data:2,sp:4; default: that of the'
  ' config.',
)
_MODE = flags.DEFINE_string('mode', 'train', 'Program: train or sample.')
_SWEEP = flags.DEFINE_bool(
  'sweep', False, 'Comparison of several candidates, each compiled.'
)
_LIMIT = flags.DEFINE_integer(
  'limit', 3, 'Largest number of candidates that --sweep compiles.'
)
_OUT = flags.DEFINE_string('out', '', 'JSON file to write; default: none.')
flags.DEFINE_alias('json', 'out')  # Spelling of earlier versions.
_CACHE = flags.DEFINE_string('cache', None, 'Folder of compiled programs.')
_BUDGET = flags.DEFINE_string(
  'budget',
  None,
  'JSON file with cycles of the kernels; default: the counts of this version.',
)


def prepare(
  config: ml_collections.ConfigDict,
  topology: topology_lib.Topology,
  mesh: dict[str, int],
  mode: str = 'train',
) -> None:
  """Sets mesh and kernels of a config; raises ValueError if it cannot run."""
  if mode not in MODES:
    raise ValueError(f'--mode is {mode!r}; expected one of {", ".join(MODES)}')
  config.mesh = mesh
  if config.get('backbone', backbones.DEFAULT) == 'dit':
    with config.unlocked():
      # The kernels that the chip would choose, which this host is not.
      if config.model.get('implementation') is None:
        kernel = f'pallas_{"gpu" if topology.chip.is_gpu else "tpu"}'
        model: Any = backbones.from_config(config).config
        if kernel in mixers.MIXERS[model.mixer].implementations:
          config.model.implementation = kernel
  used = mesh['data'] * mesh['sp']
  if used > topology.num_devices:
    raise ValueError(
      f'--mesh data {mesh["data"]} x sp {mesh["sp"]} needs {used} devices;'
      f' {topology.name} has {topology.num_devices}'
    )
  if mode == 'train':
    experiment.check_config(config)
    return
  # Sampling has no batch to split.
  sharding.check_mesh(
    dict(mesh, data=1),
    batch_size=1,
    num_heads=backbones.from_config(config).num_heads,
  )


def plan(
  config: ml_collections.ConfigDict,
  mode: str,
  topology: topology_lib.Topology,
  budget: str | None,
  cache: str | None = None,
) -> tuple[dict[str, Any], compiled_lib.Compiled]:
  """Compiles a prepared config; returns `report.results` and the program.

  Raises:
    ValueError: no compiler for the topology is installed, or its kernels have
      no budget.
    DoesNotFitError: the program does not fit the chips' memory.
  """
  kernels, kind = {}, 'gpu' if topology.chip.is_gpu else topology.chip.name
  options = xla_flags.compiler_options(kind, os.environ)
  if topology.chip.is_gpu:
    options |= {
      'xla_gpu_cuda_data_dir': str(compile_gpu.cuda_directory()),
      # Autotuning would time kernels on a GPU.
      'xla_gpu_autotune_level': '0',
    }
  else:
    kernels = budget_lib.read(budget or compile_tpu.BUDGET, topology.chip.name)
  mesh = program_lib.make_mesh(topology, dict(config.mesh))
  if mode == 'train':
    function, arguments = program_lib.train_step(config, mesh)
  else:
    function, arguments = program_lib.sampling(
      config, mesh, memory=topology.chip.hbm
    )
    if isinstance(backbones.from_config(config).config, dit.DiTConfig):
      options |= sharding.sampling_options(mesh) or {}
  compiled = compiled_lib.compile_program(
    function, arguments, mesh, options, pathlib.Path(cache) if cache else None
  )
  steps = program_lib.SAMPLING_STEPS if mode == 'sample' else 1
  return (
    report.results(config, mode, topology, compiled, kernels, steps),
    compiled,
  )


def _plan_candidate(config, mode, topology):
  """Returns the results of a sweep's candidate, None if it does not fit."""
  prepare(config, topology, dict(config.mesh), mode)
  try:
    return plan(config, mode, topology, _BUDGET.value, _CACHE.value)[0]
  except compiled_lib.DoesNotFitError as e:
    print(f'  {advice.summary(e.message)}')
    return None


def _largest_buffers_elsewhere(config, mode, topology):
  """Returns the largest buffers of the program on chips where it fits."""
  larger = topology_lib.largest_memory_slice(topology)
  if larger is None:
    return []
  print(f'compiling for {larger.name} to find the largest buffers', flush=True)
  try:
    compiled = plan(config, mode, larger, _BUDGET.value, _CACHE.value)[1]
  except compiled_lib.DoesNotFitError:
    return []
  return [
    f'peak {compiled.peak / 2**30:.2f} GiB on {larger.name}',
    *advice.largest_at_peak(compiled.program),
  ]


def _print_misfit(config, mode, topology, reason, buffers):
  """Prints why a program does not fit; returns the same for JSON."""
  changes = list(advice.suggestions(config, mode, topology))
  print(f'does not fit {topology.name}: {reason}')
  print('largest buffers:' if buffers else 'the compiler names no buffers')
  for row in buffers:
    print(f'  {row}')
  print('what to change:')
  for row in changes:
    print(f'  {row}')
  return dict(reason=reason, dominates=buffers, change=changes)


def main(argv: Sequence[str]) -> int:
  """Plans the config for one mesh, or for several with --sweep."""
  del argv
  jax.config.update('jax_platforms', 'cpu')
  # Kernels contain source locations: an edited line in a caller would make
  # another program and miss the cache.
  jax.config.update('jax_traceback_in_locations_limit', 0)
  config, mode = _CONFIG.value, _MODE.value
  if config is None:
    raise ValueError('--config is missing, for example --config=ttt_video:3s')
  topology = topology_lib.parse(_TOPOLOGY.value)
  out = pathlib.Path(_OUT.value) if _OUT.value else None
  if out:
    files.check_writable(out)
  if topology.chip.is_gpu and (reason := compile_gpu.missing()):
    raise ValueError(f'cannot compile for {topology.name}: {reason}')
  if _SWEEP.value:
    return sweep.run(
      config,
      mode,
      topology,
      _LIMIT.value,
      lambda candidate: _plan_candidate(candidate, mode, topology),
      out,
    )
  mesh = dict(config.mesh)
  if _MESH.value:
    mesh = sharding.parse_mesh(_MESH.value)
  prepare(config, topology, mesh, mode)
  found: dict[str, Any] = dict(config=config.name, topology=topology.name)
  try:
    found, compiled = plan(config, mode, topology, _BUDGET.value, _CACHE.value)
    found['at_the_peak'] = advice.largest_at_peak(compiled.program)
    report.print_results(found, topology.chip)
    buffers, memory = found['at_the_peak'], found['memory']
    fits = memory['margin'] >= 0
    change = advice.faster(config, mode, topology, memory['peak'])
    if fits and change:
      print(f'what may be faster: {change}')
    reason = f'{memory["peak"]:,} of {memory["limit"]:,} bytes'
  except compiled_lib.DoesNotFitError as e:
    fits, reason = False, advice.summary(e.message)
    buffers = advice.largest_buffers(e.message)
    if not buffers:
      buffers = _largest_buffers_elsewhere(config, mode, topology)
  if not fits:
    found['does_not_fit'] = _print_misfit(
      config, mode, topology, reason, buffers
    )
  if out:
    files.write_json(found, out)
    print(f'wrote {out}')
  return 0 if fits else 1


if __name__ == '__main__':
  cli.run(main)

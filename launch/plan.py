"""Says whether a stage fits a TPU slice and what a step costs, without one.

    python -m launch.plan --config=configs/ttt_video.py:63s \
        --topology=v5p:8x8x4 [--mesh=data:64,sp:4] [--mode=train|sample] \
        [--sweep [--limit=3]] [--json=FILE] [--cache=FOLDER]

Compiles the trainer's own step, or sampling with guidance, with the TPU
compiler, which runs on any host (pip install "jax[tpu]==0.10.2"). Memory,
collectives and cycles are the compiler's; no time here was measured on a chip.
The compiler gets the flags that the launchers set (`launch.xla_flags`); those
in LIBTPU_INIT_ARGS or XLA_FLAGS win.
`--topology=gpu:h100x8` does the same with the CUDA plugin, without cycles.
`--sweep` tries meshes, microbatches and where blocks' inputs wait, and
recommends. Exit status 1 if nothing fits.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any

from absl import flags
import jax
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
from ttt_jax.runtime import cli
from ttt_jax.train import experiment

MODES = ('train', 'sample')

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Config of a stage.')
_TOPOLOGY = flags.DEFINE_string('topology', 'v5p:8x8x4', 'TPU slice.')
_MESH = flags.DEFINE_string('mesh', None, 'Such as data:64,sp:4.')
_MODE = flags.DEFINE_string('mode', 'train', 'train or sample.')
_SWEEP = flags.DEFINE_bool('sweep', False, 'Tries meshes and microbatches.')
_LIMIT = flags.DEFINE_integer('limit', 3, 'Programs that a sweep compiles.')
_JSON = flags.DEFINE_string('json', None, 'Also writes the results there.')
_CACHE = flags.DEFINE_string(
  'cache', None, 'Folder of compiled programs, used again if unchanged.'
)
_BUDGET = flags.DEFINE_string(
  'budget', str(compile_tpu.BUDGET), 'Cycles of the kernels, JSON.'
)


def prepare(
  config,
  topology: topology_lib.Topology,
  mesh: dict[str, int],
  mode: str = 'train',
):
  """Sets mesh and kernels of a config; raises ValueError if it cannot run."""
  if mode not in MODES:
    raise ValueError(f'--mode is {mode!r}; legal are {", ".join(MODES)}')
  config.mesh = mesh
  if config.get('backbone', backbones.DEFAULT) == 'dit':
    with config.unlocked():
      # What the chip would choose; this host is none.
      if config.model.get('implementation') is None:
        kind = 'gpu' if topology.chip.is_gpu else 'tpu'
        config.model.implementation = f'pallas_{kind}'
  used = mesh['data'] * mesh['sp']
  if used > topology.chips:
    raise ValueError(
      f'--mesh data {mesh["data"]} x sp {mesh["sp"]} needs {used} chips;'
      f' {topology.name} has {topology.chips}'
    )
  if mode == 'train':
    experiment.check_config(config)
    return
  # Sampling has no batch to split.
  sharding.check_mesh(
    dict(mesh, data=1),
    batch_size=1,
    num_heads=backbones.of(config).num_heads,
  )


def plan(
  config,
  mode: str,
  topology: topology_lib.Topology,
  budget: str,
  cache: str | None = None,
) -> tuple[dict[str, Any], compiled_lib.Compiled]:
  """Compiles a prepared config; returns `report.results` and the program.

  Raises:
    ValueError: no compiler for the topology, or no budget for its kernels.
    DoesNotFitError: the compiler found no way to fit it.
  """
  kernels, kind = {}, 'gpu' if topology.chip.is_gpu else topology.chip.name
  options = xla_flags.compiler_options(kind, os.environ)
  if topology.chip.is_gpu:
    options |= {
      'xla_gpu_cuda_data_dir': str(compile_gpu.cuda_directory()),
      # Nothing here can be tried for speed.
      'xla_gpu_autotune_level': '0',
    }
  else:
    kernels = budget_lib.read(budget, topology.chip.name)
  mesh = program_lib.make_mesh(topology, dict(config.mesh))
  make = {'train': program_lib.train_step, 'sample': program_lib.sampling}[mode]
  function, arguments = make(config, mesh)
  compiled = compiled_lib.compile_program(
    function, arguments, mesh, options, cache and pathlib.Path(cache)
  )
  steps = program_lib.SAMPLING_STEPS if mode == 'sample' else 1
  return (
    report.results(config, mode, topology, compiled, kernels, steps),
    compiled,
  )


def _plan_and_tell(config, mode, topology):
  """Results of a candidate of a sweep; None, and a line, if it cannot fit."""
  prepare(config, topology, dict(config.mesh), mode)
  try:
    return plan(config, mode, topology, _BUDGET.value, _CACHE.value)[0]
  except compiled_lib.DoesNotFitError as e:
    print(f'  {advice.summary(e.message)}')
    return None


def _elsewhere(config, mode, topology):
  """What dominates where there is room: the compiler may not tell."""
  larger = topology_lib.roomy(topology)
  if larger is None:
    return []
  print(f'compiling for {larger.name} to see what takes the memory', flush=True)
  try:
    compiled = plan(config, mode, larger, _BUDGET.value, _CACHE.value)[1]
  except compiled_lib.DoesNotFitError:
    return []
  return [
    f'peak {compiled.peak / 2**30:.2f} GiB on {larger.name}',
    *advice.largest(compiled.program),
  ]


def _does_not_fit(config, mode, topology, what, rows):
  """Says so; returns the same for JSON."""
  change = list(advice.remedies(config, mode, topology))
  print(f'does not fit {topology.name}: {what}')
  print('what dominates:' if rows else 'the compiler does not say of what')
  for row in rows:
    print(f'  {row}')
  print('what to change:')
  for row in change:
    print(f'  {row}')
  return dict(reason=what, dominates=rows, change=change)


def main(argv: Sequence[str]) -> int:
  """Entry point."""
  del argv
  jax.config.update('jax_platforms', 'cpu')
  # Kernels carry them: a line more elsewhere would be another program.
  jax.config.update('jax_traceback_in_locations_limit', 0)
  config, mode = _CONFIG.value, _MODE.value
  if config is None:
    raise ValueError('--config is missing, for example configs/ttt_video.py:3s')
  topology = topology_lib.parse(_TOPOLOGY.value)
  if topology.chip.is_gpu and (reason := compile_gpu.missing()):
    raise ValueError(f'cannot compile for {topology.name} here: {reason}')
  if _SWEEP.value:
    return sweep.run(
      config,
      mode,
      topology,
      _LIMIT.value,
      lambda one: _plan_and_tell(one, mode, topology),
      _JSON.value,
    )
  mesh = dict(config.mesh)
  if _MESH.value:
    mesh = sharding.parse_mesh(_MESH.value)
  prepare(config, topology, mesh, mode)
  found: dict[str, Any] = dict(config=config.name, topology=topology.name)
  try:
    found, compiled = plan(config, mode, topology, _BUDGET.value, _CACHE.value)
    found['at_the_peak'] = rows = advice.largest(compiled.program)
    report.print_results(found, topology.chip)
    memory = found['memory']
    fits = memory['margin'] >= 0
    what = f'{memory["peak"]:,} of {memory["limit"]:,} bytes'
  except compiled_lib.DoesNotFitError as e:
    fits, what = False, advice.summary(e.message)
    rows = advice.culprits(e.message) or _elsewhere(config, mode, topology)
  if not fits:
    found['does_not_fit'] = _does_not_fit(config, mode, topology, what, rows)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=2) + '\n')
  return 0 if fits else 1


if __name__ == '__main__':
  cli.run(main)

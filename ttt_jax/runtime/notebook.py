"""Prints and checks of the first cell of a notebook.

from ttt_jax.runtime import notebook
notebook.start(memory_gib=4)
"""

from __future__ import annotations

import os
import pathlib
import sys

import jax

import ttt_jax

_GIB = 2**30
_PROGRAMS = 'workdir/compiled'
_MEMINFO = pathlib.Path('/proc/meminfo')
# Limits of a container, which /proc/meminfo does not contain.
_CGROUPS = (
  ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current'),
  (
    '/sys/fs/cgroup/memory/memory.limit_in_bytes',
    '/sys/fs/cgroup/memory/memory.usage_in_bytes',
  ),
)


class SetupError(RuntimeError):
  """A runtime that cannot run a notebook; IPython shows it as one line."""

  def _render_traceback_(self) -> list[str]:
    return [f'error: {self}']


def start(
  memory_gib: float, *, clone: bool = False, cpu_devices: int = 0
) -> None:
  """Prints versions, devices and memory, and checks that the memory suffices.

  Must precede the first computation with JAX. Compiled programs are kept in
  `workdir/compiled`, so that a notebook that is run again starts faster.

  Args:
    memory_gib: Memory that the notebook needs on a device; on CPU, memory of
      the machine that is free.
    clone: Whether the notebook uses parts of the repository that are not
      installed with the package; they become importable.
    cpu_devices: Devices that the CPU is divided into; 0 leaves it as it is.

  Raises:
    SetupError: there is too little memory, or no clone.
  """
  root = pathlib.Path(ttt_jax.__file__).resolve().parents[1]
  if clone and not (root / 'pyproject.toml').is_file():
    raise SetupError(
      'this notebook uses folders of the repository that pip does not install;'
      ' clone it and open the notebook in its folder notebooks'
    )
  if clone and str(root) not in sys.path:
    sys.path.insert(0, str(root))
  if cpu_devices:
    jax.config.update('jax_num_cpu_devices', cpu_devices)
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    jax.config.update('jax_compilation_cache_dir', _PROGRAMS)
  device, count = jax.devices()[0], jax.device_count()
  print(f'ttt_jax {ttt_jax.__version__} with JAX {jax.__version__}')
  limit = (device.memory_stats() or {}).get('bytes_limit')
  if device.platform == 'cpu':
    limit = free_memory()
    text = f'{os.cpu_count()} cores'
    if count > 1:
      text += f' as {count} devices'
  else:
    text = f'{count} device{"s" * (count > 1)}'
  if limit is None:
    print(f'{device.device_kind}: {text}; the memory is unknown')
    return
  where = 'free' if device.platform == 'cpu' else 'on each'
  print(f'{device.device_kind}: {text}, {limit / _GIB:.1f} GiB {where}')
  if limit < memory_gib * _GIB:
    raise SetupError(
      f'this runtime has {limit / _GIB:.1f} GiB of memory {where}; the notebook'
      f' needs {memory_gib:g} GiB: choose a larger runtime'
    )


def free_memory() -> int | None:
  """Returns the bytes that this process can still use, None if unknown."""
  found = []
  if _MEMINFO.exists():
    for line in _MEMINFO.read_text().splitlines():
      name, _, value = line.partition(':')
      if name == 'MemAvailable':
        found.append(1024 * int(value.split()[0]))
  elif 'SC_PHYS_PAGES' in os.sysconf_names:
    found.append(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))
  for limit_file, usage_file in _CGROUPS:
    try:
      limit = int(pathlib.Path(limit_file).read_text())
      usage = int(pathlib.Path(usage_file).read_text())
    except (OSError, ValueError):  # There is none, or its limit is 'max'.
      continue
    found.append(max(0, limit - usage))
  return min(found, default=None)

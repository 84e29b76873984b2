"""Starts `fake_training` as several processes that train together."""

import sys
import time

from launch import local_processes


def start(workdir, count, *flags, mesh=None):
  """Starts `count` processes; `mesh`: size of the mesh axis `data`."""
  command = [
    sys.executable,
    '-m',
    'tests.helpers.fake_training',
    f'--workdir={workdir}',
    '--config=tests/helpers/tiny_config.py',
    '--config.batch_size=8',
    '--config.model.width=128',
    f'--config.mesh.data={mesh or count}',
    '--config.log_every=1',
    '--heartbeat_timeout=10',
    *flags,
  ]
  return local_processes.start(command, count)


def finish(processes, seconds=240):
  """Returns outputs and exit codes, within a time limit."""
  end = time.monotonic() + seconds
  try:
    outputs = [
      p.communicate(timeout=max(1, end - time.monotonic()))[0]
      for p in processes
    ]
  finally:
    for p in processes:
      p.kill()
  return outputs, [p.returncode for p in processes]

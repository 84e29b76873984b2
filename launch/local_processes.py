"""Runs a command as several cooperating processes on this machine.

    python -m launch.local_processes --count=4 -- \\
        python -m ttt_jax.train --config=... --workdir=DIR

This is for trying what a pod does: each process has CPU devices of its own.
Every line of output starts with the number of its process. If one process
fails, the others are killed after a grace period. SIGTERM and Ctrl-C are
forwarded to all, after which training saves and exits.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import signal
import socket
import subprocess
import threading
import time

from absl import flags

from ttt_jax.runtime import cli

_MOST = 256  # processes on one machine
_COUNT = flags.DEFINE_integer('count', 2, 'Number of processes.')
_GRACE = flags.DEFINE_integer(
  'grace', 30, 'Seconds that the others have to exit after one failed.'
)


def start(command: Sequence[str], count: int) -> list[subprocess.Popen]:
  """Starts the processes with stdout and stderr in one pipe each."""
  with socket.create_server(('localhost', 0)) as server:
    coordinator = f'localhost:{server.getsockname()[1]}'
  return [
    subprocess.Popen(
      command,
      text=True,
      errors='replace',
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      # In the terminal's session they would receive Ctrl-C twice.
      start_new_session=True,
      env=dict(
        os.environ,
        JAX_COORDINATOR_ADDRESS=coordinator,
        JAX_NUM_PROCESSES=str(count),
        JAX_PROCESS_ID=str(i),
        PYTHONUNBUFFERED='1',
      ),
    )
    for i in range(count)
  ]


def wait(processes: Sequence[subprocess.Popen], grace: float) -> int:
  """Waits for all processes; kills the rest `grace` seconds after a failure.

  Returns:
    Exit status of the process that failed first, 128 + N for signal N, or 0.
  """
  failed, deadline = None, None
  while any(p.poll() is None for p in processes):
    codes = [p.poll() for p in processes]
    if failed is None and any(codes):
      failed = next(i for i, code in enumerate(codes) if code)
      deadline = time.monotonic() + grace
      print(f'process {failed} exited with {codes[failed]}', flush=True)
    if deadline is not None and time.monotonic() > deadline:
      for p in processes:
        p.kill()
    time.sleep(0.05)
  code = next((p.returncode for p in processes if p.returncode), 0)
  if failed is not None:
    code = processes[failed].returncode
  return 128 - code if code < 0 else code


def _stream(number: int, process: subprocess.Popen) -> None:
  for line in process.stdout or ():
    print(f'[{number}] {line}', end='', flush=True)


def main(argv: Sequence[str]) -> int:
  """Runs the command in `argv` as --count processes; returns its status."""
  if not 1 <= _COUNT.value <= _MOST:
    raise ValueError(f'--count is {_COUNT.value}; it must be 1 to {_MOST}')
  if not argv[1:]:
    raise ValueError(
      'the command is missing; write it after --, for example python -m'
      ' launch.local_processes --count=2 -- python -m ttt_jax.train ...'
    )
  try:
    processes = start(argv[1:], _COUNT.value)
  except OSError as e:
    raise ValueError(f'cannot start {argv[1]}: {e.strerror}') from e

  def forward(number, _):
    for p in processes:
      p.send_signal(number)

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, forward)
  threads = [
    threading.Thread(target=_stream, args=(i, p))
    for i, p in enumerate(processes)
  ]
  for thread in threads:
    thread.start()
  code = wait(processes, _GRACE.value)
  for thread in threads:
    thread.join()
  return code


if __name__ == '__main__':
  cli.run(main, arguments=True)

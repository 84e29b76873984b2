"""Starts a command as several processes that work together, on this machine.

    python -m launch.local_processes --count=4 -- \
        python -m ttt_jax.train --config=... --workdir=DIR

For trying what a pod does: each process has its own CPU devices. Their output
comes with their numbers in front. If one dies the others are ended; SIGTERM
and Ctrl-C are passed on to all, and training then saves and ends.
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

_COUNT = flags.DEFINE_integer('count', 2, 'Processes.')
_GRACE = flags.DEFINE_integer(
  'grace', 30, 'Seconds that the others get to end after one died.'
)


def start(command: Sequence[str], count: int) -> list[subprocess.Popen]:
  """Starts the processes; their output is piped, errors with the rest."""
  with socket.create_server(('localhost', 0)) as free:
    where = f'localhost:{free.getsockname()[1]}'
  return [
    subprocess.Popen(
      command,
      text=True,
      errors='replace',
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      # Else a terminal's Ctrl-C would reach them twice.
      start_new_session=True,
      env=dict(
        os.environ,
        JAX_COORDINATOR_ADDRESS=where,
        JAX_NUM_PROCESSES=str(count),
        JAX_PROCESS_ID=str(i),
        PYTHONUNBUFFERED='1',
      ),
    )
    for i in range(count)
  ]


def wait(processes: Sequence[subprocess.Popen], grace: float) -> int:
  """Waits for all; one that fails leaves the others `grace` seconds.

  Returns:
    Exit status of the one that failed first, as a shell says it; else 0.
  """
  failed, end = None, None
  while any(p.poll() is None for p in processes):
    codes = [p.poll() for p in processes]
    if failed is None and any(codes):
      failed = next(i for i, code in enumerate(codes) if code)
      end = time.monotonic() + grace
      print(f'process {failed} ended with {codes[failed]}', flush=True)
    if end is not None and time.monotonic() > end:
      for p in processes:
        p.kill()
    time.sleep(0.05)
  code = next((p.returncode for p in processes if p.returncode), 0)
  if failed is not None:
    code = processes[failed].returncode
  return 128 - code if code < 0 else code


def _stream(number: int, process: subprocess.Popen) -> None:
  for line in process.stdout:
    print(f'[{number}] {line}', end='', flush=True)


def main(argv: Sequence[str]) -> int:
  """Entry point."""
  if _COUNT.value < 1:
    raise ValueError(f'--count is {_COUNT.value}; it must be 1 or more')
  if not argv[1:]:
    raise ValueError(
      'no command; write it behind --, for example python -m'
      ' launch.local_processes --count=2 -- python -m ttt_jax.train ...'
    )
  try:
    processes = start(argv[1:], _COUNT.value)
  except OSError as e:
    raise ValueError(f'cannot start {argv[1]}: {e.strerror}') from e

  def pass_on(number, _):
    for p in processes:
      p.send_signal(number)

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, pass_on)
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

"""Several processes as one program, by `jax.distributed`.

On TPU VMs, on GKE and under Slurm JAX finds the processes by itself: nothing
has to be said. By hand every process is told all three, by flags or variables:

    --coordinator=HOST:PORT   JAX_COORDINATOR_ADDRESS   where process 0 runs
    --num_processes=N         JAX_NUM_PROCESSES
    --process_id=0..N-1       JAX_PROCESS_ID

`python -m launch.local_processes` does that on one machine.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import warnings

from absl import flags
import jax
from jax.experimental import multihost_utils
import numpy as np

_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of process 0, where all processes meet.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Processes that work together.'
)
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'This one, from 0 on.')
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  None,
  'Whether there are several processes; default: where'
  ' JAX finds them (TPU pods, GKE, Slurm) or the three flags say so.',
)
_CONNECT_TIMEOUT = flags.DEFINE_integer(
  'connect_timeout', 300, 'Seconds in which all processes must meet.'
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  'heartbeat_timeout',
  100,
  'Seconds after which a silent process counts as dead; the others then end.',
)

# What backends say in whose programs another process ended.
_LOST = (
  'closed by peer',
  'Connection reset',
  'Connect timeout',
  'heartbeat',
  'coordination service',
  'CoordinationService',
  'Barrier timed out',
  'NCCL operation',
  'remote process exited',
)


def start() -> None:
  """Joins the other processes, if there are any; before any use of a device.

  Afterwards only process 0 prints and warns.

  Raises:
    ValueError: the processes are not told right, or cannot meet.
  """
  _join()
  if several() and jax.process_index():
    sys.stdout = open(os.devnull, 'w', encoding='utf-8')
    warnings.simplefilter('ignore')


def _join() -> None:
  coordinator, count, index = _given()
  if _DISTRIBUTED.value is False or jax.distributed.is_initialized():
    return
  told = coordinator or count or _DISTRIBUTED.value
  # JAX would leave a lone task of Slurm one GPU of all it has.
  alone = not told and os.environ.get('SLURM_NTASKS') == '1'
  if count == 1 or alone:
    return
  by_hand = None not in (coordinator, count, index)
  deadline = _deadline(coordinator, count, index)
  try:
    jax.distributed.initialize(
      coordinator,
      count,
      index,
      cluster_detection_method='deactivate' if by_hand else None,
      # Later than ours: it ends the process with a dump of its stack.
      initialization_timeout=_CONNECT_TIMEOUT.value + 60,
      heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT.value,
    )
  except ValueError as e:  # JAX finds no cluster, or not all about it.
    if not told and 'should be defined' in str(e):
      return
    raise ValueError(
      f'JAX finds no processes to work with here ({e}) name them by'
      ' --coordinator=HOST:PORT --num_processes=N --process_id=0..N-1'
    ) from e
  except RuntimeError as e:
    if not told and 'must be called before' in str(e):
      return  # In a notebook, or behind other work of this process.
    where = coordinator or 'an address that JAX found'
    raise ValueError(
      f'cannot start the processes with the coordinator {where}:'
      f' {str(e).splitlines()[0]}; a port that is free there is needed, or'
      ' --nodistributed to run alone'
    ) from e
  finally:
    deadline.cancel()


def numbers() -> tuple[int, int]:
  """This process's index and their count, of processes that never meet.

  For work that is shared by its numbers alone: none waits for another, and
  one that dies ends no other. No coordinator is needed.

  Raises:
    ValueError: as `start`.
  """
  _, count, index = _given()
  if count is not None:
    return index, count
  _join()
  found = jax.process_index(), jax.process_count()
  jax.distributed.shutdown()
  return found


def lost(error: BaseException) -> str | None:
  """One line if an error says that another process ended, else None."""
  text = str(error)
  if not several() or not any(words in text for words in _LOST):
    return None
  return (
    f'process {jax.process_index()} of {jax.process_count()} lost another'
    f' one ({text.splitlines()[0][:120]}); start all of them again, training'
    ' goes on from the last checkpoint'
  )


def several() -> bool:
  """Whether this process has joined others."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def all_agree(yes: bool) -> bool:
  """Whether every process says yes; all of them must ask."""
  if not several():
    return yes
  return bool(multihost_utils.process_allgather(np.asarray(yes)).all())


def leave(code: int) -> int:
  """Ends a process that failed among others at once, else returns `code`.

  An ordinary end would wait for processes that wait for this one.
  """
  if several():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


def _given() -> tuple[str | None, int | None, int | None]:
  """Coordinator, count and index by flag or variable, checked."""
  coordinator = _COORDINATOR.value or os.environ.get('JAX_COORDINATOR_ADDRESS')
  count = _number(_NUM_PROCESSES.value, 'JAX_NUM_PROCESSES')
  index = _number(_PROCESS_ID.value, 'JAX_PROCESS_ID')
  if coordinator is not None and not coordinator.rpartition(':')[2].isdecimal():
    raise ValueError(
      f'--coordinator is {coordinator!r}; it must be HOST:PORT, for example'
      ' 10.0.0.1:1234'
    )
  if count is not None and count < 1:
    raise ValueError(f'--num_processes is {count}; it must be 1 or more')
  if (count is None) != (index is None):
    raise ValueError(
      f'--num_processes is {count} and --process_id is {index}; give both,'
      ' for example 2 and 0'
    )
  if index is not None and not 0 <= index < count:
    raise ValueError(
      f'--process_id is {index}; with --num_processes={count} it must be in'
      f' 0 .. {count - 1}'
    )
  return coordinator, count, index


def _number(flag: int | None, variable: str) -> int | None:
  value = os.environ.get(variable)
  if flag is not None or not value:
    return flag
  if not value.isdecimal():
    raise ValueError(f'{variable} is {value!r}; it must be a number, like 2')
  return int(value)


def _deadline(coordinator, count, index) -> threading.Timer:
  """Ends this process with one line if the processes do not meet in time."""

  def give_up():
    where = coordinator or 'the coordinator that JAX found'
    reason = 'not all processes came'
    if coordinator and index:
      host, _, port = coordinator.rpartition(':')
      try:
        socket.create_connection((host, int(port)), timeout=1).close()
      except OSError as e:
        reason = f'it cannot be reached: {e.strerror or e}'
    who = 'this process' if count is None else f'process {index} of {count}'
    print(
      f'error: {who} waited'
      f' {_CONNECT_TIMEOUT.value} s (--connect_timeout) at {where}, but'
      f' {reason}; start all processes with the same --coordinator, process'
      ' 0 on its host',
      file=sys.stderr,
      flush=True,
    )
    os._exit(os.EX_TEMPFAIL)

  timer = threading.Timer(_CONNECT_TIMEOUT.value, give_up)
  timer.daemon = True
  timer.start()
  return timer

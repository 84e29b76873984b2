"""Several processes as one program, by `jax.distributed`.

On TPU VMs, on GKE and under Slurm JAX finds the processes by itself, without
any flag. Elsewhere every process needs all three of these flags or variables:

    --coordinator=HOST:PORT   JAX_COORDINATOR_ADDRESS   address of process 0
    --num_processes=N         JAX_NUM_PROCESSES
    --process_id=0..N-1       JAX_PROCESS_ID

`python -m launch.local_processes` sets them on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
import re
import socket
import sys
import threading
import warnings

from absl import flags
import jax
from jax.experimental import multihost_utils
import numpy as np

from ttt_jax.runtime import files

_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of process 0, to which all others connect.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Number of processes that work together.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Index of this process, from 0.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  None,
  'Several processes as one program; by default if JAX finds them (TPU pods,'
  ' GKE, Slurm) or --num_processes is given.',
)
_CONNECT_TIMEOUT = flags.DEFINE_integer(
  'connect_timeout', 300, 'Seconds within which all processes must connect.'
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  'heartbeat_timeout',
  100,
  'Seconds after which a silent process counts as dead; the others then exit.',
)

# Messages of backends whose peer has exited.
_DISCONNECT = re.compile(
  'closed by peer|Connection reset|Connect timeout|heartbeat|Barrier timed out'
  '|coordination service|CoordinationService|NCCL operation'
  '|remote process exited'
)

# os.EX_TEMPFAIL, which Windows lacks: a failure that a restart may mend.
TRY_AGAIN = 75


def initialize() -> None:
  """Connects the processes, if there are several; before any use of a device.

  Afterwards only process 0 prints and warns.

  Raises:
    ValueError: flags or variables are not valid, or the processes cannot
      connect.
  """
  _connect()
  if is_multiprocess() and jax.process_index():
    sys.stdout = open(os.devnull, 'w', encoding='utf-8')
    warnings.simplefilter('ignore')


def process_index_and_count() -> tuple[int, int]:
  """Returns the index and the count of processes that do not communicate.

  For work that is split by these numbers alone: no process waits for another,
  and one that dies does not end the others. No coordinator is needed.

  Raises:
    ValueError: as `initialize`.
  """
  _, count, index = _requested()
  if index is not None and count is not None:
    return index, count
  _connect()
  found = jax.process_index(), jax.process_count()
  jax.distributed.shutdown()
  return found


def is_multiprocess() -> bool:
  """Returns whether this process is connected to others."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def all_agree(value: bool) -> bool:
  """Returns whether `value` is true in all processes, which must all call."""
  if not is_multiprocess():
    return value
  return bool(multihost_utils.process_allgather(np.asarray(value)).all())


def describe_disconnect(error: BaseException) -> str | None:
  """Returns one line if an error means that another process exited."""
  if not is_multiprocess() or not _DISCONNECT.search(str(error)):
    return None
  return (
    f'process {jax.process_index()} of {jax.process_count()} lost another'
    f' one ({files.first_line(error)[:120]}); start all of them again, training'
    ' resumes from the last checkpoint'
  )


def hard_exit(status: int) -> int:
  """Exits at once if this process is one of several, else returns `status`.

  A normal exit would wait for processes that in turn wait for this one.
  """
  if is_multiprocess():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return status


def _connect() -> None:
  coordinator, count, index = _requested()
  if _DISTRIBUTED.value is False or jax.distributed.is_initialized():
    return
  is_requested = coordinator or count or _DISTRIBUTED.value
  if count == 1 or (not is_requested and _is_alone(os.environ)):
    return
  is_complete = None not in (coordinator, count, index)
  timer = _start_timer(coordinator, count, index)
  try:
    jax.distributed.initialize(
      coordinator,
      count,
      index,
      cluster_detection_method='deactivate' if is_complete else None,
      # Later than our own timeout: JAX's ends the process with a stack dump.
      initialization_timeout=_CONNECT_TIMEOUT.value + 60,
      heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT.value,
    )
  except ValueError as e:  # JAX finds no cluster, or an incomplete one.
    if not is_requested and 'should be defined' in str(e):
      return
    raise ValueError(
      f'JAX finds no processes to connect to ({files.first_line(e)}) give all'
      ' of --coordinator=HOST:PORT --num_processes=N --process_id=0..N-1, or'
      ' run a single process with --nodistributed'
    ) from e
  except RuntimeError as e:
    if not is_requested and 'must be called before' in str(e):
      return  # In a notebook, or after other work of this process.
    address = coordinator or 'an address that JAX found'
    raise ValueError(
      f'cannot connect the processes at the coordinator {address}:'
      f' {files.first_line(e)}; choose a port that is free on its host, or'
      ' run a single process with --nodistributed'
    ) from e
  except Exception as e:  # From the packages by which JAX reads a cluster.
    raise ValueError(
      f'JAX cannot find the other processes ({type(e).__name__}:'
      f' {files.first_line(e)[:200]}); name them by --coordinator=HOST:PORT'
      ' --num_processes=N --process_id=0..N-1, or run a single process with'
      ' --nodistributed'
    ) from e
  finally:
    timer.cancel()


def _is_alone(variables: Mapping[str, str]) -> bool:
  """Returns whether a cluster's variables describe a single process.

  JAX would wait for processes of an allocation that were never started, and
  give the only task of a Slurm job one of its GPUs.
  """
  if 'OMPI_COMM_WORLD_SIZE' in variables:
    return variables['OMPI_COMM_WORLD_SIZE'] == '1'
  if 'SLURM_JOB_ID' in variables:
    # The step's tasks; a shell of `salloc` has the number of the job's, too.
    tasks = variables.get('SLURM_STEP_NUM_TASKS', variables.get('SLURM_NTASKS'))
    return tasks == '1'
  hosts = variables.get(
    'TPU_PROCESS_ADDRESSES', variables.get('TPU_WORKER_HOSTNAMES')
  )
  if hosts is not None:  # 'local' on Kaggle, 'localhost' on Colab.
    slices = variables.get('MEGASCALE_NUM_SLICES') or '1'
    return ',' not in hosts and slices == '1'
  # JAX joins the pods of an indexed Job, and fails in those of a notebook.
  is_pod = 'KUBERNETES_SERVICE_HOST' in variables
  return is_pod and 'JOB_COMPLETION_INDEX' not in variables


def _requested() -> tuple[str | None, int | None, int | None]:
  """Returns coordinator, count and index of flags or variables, checked."""
  coordinator = _COORDINATOR.value or os.environ.get('JAX_COORDINATOR_ADDRESS')
  count = _number(_NUM_PROCESSES.value, 'JAX_NUM_PROCESSES')
  index = _number(_PROCESS_ID.value, 'JAX_PROCESS_ID')
  if coordinator is not None and not coordinator.rpartition(':')[2].isdecimal():
    raise ValueError(
      f'--coordinator is {coordinator!r}; it must be HOST:PORT, for example'
      ' 10.0.0.1:1234'
    )
  if index is None or count is None:
    is_valid = index is count  # Neither is given.
  else:
    is_valid = 0 <= index < count
  if not is_valid:
    raise ValueError(
      f'--num_processes is {count} and --process_id is {index}; give both, at'
      ' least one process and an index from 0 to N-1, for example 2 and 0'
    )
  return coordinator, count, index


def _number(flag: int | None, variable: str) -> int | None:
  value = os.environ.get(variable)
  if flag is not None or not value:
    return flag
  if not value.isdecimal():
    raise ValueError(f'{variable} is {value!r}; it must be a number, like 2')
  return int(value)


def _start_timer(
  coordinator: str | None, count: int | None, index: int | None
) -> threading.Timer:
  """Returns a timer that exits with one line; cancel it once connected."""

  def give_up():
    address = coordinator or 'the coordinator that JAX found'
    reason = 'not all processes have connected'
    if coordinator and index:
      host, _, port = coordinator.rpartition(':')
      try:
        socket.create_connection((host, int(port)), timeout=1).close()
      except OSError as e:
        reason = f'it cannot be reached: {e.strerror or e}'
    name = 'this process' if count is None else f'process {index} of {count}'
    print(
      f'error: {name} waited {_CONNECT_TIMEOUT.value} s (--connect_timeout) at'
      f' {address}, but {reason}; start all processes with the same'
      ' --coordinator, process 0 on its host',
      file=sys.stderr,
      flush=True,
    )
    os._exit(TRY_AGAIN)

  timer = threading.Timer(_CONNECT_TIMEOUT.value, give_up)
  timer.daemon = True
  timer.start()
  return timer

"""Runs one input and judges what it did."""

from __future__ import annotations

from collections.abc import Callable, Generator
import contextlib
import dataclasses
import os
import pathlib
import re
import resource
import signal
import sys
import traceback
from typing import Any
import warnings

from ttt_jax.runtime import cli

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Seconds of processor time, and bytes, that an input may use.
SECONDS = 10
BYTES = 2 << 30
# A message that is longer is not read. A value of the user may be.
_LONGEST = 1200
# Problems of one kind that a message lists.
_ROWS = 12


class Nonsense(Exception):
  """A value was taken that cannot mean anything."""


class _TooLong(BaseException):
  """An input used `SECONDS`; nothing but the guard catches it."""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What an input did.

  Attributes:
    kind: 'works', 'error' (one line, as a command prints it), or the kind of
      finding.
    place: Innermost line of the project, of a finding.
    message: Message of the error or finding.
    trace: Traceback of a finding.
  """

  kind: str
  place: str = ''
  message: str = ''
  trace: str = ''

  @property
  def is_finding(self) -> bool:
    return self.kind not in ('works', 'error')


_events: list[tuple[str, str]] | None = None
_WRITES = {
  **dict.fromkeys(('os.remove', 'os.rmdir', 'os.mkdir', 'os.truncate'), 0),
  **dict.fromkeys(('os.rename', 'os.link', 'os.symlink'), 1),
  'shutil.rmtree': 0,
}


def _hook(event: str, args: tuple[Any, ...]) -> None:
  """Notes what is opened, written and started while an input is judged."""
  if _events is None:
    return
  if event == 'open' and isinstance(args[0], (str, bytes)):
    flags = args[2] or 0
    is_write = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    _events.append(('write' if is_write else 'read', os.fsdecode(args[0])))
  elif event in _WRITES:
    for path in args[: _WRITES[event] + 1]:
      # A name relative to a descriptor: its folder was opened before.
      if isinstance(path, (str, bytes, os.PathLike)) and args[-1] in (-1, None):
        _events.append(('write', os.fsdecode(path)))
  elif event in ('subprocess.Popen', 'os.system', 'os.exec', 'socket.connect'):
    _events.append(('start', f'{event} {args[:1]}'[:100]))


_is_hooked = False


@contextlib.contextmanager
def _noted() -> Generator[list[tuple[str, str]]]:
  global _events, _is_hooked
  if not _is_hooked:
    sys.addaudithook(_hook)
    _is_hooked = True
  _events = found = []
  try:
    yield found
  finally:
    _events = None


@contextlib.contextmanager
def _limited(seconds: float) -> Generator[None]:
  """Limits processor time and memory."""

  def give_up(*_):
    raise _TooLong

  soft, hard = resource.getrlimit(resource.RLIMIT_AS)
  # Address space is reserved for threads, too; `_peak` counts what is used.
  room = _status('VmSize') + BYTES + (1 << 30)
  before = signal.signal(signal.SIGPROF, give_up)
  resource.setrlimit(resource.RLIMIT_AS, (room, hard))
  signal.setitimer(signal.ITIMER_PROF, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.signal(signal.SIGPROF, before)


def _status(name: str) -> int:
  """Returns a number of bytes of this process."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith(f'{name}:'):
      return int(line.split()[1]) << 10
  raise KeyError(name)


def snapshot(folder: pathlib.Path) -> dict[str, tuple[Any, ...]]:
  """Returns size and time of everything in a folder."""
  found = {}
  for path, folders, names in os.walk(folder):
    for name in (*folders, *names):
      full = os.path.join(path, name)
      s = os.lstat(full)
      is_folder = os.path.isdir(full)
      found[os.path.relpath(full, folder)] = (
        s.st_mode,
        None if is_folder else (s.st_size, s.st_mtime_ns),
      )
  return found


def judge(
  call: Callable[[], Any],
  root: pathlib.Path,
  writes: Callable[[str], bool] = lambda path: False,
  reads: Callable[[str], bool] = lambda path: path.startswith('named'),
  seconds: float = SECONDS,
) -> Outcome:
  """Runs a call and returns its outcome.

  Args:
    call: Reads an input, as a command does.
    root: Folder of the input; everything in it is compared.
    writes: Whether a path relative to `root` may appear or change if the call
      works. If it fails, nothing may.
    reads: Whether a path relative to `root` may be read.
    seconds: Processor time that the call may use.
  """
  before = snapshot(root)
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # Resets the peak.
  used = _status('VmRSS')
  with _noted() as events:
    outcome = _call(call, seconds)
  if outcome.is_finding:
    return outcome
  if (more := _status('VmHWM') - used) > BYTES:
    return Outcome('memory', message=f'{more >> 20} MiB')
  after = snapshot(root)
  changed = sorted(
    path
    for path in before.keys() | after.keys()
    if before.get(path) != after.get(path)
  )
  if outcome.kind == 'error' and changed:
    return Outcome('half-written', message=f'{changed[:5]} {outcome.message}')
  if wrong := [path for path in changed if not writes(path)]:
    return Outcome('written', message=f'{wrong[:5]}')
  if wrong := _outside(events, root, writes, reads):
    return Outcome('outside', message=f'{wrong[:5]}')
  return outcome


def _outside(events, root, writes, reads) -> list[tuple[str, str]]:
  """Returns what was done outside of what was named."""
  wrong = []
  for kind, path in events:
    if kind == 'start':
      wrong.append((kind, path))
      continue
    full = os.path.abspath(path)
    inside = os.path.relpath(full, root)
    if inside.startswith('..'):
      if kind == 'write' and not full.startswith(('/dev', '/proc')):
        wrong.append((kind, full))
    elif kind == 'read' and not (reads(inside) or writes(inside)):
      wrong.append((kind, full))
    # What is written inside, the snapshots compare.
  return wrong


def _call(call: Callable[[], Any], seconds: float) -> Outcome:
  """Returns the outcome by the exception that a call raises."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    try:
      with _limited(seconds):
        call()
    except _TooLong as e:
      return Outcome('hang', _place(e), f'more than {seconds} s')
    except MemoryError as e:
      return Outcome('memory', _place(e), str(e))
    except SystemExit as e:
      return Outcome(f'exit {e.code}', _place(e))
    except Nonsense as e:
      return Outcome('nonsense', str(e).partition(':')[0], str(e))
    except Exception as e:
      # That says which byte, but of which file?
      if not isinstance(e, UnicodeDecodeError) and (text := cli.describe(e)):
        return _message(e, text)
      trace = ''.join(traceback.format_exception(e)[-12:])
      return Outcome(type(e).__name__, _place(e), str(e)[:500], trace[:5000])
  return Outcome('works')


def _message(error: Exception, text: str) -> Outcome:
  """Returns the outcome of an error by what a command prints.

  That is one line, or a line and the first of several problems.
  """
  kind = 'error'
  first, *more = text.splitlines()
  if len(more) > _ROWS or not all(row.startswith('  ') for row in more):
    kind = 'several lines'
  elif len(re.sub(r'(.)\1{20,}', r'\1', text)) > _LONGEST:
    kind = 'long message'
  place = '' if kind == 'error' else _place(error)
  return Outcome(kind, place, text[:500].encode(errors='replace').decode())


def _place(error: BaseException) -> str:
  """Returns the innermost line of the project that an error passed."""
  frames = traceback.extract_tb(error.__traceback__)
  for frame in reversed(frames):
    path = pathlib.Path(frame.filename)
    if path.is_relative_to(ROOT) and 'fuzz' not in path.parts:
      inside = path.relative_to(ROOT)
      if not inside.parts[0].startswith('.venv'):
        return f'{inside}:{frame.lineno} {frame.name}'
  return f'{frames[-1].filename}:{frames[-1].lineno}' if frames else ''

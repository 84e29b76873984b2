"""Puts known faults into a copy of the project and runs the tests of each.

    python -m tests.faults                 # all, about half an hour
    python -m tests.faults gates mask      # those whose name contains a word
    python -m tests.faults --list

Each fault replaces one piece of text in one file. At least one of its tests
has to fail; without the fault all of them have to pass. A fault whose text is
not found exactly once is an error: the list has to follow the code.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from tests.faults import fault as fault_lib
from tests.faults import faults

ROOT = pathlib.Path(__file__).resolve().parents[2]
# pytest's exit statuses.
_PASSED, _FAILED = 0, 1


def copy_project(folder: pathlib.Path) -> None:
  """Copies the files that git knows, or would add, as they are now."""
  listed = subprocess.run(
    ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
    cwd=ROOT,
    check=True,
    capture_output=True,
  ).stdout
  for name in filter(None, listed.decode().split('\0')):
    if (ROOT / name).is_file():
      target = folder / name
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, target)


def apply(folder: pathlib.Path, fault: fault_lib.Fault) -> str:
  """Puts a fault into its file and returns what the file held before.

  Raises:
    ValueError: the text of the fault is not in the file exactly once.
  """
  path = folder / fault.file
  text = path.read_text()
  if (count := text.count(fault.old)) != 1:
    raise ValueError(
      f'fault {fault.name}: its text is {count} times in {fault.file}; it must'
      f' be there once: {fault.old!r}'
    )
  path.write_text(text.replace(fault.old, fault.new))
  return text


def run_tests(folder: pathlib.Path, tests: Iterable[str]) -> int:
  """Runs tests of the copy; returns pytest's exit status."""
  golden = ROOT.parent / 'shared' / 'golden'
  done = subprocess.run(
    [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider']
    + ['-m', 'not slow', *tests],
    cwd=folder,
    env={
      'TTT_JAX_GOLDEN': str(golden),
      **os.environ,
      'PYTHONPATH': str(folder),
    },
    capture_output=True,
    text=True,
  )
  if done.returncode not in (_PASSED, _FAILED):
    sys.exit(f'pytest ended with {done.returncode}:\n{done.stdout[-2000:]}')
  return done.returncode


def main() -> int:
  """Entry point."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('names', nargs='*', help='Words in the names of faults.')
  parser.add_argument('--list', action='store_true', help='Print the faults.')
  options = parser.parse_args()
  chosen = [
    fault
    for fault in faults.FAULTS
    if not options.names or any(word in fault.name for word in options.names)
  ]
  if options.list:
    for fault in chosen:
      print(f'{fault.name:28} {fault.file}: {", ".join(fault.tests)}')
    return 0
  unnoticed = []
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    copy_project(folder)
    tests = sorted({test for fault in chosen for test in fault.tests})
    if run_tests(folder, tests) != _PASSED:
      sys.exit('the tests fail without any fault; run make test first')
    print(f'{len(tests)} tests or files pass without faults', flush=True)
    for fault in chosen:
      start = time.perf_counter()
      before = apply(folder, fault)
      noticed = run_tests(folder, fault.tests) == _FAILED
      (folder / fault.file).write_text(before)
      word = 'noticed' if noticed else 'UNNOTICED'
      seconds = time.perf_counter() - start
      print(f'{word:10} {fault.name:28} {seconds:4.0f} s', flush=True)
      if not noticed:
        unnoticed.append(fault.name)
  print(f'{len(chosen) - len(unnoticed)} of {len(chosen)} faults noticed')
  return 1 if unnoticed else 0


if __name__ == '__main__':
  sys.exit(main())

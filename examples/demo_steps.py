"""The steps of a demonstration: commands, each shown, timed and measured."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

from rich import console as rich_console
from rich import rule
from rich import table as rich_table


@dataclasses.dataclass(frozen=True)
class Step:
  """One command of a demonstration.

  Attributes:
    title: what it does.
    module: of `python -m`.
    arguments: of the command; '{workdir}' is filled in.
  """

  title: str
  module: str
  arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Done:
  """A step that has run.

  Attributes:
    title: what it did.
    seconds: wall time.
    peak_mb: largest resident memory.
  """

  title: str
  seconds: float
  peak_mb: float


def run(step: Step, workdir: pathlib.Path) -> Done:
  """Runs a step as a process of its own.

  Raises:
    SystemExit: the process failed.
  """
  arguments = [a.replace('{workdir}', str(workdir)) for a in step.arguments]
  console = rich_console.Console()
  console.print(rule.Rule(f'[bold]{step.title}', align='left'))
  print('$', shlex.join(['python', '-m', step.module, *arguments]), flush=True)
  # Compiled programs are shared by the steps and by later runs.
  environment = dict(os.environ)
  environment.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(workdir.resolve() / 'jax_cache')
  )
  start = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, '-m', step.module, *arguments], env=environment
  )
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  seconds = time.perf_counter() - start
  if process.returncode:
    print(
      f'error: step {step.title!r} failed; outputs so far are in {workdir}',
      file=sys.stderr,
    )
    raise SystemExit(1)
  unit = 2**20 if sys.platform == 'darwin' else 2**10
  return Done(step.title, seconds, usage.ru_maxrss / unit)


def summary(done: Sequence[Done], workdir: pathlib.Path) -> None:
  """Prints the steps as a table, and writes them to summary.json."""
  console = rich_console.Console()
  console.print(rule.Rule('[bold]summary', align='left'))
  table = rich_table.Table()
  for column in ('step', 'seconds', 'peak MB'):
    table.add_column(column, justify='left' if column == 'step' else 'right')
  for d in done:
    table.add_row(d.title, f'{d.seconds:.0f}', f'{d.peak_mb:,.0f}')
  table.add_section()
  table.add_row(
    'all',
    f'{sum(d.seconds for d in done):.0f}',
    f'{max(d.peak_mb for d in done):,.0f}',
  )
  console.print(table)
  (workdir / 'summary.json').write_text(
    json.dumps([dataclasses.asdict(d) for d in done], indent=1)
  )

"""Runs the commands of a demonstration, and measures time and memory."""

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
    title: Title of the step.
    module: Module that `python -m` runs.
    arguments: Arguments of the command; '{workdir}' is replaced.
  """

  title: str
  module: str
  arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class StepResult:
  """Measurements of a step.

  Attributes:
    title: Title of the step.
    seconds: Wall time in seconds.
    peak_mb: Peak resident memory in MB.
  """

  title: str
  seconds: float
  peak_mb: float


class StepFailedError(SystemExit):
  """A step failed; ends the demonstration with status 1.

  Attributes:
    status: Status of the step's process.
  """

  def __init__(self, status: int):
    super().__init__(1)
    self.status = status


def run(step: Step, workdir: pathlib.Path) -> StepResult:
  """Runs a step in its own process.

  Raises:
    StepFailedError: the process failed.
  """
  arguments = [a.replace('{workdir}', str(workdir)) for a in step.arguments]
  console = rich_console.Console()
  console.print(rule.Rule(f'[bold]{step.title}', align='left'))
  print('$', shlex.join(['python', '-m', step.module, *arguments]), flush=True)
  # The steps and later runs share compiled programs.
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
    raise StepFailedError(process.returncode)
  unit = 2**20 if sys.platform == 'darwin' else 2**10
  return StepResult(step.title, seconds, usage.ru_maxrss / unit)


def print_summary(results: Sequence[StepResult], workdir: pathlib.Path) -> None:
  """Prints the measurements as a table, and writes them to summary.json."""
  console = rich_console.Console()
  console.print(rule.Rule('[bold]summary', align='left'))
  table = rich_table.Table()
  for column in ('step', 'seconds', 'peak MB'):
    table.add_column(column, justify='left' if column == 'step' else 'right')
  for r in results:
    table.add_row(r.title, f'{r.seconds:.0f}', f'{r.peak_mb:,.0f}')
  table.add_section()
  table.add_row(
    'all',
    f'{sum(r.seconds for r in results):.0f}',
    f'{max(r.peak_mb for r in results):,.0f}',
  )
  console.print(table)
  (workdir / 'summary.json').write_text(
    json.dumps([dataclasses.asdict(r) for r in results], indent=1)
  )

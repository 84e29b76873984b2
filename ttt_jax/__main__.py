"""The commands under one name.

    ttt-jax                      # lists them
    ttt-jax train --config=quickstart --workdir=DIR
    ttt-jax train --help         # or `ttt-jax help train`

`ttt-jax COMMAND` and `python -m ttt_jax COMMAND` are `python -m
ttt_jax.COMMAND`.
"""

from __future__ import annotations

from collections.abc import Sequence
import importlib.metadata
import os
import pathlib
import runpy
import sys

import ttt_jax
from ttt_jax.runtime import shipped

_PACKAGE = pathlib.Path(__file__).parent
_NAMES = (
  'train',
  'sample',
  'edit',
  'precompute',
  'annotate',
  'convert',
  'evaluate',
  'evaluate_edit',
  'inspect',
  'completion',
)
_HELP = '--help', '-help', '-h', 'help'
_VERSION = '--version'
# Of `launch`, which a clone has next to the package and a wheel lacks. The text
# is the first line of its docstring.
_PLAN = 'plan'
_PLAN_SUMMARY = (
  'Estimates whether a stage fits a TPU slice and what a step costs.'
)


def commands() -> dict[str, tuple[str, pathlib.Path]]:
  """Returns module and file of each command, by its name."""
  found = {}
  for name in _NAMES:
    for path in (_PACKAGE / f'{name}.py', _PACKAGE / name / '__main__.py'):
      if path.is_file():
        found[name] = f'ttt_jax.{name}', path
  plan = _PACKAGE.parent / 'launch' / f'{_PLAN}.py'
  if plan.is_file():
    found[_PLAN] = f'launch.{_PLAN}', plan
  return found


def _table(rows: dict[str, str]) -> str:
  width = max(map(len, rows)) + 2
  return '\n'.join(f'  {name:<{width}}{text}' for name, text in rows.items())


def overview() -> str:
  """Returns the list of commands and recipes, with one line each."""
  rows = {name: shipped.summary(p) for name, (_, p) in commands().items()}
  rows.setdefault(_PLAN, f'{_PLAN_SUMMARY.rstrip(".")} (in a clone).')
  return f"""\
ttt-jax {ttt_jax.__version__}: video generation with test-time training

commands ("ttt-jax COMMAND --help" has examples and all flags):
{_table(rows)}

recipes ("--config=NAME" or "--config=NAME:ARGUMENT", or the path of a file):
{_table(shipped.recipes())}"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command that `argv` names; returns its exit status."""
  name, *arguments = (sys.argv[1:] if argv is None else argv) or ['--help']
  if name in _HELP and arguments:
    name, arguments = arguments[0], ['--help']
  if name in _HELP:
    try:
      print(overview(), flush=True)
    except BrokenPipeError:  # Of `| head`. Python flushes again when it ends.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  if name == _VERSION:
    print(ttt_jax.__version__)
    return 0
  known = commands()
  if name not in known:  # As evaluate-edit.
    name = name.replace('-', '_') if name[:1] != '-' else name
  if name == _PLAN and name not in known:
    where = (
      'plan compiles with the launchers, which only a clone of the repository'
      f' has; {_clone()}, and there call python -m launch.plan'
    )
    if not set(arguments) & set(_HELP):
      return _fail(where)
    print(f'{_PLAN_SUMMARY}\n\n{where} --help')
    return 0
  if name not in known:
    names = [*dict.fromkeys([*known, _PLAN]), _VERSION, _HELP[0]]
    return _fail(f'unknown command {name!r}; {shipped.suggest(name, names)}')
  module, path = known[name]
  if name == _PLAN:  # A script's own folder is on the path, not the clone.
    sys.path.insert(0, str(path.parents[1]))
  sys.argv = [str(path), *arguments]
  # As `python -m` does, also for worker processes and the texts of --help.
  runpy.run_module(module, run_name='__main__', alter_sys=True)
  return 0


def _clone() -> str:
  """Returns the command that clones the repository."""
  try:
    urls = importlib.metadata.metadata('ttt_jax').get_all('Project-URL') or []
  except importlib.metadata.PackageNotFoundError:  # Found by PYTHONPATH.
    urls = []
  found = [u.partition(', ')[2] for u in urls if u.startswith('Repository, ')]
  return f'git clone {found[0]}' if found else 'clone it'


def _fail(message: str) -> int:
  print(f'error: {message}', file=sys.stderr)
  return 2


if __name__ == '__main__':
  sys.exit(main())

"""Commands in the process of the tests: importing JAX takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import copy
import io
import logging as python_logging
import os
import pathlib
import runpy
import subprocess
import sys
from unittest import mock
import warnings

from absl import flags
from absl import logging
import jax

ROOT = pathlib.Path(__file__).resolve().parents[2]
_OPTIONS = 'jax_platforms', 'jax_compilation_cache_dir'
# Modules whose flags belong to all commands.
_SHARED = 'absl.', 'ttt_jax.runtime.', 'jax'


def run(
  module: str, *arguments: object, cwd: str | os.PathLike[str] = ROOT
) -> subprocess.CompletedProcess[str]:
  """Returns status, output and errors of `python -m module arguments`.

  Restores flags, loggers, variables, and options that commands set in JAX.
  """
  out, err = io.StringIO(), io.StringIO()
  code: object = 0
  command = [module, *map(str, arguments)]
  with (
    _as_before(),
    mock.patch.dict(os.environ),
    contextlib.chdir(cwd),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
    warnings.catch_warnings(),
  ):
    # Of absl, and of runpy if a test has imported the module.
    warnings.filterwarnings('ignore', '.*load_module')
    warnings.filterwarnings('ignore', '.*found in sys.modules')
    sys.argv = list(command)
    try:
      runpy.run_module(module, run_name='__main__', alter_sys=True)
    except SystemExit as e:
      code = e.code or 0
  if not isinstance(code, int):
    err.write(f'{code}\n')
    code = 1
  return subprocess.CompletedProcess(
    command, code, out.getvalue(), err.getvalue()
  )


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
  """Removes the flags of other commands, and restores all state on exit."""
  argv, verbosity = sys.argv, logging.get_verbosity()
  root = python_logging.getLogger()
  handlers = list(root.handlers)
  options = {name: getattr(jax.config, name) for name in _OPTIONS}
  table = vars(flags.FLAGS)
  saved = {name: copy.copy(value) for name, value in table.items()}
  for name, value in table.items():
    if 'by_module' in name:
      saved[name] = {module: list(found) for module, found in value.items()}
  # A flag is one object, in tables by name and by module.
  owned = {id(flag): flag for flag in table['__flags'].values()}
  values = [(flag, dict(vars(flag))) for flag in owned.values()]
  for owner, found in saved['__flags_by_module'].items():
    if not owner.startswith(_SHARED):
      for flag in found:
        if flag.name in flags.FLAGS:
          delattr(flags.FLAGS, flag.name)
  for flag, _ in values:
    flag.unparse()
  try:
    yield
  finally:
    tables = table['__flags_by_module']
    shared = {m: tables[m] for m in tables if m.startswith(_SHARED)}
    table.clear()
    table.update(saved)
    for flag, value in values:
      vars(flag).clear()
      vars(flag).update(value)
    # A module that was imported for the first time defines no flag again.
    for owner, found in shared.items():
      for flag in found:
        # Values of a config are flags of the command that reads it.
        if flag.name not in flags.FLAGS and '.' not in flag.name:
          flag.unparse()
          flags.DEFINE_flag(flag, module_name=owner)
    for name, value in options.items():
      jax.config.update(name, value)
    root.handlers[:] = handlers
    logging.set_verbosity(verbosity)
    sys.argv = argv

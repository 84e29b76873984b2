"""What the entry points share: one-line errors instead of tracebacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
import pathlib
import sys

from absl import app
from absl import flags
from absl import logging

# What a user can mend by other input. Everything else is a defect of ours
# and keeps its traceback.
USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError)


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Runs `main` with absl flags; user errors become `error: ...`, exit 2.

  `TTT_JAX_TRACEBACK=1` keeps the traceback.
  """

  def guarded(argv: Sequence[str]) -> int | None:
    if len(argv) > 1:
      return _fail(f'unexpected argument {argv[1]!r}; see --help')
    # absl's default shows what jax and orbax say of their inner life.
    logging.set_verbosity(logging.WARNING)
    try:
      return main(argv)
    except USER_ERRORS as e:
      if os.environ.get('TTT_JAX_TRACEBACK'):
        raise
      return _fail(e)

  app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses flags and the config file; what is wrong there is a user error."""
  # Help wants the flags as they are, config or not.
  if any(a.lstrip('-').startswith('help') for a in argv[1:]):
    return app.parse_flags_with_usage(argv)
  for argument in argv[1:]:
    if argument.startswith('--config='):
      path = argument.partition('=')[2].partition(':')[0]
      if not pathlib.Path(path).is_file():
        sys.exit(_fail(f'--config {path} does not exist; configs/quickstart.py'
                       ' is one'))  # pyformat: disable
  try:
    return flags.FLAGS(argv)
  except flags.Error as e:
    # A config file's own error arrives inside of absl's, with its traceback.
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    sys.exit(_fail(lines[-1].removeprefix('ValueError: ')))
  except (AttributeError, KeyError, TypeError) as e:
    detail = ' '.join(str(e.args[0] if e.args else e).split())
    sys.exit(_fail(f'--config.NAME=VALUE does not fit the config: {detail}'))


def _fail(message: object) -> int:
  print(f'error: {message}', file=sys.stderr)
  return 2

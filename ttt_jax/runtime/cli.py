"""What the entry points share: one-line errors instead of tracebacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import logging as python_logging
import os
import pathlib
import sys
import traceback

from absl import app
from absl import flags
from absl import logging

from ttt_jax.runtime import bucket
from ttt_jax.runtime import distributed

# What a user can mend by other input. Everything else is a defect of ours
# and keeps its traceback.
USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError)


def run(
  main: Callable[[Sequence[str]], int | None], arguments: bool = False
) -> None:
  """Runs `main` with absl flags; user errors become `error: ...`, exit 2.

  `TTT_JAX_TRACEBACK=1` keeps the traceback. Of several processes one that
  fails ends without waiting for the others; one that lost another, or does not
  reach a bucket, exits with 75, for which launchers start all again.

  Args:
    main: of the entry point, takes argv and returns the exit status.
    arguments: whether it takes arguments that are no flags.
  """

  def guarded(argv: Sequence[str]) -> int | None:
    if len(argv) > 1 and not arguments:
      return _fail(f'unexpected argument {argv[1]!r}; see --help')
    # absl's default shows what jax and orbax say of their inner life.
    logging.set_verbosity(logging.WARNING)
    # Its errors come to us as exceptions, too.
    python_logging.getLogger('gcsfs').setLevel(python_logging.CRITICAL)
    try:
      return main(argv)
    except Exception as e:  # pylint: disable=broad-except
      plain = not os.environ.get('TTT_JAX_TRACEBACK')
      if plain and (lost := distributed.lost(e) or bucket.lost(e)):
        return distributed.leave(_fail(lost, os.EX_TEMPFAIL))
      if plain and isinstance(e, USER_ERRORS):
        return distributed.leave(_fail(e))
      if distributed.several():
        traceback.print_exc()
        distributed.leave(1)
      raise

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
        sys.exit(
          _fail(f'--config {path} does not exist; configs/quickstart.py is one')
        )
  try:
    return flags.FLAGS(argv)
  except flags.Error as e:
    # A config file's own error arrives inside of absl's, with its traceback.
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    sys.exit(_fail(lines[-1].removeprefix('ValueError: ')))
  except (AttributeError, KeyError, TypeError) as e:
    detail = ' '.join(str(e.args[0] if e.args else e).split())
    sys.exit(_fail(f'--config.NAME=VALUE does not fit the config: {detail}'))


def _fail(message: object, status: int = 2) -> int:
  print(f'error: {message}', file=sys.stderr)
  return status

"""Entry points: flags, configs, and one-line errors instead of tracebacks."""

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

# Errors that a user can fix by other input. All others are defects of the
# program and keep their traceback.
USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError)


def run(
  main: Callable[[Sequence[str]], int | None], arguments: bool = False
) -> None:
  """Runs `main` with absl flags; user errors become `error: ...`, status 2.

  `TTT_JAX_TRACEBACK=1` keeps the traceback. If one of several processes fails,
  it exits without waiting for the others; if it lost another process or cannot
  reach a bucket, it exits with status 75, on which launchers restart all.

  Args:
    main: Entry point; takes argv and returns the exit status.
    arguments: Whether arguments that are not flags are accepted.
  """

  def guarded(argv: Sequence[str]) -> int | None:
    if len(argv) > 1 and not arguments:
      return _fail(f'unexpected argument {argv[1]!r}; see --help')
    # At absl's default level jax and orbax log their internal steps.
    logging.set_verbosity(logging.WARNING)
    # The errors of gcsfs reach us as exceptions, too.
    python_logging.getLogger('gcsfs').setLevel(python_logging.CRITICAL)
    try:
      return main(argv)
    except Exception as e:
      if not os.environ.get('TTT_JAX_TRACEBACK'):
        disconnect = distributed.describe_disconnect(
          e
        ) or bucket.describe_disconnect(e)
        if disconnect:
          return distributed.hard_exit(_fail(disconnect, os.EX_TEMPFAIL))
        if isinstance(e, USER_ERRORS):
          return distributed.hard_exit(_fail(e))
      if distributed.is_multiprocess():
        traceback.print_exc()
        distributed.hard_exit(1)
      raise

  app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses the flags and the config file; exits with one line on an error."""
  # Help works with and without a config.
  if any(a.lstrip('-').startswith('help') for a in argv[1:]):
    return app.parse_flags_with_usage(list(argv))
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
    # An error of a config file is part of absl's, with its traceback.
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    sys.exit(_fail(lines[-1].removeprefix('ValueError: ')))
  except (AttributeError, KeyError, TypeError) as e:
    detail = ' '.join(str(e.args[0] if e.args else e).split())
    sys.exit(_fail(f'--config.NAME=VALUE does not fit the config: {detail}'))


def _fail(message: object, status: int = 2) -> int:
  print(f'error: {message}', file=sys.stderr)
  return status

"""What the entry points share: one-line errors instead of tracebacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
import sys

from absl import app
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
      print(f'error: unexpected argument {argv[1]!r}; see --help',
            file=sys.stderr)
      return 2
    # absl's default shows what jax and orbax say of their inner life.
    logging.set_verbosity(logging.WARNING)
    try:
      return main(argv)
    except USER_ERRORS as e:
      if os.environ.get('TTT_JAX_TRACEBACK'):
        raise
      print(f'error: {e}', file=sys.stderr)
      return 2

  app.run(guarded)

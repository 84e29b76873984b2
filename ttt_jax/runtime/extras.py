"""Packages that only some installations have, by the extra that brings them."""

from __future__ import annotations

import importlib.util


def install_command(extra: str) -> str:
  """Returns the pip command that adds an extra of pyproject.toml."""
  return f'pip install "ttt_jax[{extra}]"'


def require(module: str, extra: str, user: str) -> None:
  """Raises ValueError unless a module can be imported; does not import it.

  Args:
    module: Name of the module.
    extra: Extra of pyproject.toml that installs it.
    user: What needs it, for the message.
  """
  if importlib.util.find_spec(module) is None:
    raise ValueError(
      f'{user} needs {module}, which is not installed: {install_command(extra)}'
    )

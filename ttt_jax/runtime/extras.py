"""Packages that only some installations have, by the extra that brings them."""

from __future__ import annotations

import importlib.util
import os

# Modules of which a backend of JAX needs one, and the extra that installs it.
_BACKENDS = {
  'cuda': (('jax_cuda12_plugin', 'jax_cuda13_plugin'), 'cuda12'),
  'tpu': (('libtpu',), 'tpu'),
}


def install_command(extra: str) -> str:
  """Returns the pip command that adds an extra of pyproject.toml."""
  return f'pip install "ttt_jax[{extra}]"'


def require(module: str, extra: str, user: str) -> None:
  """Raises ValueError unless a module can be imported; does not import it.

  Args:
    module: Name of the module.
    extra: Extra of pyproject.toml that installs it.
    user: Name of the function or file that needs it, for the message.
  """
  if importlib.util.find_spec(module) is None:
    raise ValueError(
      f'{user} needs {module}, which is not installed: {install_command(extra)}'
    )


def missing_backend() -> str | None:
  """Returns one line if JAX_PLATFORMS names a backend that is not installed."""
  for name in os.environ.get('JAX_PLATFORMS', '').split(','):
    modules, extra = _BACKENDS.get(name.strip(), ((), ''))
    if modules and not any(map(importlib.util.find_spec, modules)):
      return (
        f'JAX_PLATFORMS is {os.environ["JAX_PLATFORMS"]}, but JAX has no'
        f' backend for {name.strip()}: {install_command(extra)}, or unset it'
      )
  return None

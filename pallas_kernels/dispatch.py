"""Chooses an implementation of an op by name or by preference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

# Every name that an op may offer, in order of preference. `reference` is last:
# it is the definition that the others are tested against.
NAMES = ('pallas_tpu', 'pallas_gpu', 'xla', 'reference')
# Implementations for one backend only. Elsewhere Pallas can interpret their
# kernels, but only if they are requested by name.
_BACKENDS = {'pallas_tpu': 'tpu', 'pallas_gpu': 'gpu'}


def dispatch(
  op: str,
  table: Mapping[str, Callable[..., Any]],
  implementation: str | None,
  *args: Any,
  **kwargs: Any,
) -> Any:
  """Calls the named implementation of `op`, or the best that accepts.

  An implementation refuses arguments (a shape, a dtype, a backend) by raising
  `NotImplementedError` with the reason.

  Args:
    op: name of the op, for messages.
    table: implementation name -> function; names are from `NAMES`.
    implementation: a name, or None to try the table in the order of `NAMES`.
    *args: positional arguments of the implementation.
    **kwargs: keyword arguments of the implementation.

  Returns:
    The result of the implementation.

  Raises:
    ValueError: the name is not in `NAMES`.
    NotImplementedError: the named implementation is missing or refuses.
    ExceptionGroup: every implementation refuses; contains all reasons.
  """
  if implementation is not None:
    if implementation not in NAMES:
      raise ValueError(
        f'implementation={implementation!r} of {op} is unknown: use None or'
        f' one of {", ".join(map(repr, NAMES))}'
      )
    if implementation not in table:
      raise NotImplementedError(
        f'{op} has no implementation {implementation!r} yet: use None or one'
        f' of {", ".join(repr(name) for name in NAMES if name in table)}'
      )
    return table[implementation](*args, **kwargs)
  reasons = []
  for name in NAMES:
    if name not in table:
      continue
    try:
      _check_backend(name)
      return table[name](*args, **kwargs)
    except NotImplementedError as reason:
      reasons.append(reason)
  raise ExceptionGroup(
    f'no implementation of {op} accepts the arguments', reasons
  )


def _check_backend(name: str) -> None:
  """Raises NotImplementedError if an implementation is for another backend."""
  backend = jax.default_backend()
  if _BACKENDS.get(name, backend) != backend:
    raise NotImplementedError(
      f'{name} is for {_BACKENDS[name]}, the default backend is {backend}'
    )

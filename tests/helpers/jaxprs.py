"""Operations of a traced function."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np


def operations(
  jaxpr: Any, names: Collection[str]
) -> Iterator[tuple[str, np.dtype]]:
  """Yields name and result dtype of the named operations, at any depth."""
  for equation in jaxpr.eqns:
    if equation.primitive.name in names:
      yield equation.primitive.name, equation.outvars[0].aval.dtype
    for value in equation.params.values():
      if hasattr(inner := getattr(value, 'jaxpr', value), 'eqns'):
        yield from operations(inner, names)

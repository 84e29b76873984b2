"""What a TPU does otherwise, on a CPU: its products and its code."""

from collections.abc import Iterator
import contextlib
import functools
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import pytest


@contextlib.contextmanager
def rounded_products() -> Iterator[None]:
  """Rounds operands of products without a precision to bfloat16.

  A TPU does so by default. Holds for what is traced in the context, its
  gradients included; compiled functions are not traced again.
  """
  # Private, because jax.numpy and the rules of gradients look it up there.
  from jax._src.lax import lax

  exact = lax.dot_general

  def dot_general(lhs: Any, rhs: Any, *args: Any, **options: Any) -> Any:
    if options.get('precision') is None:
      lhs, rhs = (jax.lax.reduce_precision(x, 8, 7) for x in (lhs, rhs))
    return exact(lhs, rhs, *args, **options)

  einsum = functools.partial(jnp.einsum, _dot_general=dot_general)
  with (
    mock.patch.object(lax, 'dot_general', dot_general),
    mock.patch.object(jnp, 'einsum', einsum),
  ):
    yield


def choose_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
  """Takes the code for TPUs where it is chosen by platform.

  Compiled functions are not traced again.
  """
  monkeypatch.setattr(
    jax.lax, 'platform_dependent', lambda *args, tpu, default: tpu(*args)
  )

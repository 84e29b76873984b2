"""What the TPU kernels refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.plan import HEAD_DIMS


def check(q: jax.Array, mini_batch: int, hidden: int) -> None:
  """Refuses what the kernels do not have.

  Args:
    q: [B, H, T, D].
    mini_batch: C.
    hidden: K, or D where the inner model has no hidden layer.

  Raises:
    NotImplementedError: the kernels do not have such sizes or dtypes; one
      line with the value, the constraint and a legal value.
  """
  if q.shape[-1] not in HEAD_DIMS:
    raise NotImplementedError(
        f'head dim {q.shape[-1]}: the TPU kernels have'
        f' {", ".join(map(str, HEAD_DIMS))}'
    )
  if hidden % LANES and hidden != q.shape[-1]:
    raise NotImplementedError(
        f'hidden size {hidden}: the TPU kernels take multiples of {LANES},'
        f' such as {2 * LANES}'
    )
  if mini_batch % 16 or mini_batch > 256:
    raise NotImplementedError(
        f'mini_batch={mini_batch}: the TPU kernels take multiples of 16 up to'
        ' 256, such as 64'
    )
  if q.dtype == jnp.float64 and jax.default_backend() == 'tpu':
    raise NotImplementedError('float64: a TPU has float32 at most')

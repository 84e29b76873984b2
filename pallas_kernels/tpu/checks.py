"""Sizes and dtypes that the TPU kernels support."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import state_dtype
from pallas_kernels.tpu.packing import LANES
from pallas_kernels.tpu.tiling import HEAD_DIMS


def check_support(
  tokens: Sequence[jax.Array],
  others: Sequence[jax.Array],
  mini_batch: int,
  hidden: int,
) -> jnp.dtype:
  """Raises NotImplementedError unless the kernels support the arguments.

  Args:
    tokens: q, k, v [B, H, T, D].
    others: the remaining arrays of the call.
    mini_batch: C.
    hidden: K, or D where the inner model has no hidden layer.

  Returns:
    The dtype of the operands of products: the widest of the tokens.

  Raises:
    NotImplementedError: a size or a dtype is not supported; one line with the
      value, the constraint and a valid value.
  """
  head_dim = tokens[0].shape[-1]
  if head_dim not in HEAD_DIMS:
    raise NotImplementedError(
      f'head dim {head_dim}: the TPU kernels have'
      f' {", ".join(map(str, HEAD_DIMS))}'
    )
  if hidden % LANES and hidden != head_dim:
    raise NotImplementedError(
      f'hidden size {hidden}: the TPU kernels take multiples of {LANES},'
      f' such as {2 * LANES}'
    )
  if mini_batch % 16 or mini_batch > 256:
    raise NotImplementedError(
      f'mini_batch={mini_batch}: the TPU kernels take multiples of 16 up to'
      ' 256, such as 64'
    )
  dtype = jnp.result_type(*tokens)
  wide = state_dtype(*tokens, *others)
  if dtype == jnp.float16 or wide != jnp.promote_types(dtype, jnp.float32):
    raise NotImplementedError(
      f'tokens of {dtype} with states of {wide}: the TPU kernels take'
      ' bfloat16 or float32 with float32'
    )
  # Only the interpreter supports float64.
  if dtype == jnp.float64 and jax.default_backend() == 'tpu':
    raise NotImplementedError('float64: a TPU has float32 at most')
  return dtype

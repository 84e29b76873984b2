"""Sizes that the GPU kernels support, and the tiling of their backward pass.

The forward pass saves the state before every G-th mini-batch. The backward pass
processes S groups of G mini-batches at a time: it replays them from their
checkpoints, all groups in parallel, and then traverses them in reverse.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

HEAD_DIMS = (32, 64, 128)
_LEAST_GROUP = 8  # Keeps the traffic of checkpoints far below the tokens'.
_CHECKPOINT_BYTES = 1.25e9  # Saved by one call for its backward pass.
_REPLAY_BYTES = 1.5e9  # Scratch of the backward pass.


class Tiling(NamedTuple):
  """Partition of a sequence into mini-batches, groups and spans."""

  mini_batch: int  # C, tokens.
  group: int  # G, mini-batches from one checkpoint to the next.
  groups: int  # Number of groups, and of checkpoints, in the sequence.
  span: int  # S, groups that are replayed in parallel.
  count: int  # N, mini-batches in the sequence.

  @property
  def spans(self) -> int:
    """Number of spans in the sequence."""
    return -(-self.groups // self.span)


def make_tiling(
  programs: int,
  tokens: int,
  mini_batch: int,
  state_bytes: int,
  replay_bytes: int,
) -> Tiling:
  """Returns the tiling that fits both memory budgets.

  Args:
    programs: B times H.
    tokens: T.
    mini_batch: C.
    state_bytes: size of one head's state.
    replay_bytes: bytes that a replay writes per head and mini-batch.
  """
  n = -(-tokens // mini_batch)
  group = max(
    _LEAST_GROUP, -int(-programs * n * state_bytes // _CHECKPOINT_BYTES)
  )
  group = min(group, n)
  groups = -(-n // group)
  span = int(_REPLAY_BYTES // (programs * group * replay_bytes))
  spans = -(-groups // min(max(1, span), groups))
  return Tiling(mini_batch, group, groups, -(-groups // spans), n)


def check_support(
  tokens: dict[str, jax.Array], head_dim: int, mini_batch: int
) -> None:
  """Raises NotImplementedError if no GPU kernel supports the arguments."""
  for name, array in tokens.items():
    if array.dtype == jnp.float64:
      raise NotImplementedError(
        f'{name} has dtype float64: the GPU kernel takes float32 or bfloat16'
      )
  if head_dim not in HEAD_DIMS:
    raise NotImplementedError(
      f'head dim D={head_dim}: the GPU kernel takes {HEAD_DIMS}, such as 64'
    )
  if not 16 <= mini_batch <= 256 or mini_batch & (mini_batch - 1):
    raise NotImplementedError(
      f'mini_batch={mini_batch}: the GPU kernel takes 16, 32, 64, 128 or 256'
    )
  if jax.default_backend() == 'gpu':
    device = jax.local_devices()[0]
    capability = getattr(device, 'compute_capability', 'none')
    if not capability.replace('.', '').isdigit() or float(capability) < 9:
      raise NotImplementedError(
        f'{device.device_kind} has compute capability {capability}: the GPU'
        ' kernel requires 9.0 (Hopper) or newer'
      )


def token_dtype(*tokens: jax.Array) -> jnp.dtype:
  """Returns bfloat16 if all tokens are, else float32."""
  narrow = all(array.dtype == jnp.bfloat16 for array in tokens)
  return jnp.dtype(jnp.bfloat16 if narrow else jnp.float32)

"""The public function of the frame-wise delta rule: checks and dispatch."""

from __future__ import annotations

from collections.abc import Sequence
import operator

import jax
import numpy as np

from pallas_kernels.arguments import check_chunk
from pallas_kernels.arguments import check_shapes
from pallas_kernels.dispatch import dispatch
from pallas_kernels.frame_delta_rule import reference
from pallas_kernels.frame_delta_rule import xla

IMPLEMENTATIONS = {
  'xla': xla.frame_delta_rule,
  'reference': reference.frame_delta_rule,
}


def frame_delta_rule(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  beta: jax.Array,
  g: jax.Array,
  initial_state: jax.Array | None = None,
  *,
  frames: int | Sequence[int] | np.ndarray,
  implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Runs the delta rule with one exactly solved update per frame.

  For the tokens K [P, K], V [P, V], beta [P] of each frame in turn, with
  A = K^T Diag(beta) K, B = V^T Diag(beta) K and alpha = e^g:

      S <- (S Diag(alpha) + B) (I + A)^-1;  o = S q

  The new state minimises |S - S_old Diag(alpha)|^2 + sum_i beta_i |S k_i -
  v_i|^2: all tokens of a frame are written at once, and those with similar keys
  share their weight. (VideoDeltaNet, Xi et al. 2026.) A frame's queries read
  the state after its own update. A frame of one token with a unit key is the
  gated delta rule with strength beta / (1 + beta).

  Differentiable in all arrays in reverse mode, also through the state.

  Args:
    q: queries [B, H, T, K].
    k: keys [B, H, T, K], normalised.
    v: values [B, H, T, V].
    beta: weight with which a token is written, [B, H, T], at least 0; 0 does
      not write it.
    g: logarithm of the decay before each frame, per key feature, [B, H, N, K],
      at most 0.
    initial_state: S before the first frame, [B, H, V, K]; zeros if None.
    frames: tokens per frame, P; the last frame may be shorter. Or the lengths
      of all N frames in order, which sum to T.
    implementation: None for the best that accepts the arguments, or
      'reference', 'xla'.

  Returns:
    (out, state): out [B, H, T, V] in v's dtype; S after the last frame
    [B, H, V, K], float32 (float64 if an input is): pass it as the initial
    state to continue the sequence.

  Raises:
    ValueError: a shape, a dtype or frames is invalid.
    NotImplementedError: the named implementation does not exist.
  """
  sizes = check_shapes(
    {
      'q': (q, 'BHTK'),
      'k': (k, 'BHTK'),
      'v': (v, 'BHTV'),
      'beta': (beta, 'BHT'),
      'g': (g, 'BHNK'),
    }
    | (
      {}
      if initial_state is None
      else {'initial_state': (initial_state, 'BHVK')}
    )
  )
  lengths = _lengths(frames, sizes['T'])
  if len(lengths) != sizes['N']:
    raise ValueError(
      f'g has shape {g.shape}, for {sizes["N"]} frames: frames={frames} gives'
      f' {len(lengths)}'
    )
  return dispatch(
    'frame_delta_rule',
    IMPLEMENTATIONS,
    implementation,
    q,
    k,
    v,
    beta,
    g,
    initial_state,
    lengths=lengths,
  )


def _lengths(
  frames: int | Sequence[int] | np.ndarray, length: int
) -> tuple[int, ...]:
  """Returns the length of every frame; raises ValueError if they do not fit."""
  if isinstance(frames, Sequence | np.ndarray):
    for frame in frames:
      check_chunk(frame, 'frames')
    if sum(frames) != length:
      raise ValueError(
        f'frames sum to {sum(frames)} tokens: the sum must be T, {length}'
      )
    return tuple(map(operator.index, frames))
  check_chunk(frames, 'frames')
  full, rest = divmod(length, frames)
  return (frames,) * full + (rest,) * bool(rest)

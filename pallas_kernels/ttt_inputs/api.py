"""The public function that computes the inputs of the inner loop."""

from __future__ import annotations

import jax

from pallas_kernels.dispatch import dispatch
from pallas_kernels.ttt_inputs import pallas_tpu
from pallas_kernels.ttt_inputs import xla

IMPLEMENTATIONS = {
  'pallas_tpu': pallas_tpu.ttt_inputs,
  'xla': xla.ttt_inputs,
}


def ttt_inputs(
  z: jax.Array,
  cos: jax.Array,
  sin: jax.Array,
  ln_scale: jax.Array,
  ln_bias: jax.Array,
  *,
  rate: float,
  length: int,
  implementation: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Computes the arguments of `ttt_mlp` or `ttt_linear` from projections.

  For every token and head, with the rotation R of the token's position, LN's
  scale and bias, and mean and (unbiased) standard deviation over D features:

      q' = R q / |R q|,    k' = R k / |R k|
      v' = scale * (v - k' - mean) / (std + 1e-8) + bias + k'
      eta = rate * sigmoid(r)

  (Dalal et al. 2025, arXiv:2504.05298, section 3.1, and their code.)
  Differentiable in z, ln_scale and ln_bias.

  Args:
    z: projections [B, T, X], the concatenated features of q, k, v (H D each,
      head by head), r (H), and padding up to X.
    cos: cosines of the rotary angles, [T, D], float32 or wider; the features
      2i and 2i + 1 are a pair.
    sin: sines of the rotary angles, [T, D].
    ln_scale: scale of LN, [H, D].
    ln_bias: bias of LN, [H, D].
    rate: largest step size, already divided by D and the mini-batch.
    length: number of tokens that are not padding; eta of the others is zero.
    implementation: None for the best that accepts the arguments, or 'xla',
      'pallas_tpu'.

  Returns:
    q, k, v [B, H, T, D] in the dtype of z, eta [B, H, T] in that of cos.

  Raises:
    ValueError: the shapes or length do not match each other.
    NotImplementedError: the named implementation does not exist or refuses.
    ExceptionGroup: no implementation accepts the arguments.
  """
  heads, dim = ln_scale.shape
  tokens = z.shape[1]
  if z.shape[2] < 3 * heads * dim + heads:
    raise ValueError(
      f'z has {z.shape[2]} features; {heads} heads of {dim} need at least'
      f' {3 * heads * dim + heads}'
    )
  for name, array, shape in (
    ('cos', cos, (tokens, dim)),
    ('sin', sin, (tokens, dim)),
    ('ln_bias', ln_bias, (heads, dim)),
  ):
    if array.shape != shape:
      raise ValueError(f'{name} has shape {array.shape}; it must be {shape}')
  if not 0 <= length <= tokens:
    raise ValueError(f'length is {length}; it must be 0 to {tokens}')
  return dispatch(
    'ttt_inputs',
    IMPLEMENTATIONS,
    implementation,
    z,
    cos,
    sin,
    ln_scale,
    ln_bias,
    rate=rate,
    length=length,
  )

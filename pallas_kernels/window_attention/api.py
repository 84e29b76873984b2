"""The public function of attention within windows."""

from __future__ import annotations

import jax

from pallas_kernels.dispatch import dispatch
from pallas_kernels.types import Norm
from pallas_kernels.window_attention import pallas_tpu
from pallas_kernels.window_attention import reference

IMPLEMENTATIONS = {
  'pallas_tpu': pallas_tpu.window_attention,
  'reference': reference.window_attention,
}
# Names of the result and of the logarithms of the sums of exponentials in
# checkpoint policies. A backward pass that has both does not run the forward
# kernel again.
RESULT = pallas_tpu.RESULT
LOG_SUMS = pallas_tpu.LOG_SUMS

check_support = pallas_tpu.check_support


def window_attention(
  qkv: jax.Array,
  q_norm: Norm,
  k_norm: Norm,
  cos: jax.Array,
  sin: jax.Array,
  *,
  heads: int,
  windows: int,
  stride: int,
  epsilon: float,
  implementation: str | None = None,
) -> jax.Array:
  """Computes multi-head self-attention within overlapping windows.

  Window n has the W tokens from n * `stride` on. For every window and head,
  with the rotation R of a token's position in its window:

      q' = R LayerNorm(q),    k' = R LayerNorm(k)
      out = softmax(q' k'^T / sqrt(D)) v

  The result of a token of two windows is the mean of both (Dalal et al. 2025,
  arXiv:2504.05298, section 3.2: neighbouring segments share a frame).
  Differentiable in qkv and both norms.

  Args:
    qkv: projections [B, T, X], the concatenated features of q, k and v (H D
      each, head by head), and padding up to X. All are finite.
    q_norm: scale and bias of the queries' LayerNorm, [D] each.
    k_norm: scale and bias of the keys' LayerNorm, [D] each.
    cos: cosines of the rotary angles, [W, D], float32 or wider; the features
      2i and 2i + 1 are a pair.
    sin: sines of the rotary angles, [W, D].
    heads: number of heads, H.
    windows: number of windows, S.
    stride: tokens from the start of one window to that of the next, W / 2 to W.
    epsilon: number added to the variance of the norms.
    implementation: None for the best that accepts the arguments, or
      'pallas_tpu', 'reference'.

  Returns:
    [B, T, H D] in the dtype of qkv; tokens after the last window are zero.

  Raises:
    ValueError: the shapes or the length do not match each other.
    NotImplementedError: the named implementation does not exist or refuses.
    ExceptionGroup: no implementation accepts the arguments.

  Example:
    Two windows of 8 tokens share two tokens; 4 heads of 16 features.

    >>> import jax.numpy as jnp
    >>> qkv = jnp.ones((1, 14, 3 * 4 * 16))
    >>> norm = Norm(scale=jnp.ones(16), bias=jnp.zeros(16))
    >>> cos, sin = jnp.ones((8, 16)), jnp.zeros((8, 16))
    >>> sizes = dict(heads=4, windows=2, stride=6, epsilon=1e-6)
    >>> out = window_attention(
    ...   qkv, norm, norm, cos, sin, **sizes, implementation='reference'
    ... )
    >>> out.shape
    (1, 14, 64)
  """
  length, dim = cos.shape
  if windows < 1:
    raise ValueError(f'windows is {windows}; it must be 1 or more')
  if not length / 2 <= stride <= length:
    raise ValueError(
      f'stride is {stride}; windows of {length} tokens need'
      f' {-(-length // 2)} to {length}'
    )
  tokens = (windows - 1) * stride + length
  if qkv.ndim != 3 or qkv.shape[1] < tokens:
    raise ValueError(
      f'qkv has shape {qkv.shape}; {windows} windows of {length} tokens at a'
      f' stride of {stride} need [B, {tokens} or more, X]'
    )
  if qkv.shape[2] < 3 * heads * dim:
    raise ValueError(
      f'qkv has {qkv.shape[2]} features; {heads} heads of {dim} need at least'
      f' {3 * heads * dim}'
    )
  for name, array, shape in (
    ('sin', sin, (length, dim)),
    ('scale of q_norm', q_norm.scale, (dim,)),
    ('bias of q_norm', q_norm.bias, (dim,)),
    ('scale of k_norm', k_norm.scale, (dim,)),
    ('bias of k_norm', k_norm.bias, (dim,)),
  ):
    if array.shape != shape:
      raise ValueError(f'{name} has shape {array.shape}; it must be {shape}')
  return dispatch(
    'window_attention',
    IMPLEMENTATIONS,
    implementation,
    qkv,
    q_norm,
    k_norm,
    cos,
    sin,
    heads=heads,
    windows=windows,
    stride=stride,
    epsilon=epsilon,
  )

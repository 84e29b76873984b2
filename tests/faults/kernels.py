"""Faults of the kernels."""

from __future__ import annotations

from tests.faults.fault import Fault

_XLA = ('tests/kernels/test_ops.py',)
_WINDOWS = ('tests/kernels/test_window_attention.py',)

FAULTS = (
  Fault(
    'inner gradient of the wrong sign',
    'pallas_kernels/ttt_linear/xla.py',
    'return _add_affine(state, k, -g)',
    'return _add_affine(state, k, g)',
    _XLA,
  ),
  Fault(
    'gradient of the step sizes lost',
    'pallas_kernels/ttt_linear/xla.py',
    'd_eta = row_product(forward.g, d_g)[..., 0]',
    'd_eta = 0 * row_product(forward.g, d_g)[..., 0]',
    _XLA,
  ),
  Fault(
    'Muon on the weights instead of the update',
    'pallas_kernels/large_chunk_ttt/update.py',
    'w += orthogonalize(update) if muon else update',
    'w = orthogonalize(w + update) if muon else w + update',
    ('tests/kernels/test_large_chunk_ttt.py',),
  ),
  Fault(
    'a frame that does not forget',
    'pallas_kernels/frame_delta_rule/xla.py',
    'jnp.exp(g)[..., None] * inverse',
    'inverse',
    ('tests/kernels/test_frame_delta_rule.py',),
  ),
  Fault(
    'a state that a TPU rounds once per chunk',
    'pallas_kernels/xla/affine_scan.py',
    'return _matmul(a, state) + b, state',
    'return a @ state + b, state',
    ('tests/kernels/test_linear_recurrences.py',),
  ),
  Fault(
    'steps of a block combined in the wrong order',
    'pallas_kernels/xla/affine_scan.py',
    '_matmul(a, a_before)',
    '_matmul(a_before, a)',
    ('tests/kernels/test_affine_scan.py',),
  ),
  Fault(
    'decays of the gradient not reversed',
    'pallas_kernels/xla/affine_scan.py',
    'from_b[..., ::-1, ::-1]',
    'from_b',
    ('tests/kernels/test_affine_scan.py',),
  ),
  Fault(
    'rows of a triangular system subtracted without their factors',
    'pallas_kernels/xla/triangular.py',
    '-(factors[i][:, None] * inverse).sum(0)',
    '-inverse.sum(0)',
    ('tests/kernels/test_triangular.py',),
  ),
  Fault(
    'padding moves the inner state',
    'pallas_kernels/xla/mini_batches.py',
    'return self._where_owned(n, self.take(array, n), 0)',
    'return self.take(array, n)',
    ('tests/kernels/test_xla.py', 'tests/kernels/test_ops.py'),
  ),
  Fault(
    'tokens of a chunk see later ones',
    'pallas_kernels/gated_delta_rule/xla.py',
    'pairs = _products(q, k) * decays',
    'pairs = _products(q, k)',
    ('tests/kernels/test_linear_recurrences.py',),
  ),
  Fault(
    'no decay inside of a chunk',
    'pallas_kernels/ssd/xla.py',
    'out=(share(pairs) * decays) @ x,',
    'out=(share(pairs) * (decays > 0)) @ x,',
    ('tests/kernels/test_linear_recurrences.py',),
  ),
  Fault(
    'keys of the padding are attended to',
    'pallas_kernels/window_attention/tpu_forward.py',
    'keys[h, at, :] = jnp.where(own, x, mask)',
    'keys[h, at, :] = jnp.where(own, x, 0 * mask)',
    _WINDOWS,
  ),
  Fault(
    'large scores without a maximum',
    'pallas_kernels/window_attention/tpu_tiling.py',
    'LARGEST_SCORE = 100.0',
    'LARGEST_SCORE = 1e9',
    _WINDOWS,
  ),
  Fault(
    'cotangent of a shared frame counted twice',
    'pallas_kernels/window_attention/tpu_backward.py',
    'd * jnp.asarray(0.5, d.dtype)',
    'd * jnp.asarray(1.0, d.dtype)',
    _WINDOWS,
  ),
  Fault(
    'gradient of a norm without its mean',
    'pallas_kernels/window_attention/tpu_rows.py',
    'd_x = d_standard - mean(d_standard) - standard',
    'd_x = d_standard - standard',
    _WINDOWS,
  ),
)

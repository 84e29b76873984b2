"""Our linear recurrences against those of transformers, on random numbers."""

import jax
import numpy as np
import pytest

import pallas_kernels

torch = pytest.importorskip('torch')
qwen = pytest.importorskip('transformers.models.qwen3_next.modeling_qwen3_next')
mamba = pytest.importorskip('transformers.models.mamba2.modeling_mamba2')

# (T, H, G, K or N, V or P, chunk); G groups of Mamba 2's directions.
SIZES = [
  (1, 2, 1, 32, 32, 64),
  (15, 2, 2, 32, 64, 64),
  (63, 4, 2, 64, 32, 16),
  (300, 2, 1, 256, 128, 64),
]


def close(ours, theirs, bound=2e-5):
  theirs = theirs.numpy()
  error = np.abs(np.asarray(ours) - theirs).max()
  assert error <= bound * np.abs(theirs).max()


def as_theirs(x):
  """[B, H, T, ...] -> a tensor [B, T, H, ...]."""
  return torch.tensor(np.swapaxes(x, 1, 2).copy())


@pytest.mark.parametrize('sizes', SIZES)
def test_gated_delta_rule(sizes):
  t, h, _, key, value, chunk = sizes
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  q, k, v = normal(2, h, t, key), normal(2, h, t, key), normal(2, h, t, value)
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  q /= np.linalg.norm(q, axis=-1, keepdims=True)
  beta = rng.uniform(0, 1, (2, h, t)).astype(np.float32)
  g = -(rng.uniform(0, 2, (2, h, t)) ** 3).astype(np.float32)
  state = normal(2, h, key, value)
  theirs, their_state = qwen.torch_chunk_gated_delta_rule(
    *map(as_theirs, (q, k, v, g, beta)),
    chunk_size=chunk,
    initial_state=torch.tensor(state),
    output_final_state=True,
  )
  # Theirs scales the queries itself.
  ours, our_state = pallas_kernels.gated_delta_rule(
    q * key**-0.5, k, v, beta, g, state, chunk=chunk
  )
  close(np.swapaxes(ours, 1, 2), theirs)
  close(our_state, their_state)


@pytest.mark.parametrize('sizes', SIZES)
def test_ssd(sizes):
  t, h, groups, n, p, chunk = sizes
  rng = np.random.default_rng(1)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  x, b, c = normal(2, h, t, p), normal(2, groups, t, n), normal(2, groups, t, n)
  dt = np.asarray(jax.nn.softplus(normal(2, h, t) - 2))
  a = -rng.uniform(1, 16, h).astype(np.float32)
  d = normal(h)
  theirs, their_state = mamba.mamba2_chunk_scan(
    as_theirs(x),
    as_theirs(dt),
    torch.tensor(a),
    as_theirs(b),
    as_theirs(c),
    chunk_size=chunk,
    D=torch.tensor(d),
    return_final_states=True,
  )
  ours, our_state = pallas_kernels.ssd(x, dt, a, b, c, d, chunk=chunk)
  close(np.swapaxes(ours, 1, 2), theirs)
  close(our_state, their_state)

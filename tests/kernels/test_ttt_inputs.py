"""The inputs of the inner loop: values, gradients, and refused arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import ttt_inputs
from tests.helpers.compare import relative_error
from tests.kernels.ops import interpreted

RATE = 0.01
# (heads, head dim, tokens, padding features, valid tokens). Heads that fill the
# lanes or not; blocks that end with the sequence or not.
SIZES = [
  (2, 64, 70, 126, 64),
  (8, 32, 33, 3, 20),
  (3, 64, 40, 5, 33),
  (1, 128, 129, 0, 129),
]


def arguments(heads, dim, tokens, fill, seed=0):
  rng = np.random.default_rng(seed)
  z = rng.normal(size=(2, tokens, 3 * heads * dim + heads + fill))
  z[:, 3] = 0  # Vectors without a direction.
  angle = rng.normal(size=(tokens, dim // 2)).repeat(2, axis=1)
  norm = rng.normal(size=(2, heads, dim)) * 0.1
  return z, np.cos(angle), np.sin(angle), 1 + norm[0], norm[1]


def both_ways(implementation, args, cotangents, length, dtype):
  """Results and gradients of z, scale and bias; `dtype`: None keeps types."""
  z, cos, sin, scale, bias = (jnp.asarray(x, dtype) for x in args)

  def call(z, scale, bias):
    return ttt_inputs(
      z,
      cos,
      sin,
      scale,
      bias,
      rate=RATE,
      length=length,
      implementation=implementation,
    )

  @jax.jit
  def run(*args):
    out, pull = jax.vjp(call, *args)
    return *out, *pull(
      tuple(jnp.asarray(c, x.dtype) for c, x in zip(cotangents, out))
    )

  with interpreted(implementation):
    return run(z, scale, bias)


def random_cotangents(heads, dim, tokens):
  rng = np.random.default_rng(1)
  shape = 2, heads, tokens, dim
  return [rng.normal(size=shape) for _ in range(3)] + [
    rng.normal(size=shape[:-1])
  ]


@pytest.mark.parametrize('sizes', SIZES)
def test_the_kernels_are_the_definition(sizes):
  heads, dim, tokens, fill, length = sizes
  with jax.enable_x64(True):
    args = arguments(heads, dim, tokens, fill)
    cotangents = random_cotangents(heads, dim, tokens)
    want, got = (
      both_ways(name, args, cotangents, length, jnp.float64)
      for name in ('xla', 'pallas_tpu')
    )
  for g, w in zip(got, want):
    assert np.isfinite(g).all()
    assert relative_error(g, w) < 1e-12


def test_narrow_tokens():
  sizes = 2, 64, 70, 0
  args = arguments(*sizes)
  cotangents = random_cotangents(*sizes[:3])
  z = jnp.asarray(args[0], jnp.bfloat16)
  rounded = z.astype(jnp.float32)
  want = both_ways('xla', (rounded, *args[1:]), cotangents, 70, jnp.float32)

  wide = (jnp.asarray(x, jnp.float32) for x in args[1:])
  got = both_ways('pallas_tpu', (z, *wide), cotangents, 70, None)
  out, grads = got[:4], got[4:]
  assert [x.dtype for x in out] == [jnp.bfloat16] * 3 + [jnp.float32]
  assert grads[0].dtype == jnp.bfloat16
  # Two ulps of bfloat16; eta, which is float32, is closer.
  for g, w in zip(got, want):
    assert relative_error(g.astype(jnp.float32), w) < 8e-3
  assert relative_error(out[3], want[3]) < 1e-6


def test_the_definition():
  heads, dim, tokens = 3, 8, 5
  args = arguments(heads, dim, tokens, 2)
  with jax.enable_x64(True):
    out = ttt_inputs(
      *(jnp.asarray(x) for x in args),
      rate=RATE,
      length=4,
      implementation='xla',
    )
  q, k, v, eta = (np.asarray(x) for x in out)
  z, cos, sin, scale, bias = args
  b, t, h = 1, 2, 1
  width = heads * dim
  parts = [z[b, t, i * width :][h * dim : (h + 1) * dim] for i in range(3)]

  def rotated(x):
    pairs = (x[::2] + 1j * x[1::2]) * (cos[t, ::2] + 1j * sin[t, ::2])
    x = np.stack([pairs.real, pairs.imag], axis=1).ravel()
    return x / np.linalg.norm(x)

  key = rotated(parts[1])
  np.testing.assert_allclose(q[b, h, t], rotated(parts[0]), atol=1e-12)
  np.testing.assert_allclose(k[b, h, t], key, atol=1e-12)
  difference = parts[2] - key
  standard = (difference - difference.mean()) / (difference.std(ddof=1) + 1e-8)
  np.testing.assert_allclose(
    v[b, h, t], scale[h] * standard + bias[h] + key, atol=1e-12
  )
  gate = 1 / (1 + np.exp(-z[b, t, 3 * width + h]))
  np.testing.assert_allclose(eta[b, h, t], RATE * gate, atol=1e-12)
  assert (eta[:, :, 4:] == 0).all()


@pytest.mark.parametrize('implementation', ['xla', 'pallas_tpu'])
def test_constant_rows_have_finite_gradients(implementation):
  heads, dim, tokens = 2, 64, 16
  z, cos, sin, scale, bias = arguments(heads, dim, tokens, 0)
  z[...] = 0
  out = both_ways(
    implementation,
    (z, cos, sin, scale, bias),
    random_cotangents(heads, dim, tokens),
    tokens,
    jnp.float32,
  )
  for x in out:
    assert np.isfinite(x).all()


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(z=(2, 16, 300)), 'z has 300 features; 2 heads of 64 need at'),
    (dict(cos=(15, 64)), r'cos has shape \(15, 64\); it must be'),
    (dict(sin=(16, 32)), r'sin has shape \(16, 32\); it must be'),
    (dict(ln_bias=(3, 64)), 'ln_bias has shape'),
    (dict(length=17), 'length is 17; it must be 0 to 16'),
  ],
)
def test_bad_input(change, message):
  names = 'z', 'cos', 'sin', 'ln_scale', 'ln_bias'
  args = (x.astype(np.float32) for x in arguments(2, 64, 16, 0))
  args = dict(zip(names, args), length=16)
  for name, value in change.items():
    args[name] = value if name == 'length' else np.zeros(value)
  with pytest.raises(ValueError, match=message):
    ttt_inputs(**args, rate=RATE)


def test_refusals():
  args = arguments(2, 16, 16, 0)
  with pytest.raises(NotImplementedError, match='head dim 16: the TPU kernels'):
    ttt_inputs(*args, rate=RATE, length=16, implementation='pallas_tpu')

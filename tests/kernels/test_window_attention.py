"""Attention within windows: values, gradients, ranges, refused arguments."""

import functools

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import window_attention
from pallas_kernels.types import Norm
from pallas_kernels.window_attention import api
from pallas_kernels.window_attention import pallas_tpu
from pallas_kernels.window_attention import tpu_tiling
from tests.helpers.compare import relative_error
from tests.kernels.ops import interpreted

EPSILON = 1e-6


def arguments(windows, heads, tokens, fill=0, scale=1.0, seed=0):
  """Returns qkv, scales and biases of both norms, cosines and sines."""
  rng = np.random.default_rng(seed)
  dim = 64
  qkv = rng.normal(size=(windows, tokens, 3 * heads * dim + fill))
  norms = rng.normal(size=(2, 2, dim)) * 0.2
  norms[:, 0] += 1
  angle = rng.normal(size=(tokens, dim // 2)).repeat(2, axis=1)
  return qkv, norms * scale, np.cos(angle), np.sin(angle)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _both_ways(implementation, heads, length, qkv, norms, cos, sin, d_out):
  def attend(qkv, norms):
    return window_attention(
      qkv,
      Norm(*norms[0]),
      Norm(*norms[1]),
      cos,
      sin,
      heads=heads,
      length=length,
      epsilon=EPSILON,
      implementation=implementation,
    )

  out, pull = jax.vjp(attend, qkv, norms)
  return out, *pull(d_out.astype(out.dtype))


def both_ways(implementation, heads, length, args, dtype=None, seed=1):
  """Returns the result and the gradients of qkv and norms."""
  shape = (*args[0].shape[:2], heads * 64)
  d_out = np.random.default_rng(seed).normal(size=shape)
  args = [jnp.asarray(x, dtype) for x in (*args, d_out)]
  with interpreted(implementation):
    return _both_ways(implementation, heads, length, *args)


@pytest.fixture
def small_blocks(monkeypatch):
  """Makes several blocks of queries and keys in both passes."""
  monkeypatch.setattr(tpu_tiling, '_FORWARD_QUERIES', 256)
  monkeypatch.setattr(tpu_tiling, '_FORWARD_KEYS', 128)
  monkeypatch.setattr(tpu_tiling, '_BACKWARD_QUERIES', 128)
  monkeypatch.setattr(tpu_tiling, '_BACKWARD_KEYS', 256)
  jax.clear_caches()


# (windows, heads, tokens, padding features, tokens before the padding): odd
# numbers of windows and groups, blocks of padding alone, no padding.
@pytest.mark.parametrize(
  'sizes',
  [(1, 2, 128, 0, 128), (3, 6, 128, 7, 90), (2, 4, 768, 128, 500)],
)
def test_the_kernels_are_the_definition(sizes, small_blocks):
  windows, heads, tokens, fill, length = sizes
  with jax.enable_x64(True):
    args = arguments(windows, heads, tokens, fill)
    want, got = (
      both_ways(name, heads, length, args, jnp.float64)
      for name in ('reference', 'pallas_tpu')
    )
  for g, w in zip(got, want):
    assert np.isfinite(g).all()
    assert relative_error(g, w) < 1e-12
  assert not got[0][:, length:].any()
  # Neither padding nor features after v have a gradient.
  assert not got[1][:, length:].any()
  assert not got[1][..., 3 * heads * 64 :].any()


@pytest.mark.parametrize('scale', [0.0, 2.5, 40.0])
def test_scores_of_any_size(scale, small_blocks):
  """Zero to 10 000 times larger than in a trained model."""
  with jax.enable_x64(True):
    args = arguments(1, 2, 384, scale=scale)
    # All queries point away from all keys: no score comes near the bound.
    args[0][..., 128:256] *= 0.05
    args[0][..., 128:256] -= args[0][:, :1, :128]
    args[0][..., :128] = args[0][:, :1, :128]
    args[2][...], args[3][...] = 1, 0
    want, got = (
      both_ways(name, 2, 300, args, jnp.float64)
      for name in ('reference', 'pallas_tpu')
    )
  for g, w in zip(got, want):
    assert np.isfinite(g).all()
    assert relative_error(g, w) < 1e-9
  narrow = both_ways('pallas_tpu', 2, 300, args, jnp.float32)
  assert all(np.isfinite(g).all() for g in narrow)
  assert relative_error(narrow[0], want[0]) < 1e-3


def test_the_bound_of_the_scores_holds():
  qkv, norms, _, _ = arguments(1, 2, 128)
  norms = jnp.asarray(np.repeat(norms.reshape(4, 64), 2, axis=0), jnp.float32)
  norms = norms.reshape(4, 128)
  tiling = tpu_tiling.make(
    windows=1, heads=2, tokens=128, length=128, epsilon=0.0, dtype=jnp.float32
  )
  rng = np.random.default_rng(2)
  longest = []
  for scale, bias in (norms[:2, :64], norms[2:, :64]):
    x = rng.normal(size=(10_000, 64))
    x[0] = 64 * (np.arange(64) == np.abs(scale).argmax())
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    longest.append(np.linalg.norm(x * scale + bias, axis=1).max())
  score = longest[0] * longest[1] / 8 * np.log2(np.e)
  bounded = lambda factor: pallas_tpu.are_scores_bounded(
    tiling, norms * np.sqrt(factor)
  )
  largest = tpu_tiling.LARGEST_SCORE
  assert bounded(0.3 * largest / score) == 1
  assert bounded(1.01 * largest / score) == 0


def test_narrow_tokens():
  sizes = 2, 4, 256
  args = arguments(*sizes)
  qkv = jnp.asarray(args[0], jnp.bfloat16)
  rounded = (np.asarray(qkv.astype(jnp.float32)), *args[1:])
  want = both_ways('reference', 4, 250, rounded, jnp.float32)
  wide = [jnp.asarray(x, jnp.float32) for x in args[1:]]
  got = both_ways('pallas_tpu', 4, 250, (qkv, *wide))
  assert got[0].dtype == got[1].dtype == jnp.bfloat16
  for g, w in zip(got, want):
    # The definition with bfloat16 tokens has the same error.
    assert relative_error(g.astype(jnp.float32), w) < 1.2e-2


def test_windows_are_independent():
  args = arguments(3, 2, 128)
  out = both_ways('pallas_tpu', 2, 100, args, jnp.float32)
  alone = (args[0][1:2], *args[1:])
  d_out = np.random.default_rng(1).normal(size=(3, 128, 128))[1:2]
  with interpreted('pallas_tpu'):
    found = _both_ways(
      'pallas_tpu', 2, 100, *(jnp.asarray(x, jnp.float32) for x in alone), d_out
    )
  for both, one in zip(out[:2], found[:2]):
    np.testing.assert_array_equal(both[1:2], one)


def test_the_result_can_be_kept(capsys):
  names = api.RESULT, api.LOG_SUMS

  @functools.partial(
    jax.checkpoint,
    policy=jax.checkpoint_policies.save_only_these_names(*names),
  )
  def attend(qkv, norms, cos, sin):
    return window_attention(
      qkv,
      Norm(*norms[0]),
      Norm(*norms[1]),
      cos,
      sin,
      heads=2,
      length=128,
      epsilon=EPSILON,
      implementation='pallas_tpu',
    )

  args = [jnp.asarray(x, jnp.float32) for x in arguments(1, 2, 128)]
  jax.ad_checkpoint.print_saved_residuals(attend, *args)
  shown = capsys.readouterr().out
  for name in names:
    assert f"named '{name}'" in shown


@pytest.mark.parametrize(
  'change, error',
  [
    (dict(heads=3), NotImplementedError),
    (dict(dim=32), NotImplementedError),
    (dict(tokens=200), NotImplementedError),
    (dict(dtype=jnp.float16), NotImplementedError),
    (dict(features=383), ValueError),
    (dict(length=129), ValueError),
    (dict(length=0), ValueError),
    (dict(sines=127), ValueError),
    (dict(biases=63), ValueError),
  ],
)
def test_refused_arguments(change, error):
  sizes = dict(heads=2, dim=64, tokens=128, length=128, dtype=jnp.float32)
  sizes |= change
  heads, dim, tokens = sizes['heads'], sizes['dim'], sizes['tokens']
  features = sizes.get('features', 3 * heads * dim)
  weight = jnp.ones(dim)
  with pytest.raises(error) as e:
    window_attention(
      jnp.zeros((1, tokens, features), sizes['dtype']),
      Norm(weight, jnp.ones(sizes.get('biases', dim))),
      Norm(weight, weight),
      jnp.ones((tokens, dim)),
      jnp.ones((sizes.get('sines', tokens), dim)),
      heads=heads,
      length=min(sizes['length'], 2 * tokens),
      epsilon=EPSILON,
      implementation='pallas_tpu',
    )
  assert '\n' not in str(e.value)

"""Attention within windows: values, gradients, ranges, refused arguments."""

import functools
from typing import NamedTuple

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import window_attention
from pallas_kernels.types import Norm
from pallas_kernels.window_attention import api
from pallas_kernels.window_attention import pallas_tpu
from pallas_kernels.window_attention import tpu_sums
from pallas_kernels.window_attention import tpu_tiling
from tests.helpers.compare import relative_error
from tests.kernels.ops import interpreted

EPSILON = 1e-6


class Sizes(NamedTuple):
  """Sizes of a call."""

  batch: int = 1
  heads: int = 2
  windows: int = 1
  stride: int = 128
  length: int = 128
  fill: int = 0  # features after v
  padding: int = 0  # tokens after the last window

  @property
  def tokens(self) -> int:
    return (self.windows - 1) * self.stride + self.length + self.padding


def arguments(sizes, scale=1.0, seed=0):
  """Returns qkv, scales and biases of both norms, cosines and sines."""
  rng = np.random.default_rng(seed)
  features = 3 * sizes.heads * 64 + sizes.fill
  qkv = rng.normal(size=(sizes.batch, sizes.tokens, features))
  norms = rng.normal(size=(2, 2, 64)) * 0.2
  norms[:, 0] += 1
  angle = rng.normal(size=(sizes.length, 32)).repeat(2, axis=1)
  return qkv, norms * scale, np.cos(angle), np.sin(angle)


def attend(qkv, norms, cos, sin, *, sizes, implementation):
  return window_attention(
    qkv,
    Norm(*norms[0]),
    Norm(*norms[1]),
    cos,
    sin,
    heads=sizes.heads,
    windows=sizes.windows,
    stride=sizes.stride,
    epsilon=EPSILON,
    implementation=implementation,
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _both_ways(implementation, sizes, qkv, norms, cos, sin, d_out):
  call = functools.partial(
    attend, cos=cos, sin=sin, sizes=sizes, implementation=implementation
  )
  out, pull = jax.vjp(call, qkv, norms)
  return out, *pull(d_out.astype(out.dtype))


def both_ways(implementation, sizes, args, dtype=None):
  """Returns the result and the gradients of qkv and norms."""
  shape = (sizes.batch, sizes.tokens, sizes.heads * 64)
  d_out = np.random.default_rng(1).normal(size=shape)
  args = [jnp.asarray(x, dtype) for x in (*args, d_out)]
  with interpreted(implementation):
    return _both_ways(implementation, sizes, *args)


@pytest.fixture
def small_blocks(monkeypatch):
  """Makes several blocks of queries and keys in both passes."""
  monkeypatch.setattr(tpu_tiling, '_GRANULE', 256)
  monkeypatch.setattr(tpu_tiling, '_FORWARD_QUERIES', 256)
  monkeypatch.setattr(tpu_tiling, '_FORWARD_KEYS', 128)
  monkeypatch.setattr(tpu_tiling, '_BACKWARD_QUERIES', 128)
  monkeypatch.setattr(tpu_tiling, '_BACKWARD_KEYS', 256)
  monkeypatch.setattr(tpu_sums, '_BLOCK_BYTES', 2**16)
  monkeypatch.setattr(tpu_sums, '_FEWEST_ROWS', 8)
  jax.clear_caches()


@pytest.mark.parametrize(
  'sizes',
  [
    Sizes(),
    # Odd numbers of windows and pairs, little in a window but padding.
    Sizes(batch=2, heads=6, windows=3, stride=56, length=90, fill=7, padding=5),
    # Several blocks, one of padding alone; the last window ends the sequence.
    Sizes(heads=4, windows=2, stride=400, length=530, fill=128),
    # Odd numbers of heads.
    Sizes(heads=3, windows=2, stride=96, length=100, fill=64),
    Sizes(heads=1, length=104, stride=104),
    # One window may have any stride.
    Sizes(length=101, stride=90, padding=3),
    # Windows that do not overlap.
    Sizes(windows=3, stride=120, length=120, padding=200),
  ],
)
def test_the_kernels_are_the_definition(sizes, small_blocks):
  with jax.enable_x64(True):
    args = arguments(sizes)
    want, got = (
      both_ways(name, sizes, args, jnp.float64)
      for name in ('reference', 'pallas_tpu')
    )
  for g, w in zip(got, want):
    assert np.isfinite(g).all()
    assert relative_error(g, w) < 1e-12
  # Neither tokens after the last window nor features after v have a gradient.
  end = sizes.tokens - sizes.padding
  assert not got[0][:, end:].any() and not got[1][:, end:].any()
  assert not got[1][..., 3 * sizes.heads * 64 :].any()


@pytest.mark.parametrize('scale', [0, 2.5, 40])
def test_scores_of_any_size(scale, small_blocks):
  """Zero to 10 000 times larger than in a trained model."""
  sizes = Sizes(length=304, stride=304, padding=84)
  with jax.enable_x64(True):
    args = arguments(sizes, scale=scale)
    # All queries point away from all keys: no score comes near the bound.
    args[0][..., 128:256] *= 0.05
    args[0][..., 128:256] -= args[0][:, :1, :128]
    args[0][..., :128] = args[0][:, :1, :128]
    args[2][...], args[3][...] = 1, 0
    want, got = (
      both_ways(name, sizes, args, jnp.float64)
      for name in ('reference', 'pallas_tpu')
    )
  for g, w in zip(got[:2], want):
    assert relative_error(g, w) < 1e-11
  # With the largest scores the weights are 0 or 1, and the gradients of the
  # norms, sums of hundreds of terms, almost cancel.
  np.testing.assert_allclose(got[2], want[2], rtol=1e-11, atol=1e-11)
  narrow = both_ways('pallas_tpu', sizes, args, jnp.float32)
  assert all(np.isfinite(g).all() for g in narrow)
  assert relative_error(narrow[0], want[0]) < 1e-3


def test_the_bound_of_the_scores_holds():
  _, norms, _, _ = arguments(Sizes())
  norms = np.tile(norms.reshape(4, 64), (1, 2))
  tiling = tpu_tiling.make(
    batch=1,
    sequence=128,
    windows=1,
    stride=128,
    length=128,
    heads=2,
    epsilon=0.0,
    dtype=jnp.float32,
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
    tiling, jnp.asarray(norms * np.sqrt(factor), jnp.float32)
  )
  largest = tpu_tiling.LARGEST_SCORE
  assert bounded(0.3 * largest / score) == 1
  assert bounded(1.01 * largest / score) == 0


@pytest.mark.parametrize(
  'stride, length, padding', [(128, 160, 0), (256, 512, 70), (128, 128, 300)]
)
def test_sums_of_windows(stride, length, padding):
  """The kernel against XLA, also for windows of which nothing is shared."""
  sizes = Sizes(2, 2, 3, stride, length, padding=padding)
  tiling = tpu_tiling.make(
    batch=sizes.batch,
    sequence=sizes.tokens,
    windows=sizes.windows,
    stride=stride,
    length=length,
    heads=sizes.heads,
    epsilon=EPSILON,
    dtype=jnp.float32,
  )
  rng = np.random.default_rng(0)
  parts = [
    jnp.asarray(rng.normal(size=tiling.window_shape), jnp.float32)
    for _ in range(3)
  ]
  for count, width, factor in ((1, 128, 0.5), (3, 400, 1.0)):
    args = tiling, parts[:count], width, factor
    want = tpu_sums._sum_by_xla(*args)
    with interpreted('pallas_tpu'):
      got = jax.jit(lambda args=args: tpu_sums.sum_windows(*args))()
    np.testing.assert_array_equal(got, want)


def test_blocks_of_sums():
  # Of the paper's windows: 15 blocks of 1112 rows.
  assert tpu_sums.block_rows(16_680, 2304 * 2) == 1112
  assert tpu_sums.block_rows(8 * 127, 2304 * 2) == 8 * 127
  assert tpu_sums.block_rows(8 * 1009, 2304 * 2) == 8  # Left to XLA.


def test_narrow_tokens():
  sizes = Sizes(batch=2, heads=4, length=250, stride=200, windows=2)
  args = arguments(sizes)
  qkv = jnp.asarray(args[0], jnp.bfloat16)
  rounded = (np.asarray(qkv.astype(jnp.float32)), *args[1:])
  want = both_ways('reference', sizes, rounded, jnp.float32)
  wide = [jnp.asarray(x, jnp.float32) for x in args[1:]]
  got = both_ways('pallas_tpu', sizes, (qkv, *wide))
  assert got[0].dtype == got[1].dtype == jnp.bfloat16
  for g, w in zip(got, want):
    # The definition with bfloat16 tokens has the same error.
    assert relative_error(g.astype(jnp.float32), w) < 1.2e-2


def test_what_follows_a_window_does_not_count():
  """Not even if it is not finite: the kernel reads it as padding."""
  sizes = Sizes(length=100, stride=96, windows=2, padding=60)
  args = arguments(sizes)
  want = both_ways('pallas_tpu', sizes, args, jnp.float32)
  args[0][:, sizes.tokens - sizes.padding :] = np.nan
  got = both_ways('pallas_tpu', sizes, args, jnp.float32)
  for g, w in zip(got, want):
    np.testing.assert_array_equal(g, w)


def test_the_result_can_be_kept(capsys):
  names = api.RESULT, api.LOG_SUMS
  call = jax.checkpoint(
    functools.partial(attend, sizes=Sizes(), implementation='pallas_tpu'),
    policy=jax.checkpoint_policies.save_only_these_names(*names),
  )
  args = [jnp.asarray(x, jnp.float32) for x in arguments(Sizes())]
  jax.ad_checkpoint.print_saved_residuals(call, *args)
  shown = capsys.readouterr().out
  for name in names:
    assert f"named '{name}'" in shown


@pytest.mark.parametrize(
  'change, error',
  [
    (dict(dim=32), NotImplementedError),
    (dict(tokens=200, windows=2, stride=68), NotImplementedError),
    (dict(dtype=jnp.float16), NotImplementedError),
    (dict(features=383), ValueError),
    (dict(windows=0), ValueError),
    (dict(windows=2), ValueError),
    (dict(stride=56), ValueError),
    (dict(stride=136), ValueError),
    (dict(sines=127), ValueError),
    (dict(biases=63), ValueError),
  ],
)
def test_refused_arguments(change, error):
  sizes = dict(heads=2, dim=64, windows=1, stride=128, dtype=jnp.float32)
  sizes['tokens'] = 128
  sizes |= change
  heads, dim = sizes['heads'], sizes['dim']
  weight = jnp.ones(dim)
  features = sizes.get('features', 3 * heads * dim)
  with pytest.raises(error) as e:
    window_attention(
      jnp.zeros((1, sizes['tokens'], features), sizes['dtype']),
      Norm(weight, jnp.ones(sizes.get('biases', dim))),
      Norm(weight, weight),
      jnp.ones((128, dim)),
      jnp.ones((sizes.get('sines', 128), dim)),
      heads=heads,
      windows=sizes['windows'],
      stride=sizes['stride'],
      epsilon=EPSILON,
      implementation='pallas_tpu',
    )
  assert '\n' not in str(e.value)

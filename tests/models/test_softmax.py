"""Attention of kernels (interpreted) and by blocks, against products."""

import functools

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax.models import blockwise_attention
from ttt_jax.models import softmax


def test_blocks_of_windows_in_the_paper():
  assert softmax.padded(18030, 'splash') == 18432
  assert softmax._block(18432, softmax._KEYS) == 6144
  assert softmax._block(18432, softmax._KEYS_BACKWARD) == 2048
  # 37 granules have no divisor; a short window is one granule.
  assert softmax._block(37 * 512, 12) == 512
  assert softmax.padded(300, 'splash') == softmax._block(384, 12) == 384


@pytest.mark.parametrize(
  'length, heads, dim, batch',
  [(700, 4, 64, 1), (384, 3, 40, 2), (300, 1, 160, 1)],
)
def test_values_and_gradients(length, heads, dim, batch, monkeypatch):
  # Several blocks with several parts each, as in long windows.
  monkeypatch.setattr(softmax, '_GRANULE', 128)
  monkeypatch.setattr(softmax, '_KEYS', 3)
  monkeypatch.setattr(softmax, '_KEYS_BACKWARD', 2)
  monkeypatch.setattr(softmax, '_KEYS_AT_ONCE', 128)
  rng = np.random.default_rng(0)
  shape = (batch, softmax.padded(length, 'splash'), heads * dim)
  qkv = [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)]

  def loss(attend, *qkv):
    out = attend(*qkv)[:, :length]
    return jnp.sum(jnp.square(out) * jnp.sin(jnp.arange(heads * dim)))

  def direct(*qkv):  # Without padding.
    q, k, v = (x.reshape(*x.shape[:2], heads, dim) for x in qkv)
    out = jax.nn.dot_product_attention(q, k[:, :length], v[:, :length])
    return out.reshape(shape)

  def splash(q, k, v):
    return softmax.splash(q, k, v, dim, length, interpret=True)

  found, want = (
    jax.jit(jax.value_and_grad(functools.partial(loss, attend), (0, 1, 2)))(
      *qkv
    )
    for attend in (splash, direct)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max()
    ),
    found,
    want,
  )


@pytest.mark.parametrize('reach, is_kept', [(None, True), (100, False)])
def test_results_of_windows_can_be_kept(reach, is_kept, capsys):
  x = jnp.zeros((1, 128, 128))
  names = softmax.RESULT, softmax.LOG_SUMS

  @functools.partial(
    jax.checkpoint,
    policy=jax.checkpoint_policies.save_only_these_names(*names),
  )
  def attend(q, k, v):
    return softmax.splash(q, k, v, 64, 128, reach, interpret=True)

  jax.ad_checkpoint.print_saved_residuals(attend, x, x, x)
  shown = capsys.readouterr().out
  assert shown.count('from the argument') == 3
  for name in names:
    assert (f"named '{name}'" in shown) == is_kept


@pytest.mark.parametrize('dtype', ['float64', 'float32', 'bfloat16'])
def test_products_are_softmax_attention(dtype):
  rng = np.random.default_rng(0)
  with jax.enable_x64(dtype == 'float64'):
    # Large logits, whose exponentials overflow if nothing is subtracted.
    q = jnp.asarray(30 * rng.normal(size=(2, 5, 3, 16)), dtype)
    k, v = (jnp.asarray(rng.normal(size=(2, 7, 3, 16)), dtype) for _ in 'kv')
    mask = rng.random((5, 7)) < 0.5
    mask[:, 2] = True

    def gradients(attend):
      loss = lambda *qkv: jnp.sum(jnp.sin(attend(*qkv).astype(float)))
      return attend(q, k, v), *jax.grad(loss, (0, 1, 2))(q, k, v)

    def direct(q, k, v):
      wide = jnp.promote_types(q.dtype, jnp.float32)
      logits = jnp.einsum('nthd,nshd->nhts', q, k, preferred_element_type=wide)
      logits = jnp.where(mask, logits / 4, -jnp.inf)
      weights = jax.nn.softmax(logits).astype(q.dtype)
      return jnp.einsum('nhts,nshd->nthd', weights, v)

    found = gradients(lambda *qkv: softmax.products(*qkv, mask=mask))
    want = gradients(direct)
  tolerance = {'float64': 1e-12, 'float32': 2e-5, 'bfloat16': 3e-2}[dtype]
  for a, b in zip(found, want):
    assert a.dtype == b.dtype == dtype
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(
  'implementation, unrolled', [('xla', 8), ('xla', 2), ('splash', 8)]
)
@pytest.mark.parametrize('reach', [1, 100, 700])
def test_a_band(reach, implementation, unrolled, monkeypatch):
  monkeypatch.setattr(softmax, '_GRANULE', 128)
  monkeypatch.setattr(softmax, '_BAND_BLOCK', 64)
  # Two blocks of 64 are less than the sequence, which takes the loop.
  monkeypatch.setattr(softmax, '_MOST_UNROLLED', unrolled)
  interpreted = functools.partial(softmax.splash, interpret=True)
  monkeypatch.setattr(softmax, 'splash', interpreted)
  length, heads, dim = 300, 2, 64
  rng = np.random.default_rng(0)
  shape = (1, length, heads * dim)
  qkv = [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)]
  distance = np.arange(length)[:, None] - np.arange(length)
  mask = (distance >= 0) & (distance < reach)

  def direct(*qkv):
    q, k, v = (x.reshape(1, length, heads, dim) for x in qkv)
    out = jax.nn.dot_product_attention(q, k, v, mask=mask[None, None])
    return out.reshape(shape)

  def band(*qkv):
    return softmax.attend_back(*qkv, dim, reach, implementation)

  weight = rng.normal(size=shape)
  found, want = (
    jax.jit(
      jax.value_and_grad(lambda *qkv, f=f: jnp.sum(f(*qkv) * weight), (0, 1, 2))
    )(*qkv)
    for f in (band, direct)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5 * (1 + np.abs(b).max())
    ),
    found,
    want,
  )


@pytest.mark.parametrize('dtype', ['float64', 'float32', 'bfloat16'])
@pytest.mark.parametrize('block', [64, 2**19])
def test_blocks_of_scores_are_softmax_attention(dtype, block, monkeypatch):
  monkeypatch.setattr(blockwise_attention, '_BLOCK', block)
  rng = np.random.default_rng(0)
  with jax.enable_x64(dtype == 'float64'):
    # Large logits, whose exponentials overflow if nothing is subtracted. Blocks
    # of 3 queries do not divide 19.
    q = jnp.asarray(30 * rng.normal(size=(2, 19, 3, 16)), dtype)
    k, v = (jnp.asarray(rng.normal(size=(2, 23, 3, 16)), dtype) for _ in 'kv')

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(attend, q, k, v):
      loss = lambda *qkv: jnp.sum(jnp.sin(attend(*qkv).astype(float)))
      return attend(q, k, v), *jax.grad(loss, (0, 1, 2))(q, k, v)

    found = gradients(blockwise_attention.attend, q, k, v)
    want = gradients(softmax.products, q, k, v)  # Few scores: autodiff.
  tolerance = {'float64': 1e-12, 'float32': 2e-5, 'bfloat16': 3e-2}[dtype]
  for a, b in zip(found, want):
    assert a.dtype == b.dtype == dtype
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def test_many_scores_are_not_kept():
  x = jnp.zeros((1, 257, 16, 8))  # More than 2^20 scores.
  _, pullback = jax.vjp(softmax.products, x, x, x)
  kept = sum(leaf.size for leaf in jax.tree.leaves(pullback))
  # Queries, keys, values, results and their sums.
  assert kept <= 5 * x.size

"""Packing of attention heads."""

import numpy as np
import pytest

from ttt_jax.models import heads as heads_lib
from ttt_jax.models.dit import rope


@pytest.mark.parametrize('tokens', [7, 16])
@pytest.mark.parametrize('number, dim', [(4, 16), (3, 64), (2, 128), (6, 32)])
def test_operations_within_heads(tokens, number, dim):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, tokens, number * dim)).astype(np.float32)
  heads = heads_lib.HeadPacking(number, dim)
  np.testing.assert_array_equal(heads.unpack(heads.pack(x)), x)
  np.testing.assert_array_equal(heads.unpack_groups(heads.pack_groups(x)), x)
  np.testing.assert_array_equal(
    heads.pack_groups(x)[:, 0], x[..., : heads.width]
  )
  split = x.reshape(2, tokens, number, dim)
  total = heads.unpack(heads.sum_per_head(heads.pack(x))).reshape(split.shape)
  np.testing.assert_allclose(
    total,
    np.broadcast_to(split.sum(-1, keepdims=True), split.shape),
    rtol=1e-4,
    atol=1e-5,
  )
  positions = rng.integers(-1, 9, (tokens, 3))
  cos, sin = rope.rotary_cos_sin(positions, dim)
  even, odd = split[..., ::2], split[..., 1::2]
  cos_, sin_ = (np.asarray(y)[:, None, ::2] for y in (cos, sin))
  want = np.stack([even * cos_ - odd * sin_, even * sin_ + odd * cos_], -1)
  rotated = heads.unpack(
    heads.rotate(heads.pack(x), heads.tile_over_lanes((cos, sin)))
  )
  np.testing.assert_allclose(rotated, want.reshape(x.shape), atol=1e-5)


def test_products_for_tpus_equal_the_direct_forms(monkeypatch):
  x = np.random.default_rng(0).normal(size=(1, 8, 6 * 32)).astype(np.float32)
  heads = heads_lib.HeadPacking(6, 32)
  rotary = rope.rotary_cos_sin(np.arange(24).reshape(8, 3), 32)

  def both():
    y = heads.pack(x)
    return heads.sum_per_head(y), heads.rotate(y, heads.tile_over_lanes(rotary))

  plain = both()
  monkeypatch.setattr(
    heads_lib.jax.lax, 'platform_dependent', lambda y, tpu, default: tpu(y)
  )
  for a, b in zip(plain, both()):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

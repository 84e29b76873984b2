"""The network on every mesh of eight devices, and its lengths and orders."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from ttt_jax import sharding
from ttt_jax.models import heads as heads_lib
from ttt_jax.models.dit import rope

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
  'mixer, segments, sizes',
  [
    ('ttt_linear', 2, (2, 1)),
    pytest.param('ttt_linear', 2, (8, 4), marks=pytest.mark.slow),
    pytest.param('ttt_mlp', 3, (8, 4, 2, 1), marks=pytest.mark.slow),
  ],
)
def test_every_mesh_gives_what_one_device_gives(mixer, segments, sizes):
  out = subprocess.run(
    [
      sys.executable,
      '-m',
      'tests.models.meshes',
      mixer,
      str(segments),
      *map(str, sizes),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    env=dict(os.environ, XLA_FLAGS='--xla_force_host_platform_device_count=8'),
  )
  assert out.returncode == 0, out.stderr
  # Nothing in training is copied to all devices because a split was not said.
  copied = r'Involuntary full rematerialization.*jit\(losses\)'
  assert not re.search(copied, out.stderr), out.stderr
  report = json.loads(out.stdout)
  assert len(report) == len(sizes)
  for mesh, errors in report.items():
    assert {'loss', 'sample', 'layers/seq/ttt/w1'} <= set(errors)
    assert max(errors.values()) < 1e-5, (mesh, errors)


@pytest.mark.parametrize('tokens', [7, 16])
@pytest.mark.parametrize('number, dim', [(4, 16), (3, 64), (2, 128), (6, 32)])
def test_arithmetic_inside_heads(tokens, number, dim):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, tokens, number * dim)).astype(np.float32)
  heads = heads_lib.Heads(number, dim)
  np.testing.assert_array_equal(heads.tokens(heads.view(x)), x)
  np.testing.assert_array_equal(heads.ungroup(heads.groups(x)), x)
  np.testing.assert_array_equal(heads.groups(x)[:, 0], x[..., : heads.width])
  split = x.reshape(2, tokens, number, dim)
  total = heads.tokens(heads.total(heads.view(x))).reshape(split.shape)
  np.testing.assert_allclose(
    total,
    np.broadcast_to(split.sum(-1, keepdims=True), split.shape),
    rtol=1e-4,
    atol=1e-5,
  )
  positions = rng.integers(-1, 9, (tokens, 3))
  cos, sin = rope.turns(positions, dim)
  even, odd = split[..., ::2], split[..., 1::2]
  cos_, sin_ = (np.asarray(y)[:, None, ::2] for y in (cos, sin))
  want = np.stack([even * cos_ - odd * sin_, even * sin_ + odd * cos_], -1)
  turned = heads.tokens(heads.rotate(heads.view(x), heads.spread((cos, sin))))
  np.testing.assert_allclose(turned, want.reshape(x.shape), atol=1e-5)


def test_the_products_of_a_tpu_are_the_plain_forms(monkeypatch):
  x = np.random.default_rng(0).normal(size=(1, 8, 6 * 32)).astype(np.float32)
  heads = heads_lib.Heads(6, 32)
  turns = rope.turns(np.arange(24).reshape(8, 3), 32)

  def both():
    y = heads.view(x)
    return heads.total(y), heads.rotate(y, heads.spread(turns))

  plain = both()
  monkeypatch.setattr(
    heads_lib.jax.lax, 'platform_dependent', lambda y, tpu, default: tpu(y)
  )
  for a, b in zip(plain, both()):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_lengths_and_heads_that_do_not_split():
  one = sharding.Layout()
  assert one.padded(35, 16) == 35
  one.check_heads(7)
  # Sizes only: no device is needed.
  layout = sharding.Layout(jax.sharding.AbstractMesh((1, 4), sharding.AXES))
  assert [layout.padded(n, 16) for n in (1, 64, 65)] == [64, 64, 128]
  layout.check_heads(8)
  with pytest.raises(ValueError, match='6 heads.* 4 devices.*; 2 would do'):
    layout.check_heads(6)

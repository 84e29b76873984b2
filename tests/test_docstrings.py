"""Examples in docstrings and on pages print what they say."""

import doctest
import importlib
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import inner_loop

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODULES = sorted(
  path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')
  for package in ('ttt_jax', 'pallas_kernels')
  for path in (ROOT / package).rglob('*.py')
  if '  >>> ' in path.read_text()
)
PAGES = sorted(
  path.relative_to(ROOT).as_posix()
  for path in (ROOT / 'docs').rglob('*.md')
  if '\n>>> ' in path.read_text()
)


def test_the_main_names_have_examples():
  assert 'ttt_jax.geometry' in MODULES
  assert 'ttt_jax.storyboard' in MODULES
  assert len([m for m in MODULES if m.startswith('pallas_kernels')]) > 4


@pytest.mark.parametrize('name', MODULES)
def test_docstrings(name):
  assert not doctest.testmod(importlib.import_module(name)).failed


@pytest.mark.parametrize('name', PAGES)
def test_pages(name):
  done = doctest.testfile(str(ROOT / name), module_relative=False)
  assert done.attempted and not done.failed


def test_the_layer_by_hand_is_the_definition():
  page = (ROOT / 'docs/layer.md').read_text()
  scope = {}
  exec(re.search(r'```python\n(.*?)```', page, re.S)[1], scope)
  q, k, v = jax.random.normal(jax.random.key(0), (3, 128, 16))
  tokens = q, k, v, jnp.full(128, 0.01)
  out, state = scope['ttt_layer'](jnp.eye(16), *tokens)
  expected, last = inner_loop.inner_loop(
    lambda w, x: x @ w,
    jnp.eye(16)[None, None],
    *(x[None, None] for x in tokens),
    jnp.ones((1, 16)),
    jnp.zeros((1, 16)),
    mini_batch=64,
  )
  np.testing.assert_allclose(out, expected[0, 0], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(state, last[0, 0], rtol=1e-4, atol=1e-4)

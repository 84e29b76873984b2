"""A missing package is one line that names the extra, which exists."""

import pathlib
import re
import tomllib

import pytest

from ttt_jax.runtime import cli
from ttt_jax.runtime import extras

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_a_missing_package_names_its_extra():
  extras.require('json', 'gcs', 'gs://b/run')
  with pytest.raises(ValueError) as e:
    extras.require('nowhere', 'gcs', 'gs://b/run')
  assert str(e.value) == (
    'gs://b/run needs nowhere, which is not installed:'
    ' pip install "ttt_jax[gcs]"'
  )


def test_a_missing_backend_names_its_extra(monkeypatch):
  monkeypatch.setitem(extras._BACKENDS, 'tpu', (('nowhere',), 'tpu'))
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  assert extras.missing_backend() is None
  assert cli.describe(AssertionError()) is None
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu,tpu')
  assert cli.describe(AssertionError()) == (
    'JAX_PLATFORMS is cpu,tpu, but JAX has no backend for tpu:'
    ' pip install "ttt_jax[tpu]", or unset it'
  )
  assert cli.describe(TypeError()) is None


def test_extras_that_are_named_exist():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  known = project['optional-dependencies']
  assert {'tpu', 'cuda12', 'cuda13', 'notebooks', 'docs', 'test'} <= set(known)
  pages = [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')]
  named = set()
  for path in [*(ROOT / 'ttt_jax').rglob('*.py'), *pages]:
    text = path.read_text()
    named |= set(re.findall(r'ttt_jax\[([\w,]+)\]', text))
    named |= set(re.findall(r"extras\.require\(\s*'\w+',\s*'(\w+)'", text))
    named |= set(re.findall(r'install_command\([\'"](\w+)', text))
  named = {extra for names in named for extra in names.split(',')}
  assert named and named <= set(known), named - set(known)

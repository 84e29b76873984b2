"""Shared fixtures."""

import gc
import os
import pathlib

import pytest

from tests.helpers import compiler
from tests.helpers import fake_bucket
from ttt_jax.train import metrics

_GOLDEN = pathlib.Path(
  os.environ.get(
    'TTT_JAX_GOLDEN',
    pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'golden',
  )
)


# Tracing makes many objects that live long. By default the collector starts
# after 700: 7 % of the processor time of a file of kernels' tests.
gc.set_threshold(50_000, 20, 100)


def pytest_collection_modifyitems(items):
  """Puts tests that need a backend of their own last; marks parity tests."""
  items.sort(key=lambda item: 'devices' in item.path.parts)
  for item in items:
    if 'parity' in item.path.parts:  # Compares with numbers of PyTorch.
      item.add_marker(pytest.mark.optimized)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
  """Compiles for tests marked `optimized` at the default level."""
  if item.get_closest_marker('optimized') is None:
    return (yield)
  with compiler.level(optimized=True):
    return (yield)


@pytest.fixture(scope='session', autouse=True)
def _undrawn_losses():
  """Runs leave an empty losses.png: a drawing takes longer than a tiny run."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      metrics, 'plot', lambda folder: (folder / metrics.PLOT).touch()
    )
    yield


@pytest.fixture(scope='session')
def golden():
  """Returns a function: name -> path of a reference file, or skips."""

  def path(name: str) -> pathlib.Path:
    if not (_GOLDEN / name).exists():
      pytest.skip(
        f'reference file {name} is not in {_GOLDEN}; set TTT_JAX_GOLDEN to'
        ' the folder of reference numbers'
      )
    return _GOLDEN / name

  return path


@pytest.fixture(scope='session')
def fixtures() -> pathlib.Path:
  """The folder of small reference numbers that belongs to the project."""
  return pathlib.Path(__file__).resolve().parent / 'fixtures'


@pytest.fixture
def bucket(monkeypatch):
  """An empty gs://bucket, to this process and to those it starts."""
  with fake_bucket.Server() as server:
    for name, value in server.environment.items():
      monkeypatch.setenv(name, value)
    yield server
  assert not server.unknown

"""Shared parts of the comparisons with PyTorch, which they need."""

import pytest

torch = pytest.importorskip(
  'torch', reason='PyTorch is not here; `make parity` brings it'
)


@pytest.fixture(autouse=True)
def no_gradients():
  """Disables gradients in PyTorch."""
  with torch.no_grad():
    yield

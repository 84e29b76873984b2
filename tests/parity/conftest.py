"""What all comparisons with PyTorch share; without it they are skipped."""

import pytest

torch = pytest.importorskip(
  'torch', reason='PyTorch is not here; `make parity` brings it'
)


@pytest.fixture(autouse=True)
def no_gradients():
  """Nothing here is differentiated by PyTorch."""
  with torch.no_grad():
    yield

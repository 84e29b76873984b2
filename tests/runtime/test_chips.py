"""ttt_jax/runtime/chips.py: peak rates by kind of device."""

import pytest

from ttt_jax.runtime import chips


@pytest.mark.parametrize(
  'kind, peak',
  [
    ('TPU v5 lite', 197e12),
    ('TPU v5p', 459e12),
    ('TPU v6 lite', 918e12),
    ('NVIDIA H100 80GB HBM3', 989e12),
    ('cpu', None),
  ],
)
def test_peak_flops(kind, peak):
  assert chips.peak_flops(kind) == peak

"""Facts about accelerators, from the vendors' public specifications."""

from __future__ import annotations

# Dense bfloat16 FLOP/s by a part of `jax.Device.device_kind`. The first match
# counts.
PEAK_FLOPS = {
  'TPU7x': 1153.5e12,  # of one of the chip's two devices
  'TPU v6': 918e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5': 459e12,
  'TPU v4': 275e12,
  'B200': 2250e12,
  'H200': 989e12,
  'H100 PCIe': 756e12,
  'H100': 989e12,
  'A100': 312e12,
  'L40S': 362e12,
  'L4': 121e12,
}

# Smallest side of a slice of TPUs whose ends are linked, likewise.
RINGS = {
  'TPU7x': 4,
  'TPU v6': 16,
  'TPU v5 lite': 16,
  'TPU v5e': 16,
  'TPU v5': 4,
  'TPU v4': 4,
}


def peak_flops(device_kind: str) -> float | None:
  """Returns the peak FLOP/s of a kind of device, None if it is unknown."""
  return next((v for k, v in PEAK_FLOPS.items() if k in device_kind), None)


def ring(device_kind: str) -> int | None:
  """Returns the smallest ring of a kind of device, None if it is unknown."""
  return next((v for k, v in RINGS.items() if k in device_kind), None)

"""Every implementation with its heads over 8 simulated devices."""

import json
import os
import pathlib
import subprocess
import sys


def test_heads_over_8_devices_equal_one():
  result = subprocess.run(
    [sys.executable, '-m', 'tests.kernels.sharded'],
    cwd=pathlib.Path(__file__).resolve().parents[2],
    env=dict(os.environ, XLA_FLAGS='--xla_force_host_platform_device_count=8'),
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  errors = json.loads(result.stdout.splitlines()[-1])
  assert len(errors) == 6, errors
  assert all(error < 2e-5 for error in errors.values()), errors

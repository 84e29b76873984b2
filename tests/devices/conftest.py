"""Eight simulated devices for the tests of this folder, and for them alone.

With more than one device some code takes another path than the one that most
users run, which all other tests take.
"""

import jax
from jax.extend import backend
import pytest


def _restart(devices: int) -> None:
  backend.clear_backends()
  jax.config.update('jax_num_cpu_devices', devices)


@pytest.fixture(scope='package', autouse=True)
def eight_devices():
  _restart(8)
  assert jax.device_count() == 8
  yield
  _restart(1)

"""A bucket instead of a folder, by the same code, against an emulator of one.

Needs packages that training on a disk does not:

    pip install gcsfs gcp-storage-emulator

The emulator names no generations of objects as TensorStore wants them, so that
checkpoints, which Orbax writes by TensorStore, cannot be tested with it.
"""

import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip('gcsfs')
pytest.importorskip('gcp_storage_emulator')
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = """
from etils import epath
from ttt_jax.train import goodput, metrics, saved
stage = epath.Path('gs://bucket/runs/3s')
for start in (0, 4):
  with metrics.Writer(stage, start) as writer:
    for step in range(start + 1, start + 7):
      writer.write(step, dict(loss=float(step)))
    writer.plot()
  cost = goodput.Goodput(stage, start, 1.0)
  cost.finished(start + 6)
  cost.close(done=False)
print([row['step'] for row in metrics.read(stage)])
print(cost.row()['goodput/starts'], saved.steps(stage))
print(sorted(p.name.split('.')[0] for p in stage.iterdir()))
"""


@pytest.fixture
def environment():
  with socket.create_server(('localhost', 0)) as free:
    port = free.getsockname()[1]
  server = subprocess.Popen(
      [
          sys.executable, '-m', 'gcp_storage_emulator', 'start', '--in-memory',
          '--host=localhost', f'--port={port}', '--default-bucket=bucket',
      ],
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  )  # pyformat: disable
  end = time.monotonic() + 30
  while time.monotonic() < end:
    try:
      socket.create_connection(('localhost', port)).close()
      break
    except OSError:
      time.sleep(0.1)
  where = f'http://localhost:{port}'
  yield dict(
      os.environ, JAX_PLATFORMS='cpu', STORAGE_EMULATOR_HOST=where,
      TENSORSTORE_GCS_HTTP_URL=where, NO_GCE_CHECK='true',
      PYTHONPATH=str(ROOT),
  )  # pyformat: disable
  server.kill()
  server.wait()


def test_what_is_beside_the_checkpoints(environment):
  done = subprocess.run(
      [sys.executable, '-c', SCRIPT], cwd=ROOT, env=environment, text=True,
      check=False, capture_output=True,
  )  # pyformat: disable
  assert done.returncode == 0, done.stderr
  rows, starts, names = done.stdout.splitlines()
  assert rows == str(list(range(1, 11)))
  assert starts == '2 []'
  assert names == "['events', 'events', 'goodput', 'losses', 'metrics']"
  assert not (ROOT / 'gs:').exists()

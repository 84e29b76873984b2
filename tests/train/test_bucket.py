"""Training in a bucket, by the same code, against an emulator of one.

Needs packages that training on a disk does not:

    pip install gcsfs gcp-storage-emulator
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
LOOK = """
from ttt_jax.train import checkpoint, goodput, metrics
folder = 'gs://bucket/runs'
stage = checkpoint.stage_folder(folder)
params, config = checkpoint.load_params(folder)
print(stage, config.steps, sorted(params), len(metrics.read(stage)))
print(sorted(p.name for p in stage.iterdir()))
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


def test_a_run_in_a_bucket_goes_on_and_is_read(environment):
  train = [
      sys.executable, '-m', 'tests.train.stand_in',
      '--config=tests/train/tiny_config.py', '--workdir=gs://bucket/runs',
  ]  # pyformat: disable
  run = dict(
      cwd=ROOT, env=environment, text=True, check=False, capture_output=True
  )
  done = subprocess.run(train, **run)
  assert done.returncode == 0, done.stderr
  assert 'training one: 12/12' in done.stdout
  done = subprocess.run(train, **run)
  assert 'gs://bucket/runs/one after step 12' in done.stdout, done.stderr
  done = subprocess.run([sys.executable, '-c', LOOK], **run)
  found, names = done.stdout.splitlines()
  assert found == "gs://bucket/runs/one 12 ['embed', 'layers', 'readout'] 6"
  for name in ('checkpoints', 'goodput.json', 'losses.png', 'metrics.jsonl'):
    assert f"'{name}'" in names
  assert not (ROOT / 'gs:').exists()

"""Which Python make accepts."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
  'version, is_supported',
  [((3, 10), False), ((3, 11), True), ((3, 14), True), ((3, 15), False)],
)
def test_versions_of_python(tmp_path, version, is_supported):
  """A Python of another version, which makes no environment."""
  fake = tmp_path / 'python'
  fake.write_text(
    f'#!/bin/sh\n[ "$1" = -c ] || exit 7\nexec {sys.executable} -S -c'
    f' \'import sys; sys.version_info = {version}; exec(sys.argv[1])\' "$2"\n'
  )
  fake.chmod(0o755)
  done = subprocess.run(
    ['make', f'PYTHON={fake}', f'VENV={tmp_path}/venv', 'format'],
    cwd=ROOT,
    env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode
  refused = f"error: ttt_jax needs Python 3.11 to 3.14, not '{fake}'"
  assert (refused in done.stderr) != is_supported, done.stderr
  # One that is accepted was called to make the environment.
  assert ('Error 7' in done.stderr) == is_supported, done.stderr

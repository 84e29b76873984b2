"""Which Python make accepts, and the address that it sets."""

import os
import pathlib
import shutil
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


def test_address(tmp_path):
  for name in ('Makefile', 'README.md', 'pyproject.toml', 'docs/annotate.md'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / name, tmp_path / name)
  # What a hook of Git sets would name another repository.
  environment = {k: v for k, v in os.environ.items() if k[:4] != 'GIT_'}

  def run(*command):
    return subprocess.run(
      command,
      cwd=tmp_path,
      env=environment,
      capture_output=True,
      text=True,
      check=False,
    )

  run('git', 'init')
  run('git', 'add', '.')
  refused = run('make', 'address')
  assert "REPOSITORY is ''; expected an address" in refused.stderr
  for place in ('me/ttt_jax', 'us/video.jax'):
    done = run('make', 'address', f'REPOSITORY=https://github.com/{place}')
    assert not done.returncode, done.stderr
    for name in ('README.md', 'pyproject.toml', 'docs/annotate.md'):
      text = (tmp_path / name).read_text()
      assert f'https://github.com/{place}"' in text
      assert 'OWNER' not in text

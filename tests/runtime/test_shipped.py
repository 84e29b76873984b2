"""Recipes and storyboards are found by name; a path wins."""

import os
import shutil

import pytest

from tests.helpers import commands
from ttt_jax import storyboard
from ttt_jax.runtime import shipped


def test_a_recipe_by_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  file = os.fspath(shipped.folder() / 'quickstart.py')
  assert shipped.resolve_config('quickstart') == file
  assert shipped.resolve_config('quickstart:9s,none') == f'{file}:9s,none'
  assert shipped.resolve_config('configs/quickstart.py:9s') == f'{file}:9s'
  for value in ('quickstart', 'quickstart:9s,none', 'mine/quickstart.py:9s'):
    path = value if '/' in value else shipped.resolve_config(value)
    assert shipped.short_config(path) == value
  assert shipped.resolve_config('ttt-video:63s').endswith('ttt_video.py:63s')
  # A file of that name wins.
  (tmp_path / 'quickstart').write_text('')
  assert shipped.resolve_config('quickstart:9s') == 'quickstart:9s'
  (tmp_path / 'configs').mkdir()
  shutil.copy(file, tmp_path / 'configs')
  own = 'configs/quickstart.py:9s'
  assert shipped.resolve_config(own) == own


@pytest.mark.parametrize(
  'value, message',
  [
    ('quikstart:9s', 'quikstart is neither .*; did you mean quickstart'),
    ('configs/quick_start.py', 'did you mean quickstart'),
    ('zzz', 'expected one of .*cogvideox, .*quickstart, ttt_video'),
    ('../configs/quickstart.py', 'did you mean quickstart'),
    ('configs', 'configs is neither'),
    ('', '--config is empty; name a file, or one of .*quickstart, '),
  ],
)
def test_unknown_recipes(value, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=message):
    shipped.resolve_config(value)


def test_flags_override_values_of_a_recipe(tmp_path):
  for flags in (
    ['--config=quickstart:9s', '--config.steps=7'],
    ['--config', 'quickstart:9s', '--config.steps=7'],
  ):
    done = commands.run(
      'ttt_jax.train', *flags, '--config.stage=mine', '--dry_run', cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert 'quickstart, stage mine' in done.stdout


def test_storyboards_that_recipes_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = 'configs/storyboards/quickstart_3s.json'
  names = [b.name for b in storyboard.load_storyboards(path)]
  assert 'bikes' in names
  assert storyboard.Storyboard.load(f'{path}#bikes').name == 'bikes'
  with pytest.raises(FileNotFoundError, match='nope.json does not exist'):
    storyboard.load_storyboards('configs/storyboards/nope.json')
  for name in ('quickstart_3s', 'quickstart-3s'):  # By the name alone.
    assert [b.name for b in storyboard.load_storyboards(name)] == names
  assert storyboard.Storyboard.load('quickstart_3s#bikes').name == 'bikes'
  with pytest.raises(FileNotFoundError, match='nope does not exist; name a'):
    storyboard.load_storyboards('nope')
  for near in ('one_minut', 'one-minute.json', 'configs/storyboards/minute'):
    with pytest.raises(FileNotFoundError, match='; did you mean one_minute'):
      storyboard.load_storyboards(near)
  (tmp_path / 'configs/storyboards').mkdir(parents=True)
  (tmp_path / path).write_text('["mine"]')
  (own,) = storyboard.load_storyboards(path)
  assert own.segments[0].text == 'mine'

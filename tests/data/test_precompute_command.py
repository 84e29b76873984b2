"""`python -m ttt_jax.precompute`: runs, checks, and its errors."""

import json
import subprocess
import sys

import pytest

from tests.data.stand_in import FakeText
from tests.data.stand_in import FakeVAE
from tests.data.stand_in import GEOMETRY
from ttt_jax import geometry as geometry_lib
from ttt_jax import precompute as entry
from ttt_jax.data import encoders


CONFIG = """
import ml_collections
def get_config(stage='x'):
  return ml_collections.ConfigDict(dict(
      data=dict(
          storyboards={board!r}, videos={videos!r},
          folder='{{workdir}}/data/' + stage,
          seconds=3, fps=16, height=16, width=32),
      vae=dict(folder={videos!r}), text=dict(folder={videos!r}, length=5),
      model=dict(mini_batch=8)))
"""


@pytest.fixture(name='config')
def _config(videos, tmp_path, monkeypatch):
  """A configuration whose models are stand-ins."""
  board = tmp_path / 'board.json'
  board.write_text(json.dumps([
      {'name': n, 'segments': [{'text': 't', 'video': f'{n}.mp4'}] * 2}
      for n in 'abc'
  ]))
  path = tmp_path / 'config.py'
  path.write_text(CONFIG.format(board=str(board), videos=str(videos)))
  scope = {}
  exec(path.read_text(), scope)  # pylint: disable=exec-used
  monkeypatch.setattr(
      encoders.CausalVideoEncoder, 'load', lambda folder: FakeVAE()
  )
  monkeypatch.setattr(
      entry.text_lib, 'load_text_encoder', lambda folder, length: FakeText()
  )
  monkeypatch.setattr(
      geometry_lib.Geometry, 'from_seconds', lambda *a, **k: GEOMETRY
  )
  return scope['get_config']()


def test_run_and_check(config, videos, tmp_path, capsys):
  (videos / 'b.mp4').write_text('garbage')
  entry.run(config, str(tmp_path / 'w'))
  out = capsys.readouterr().out
  folder = tmp_path / 'w' / 'data' / 'x'
  assert f'wrote {folder}: 2 clips' in out
  assert 'left out 1 clips' in out and 'b: ' in out
  entry.check(config, str(tmp_path / 'w'))
  assert 'all 2 clips are whole' in capsys.readouterr().out
  (chunk,) = [
      p for p in (folder / 'mean' / 'c' / '2').rglob('*') if p.is_file()
  ]
  chunk.write_bytes(chunk.read_bytes()[:-4])
  with pytest.raises(ValueError, match="1 of 2 clips .*damaged: clip 'c'"):
    entry.check(config, str(tmp_path / 'w'))


def test_a_missing_field_is_named(config, tmp_path):
  del config.data['videos']
  with pytest.raises(ValueError, match='no data.videos'):
    entry.run(config, str(tmp_path))


def test_the_command_prints_one_line_and_exits_with_2(config, tmp_path):
  done = subprocess.run(
      [
          sys.executable, '-m', 'ttt_jax.precompute',
          f'--config={tmp_path / "config.py"}:y', f'--workdir={tmp_path}',
          '--config.data.storyboards=none.json',
      ],
      capture_output=True, text=True, check=False,
  )
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == 'error: none.json does not exist'
  assert 'Traceback' not in done.stderr

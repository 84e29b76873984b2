"""`python -m ttt_jax.precompute`: runs, `--check`, and errors."""

import json
import pathlib

import pytest

from tests.helpers import commands
from tests.helpers.fake_encoders import FakeText
from tests.helpers.fake_encoders import FakeVAE
from tests.helpers.fake_encoders import GEOMETRY
from ttt_jax import geometry as geometry_lib
from ttt_jax import precompute as entry
from ttt_jax.encoders import video_encoder
from ttt_jax.runtime import progress

CONFIG = """
import ml_collections
def get_config(stage='x'):
  return ml_collections.ConfigDict(dict(
      data=dict(
          storyboards={board!r}, videos={videos!r},
          folder='{{workdir}}/data/' + stage,
          seconds=3, fps=16, height=16, width=32, stride=0.0),
      vae=dict(folder={videos!r}), text=dict(folder={videos!r}, length=5),
      model=dict(mini_batch=8)))
"""


@pytest.fixture(name='config')
def _config(videos, tmp_path, monkeypatch):
  """Returns a configuration with fake encoders."""
  board = tmp_path / 'board.json'
  board.write_text(
    json.dumps(
      [
        {'name': n, 'segments': [{'text': 't', 'video': f'{n}.mp4'}] * 2}
        for n in 'abc'
      ]
    )
  )
  path = tmp_path / 'config.py'
  path.write_text(CONFIG.format(board=str(board), videos=str(videos)))
  scope = {}
  exec(path.read_text(), scope)
  monkeypatch.setattr(
    video_encoder.CausalVideoEncoder, 'load', lambda folder, **_: FakeVAE()
  )
  monkeypatch.setattr(
    entry.text_lib,
    'load_text_encoder',
    lambda folder, length, **_: FakeText(),
  )
  monkeypatch.setattr(
    entry.text_lib,
    'load_tokenizer',
    lambda folder, truncate_to=None: (
      FakeText().tokenize,
      FakeText.scene_token_ids,
    ),
  )
  monkeypatch.setattr(
    geometry_lib.Geometry, 'from_seconds', lambda *a, **k: GEOMETRY
  )
  return scope['get_config']()


def test_no_long_step_is_silent(config, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(progress, '_LONG', -1.0)  # Everything is long.
  entry.run(config, str(tmp_path / 'w'))
  out = capsys.readouterr().out
  for step in (
    'reading captions and videos',
    'checking videos',
    'encode clips',
  ):
    assert f'{step}: ' in out
  assert out.index('loading the encoders: ') < out.index('encode clips: ')


def test_run_and_check(config, videos, tmp_path, capsys):
  (videos / 'b.mp4').write_text('garbage')
  entry.run(config, str(tmp_path / 'w'))
  out = capsys.readouterr().out
  folder = tmp_path / 'w' / 'data' / 'x'
  assert f'wrote {folder}: 2 clips' in out
  assert 'left out 1 clip' in out and 'b: ' in out
  saved = json.loads((folder / 'config.json').read_text())
  assert saved['data']['folder'] == '{workdir}/data/x'
  entry.check(config, str(tmp_path / 'w'))
  out = capsys.readouterr().out
  assert 'read 2 clips' in out and 'all clips are complete' in out
  for row in (0, 2):
    (chunk,) = [
      p for p in (folder / 'mean' / 'c' / f'{row}').rglob('*') if p.is_file()
    ]
    chunk.write_bytes(chunk.read_bytes()[:-4])
  with pytest.raises(ValueError, match='2 problems in .*clips/ROW.json'):
    entry.check(config, str(tmp_path / 'w'))
  out = capsys.readouterr().out
  assert "clip 'a' (row 0): mean cannot be read" in out
  assert "clip 'c' (row 2): mean cannot be read" in out


def test_check_without_captions_and_tokenizer(config, tmp_path, capsys):
  entry.run(config, str(tmp_path / 'w'))
  config.data.storyboards = 'gone.json'
  config.text.folder = str(tmp_path / 'gone')
  entry.check(config, str(tmp_path / 'w'))
  out = capsys.readouterr().out
  assert 'captions are not compared: gone.json does not exist' in out
  assert 'tokens are not counted' in out and 'all clips are complete' in out


def test_processes_share_the_clips(config, tmp_path, capsys):
  assert entry.run(config, str(tmp_path / 'w'), 1, 2) is None
  out = capsys.readouterr().out
  assert 'process      1 of 2' in out and 'are not finished' in out
  assert len(entry.run(config, str(tmp_path / 'w'), 0, 2).clips) == 3


def test_clips_may_overlap_by_segments(config, tmp_path, capsys):
  board = tmp_path / 'long.json'
  board.write_text(
    json.dumps(
      [{'text': f't{i}', 'video': 'a.mp4', 'start': i / 2} for i in range(5)]
    )
  )
  config.data.storyboards = str(board)
  config.data.stride = 0.5
  manifest = entry.run(config, str(tmp_path / 'w'))
  assert [c['name'] for c in manifest.clips] == [
    'long@0s',
    'long@0.5s',
    'long@1s',
    'long@1.5s',
  ]
  assert '5 segments make 4 clips' in capsys.readouterr().out
  config.data.stride = 0.75
  with pytest.raises(ValueError, match='0.75 s; .* multiples of 0.5 s'):
    entry.run(config, str(tmp_path / 'w'))


def test_texts_are_counted_before_any_weights_are_read(config, tmp_path):
  board = pathlib.Path(config.data.storyboards)
  board.write_text(board.read_text().replace('"t"', '"two words"'))
  config.text.length = 1
  with config.unlocked():
    config.vae.folder = str(tmp_path / 'no_vae')
  message = '6 texts are too long: .* has 2 tokens; at most 1 fit.* or cut the'
  with pytest.raises(ValueError, match=message):
    entry.run(config, str(tmp_path))


def test_everything_is_checked_before_any_weights_are_read(config, tmp_path):
  """Videos, names and folders that cannot be written."""
  with config.unlocked():
    config.vae.folder = str(tmp_path / 'no_vae')
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='file/data/x cannot be written: Not a'):
    entry.run(config, str(tmp_path / 'file'))
  with config.unlocked():
    config.text.cache = str(tmp_path / 'file')
  with pytest.raises(ValueError, match='file cannot be written: Not a dir'):
    entry.run(config, str(tmp_path / 'w'))
  config.text.cache = ''
  board = tmp_path / 'board.json'
  boards = json.loads(board.read_text())
  boards.append({'name': 'd', 'segments': ['t', 't']})
  board.write_text(json.dumps(boards + boards))
  message = "6 problems: 2 storyboards have the name 'a'; give .*no .video"
  with pytest.raises(ValueError, match=message):
    entry.run(config, str(tmp_path / 'w'))
  for video in tmp_path.glob('videos/*'):
    video.unlink()
  with pytest.raises(FileNotFoundError, match='3 of 3 videos cannot be used'):
    entry.run(config, str(tmp_path / 'w'))
  assert not (tmp_path / 'w').exists()


def test_texts_may_be_cut(config, tmp_path, capsys):
  board = tmp_path / 'board.json'
  segments = [{'text': 'a b c d e f', 'video': 'a.mp4'}, 'g h i j k l m']
  segments[1] = {'text': segments[1], 'video': 'b.mp4', 'scene': 1}
  board.write_text(json.dumps({'segments': segments}))
  with pytest.raises(ValueError, match='2 texts .* --config.text.truncate=T'):
    entry.run(config, str(tmp_path / 'w'))
  with config.unlocked():
    config.text.truncate = True
  with pytest.raises(ValueError, match='2 texts are too long'):
    entry.run(config, str(tmp_path / 'w'))  # The fake encoder cuts nothing.
  assert '2 texts are cut to 5 tokens' in capsys.readouterr().out


def test_a_missing_field_is_named(config, tmp_path):
  del config.data['videos']
  with pytest.raises(ValueError, match='no data.videos'):
    entry.run(config, str(tmp_path))


@pytest.mark.parametrize(
  'flags, message',
  [
    (
      ['--config.data.storyboards=none.json'],
      'none.json does not exist; name a file of captions with'
      ' --config.data.storyboards=FILE',
    ),
    (
      ['--process_id=2', '--num_processes=2'],
      '--num_processes is 2 and --process_id is 2; give both, at least one'
      ' process and an index from 0 to N-1, for example 2 and 0',
    ),
  ],
)
def test_the_command_prints_one_line_and_exits_with_2(
  config, tmp_path, flags, message
):
  done = commands.run(
    'ttt_jax.precompute',
    f'--config={tmp_path / "config.py"}:y',
    f'--workdir={tmp_path}',
    *flags,
  )
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == f'error: {message}'
  assert 'Traceback' not in done.stderr

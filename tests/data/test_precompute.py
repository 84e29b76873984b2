"""Storyboards to data sets: joins, interruptions, damaged sources."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

from flax import linen as nn
import numpy as np
import pytest

from ttt_jax import geometry as geometry_lib
from ttt_jax import precompute as entry
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import encoders
from ttt_jax.data import latents
from ttt_jax.data import manifest as manifest_lib
from ttt_jax.data import precompute as precompute_lib
from ttt_jax.data import shots

# 2 latent frames a segment: the first has 9 pixel frames, the others 8.
GEOMETRY = geometry_lib.Geometry(
    frames=17, height=16, width=32, fps=16, text_length=5, mini_batch=8,
    segment_latent_frames=2,
)


class FakeVAE:
  """Means of the pixels; `calls` counts, `stop_at` interrupts a call."""

  identity = 'fake:1'
  scale = 1.0

  def __init__(self, stop_at=None):
    self.calls = 0
    self.stop_at = stop_at

  def encode(self, frames):
    self.calls += 1
    if self.calls == self.stop_at:
      raise KeyboardInterrupt
    assert frames.dtype == np.uint8 and frames.shape == (17, 16, 32, 3)
    mean = frames[::4, ::8, ::8, :].astype(np.float32) / 255
    return mean, np.full_like(mean, -3)


class FakeText:
  """One token a word; token i of a text of n words holds i + n / 10."""

  identity = 'fake-text:1'
  scene_token_ids = (1, 2)
  width = 4
  text_length = 5

  def __init__(self):
    self.batches = []

  def count_tokens(self, text):
    return len(text.split())

  def encode(self, texts):
    self.batches.append(list(texts))
    out = np.zeros((len(texts), 5, 4), np.float32)
    for line, text in zip(out, texts):
      words = len(text.split())
      line[:words] = (np.arange(words) + words / 10)[:, None]
    return out


@pytest.fixture(name='videos')
def _videos(tmp_path, monkeypatch):
  """A folder of 'videos' of 60 frames; frame i is filled with i + offset."""
  folder = tmp_path / 'videos'
  folder.mkdir()
  for offset, name in ((0, 'a'), (100, 'b'), (150, 'c')):
    (folder / f'{name}.mp4').write_text(str(offset))

  def read_video(path, *, fps, height, width, start, frames, soften):
    text = path.read_text()
    if not text.isdigit():
      raise ValueError(f'{path} is no video that can be read\nmore lines')
    assert soften
    first = round(start * fps)
    if first + frames > 60:
      raise ValueError(f'{path} has 60 frames; {first + frames} are needed')
    numbers = np.arange(first, first + frames, dtype=np.uint8) + int(text)
    pixels = np.ones((height, width, 3), np.uint8)
    return numbers[:, None, None, None] * pixels

  monkeypatch.setattr(shots.video, 'read_video', read_video)
  return folder


def story(name, *segments):
  """segments: (text, video, start)."""
  return storyboard_lib.Storyboard.parse({
      'name': name,
      'segments': [
          {k: v for k, v in zip(('text', 'video', 'start'), s)
           if v is not None}
          for s in segments
      ],
  })


def stories():
  return [
      story(n, (f'the film {n}', f'{n}.mp4', 0), ('goes on', f'{n}.mp4', 0.5))
      for n in 'abc'
  ]


def encode(videos, out, storyboards=None, vae=None, text=None):
  return precompute_lib.precompute(
      stories() if storyboards is None else storyboards,
      videos_dir=str(videos),
      vae=vae or FakeVAE(),
      text_encoder=text or FakeText(),
      geometry=GEOMETRY,
      out=out,
      progress=False,
  )


def shown(videos, *segments):
  """Numbers of the frames that a storyboard shows."""
  parts = shots.spans(story('x', *segments), str(videos), GEOMETRY)
  return shots.read_frames(parts, GEOMETRY, True)[:, 0, 0, 0].tolist()


def test_a_shot_repeated_continued_and_cut(videos):
  first = list(range(9))
  assert shown(videos, ('t', 'a.mp4', 0), ('t', 'a.mp4', 0)) == (
      first + list(range(1, 9))
  )
  assert shown(videos, ('t', 'a.mp4', 0), ('t', 'a.mp4', 0.5)) == list(
      range(17)
  )
  assert shown(videos, ('t', 'a.mp4', 0), ('t', 'a.mp4', 1.0)) == (
      first + list(range(16, 24))
  )
  assert shown(videos, ('t', 'a.mp4', 0), ('t', 'b.mp4', 0.5)) == (
      first + list(range(108, 116))
  )
  assert shown(videos, ('t', 'a.mp4', None), ('t', 'a.mp4', None)) == (
      first + list(range(1, 9))
  )


def test_encodes_every_storyboard(videos, tmp_path):
  manifest = encode(videos, tmp_path / 'out')
  assert [c['name'] for c in manifest.clips] == ['a', 'b', 'c']
  assert manifest.vae_identity == 'fake:1' and manifest.frames == 17
  assert manifest.segments == 2 and manifest.mini_batch == 8
  dataset = latents.LatentDataset(tmp_path / 'out')
  assert dataset.manifest == manifest_lib.read_manifest(tmp_path / 'out')
  assert dataset.check() == []
  clip = dataset[1]
  np.testing.assert_allclose(
      clip['mean'][:, 0, 0, 0], (np.arange(0, 17, 4) + 100) / 255, rtol=1e-6
  )
  words = np.count_nonzero(clip['text'][:, :, 0], axis=1)
  counts = [len(p.split()) for p in stories()[1].prompts()]
  np.testing.assert_array_equal(words, counts)
  assert not dataset.null_text.any()
  again = storyboard_lib.Storyboard.parse(
      dataset.manifest.clips[1]['storyboard']
  )
  assert again.prompts() == stories()[1].prompts()


def test_an_interrupted_run_goes_on_and_ends_the_same(videos, tmp_path):
  encode(videos, tmp_path / 'whole')
  with pytest.raises(KeyboardInterrupt):
    encode(videos, tmp_path / 'out', vae=FakeVAE(stop_at=3))
  with pytest.raises(ValueError, match='unfinished'):
    latents.LatentDataset(tmp_path / 'out')
  rest = FakeVAE()
  encode(videos, tmp_path / 'out', vae=rest)
  assert rest.calls == 1
  one = latents.LatentDataset(tmp_path / 'whole')
  two = latents.LatentDataset(tmp_path / 'out')
  assert one.manifest == two.manifest
  for i in range(3):
    for key, value in one[i].items():
      np.testing.assert_array_equal(value, two[i][key])


def test_killed_while_writing(videos, tmp_path):
  """SIGKILL between the arrays of the second clip and its mark."""
  script = textwrap.dedent(f"""
      import os, signal, sys
      sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.getcwd()!r}]
      import test_precompute as t
      import numpy as np
      from ttt_jax.data import latents, manifest, writer
      plain = manifest.write_json
      def write_json(value, path):
        if path.name == '000001.json':
          os.kill(os.getpid(), signal.SIGKILL)
        plain(value, path)
      manifest.write_json = write_json
      t.shots.read_frames = lambda *_: np.ones((17, 16, 32, 3), np.uint8)
      t.encode({str(videos)!r}, {str(tmp_path / 'out')!r})
  """)
  done = subprocess.run([sys.executable, '-c', script], check=False)
  assert done.returncode == -signal.SIGKILL
  with pytest.raises(ValueError, match='unfinished'):
    latents.LatentDataset(tmp_path / 'out')
  rest = FakeVAE()
  encode(videos, tmp_path / 'out', vae=rest)
  assert rest.calls == 2
  assert latents.LatentDataset(tmp_path / 'out').check() == []


def test_a_second_run_does_nothing_and_a_change_one_clip(videos, tmp_path):
  encode(videos, tmp_path / 'out')
  again = FakeVAE()
  encode(videos, tmp_path / 'out', vae=again)
  assert again.calls == 0
  changed = stories()
  changed[1] = story('b', ('new words', 'b.mp4', 0), ('goes on', 'b.mp4', 0))
  encode(videos, tmp_path / 'out', changed, vae=again)
  assert again.calls == 1
  more = changed + [story('d', ('t', 'a.mp4', 1), ('t', 'a.mp4', 1))]
  encode(videos, tmp_path / 'out', more, vae=again)
  assert again.calls == 2
  assert len(latents.LatentDataset(tmp_path / 'out')) == 4


def test_a_damaged_video_is_left_out_named_and_tried_again(videos, tmp_path):
  (videos / 'b.mp4').write_text('garbage')
  manifest = encode(videos, tmp_path / 'out')
  assert [c['name'] for c in manifest.clips] == ['a', 'c']
  (left_out,) = manifest.corrupt
  assert left_out['name'] == 'b' and 'no video' in left_out['reason']
  assert '\n' not in left_out['reason']
  assert len(latents.LatentDataset(tmp_path / 'out')) == 2
  (videos / 'b.mp4').write_text('100')
  vae = FakeVAE()
  manifest = encode(videos, tmp_path / 'out', vae=vae)
  assert vae.calls == 1 and not manifest.corrupt
  assert [c['name'] for c in manifest.clips] == ['a', 'b', 'c']


def test_real_files_of_every_bad_kind_are_left_out(tmp_path):
  rng = np.random.default_rng(0)
  for name, count in (('good', 17), ('short', 12), ('single', 1)):
    frames = rng.integers(0, 255, (count, 20, 50, 3)).astype(np.uint8)
    shots.video.write_video(tmp_path / f'{name}.mp4', frames)
  (tmp_path / 'text.mp4').write_text('I am no video.')
  whole = (tmp_path / 'good.mp4').read_bytes()
  (tmp_path / 'torn.mp4').write_bytes(whole[: len(whole) // 2])
  names = ['good', 'short', 'single', 'text', 'torn']
  board = [
      story(n, ('t', f'{n}.mp4', 0), ('t', f'{n}.mp4', 0.5)) for n in names
  ]
  manifest = encode(tmp_path, tmp_path / 'out', board)
  assert [c['name'] for c in manifest.clips] == ['good']
  reasons = {c['name']: c['reason'] for c in manifest.corrupt}
  assert set(reasons) == set(names[1:])
  assert '3 frames' in reasons['short'] or '12' in reasons['short']
  assert 'one frame' in reasons['single']
  for name, reason in reasons.items():
    assert f'{name}.mp4' in reason and '\n' not in reason
  assert latents.LatentDataset(tmp_path / 'out').check() == []


def test_a_vae_that_gives_nan_leaves_the_clip_out(videos, tmp_path):
  vae = FakeVAE()
  plain = vae.encode

  def encode_nan(frames):
    mean, logvar = plain(frames)
    return mean * (np.nan if vae.calls == 2 else 1), logvar

  vae.encode = encode_nan
  manifest = encode(videos, tmp_path / 'out', vae=vae)
  assert [c['name'] for c in manifest.corrupt] == ['b']


def test_reasons_keep_names_with_brackets(videos, tmp_path):
  (videos / 'b [hd].mp4').write_text('garbage')
  board = stories()[:1] + [story('x', *[('t', 'b [hd].mp4', 0)] * 2)]
  (left_out,) = encode(videos, tmp_path / 'out', board).corrupt
  assert left_out['reason'].endswith('b [hd].mp4 is no video that can be read')


def test_all_damaged_is_an_error(videos, tmp_path):
  for name in 'abc':
    (videos / f'{name}.mp4').write_text('garbage')
  with pytest.raises(ValueError, match="none of the 3 clips.*'a'") as e:
    encode(videos, tmp_path / 'out')
  assert '\n' not in str(e.value)
  with pytest.raises(ValueError, match='unfinished'):
    latents.LatentDataset(tmp_path / 'out')


def test_another_vae_is_refused_and_keeps_the_data(videos, tmp_path):
  encode(videos, tmp_path / 'out')
  other = FakeVAE()
  other.identity = 'fake:2'
  with pytest.raises(ValueError, match='fake:1.*fake:2'):
    encode(videos, tmp_path / 'out', vae=other)
  assert len(latents.LatentDataset(tmp_path / 'out')) == 3


LONG = 'one two three four five six seven'


@pytest.mark.parametrize(
    'board, error, message',
    [
        ([], ValueError, 'at least 1'),
        ([story('x', ('t', 'a.mp4', 0))], ValueError, 'has 1 segments'),
        ([story('x', ('t', 'a.mp4', 0), ('t',))], ValueError,
         'segment 2 .*"video"'),
        ([story('x', ('t', 'a.mp4', 0), ('t', 'no.mp4', 0))],
         FileNotFoundError, 'no.mp4'),
        ([story('x', ('t', 'a.mp4', 0), (LONG, 'a.mp4', 0))], ValueError,
         'segment 2 .* tokens; at most 5'),
        (stories()[:1] * 2, ValueError, "two storyboards .* 'a'"),
    ],
)
def test_bad_storyboards_fail_before_anything_is_written(
    videos, tmp_path, board, error, message
):
  with pytest.raises(error, match=message) as e:
    encode(videos, tmp_path / 'out', board)
  assert '\n' not in str(e.value)
  assert not (tmp_path / 'out').exists()


def test_texts_are_encoded_once():
  text = FakeText()
  cache = encoders.TextCache(text)
  out = cache.encode(['a b', 'c', 'a b', 'd e f'])
  assert out.shape == (4, 5, 4)
  np.testing.assert_array_equal(out, FakeText().encode(['a b', 'c', 'a b',
                                                        'd e f']))
  cache.encode(['c', 'd e f'])
  assert text.batches == [['a b', 'c', 'd e f']]


def test_the_text_cache_is_bounded():
  text = FakeText()
  cache = encoders.TextCache(text, cache_bytes=2 * 5 * 4 * 4)
  for prompt in ('a', 'b', 'c', 'a'):
    cache.encode([prompt])
  assert text.batches == [['a'], ['b'], ['c'], ['a']]
  cache.encode(['c'])
  assert len(text.batches) == 4


def test_the_vae_gets_pixels_in_minus_one_to_one_and_compiles_once(
    monkeypatch,
):
  traces = []

  class Module(nn.Module):
    config: encoders.causal3d.CausalVAEConfig

    def encode(self, frames):
      traces.append(frames.shape)
      gain = self.variables['params']['gain']
      return frames[:, ::4, ::8, ::8] * gain, frames[:, ::4, ::8, ::8]

  monkeypatch.setattr(encoders.causal3d, 'CausalVAE', Module)
  config = encoders.causal3d.CausalVAEConfig(scaling_factor=0.5)
  vae = encoders.CausalVideoEncoder(config, {'gain': np.float32(3)})
  for value, expected in ((0, -1), (255, 1)):
    frames = np.full((17, 16, 32, 3), value, np.uint8)
    mean, logvar = vae.encode(frames)
    assert mean.shape == logvar.shape == (5, 2, 4, 3)
    np.testing.assert_allclose(logvar, expected, rtol=1e-6)
    np.testing.assert_allclose(mean, 3 * expected, rtol=1e-6)
  assert traces == [(1, 17, 16, 32, 3)]
  other = encoders.CausalVideoEncoder(config, {'gain': np.float32(4)})
  assert vae.identity.startswith('causal3d:') and vae.scale == 0.5
  assert other.identity != vae.identity


def test_a_vae_of_another_compression_is_refused(videos, tmp_path):
  vae = FakeVAE()
  plain = vae.encode
  vae.encode = lambda frames: tuple(x[:, :1] for x in plain(frames))
  with pytest.raises(ValueError, match=r'\[5, 1, 4\].*\[5, 2, 4\]'):
    encode(videos, tmp_path / 'out', vae=vae)


def test_softening_is_part_of_a_clips_source(videos):
  board = story('x', ('t', 'a.mp4', 0), ('t', 'a.mp4', 0))
  parts = shots.spans(board, str(videos), GEOMETRY)
  prints = {shots.fingerprint(parts, ['t', 't'], s) for s in (True, False)}
  assert len(prints) == 2


def test_geometry_is_part_of_the_identity(videos, tmp_path):
  encode(videos, tmp_path / 'out')
  with pytest.raises(ValueError, match='fps is 16 .* 8 in this run'):
    precompute_lib.precompute(
        stories(), videos_dir=str(videos), vae=FakeVAE(),
        text_encoder=FakeText(), out=tmp_path / 'out', progress=False,
        geometry=dataclasses.replace(GEOMETRY, fps=8),
    )


# The entry point.

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

"""Storyboards to data sets: frames, interruptions, damaged sources."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

from flax import linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.fake_encoders import encode
from tests.helpers.fake_encoders import FakeText
from tests.helpers.fake_encoders import FakeVAE
from tests.helpers.fake_encoders import GEOMETRY
from tests.helpers.fake_encoders import stories
from tests.helpers.fake_encoders import story
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import check
from ttt_jax.data import precompute as precompute_lib
from ttt_jax.data import shots
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import reader as dataset_reader
from ttt_jax.encoders import text_cache
from ttt_jax.encoders import video_encoder


def shown(videos, *segments):
  """Returns the indices of the frames that a storyboard shows."""
  parts = shots.frame_ranges(story('x', *segments), str(videos), GEOMETRY)
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


def test_the_same_frames_are_encoded_once(videos, tmp_path):
  boards = [
    *stories(),
    story('d', ('other', 'a.mp4', 0), ('words', 'a.mp4', 0.5)),
  ]
  vae = FakeVAE()
  encode(videos, tmp_path / 'out', boards, vae)
  assert vae.calls == 3
  dataset = dataset_reader.LatentDataset(tmp_path / 'out')
  clips = [dataset[i] for i in range(4)]
  np.testing.assert_array_equal(clips[3]['mean'], clips[0]['mean'])
  assert (clips[3]['mean'] != clips[1]['mean']).any()
  assert (clips[3]['text'] != clips[0]['text']).any()


def test_encodes_every_storyboard(videos, tmp_path):
  manifest = encode(videos, tmp_path / 'out')
  assert [c['name'] for c in manifest.clips] == ['a', 'b', 'c']
  assert manifest.vae_identity == 'fake:1' and manifest.frames == 17
  assert manifest.segments == 2 and manifest.mini_batch == 8
  dataset = dataset_reader.LatentDataset(tmp_path / 'out')
  assert dataset.manifest == manifest_lib.read_manifest(tmp_path / 'out')
  assert check.check(tmp_path / 'out').problems == []
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


def test_an_interrupted_run_resumes_with_the_same_result(videos, tmp_path):
  encode(videos, tmp_path / 'complete')
  with pytest.raises(KeyboardInterrupt):
    encode(videos, tmp_path / 'out', vae=FakeVAE(stop_at=3))
  with pytest.raises(ValueError, match='unfinished'):
    dataset_reader.LatentDataset(tmp_path / 'out')
  rest = FakeVAE()
  encode(videos, tmp_path / 'out', vae=rest)
  assert rest.calls == 1
  one = dataset_reader.LatentDataset(tmp_path / 'complete')
  two = dataset_reader.LatentDataset(tmp_path / 'out')
  assert one.manifest == two.manifest
  for i in range(3):
    for key, value in one[i].items():
      np.testing.assert_array_equal(value, two[i][key])


def test_killed_while_writing(videos, tmp_path):
  """SIGKILL between the arrays of the second clip and its marker."""
  script = textwrap.dedent(f"""
      import os, signal, sys
      sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.getcwd()!r}]
      import test_precompute as t
      import numpy as np
      from ttt_jax.runtime import files
      plain = files.write_json
      def write_json(value, path):
        if path.name == '000001.json':
          os.kill(os.getpid(), signal.SIGKILL)
        plain(value, path)
      files.write_json = write_json
      t.shots.read_frames = lambda *_: np.ones((17, 16, 32, 3), np.uint8)
      t.encode({str(videos)!r}, {str(tmp_path / 'out')!r})
  """)
  done = subprocess.run([sys.executable, '-c', script], check=False)
  assert done.returncode == -signal.SIGKILL
  with pytest.raises(ValueError, match='unfinished'):
    dataset_reader.LatentDataset(tmp_path / 'out')
  rest = FakeVAE()
  encode(videos, tmp_path / 'out', vae=rest)
  assert rest.calls == 2
  assert check.check(tmp_path / 'out').problems == []


def test_a_second_run_encodes_only_what_has_changed(videos, tmp_path):
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
  assert len(dataset_reader.LatentDataset(tmp_path / 'out')) == 4


def test_a_damaged_video_is_left_out_with_its_name_and_tried_again(
  videos, tmp_path
):
  (videos / 'b.mp4').write_text('garbage')
  manifest = encode(videos, tmp_path / 'out')
  assert [c['name'] for c in manifest.clips] == ['a', 'c']
  (left_out,) = manifest.corrupt
  assert left_out['name'] == 'b' and 'as a video' in left_out['reason']
  assert '\n' not in left_out['reason']
  assert len(dataset_reader.LatentDataset(tmp_path / 'out')) == 2
  (videos / 'b.mp4').write_text('100')
  vae = FakeVAE()
  manifest = encode(videos, tmp_path / 'out', vae=vae)
  assert vae.calls == 1 and not manifest.corrupt
  assert [c['name'] for c in manifest.clips] == ['a', 'b', 'c']


def test_damaged_files_of_every_kind_are_left_out(tmp_path):
  rng = np.random.default_rng(0)
  for name, count in (('good', 17), ('short', 12), ('single', 1)):
    frames = rng.integers(0, 255, (count, 20, 50, 3)).astype(np.uint8)
    shots.video_file.write_video(tmp_path / f'{name}.mp4', frames)
  (tmp_path / 'text.mp4').write_text('not a video')
  intact = (tmp_path / 'good.mp4').read_bytes()
  (tmp_path / 'torn.mp4').write_bytes(intact[: len(intact) // 2])
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
  assert check.check(tmp_path / 'out').problems == []


def test_a_clip_whose_latents_are_nan_is_left_out(videos, tmp_path):
  vae = FakeVAE()
  plain = vae.encode

  def encode_nan(frames):
    mean, logvar = plain(frames)
    return mean * (np.nan if vae.calls == 2 else 1), logvar

  vae.encode = encode_nan
  manifest = encode(videos, tmp_path / 'out', vae=vae)
  assert [c['name'] for c in manifest.corrupt] == ['b']


def test_reasons_contain_names_with_brackets(videos, tmp_path):
  (videos / 'b [hd].mp4').write_text('garbage')
  board = stories()[:1] + [story('x', *[('t', 'b [hd].mp4', 0)] * 2)]
  (left_out,) = encode(videos, tmp_path / 'out', board).corrupt
  assert left_out['reason'].endswith('b [hd].mp4 cannot be read as a video')


def test_a_data_set_without_an_intact_clip_is_an_error(videos, tmp_path):
  for name in 'abc':
    (videos / f'{name}.mp4').write_text('garbage')
  with pytest.raises(ValueError, match="none of the 3 clips.*'a'") as e:
    encode(videos, tmp_path / 'out')
  assert '\n' not in str(e.value)
  with pytest.raises(ValueError, match='unfinished'):
    dataset_reader.LatentDataset(tmp_path / 'out')


def test_another_vae_is_refused_and_keeps_the_data(videos, tmp_path):
  encode(videos, tmp_path / 'out')
  other = FakeVAE()
  other.identity = 'fake:2'
  with pytest.raises(ValueError, match='fake:1.*fake:2'):
    encode(videos, tmp_path / 'out', vae=other)
  assert len(dataset_reader.LatentDataset(tmp_path / 'out')) == 3


LONG = 'one two three four five six seven'


@pytest.mark.parametrize(
  'board, error, message',
  [
    ([], ValueError, 'at least 1'),
    ([story('x', ('t', 'a.mp4', 0))], ValueError, 'has 1 segment;'),
    (
      [story('x', ('t', 'a.mp4', 0), ('t',))],
      ValueError,
      'segment 2 .*"video"',
    ),
    (
      [story('x', ('t', 'a.mp4', 0), ('t', 'no.mp4', 0))],
      FileNotFoundError,
      'no.mp4',
    ),
    (
      [story('x', ('t', 'a.mp4', 0), (LONG, 'a.mp4', 0))],
      ValueError,
      'segment 2 .* tokens; at most 5',
    ),
    (
      [story(n, ('t', 'a.mp4', 0), (LONG, 'a.mp4', 0)) for n in 'xy'],
      ValueError,
      "2 texts .* 'x' has 7 tokens; .* 'y' has 7 tokens; at most 5",
    ),
    (stories()[:1] * 2, ValueError, "2 storyboards have the name 'a'"),
  ],
)
def test_invalid_storyboards_fail_before_anything_is_written(
  videos, tmp_path, board, error, message
):
  with pytest.raises(error, match=message) as e:
    encode(videos, tmp_path / 'out', board)
  assert '\n' not in str(e.value)
  assert not (tmp_path / 'out').exists()


def test_texts_are_encoded_once():
  text = FakeText()
  cache = text_cache.TextCache(text)
  out = cache.encode(['a b', 'c', 'a b', 'd e f'])
  assert out.shape == (4, 5, 4)
  np.testing.assert_array_equal(
    out, FakeText().encode(['a b', 'c', 'a b', 'd e f'])
  )
  cache.encode(['c', 'd e f'])
  assert text.batches == [['a b', 'c', 'd e f']]


def test_the_text_cache_is_bounded():
  text = FakeText()
  cache = text_cache.TextCache(text, cache_bytes=2 * 5 * 4 * 4)
  for prompt in ('a', 'b', 'c', 'a'):
    cache.encode([prompt])
  assert text.batches == [['a'], ['b'], ['c'], ['a']]
  cache.encode(['c'])
  assert len(text.batches) == 4


def test_the_vae_reads_pixels_in_minus_one_to_one_and_compiles_twice(
  monkeypatch,
):
  traces = []

  class Module(nn.Module):
    config: video_encoder.causal3d.CausalVAEConfig
    dtype: str

    def encode_chunk(self, frames, cache):
      traces.append(frames.shape)
      gain = self.variables['params']['gain']
      small = frames[:, ::4, ::8, ::8]
      return jnp.concatenate([small * gain, small], axis=-1), small[:, -2:]

    def to_units(self, moments):
      return jnp.split(moments, 2, axis=-1)

  monkeypatch.setattr(video_encoder.causal3d, 'CausalVAE', Module)
  config = video_encoder.causal3d.CausalVAEConfig(scaling_factor=0.5)
  vae = video_encoder.CausalVideoEncoder(config, {'gain': np.float32(3)})
  for frames in (33, 17, 33):
    for value, expected in ((0, -1), (255, 1)):
      pixels = np.full((frames, 16, 32, 3), value, np.uint8)
      mean, logvar = vae.encode(pixels)
      assert mean.shape == logvar.shape == (frames // 4 + 1, 2, 4, 3)
      np.testing.assert_allclose(logvar, expected, rtol=1e-6)
      np.testing.assert_allclose(mean, 3 * expected, rtol=1e-6)
  # The first window and all others, for any length.
  assert traces == [(1, 9, 16, 32, 3), (1, 8, 16, 32, 3)]
  other = video_encoder.CausalVideoEncoder(config, {'gain': np.float32(4)})
  tiled = video_encoder.CausalVideoEncoder(
    config, {'gain': np.float32(3)}, tiling=video_encoder.tiling_lib.Tiling()
  )
  assert vae.identity.startswith('causal3d:') and vae.scale == 0.5
  assert len({vae.identity, other.identity, tiled.identity}) == 3


def test_a_vae_of_another_compression_is_refused(videos, tmp_path):
  vae = FakeVAE()
  plain = vae.encode
  vae.encode = lambda frames: tuple(x[:, :1] for x in plain(frames))
  with pytest.raises(ValueError, match=r'\[5, 1, 4\].*\[5, 2, 4\]'):
    encode(videos, tmp_path / 'out', vae=vae)


def test_softening_is_part_of_a_clips_source(videos):
  board = story('x', ('t', 'a.mp4', 0), ('t', 'a.mp4', 0))
  parts = shots.frame_ranges(board, str(videos), GEOMETRY)
  prints = {shots.fingerprint(parts, ['t', 't'], s) for s in (True, False)}
  assert len(prints) == 2


def test_geometry_is_part_of_the_identity(videos, tmp_path):
  encode(videos, tmp_path / 'out')
  with pytest.raises(ValueError, match='fps is 16 .* 8 in this run'):
    precompute_lib.precompute(
      stories(),
      videos_dir=str(videos),
      vae=FakeVAE(),
      text_encoder=FakeText(),
      out=tmp_path / 'out',
      progress=False,
      geometry=dataclasses.replace(GEOMETRY, fps=8),
    )

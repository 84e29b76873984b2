"""`evaluate --workdir`: counts the expected clips of a trained model's samples.

The other forms of the command: tests/evaluation/test_results.py and
test_vote_page.py.
"""

import json

import ml_collections
import numpy as np

from tests.helpers import commands
from tests.helpers import videos
from ttt_jax import pipeline
from ttt_jax.checkpoints import checkpoint
from ttt_jax.pipeline.sampling import Sampling
from ttt_jax.video import video_file

FPS, UNIT = 4, 12


class Pipe:
  """Shows the clip of every segment; with an odd seed, the first clip."""

  fps, height, width, segment_frames = FPS, 32, 64, UNIT
  scheduler, sampling = 'ddim', Sampling()

  def __init__(self, folder):
    self._clips = {
      name: video_file.read_every(
        folder / name, stride=1, height=32, width=64, soften=True
      )
      for name in ('a.mp4', 'b.mp4')
    }

  def encode(self, frames):
    return frames

  def decode(self, latents):
    return latents

  def __call__(self, story, *, seed, **options):
    assert options == dict(
      steps=3,
      guidance=6.0,
      guidance_schedule='cosine',
      scheduler='ddim',
      reuse=2,
    )
    names = ['a.mp4' if seed % 2 else s.video for s in story.segments]
    parts = [self._clips[name][1 : UNIT + 1] for name in names]
    return np.concatenate([parts[0][:1], *parts])


def test_the_share_of_expected_clips(tmp_path, monkeypatch):
  for number, name in ((3, 'a.mp4'), (40, 'b.mp4')):
    frames = [videos.picture(number + i) for i in range(UNIT + 1)]
    videos.write(tmp_path / name, frames, rate=FPS)
  segments = [dict(text=n, video=f'{n}.mp4') for n in 'ab']
  board = dict(name='both', segments=segments)
  (tmp_path / 'stories.json').write_text(json.dumps([board]))
  (tmp_path / 'run').mkdir()
  config = ml_collections.ConfigDict(
    dict(data=dict(videos=str(tmp_path), soften=True))
  )
  monkeypatch.setattr(checkpoint, 'load_config', lambda folder: config)
  loaded = []

  def load(folder, ema, mesh):
    loaded.append((folder, ema, mesh and dict(mesh.shape)))
    return Pipe(tmp_path)

  monkeypatch.setattr(pipeline.VideoPipeline, 'load', load)
  done = commands.run(
    'ttt_jax.evaluate',
    '--workdir=run',
    '--storyboards=stories.json',
    '--seeds=2',
    '--steps=3',
    '--reuse=2',
    '--noema',
    '--mesh=data:1,sp:1',
    cwd=tmp_path,
  )
  assert not done.returncode, done.stderr
  assert 'right in 75.0% of the segments from index 0; chance is 50%' in (
    done.stdout
  )
  found = json.loads((tmp_path / 'run' / 'evaluation.json').read_text())
  assert loaded == [('run', False, dict(data=1, sp=1))]
  assert (found['reuse'], found['averaged_weights']) == (2, False)
  assert found['share_right'] == 0.75 and found['chance'] == 0.5
  assert [s['shown'] for s in found['samples']] == [[0, 1], [0, 0]]
  assert (tmp_path / 'run' / 'evaluation_both.png').exists()

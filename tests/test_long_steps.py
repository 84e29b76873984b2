"""Steps that may take minutes show a bar, of whatever command they are."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import topology
from launch.planner import compiled
from launch.planner import sweep
from tests.helpers import commands
from tests.helpers import configs
from tests.helpers import videos
from ttt_jax import sharding
from ttt_jax.evaluation import clip_score
from ttt_jax.runtime import progress


@pytest.fixture(name='bars')
def _bars(monkeypatch):
  """The descriptions of all bars, in their order; 'A > B' for one inside A."""
  seen = []
  enter = progress.Bar.__enter__

  def record(bar):
    outer = [f'{other._description} > ' for other in progress._shown]
    seen.append(''.join(outer) + bar._description)
    return enter(bar)

  monkeypatch.setattr(progress.Bar, '__enter__', record)
  return seen


def test_evaluate_vote(bars, tmp_path):
  for model in ('ours', 'theirs'):
    (tmp_path / model).mkdir()
    frames = [videos.picture(i) for i in range(3)]
    videos.write(tmp_path / model / 'one.mp4', frames)
  models = tmp_path / 'ours', tmp_path / 'theirs'
  done = commands.run(
    'ttt_jax.evaluate', '--vote', *models, f'--out={tmp_path}/study'
  )
  assert not done.returncode, done.stderr
  assert bars == ['checking videos', 'copying videos']


def test_evaluate_edit(bars, tmp_path, monkeypatch):
  class Score:
    def embed_text(self, text):
      return np.ones(4)

    def embed(self, frames):
      return np.ones((len(frames), 4))

  monkeypatch.setattr(clip_score.CLIPScore, 'load', lambda folder: Score())
  path = tmp_path / 'a.mp4'
  videos.write(path, [videos.picture(i) for i in range(3)])
  done = commands.run(
    'ttt_jax.evaluate_edit', path, '--clip=x', '--prompt=a cat'
  )
  assert not done.returncode, done.stderr
  assert bars == ['loading CLIP', 'measuring']
  assert 'measuring ...\n' in done.stdout


def test_inspect(bars, tmp_path):
  path = tmp_path / 'story.json'
  path.write_text(json.dumps(['A cat sleeps.']))
  done = commands.run('ttt_jax.inspect', path)
  assert not done.returncode, done.stderr
  assert bars == [f'reading {path}']


def test_plan(bars, tmp_path):
  mesh = sharding.make_mesh(dict(data=1, sp=1))
  x = jax.ShapeDtypeStruct(
    (2, 2), jnp.float32, sharding=sharding.replicated(mesh)
  )
  for _ in range(2):  # The second time it is in the cache.
    compiled.compile_program(jax.jit(jnp.sin), (x,), mesh, cache=tmp_path)
  trace = 'tracing the program'
  assert bars == [trace, 'compiling for 1 devices', trace]


def test_plan_sweep(bars, monkeypatch):
  monkeypatch.setattr(sweep, '_count_params', lambda config: (10**9, 10**9))
  config = configs.load('ttt_video').get_config('63s')
  chips = topology.parse('v5p:8x8x4')
  sweep.run(config, 'train', chips, 2, lambda candidate: None)
  assert [b.partition(',')[0] for b in bars] == [
    'candidate 1 of 2',
    'candidate 2 of 2',
  ]

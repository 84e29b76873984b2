"""The demonstration of editing: steps that exist, a page, a way to fail."""

import importlib.util

import numpy as np
from PIL import Image
import pytest

from examples.shapes import captions
from examples.shapes import comparison
from examples.shapes import demonstration
from examples.shapes import edit_page
from examples.shapes import judge
from examples.shapes import world
from ttt_jax.runtime import paths
from ttt_jax.video import video_file


def test_steps_name_what_exists():
  for step in demonstration.steps():
    assert importlib.util.find_spec(step.module)
  assert paths.resolve('package:ttt_jax/assets/shapes_sd').is_dir()


def test_edits_are_captions_that_tuning_has_not_seen():
  looks = [captions.parse(text) for text in demonstration.EDITS]
  assert len(set(looks)) == len(looks) >= 10
  assert captions.parse(demonstration.PROMPT) not in looks
  # Each thing alone, and several at once.
  source = captions.parse(demonstration.PROMPT)
  changes = {
    tuple(getattr(look, n) != getattr(source, n) for n in judge.ASPECTS)
    for look in looks
  }
  assert {1, 2, 3, 4} == {sum(c) for c in changes}
  assert {c.index(True) for c in changes if sum(c) == 1} == {0, 1, 2, 3}


def test_the_source_is_a_moving_circle(tmp_path):
  demonstration.write_source(tmp_path / 'source.mp4')
  frames = video_file.read_video(
    tmp_path / 'source.mp4',
    fps=demonstration.FPS,
    height=64,
    width=64,
    soften=False,
  )
  assert len(frames) == demonstration.FRAMES
  path = judge.path([judge.see(frame) for frame in frames])
  found = judge.judge(frames, demonstration.PROMPT, path)
  assert found.share == 1 and found.correlation == pytest.approx(1)
  assert (np.ptp(path, axis=0) > 10).all()


def _found(followed: float, correlation: float) -> dict:
  verdict = judge.Verdict(
    aspects={name: followed for name in judge.ASPECTS},
    share=followed,
    followed=True,
    correlation=correlation,
    consistency=1.0,
    flicker=0.5,
  )
  prompts = (demonstration.EDITS[0], 'a white star over a purple field')
  found = comparison.report(
    prompts,
    demonstration.PROMPT,
    {name: [verdict, verdict] for name in comparison.METHODS},
  )
  for method in found['methods'].values():
    assert method['mean']['usual'] == method['mean']['hard']
    method['mean']['usual']['followed'] = followed
  return found


@pytest.mark.parametrize(
  'followed,correlation,good',
  [
    (0.95, 0.95, True),
    (0.85, 0.95, False),
    (0.95, 0.85, False),
  ],
)
def test_verdict(followed, correlation, good):
  assert demonstration.verdict(_found(followed, correlation)) == good


def test_the_page_shows_everything(tmp_path):
  look = captions.parse(demonstration.PROMPT)
  way = world.bounce(8, (22, 20), (7, 5), 10.0)
  clip = world.render_clip(look, way, 10.0)
  edits = np.stack([clip, clip])
  frames = {'source': clip} | {n: edits for n in comparison.METHODS}
  edit_page.write(
    tmp_path / 'docs/edit.md',
    _found(0.95, 0.94),
    frames,
    ('a bike', 'a red bike'),
    np.stack([clip, clip]),
    prompt=demonstration.PROMPT,
    settings=demonstration.SETTINGS,
    seconds=[('tune', 61.4)],
    fps=8,
  )
  text = (tmp_path / 'docs/edit.md').read_text()
  assert '| tune | 61 |' in text and '| edits followed | 95% |' in text
  assert f'| {demonstration.EDITS[0]} | 95%, 0.94 |' in text
  for name in ('edit.png', 'edit_ablations.png', 'edit_bikes.png', 'edit.gif'):
    assert name in text or name == 'edit.gif'
    with Image.open(tmp_path / 'docs' / name) as picture:
      assert min(picture.size) >= 128

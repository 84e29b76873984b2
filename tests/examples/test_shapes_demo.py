"""The demonstration of editing: its steps exist, and its check can fail."""

import importlib.util

import numpy as np
from PIL import Image
import pytest
from rich import console as rich_console

from examples.shapes import captions
from examples.shapes import comparison
from examples.shapes import demonstration
from examples.shapes import judge
from examples.shapes import world
from ttt_jax.runtime import paths
from ttt_jax.video import video_file


def test_steps_exist():
  for step in demonstration.steps():
    assert importlib.util.find_spec(step.module)
  assert paths.resolve('package:ttt_jax/assets/shapes_sd').is_dir()


def test_edits_are_captions_that_tuning_has_not_seen():
  edits = [captions.parse(text) for text in demonstration.EDITS]
  assert len(set(edits)) == len(edits) >= 10
  assert captions.parse(demonstration.PROMPT) not in edits
  # Each attribute alone, and several at once.
  source = captions.parse(demonstration.PROMPT)
  changes = {
    tuple(getattr(attributes, n) != getattr(source, n) for n in judge.ASPECTS)
    for attributes in edits
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
  path = judge.path([judge.detect(frame) for frame in frames])
  found = judge.judge(frames, demonstration.PROMPT, path)
  assert found.share == 1 and found.correlation == pytest.approx(1)
  assert (np.ptp(path, axis=0) > 10).all()


def _report(followed: float, correlation: float) -> dict:
  verdict = judge.Verdict(
    aspects=dict.fromkeys(judge.ASPECTS, followed),
    share=followed,
    followed=True,
    correlation=correlation,
    consistency=1.0,
    flicker=0.5,
  )
  prompts = (demonstration.EDITS[0], 'a white star over a purple field')
  report = comparison.make_report(
    prompts,
    demonstration.PROMPT,
    {name: [verdict, verdict] for name in comparison.METHODS},
  )
  for method in report['methods'].values():
    assert method['mean']['usual'] == method['mean']['hard']
    method['mean']['usual']['followed'] = followed
  return report


@pytest.mark.parametrize(
  'followed,correlation,good',
  [
    (0.95, 0.95, True),
    (0.85, 0.95, False),
    (0.95, 0.85, False),
  ],
)
def test_passes(followed, correlation, good):
  assert demonstration.passes(_report(followed, correlation)) == good


def test_the_table_shows_every_edit():
  console = rich_console.Console(width=200, record=True, quiet=False)
  console.print(comparison.report_table(_report(0.95, 0.94)))
  lines = console.export_text().splitlines()
  (edit,) = [line for line in lines if demonstration.EDITS[0] in line]
  assert edit.count('95% 0.94') == len(comparison.METHODS)
  (followed,) = [line for line in lines if 'usual: followed' in line]
  assert followed.count('0.95') == len(comparison.METHODS)


def test_pictures_of_all_edits(tmp_path):
  attributes = captions.parse(demonstration.PROMPT)
  path = world.bounce(8, (22, 20), (7, 5), 10.0)
  clip = world.render_clip(attributes, path, 10.0)
  edits = np.stack([clip, clip])
  comparison.write_pictures(
    tmp_path,
    demonstration.EDITS[:2],
    {'source': clip} | dict.fromkeys(comparison.METHODS, edits),
    fps=8,
  )
  for name in ('source_and_edits.png', 'methods.png', 'source_and_edits.gif'):
    with Image.open(tmp_path / name) as picture:
      assert min(picture.size) >= 128
  assert video_file.probe(tmp_path / 'source_and_edits.mp4').frames == 8

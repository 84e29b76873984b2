"""Every kind of damage to a data set is found, with its place."""

import json
import shutil

from etils import epath
import numpy as np
import pytest
import tensorstore as ts

from tests.helpers.fake_encoders import encode
from tests.helpers.fake_encoders import FakeText
from tests.helpers.fake_encoders import FakeVAE
from tests.helpers.fake_encoders import GEOMETRY
from tests.helpers.fake_encoders import stories
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import check
from ttt_jax.data.store import arrays


def boards():
  """Returns storyboards, of which 'b' changes its scene."""
  out = stories()
  out[1] = storyboard_lib.Storyboard.parse(
    {
      'name': 'b',
      'segments': [
        {'text': 't', 'video': 'b.mp4', 'scene': 1},
        {'text': 't', 'video': 'b.mp4', 'start': 1, 'scene': 2},
      ],
    }
  )
  return out


@pytest.fixture(name='data')
def _data(videos, tmp_path):
  encode(videos, tmp_path / 'out', boards())
  return tmp_path / 'out'


def expected(videos):
  text = FakeText()
  return check.Expected(
    geometry=GEOMETRY,
    clips=boards(),
    videos_dir=str(videos),
    tokenize=text.tokenize,
    scene_token_ids=text.scene_token_ids,
  )


def store(data, name):
  return ts.open(arrays.spec(data / name), open=True).result()


def edit(path, change):
  value = json.loads(path.read_text())
  change(value)
  path.write_text(json.dumps(value))


def test_an_intact_data_set_has_no_problems(videos, data):
  report = check.check(data, expected(videos), progress=True)
  assert report.problems == [] and report.clips == 3
  mean = store(data, 'mean').read().result()
  assert report.mean == pytest.approx(mean.mean(), rel=1e-6)
  assert report.std == pytest.approx(mean.std(), rel=1e-6)


def test_all_problems_are_listed_at_once(videos, data):
  store(data, 'mean')[0, 1, 0, 2, 1].write(np.float32('inf')).result()
  store(data, 'mean')[0, 2].write(np.float32('nan')).result()
  text = store(data, 'text')
  text[1, 1].write(text[1, 0].read().result()).result()
  shutil.rmtree(data / 'logvar' / 'c' / '2')
  arrays.completion_marker(data, 1).unlink()
  problems = check.check(data, expected(videos)).problems
  assert [p.split(': ')[0] for p in problems] == [
    'clips/000001.json',
    "clip 'a' (row 0)",
    "clip 'b' (row 1)",
    "clip 'c' (row 2)",
  ]
  assert "missing; clip 'b' may not be complete" in problems[0]
  assert (
    '25 of 120 values are not finite, the first at [1, 0, 2, 1]'
    in (problems[1])
  )
  assert (
    'texts 1 and 2 are different, but their embeddings are equal'
    in (problems[2])
  )
  assert 'logvar was never written, or is lost' in problems[3]
  assert not any('\n' in p for p in problems)


def test_equal_texts_have_equal_embeddings(videos, data):
  del videos
  edit(
    data / 'manifest.json',
    lambda m: m['clips'][1].update(storyboard={'segments': ['t', 't']}),
  )
  (problem,) = check.check(data).problems
  assert 'are equal, but their embeddings are different' in problem


def test_another_configuration(videos, data):
  other = check.Expected(
    geometry=type(GEOMETRY)(
      frames=9,
      height=32,
      width=32,
      fps=8,
      text_length=3,
      mini_batch=8,
      segment_latent_frames=2,
    ),
    clips=boards()[:2] + [storyboard_lib.Storyboard.parse(['x', 'y'])],
    tokenize=FakeText().tokenize,
    scene_token_ids=(7, 8),
  )
  problems = check.check(data, other).problems
  for part in (
    'fps is 16 in the data set but 8 in this run',
    'height is 16',
    'frames is 17',
    'segments is 2',
    'text_length is 5',
    'scene_token_ids is [1, 2] in the data set but [7, 8]',
    'mean: has shape [5, 2, 4], but the configuration has [3, 4, 4]',
    'logvar: has shape [5, 2, 4], but',
    "clip 'storyboard': is in the captions, but not in the data set",
    "clip 'c': is in the data set, but not in the captions",
    "clip 'b' (row 1): text 1 has 1 <end_scene>, but its tokens have row 8"
    ' 0 times',
  ):
    assert any(part in p for p in problems), part
  assert not any('mini_batch' in p or 'width' in p for p in problems)
  del videos


def test_a_text_that_is_too_long(videos, data):
  def longer(manifest):
    manifest['text_length'] = 2

  edit(data / 'manifest.json', longer)
  problems = check.check(data, expected(videos)).problems
  assert "clip 'a' (row 0): text 1 has 3 tokens; 2 fit" in problems
  assert any(
    p == 'text: has shape [2, 5], but the manifest has [2, 2]' for p in problems
  )


def replace_array(data, name, shape, chunk):
  shutil.rmtree(data / name, ignore_errors=True)
  array = arrays.create(epath.Path(data / name), shape, chunk)
  array.write(1).result()


def test_damaged_arrays(data):
  shutil.rmtree(data / 'logvar')
  replace_array(data, 'null_text', [5, 3], [5, 3])
  (data / 'text' / 'zarr.json').write_text('{')
  problems = check.check(data).problems
  assert [p.split(': ')[0] for p in problems] == ['logvar', 'text']
  assert all('cannot be opened' in p and '\n' not in p for p in problems)
  replace_array(data, 'text', [2, 2, 5, 4], [1, 2, 5, 4])
  problems = check.check(data).problems
  assert 'null_text: has shape [5, 3], but text has [5, 4]' in problems
  assert 'text: has 2 rows; the manifest lists clips up to row 2' in problems
  replace_array(data, 'text', [2, 4], [1, 4])
  problems = check.check(data).problems
  assert any('has the shape [2, 4]; expected 4 axes' in p for p in problems)


def test_mean_and_logvar_have_one_shape(data):
  shutil.rmtree(data / 'mean')
  (problem,) = check.check(data).problems
  assert problem.startswith('mean: cannot be opened')
  replace_array(data, 'mean', [3, 5, 2, 4, 1], [1, 5, 2, 4, 1])
  (problem,) = check.check(data).problems
  assert problem == (
    'logvar: has shape [5, 2, 4, 3], but mean has [5, 2, 4, 1]'
  )


def test_an_edited_manifest(data):
  edit(
    data / 'manifest.json',
    lambda m: m['clips'].append(
      {'name': 'a', 'row': 2, 'storyboard': {'segments': []}}
    ),
  )
  problems = check.check(data).problems
  for part in (
    "name 'a' is listed 2 times",
    'row 2 is listed 2 times',
    "clips/000002.json: is of clip 'c', the manifest has 'a'",
    'its storyboard cannot be read',
  ):
    assert any(part in p for p in problems), part
  edit(data / 'manifest.json', lambda m: m['clips'][0].pop('row'))
  with pytest.raises(ValueError, match='item 1 of manifest.clips has no "row"'):
    check.check(data)


def test_clips_of_other_sources(videos, data):
  """Captions and videos may change after precompute."""
  edit(
    data / 'manifest.json',
    lambda m: m['clips'][0]['storyboard']['segments'][0].update(text='another'),
  )
  (videos / 'c.mp4').write_text('1500')
  (videos / 'b.mp4').unlink()
  problems = check.check(data, expected(videos)).problems
  assert [p.split(': ')[0] for p in problems] == [
    "clip 'a' (row 0)",
    "clip 'c' (row 2)",
  ]
  assert all('made of other frames or texts' in p for p in problems)


def test_an_unfinished_data_set_is_reported_with_its_progress(videos, tmp_path):
  out = tmp_path / 'out'
  with pytest.raises(KeyboardInterrupt):
    encode(videos, out, boards(), vae=FakeVAE(stop_at=3))
  (problem,) = check.check(out, expected(videos)).problems
  assert '2 of 3 clips are complete; run precompute again' in problem
  store(out, 'mean')[0].write(np.float32('nan')).result()
  problems = check.check(out).problems
  assert len(problems) == 2 and "clip 'a' (row 0): mean was" in problems[1]


def test_no_data_set(tmp_path):
  with pytest.raises(FileNotFoundError, match='no data set in'):
    check.check(tmp_path)

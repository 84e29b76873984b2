"""The page of a data set: its clips, and what was left out and why."""

import json
import shutil

import numpy as np
import pytest

from tests.helpers import browser
from tests.helpers import commands
from tests.helpers import configs
from tests.helpers import videos
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import writer as writer_lib
from ttt_jax.runtime import files

TEXT = 'A <b>cat</b> sleeps & purrs.'
FIELDS = dict(
  vae_identity='vae:1',
  text_identity='text:1',
  scale=1.0,
  fps=16,
  height=32,
  width=64,
  frames=97,
  segments=2,
  text_length=8,
  mini_batch=4,
)


def _write(folder, clips, finish=True):
  manifest = manifest_lib.Manifest(**FIELDS)
  writer = writer_lib.LatentWriter(folder, manifest, len(clips) + 1)
  for row in range(len(clips)):
    values = {
      'mean': np.zeros((25, 4, 8, 16)),
      'logvar': np.zeros((25, 4, 8, 16)),
      'text': np.zeros((2, 8, 4)),
    }
    writer.write(row, f'clip{row}', 'x', **values)
  reason = 'broken.mp4 has no frame'
  writer.leave_out(len(clips), 'the broken one', 'x', reason)
  if finish:
    writer.finish(
      [
        dict(
          name=f'clip{row}',
          row=row,
          storyboard=dict(name=f'clip{row}', segments=segments),
        )
        for row, segments in enumerate(clips)
      ],
      [dict(name='the broken one', row=len(clips), reason=reason)],
      {'a.mp4': ['deinterlaced']},
    )


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A data set in the folder of the run that trains on it."""
  folder = tmp_path_factory.mktemp('run')
  videos.write(folder / 'a.mp4', 120)
  shown = [
    dict(text=TEXT, video='a.mp4', scene='yard'),
    dict(text='It wakes up.', video='a.mp4', start=3.0, scene='kitchen'),
  ]
  missing = [dict(text='Gone.', video='gone.mp4')] * 2
  _write(folder / 'data' / '6s', [shown, missing])
  (folder / 'captions.json').write_text(
    json.dumps(
      [
        dict(
          video='a.mp4',
          scenes=[
            dict(start=0, end=6, texts=[TEXT, 'It wakes up.']),
            dict(start=6, end=7.5, texts=['Too short.']),
          ],
        )
      ]
    )
  )
  config = configs.load('quickstart').get_config('3s')
  config.data.update(
    folder='{workdir}/data/6s',
    videos=str(folder),
    storyboards=str(folder / 'captions.json'),
    seconds=6,
  )
  meta = dict(format=1, step=1, items=['params'], fingerprint={}, time=1.0)
  meta |= dict(data=dict(identity={}), config=config.to_dict())
  saved = folder / 'one' / 'checkpoints' / '1' / 'meta'
  saved.mkdir(parents=True)
  (saved / 'metadata').write_text(json.dumps(meta, default=list))
  return folder


def _inspect(*arguments):
  done = commands.run('ttt_jax.inspect', *arguments)
  assert done.returncode == 0, done.stderr


def test_a_page_of_a_data_set(workdir, tmp_path):
  out = tmp_path / 'data.html'
  _inspect(workdir / 'data' / '6s', f'--out={out}')
  with browser.opened(out, width=browser.NARROW) as visit:
    page = visit.page
    text = page.inner_text('body')
    # The folder of the videos is that of the run's config.
    pictures = page.locator('.segment img')
    assert pictures.count() == 4
    pictures.last.scroll_into_view_if_needed()
    page.wait_for_function(
      '[...document.querySelectorAll("img")].every(i => i.naturalWidth > 100)'
    )
    first = page.locator('.segment').first
    assert TEXT in first.inner_text()
    assert '<end_scene>' in first.inner_text()
    assert ' of 24 tokens' in first.inner_text()
    # What was left out, from the manifest and from the captions.
    left_out = page.locator('h2:has-text("Left out") + .scroll').inner_text()
    assert 'the broken one\t2\tbroken.mp4 has no frame' in left_out
    assert '1 scene is too short for a segment: a.mp4 from 6 s' in text
    assert 'No pictures of gone.mp4' in text
    assert 'deinterlaced' in page.locator('details').first.text_content()
    assert visit.overflow() <= 0
    assert not visit.problems


def test_a_data_set_alone(workdir, tmp_path):
  folder = tmp_path / 'alone'
  _write(folder, [[dict(text='x', video='a.mp4')] * 2])
  _inspect(folder)
  text = (folder / 'inspect.html').read_text()
  assert 'name the config that made the data set' in text
  assert 'the folder of the videos is not known' in text
  # Pictures of a shot that is shown twice count twice.
  _inspect(folder, f'--videos={workdir}', '--pictures=3')
  text = (folder / 'inspect.html').read_text()
  assert text.count('<img') == 2
  assert 'Segments without pictures: 1' in text
  _inspect(folder, f'--videos={workdir}', '--embed_mib=0')
  text = (folder / 'inspect.html').read_text()
  assert '<img' not in text and 'Segments without pictures: 2' in text


def test_the_config_of_precompute(workdir, tmp_path):
  """A data set before its first training, which was moved with its videos."""
  run = tmp_path / 'moved'
  _write(run / 'data' / '6s', [[dict(text='x', video='a.mp4')] * 2])
  for name in ('a.mp4', 'captions.json'):
    shutil.copy(workdir / name, run)
  config = configs.load('quickstart').get_config('3s')
  config.data.update(
    folder='{workdir}/data/6s',
    videos='{workdir}',
    storyboards='{workdir}/captions.json',
    seconds=6,
  )
  value = files.to_json_types(config)
  files.write_json(value, run / 'data' / '6s' / manifest_lib.CONFIG)
  _inspect(run / 'data' / '6s')
  text = (run / 'data' / '6s' / 'inspect.html').read_text()
  assert text.count('<img') == 4
  assert '1 scene is too short for a segment: a.mp4 from 6 s' in text


def test_a_data_set_that_is_unfinished(tmp_path):
  _write(tmp_path / 'd', [[], []], finish=False)
  _inspect(tmp_path / 'd')
  text = (tmp_path / 'd' / 'inspect.html').read_text()
  assert 'unfinished: 3 clips are settled' in text
  assert 'broken.mp4 has no frame' in text

"""The command and its page, from an episode to captions for precompute."""

import json
import shutil
import sys

import pytest

from tests.helpers import browser
from tests.helpers import commands
from tests.helpers import videos
from ttt_jax import geometry
from ttt_jax.annotation import scenes
from ttt_jax.data import episodes as episodes_lib


def _annotate(*arguments):
  return commands.run('ttt_jax.annotate', *arguments)


def _ok(*arguments):
  done = _annotate(*arguments)
  assert done.returncode == 0, done.stderr
  return done.stdout


def _error(*arguments):
  done = _annotate(*arguments)
  assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
  return done.stderr


def test_from_an_episode_to_captions(project, episodes):
  out = project.folder
  assert '0 texts are written, 3 are left' in _ok(episodes, f'--out={out}')
  captions = out / 'captions.json'
  texts = [s['texts'] for s in json.loads(captions.read_text())[0]['scenes']]
  assert texts == [['', ''], ['']]
  with browser.opened(out / 'annotate.html', width=browser.NARROW) as visit:
    page = visit.page
    left = page.locator('#count')
    assert left.inner_text() == '0 of 3 written, 3 left'
    page.wait_for_function('document.querySelector(".strip img").naturalWidth')
    # Keys lead to the next segment; what is typed is kept at once.
    boxes = page.locator('textarea')
    boxes.nth(0).fill('A <b>cat</b>\nsleeps.')
    boxes.nth(0).press('Control+Enter')
    page.keyboard.type('It wakes up.')
    page.keyboard.press('Alt+p')
    page.wait_for_function('document.querySelector("video").readyState > 1')
    assert left.inner_text() == '2 of 3 written, 1 left'
    page.reload()
    assert boxes.nth(0).input_value() == 'A <b>cat</b>\nsleeps.'
    assert left.inner_text() == '2 of 3 written, 1 left'
    page.locator('#next').click()
    assert page.evaluate('document.activeElement.ariaLabel') == 'text 3'
    page.keyboard.press('Alt+c')
    assert boxes.nth(2).input_value() == 'It wakes up.'
    boxes.nth(2).fill('')
    page.locator('#only-empty').check()
    assert page.locator('.card:visible').count() == 1
    assert visit.overflow() <= 0
    with page.expect_download() as download:
      page.locator('#export').click()
    download.value.save_as(captions)
    assert page.locator('#status').inner_text() == 'exported 2 texts'
    # A text of the file that changed later is shown; the typed one is offered.
    path = out / 'annotate.html'
    path.write_text(path.read_text().replace('"text":""', '"text":"new"'))
    page.reload()
    assert 'A <b>cat</b>' in page.locator('.earlier').first.inner_text()
    page.locator('.earlier button').first.click()
    assert boxes.nth(0).input_value() == 'A <b>cat</b>\nsleeps.'
    # Another browser reads the file.
    page.evaluate('localStorage.clear()')
    page.reload()
    page.locator('#import').set_input_files(captions)
    page.wait_for_function(
      'document.getElementById("status").textContent.startsWith("read 2")'
    )
    assert boxes.nth(1).input_value() == 'It wakes up.'
    assert not visit.problems
  # Precompute reads what was exported, the same segments as on the page.
  sizes = geometry.Geometry.from_seconds(6, 32, 64)
  (clip,) = episodes_lib.read_clips(captions, str(episodes), sizes).clips
  assert [(s.text, s.start) for s in clip.segments] == [
    ('A <b>cat</b> sleeps.', 3 / 16),
    ('It wakes up.', 3 + 3 / 16),
  ]
  # The command goes on with it.
  assert '2 texts are written, 1 is left' in _ok(episodes, f'--out={out}')
  found = json.loads(captions.read_text())[0]['scenes']
  assert found[0]['texts'] == ['A <b>cat</b> sleeps.', 'It wakes up.']
  assert found[1]['texts'] == ['']
  assert 'It wakes up.</textarea>' in (out / 'annotate.html').read_text()


_CAPTION = """
import os, pathlib, sys
files = sorted(pathlib.Path(sys.argv[-1]).iterdir())
start = os.environ['TTT_JAX_START']
if os.path.exists(sys.argv[1]) and start != '0.1875':
  sys.exit('the model is\\nout of memory')
print(start, os.environ['TTT_JAX_END'], [f.name for f in files])
print(os.environ['TTT_JAX_PREVIOUS_TEXT'])
"""


def test_a_command_writes_the_texts(project, episodes, tmp_path):
  script, fails = tmp_path / 'caption.py', tmp_path / 'fails'
  script.write_text(_CAPTION)
  fails.touch()
  flags = [
    episodes,
    f'--out={project.folder}',
    f'--caption_command={sys.executable} {script} {fails}',
    '--caption_frames=2',
  ]
  message = _error(*flags)
  assert 'status 1 for ep 01.mp4 from 3.1875 s (out of memory)' in message
  captions = project.folder / 'captions.json'
  first = "0.1875 3.1875 ['01.png', '02.png']"
  found = json.loads(captions.read_text())[0]['scenes']
  assert found[0]['texts'] == [first, '']
  assert (
    first.replace("'", '&#x27;')
    in (project.folder / 'annotate.html').read_text()
  )
  fails.unlink()
  assert 'next: ttt-jax precompute' in _ok(*flags)
  found = json.loads(captions.read_text())[0]['scenes']
  # The second goes on from the first; the third is another scene.
  second = first.replace('0.1875 3.1875', '3.1875 6.1875')
  assert found[0]['texts'] == [first, f'{second} {first}']
  assert found[1]['texts'] == ["8.25 10.75 ['01.png', '02.png']"]


def test_texts_of_a_video_that_is_away_are_kept(project, episodes):
  out = project.folder
  segments = project.segments()
  segments[0].text = 'kept'
  project.save(segments)
  videos.write(episodes / 'ep 02.mp4', 50)
  (episodes / 'ep 01.mp4').rename(episodes / 'away')
  project.set_cuts(
    'ep 02.mp4',
    scenes.Cuts(50 / 16, ()),
    scenes.DEFAULT_THRESHOLD,
    scenes.DEFAULT_SHORTEST,
  )
  text = _ok(episodes / 'ep 02.mp4', f'--out={out}')
  assert 'left out ep 01.mp4: there is no video' in text
  found = json.loads((out / 'captions.json').read_text())
  assert [e['name'] for e in found] == ['ep 01', 'ep 02']
  assert found[0]['scenes'][0]['texts'] == ['kept', '']
  page = (out / 'annotate.html').read_text()
  assert 'ep 02.mp4' in page and 'kept</textarea>' not in page


def test_files_that_are_no_videos(project, episodes, tmp_path):
  pytest.importorskip('scenedetect')
  (episodes / 'notes.mp4').write_text('not a video')
  text = _ok(episodes, f'--out={project.folder}')
  assert 'left out notes.mp4: ' in text
  alone = tmp_path / 'alone'
  alone.mkdir()
  shutil.copy(episodes / 'notes.mp4', alone)
  message = _error(alone, f'--out={tmp_path / "new"}')
  assert '1 video has no segment of 3 s: 1 cannot be read' in message
  assert 'too short; name videos that play and have longer' in message
  assert not (tmp_path / 'new').exists()


def test_bad_input(tmp_path, project, episodes):
  out = f'--out={tmp_path / "new"}'
  example = 'missing; for example ttt-jax annotate ep01.mp4'
  assert f'an episode is {example}' in _error(out)
  assert f'an episode and --out are {example}' in _error()
  assert f'error: --out is {example}' in _error(episodes)
  assert f'{tmp_path}/no.mp4 does not exist; name a' in _error(
    tmp_path / 'no.mp4', out
  )
  (tmp_path / 'empty').mkdir()
  assert 'empty has no videos' in _error(tmp_path / 'empty', out)
  assert "'no-such-program' is not a program" in _error(
    episodes, out, '--caption_command=no-such-program --x'
  )
  assert 'gs://' in _error(episodes, '--out=gs://bucket/x')
  assert not (tmp_path / 'new').exists()

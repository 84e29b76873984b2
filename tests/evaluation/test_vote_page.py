"""The page of votes: played and answered in a browser, and its files."""

import json
import pathlib
import shutil

import pytest

from tests.helpers import browser
from tests.helpers import commands
from tests.helpers import videos
from ttt_jax.evaluation import vote_page
from ttt_jax.evaluation import votes as votes_lib
from ttt_jax.video import decode
from ttt_jax.video import video_file

STORIES = ('one', 'two')


@pytest.fixture(name='folders', scope='module')
def _folders(tmp_path_factory):
  """Two models, 'ours' and 'theirs', with a second of video per story."""
  root = tmp_path_factory.mktemp('models')
  for number, model in enumerate(('ours', 'theirs')):
    (root / model).mkdir()
    for i, story in enumerate(STORIES):
      frames = [videos.picture(64 * number + 32 * i + k) for k in range(16)]
      videos.write(root / model / f'{story}.mp4', frames)
  (root / 'ours' / 'one.png').write_bytes(b'')  # Other files do not matter.
  boards = [dict(name=s, segments=[dict(text=f'Story {s}.')]) for s in STORIES]
  (root / 'stories.json').write_text(json.dumps(boards))
  return root


@pytest.fixture(name='copy')
def _copy(folders, tmp_path):
  return shutil.copytree(folders, tmp_path / 'models')


def write(root, out, **options):
  clips = vote_page.find_clips([root / 'ours', root / 'theirs'])
  return vote_page.write(clips, out, f'{out}.key.json', **options)


def test_a_session_in_a_browser(folders, tmp_path):
  """Plays, votes with keys, reloads in the middle, exports and rates."""
  browser.require()
  done = commands.run(
    'ttt_jax.evaluate',
    '--vote',
    folders / 'ours',
    folders / 'theirs',
    f'--storyboard={folders / "stories.json"}',
    f'--out={tmp_path / "study"}',
  )
  assert not done.returncode, done.stderr
  assert '2 models (ours, theirs), 2 stories, 8 questions' in done.stdout
  done = commands.run(
    'ttt_jax.evaluate',
    '--compare',
    folders / 'ours' / 'one.mp4',
    folders / 'theirs' / 'one.mp4',
    f'--out={tmp_path / "numbers"}',
  )
  assert not done.returncode, done.stderr
  key = json.loads((tmp_path / 'study.key.json').read_text())
  page = tmp_path / 'study' / 'index.html'
  # Nothing that is published says what is what.
  assert not {'ours', 'theirs', *STORIES} & set(page.read_text().split('"'))
  names = {p.stem for p in (tmp_path / 'study' / 'videos').iterdir()}
  assert names == key['clips'].keys()

  asked = []
  with browser.opened(page, width=480, height=400) as visit:
    tab = visit.page

    def players(script):
      found = (tab.eval_on_selector(f'#{s}', script) for s in ('left', 'right'))
      return list(found)

    def model(side):
      clip = tab.eval_on_selector(f'#{side}', 'v => v.currentSrc')
      return key['clips'][pathlib.Path(clip).stem]

    def wait():
      tab.wait_for_function(
        "!document.querySelector('#choices button').disabled"
      )

    def vote():
      """Prefers 'ours', and sees that equal videos are equal."""
      wait()
      left, right = model('left'), model('right')
      assert left['story'] == right['story']
      asked.append((tab.inner_text('#question'), left['model']))
      if left['model'] == right['model']:
        tab.keyboard.press('t')
      else:
        tab.keyboard.press(
          'ArrowLeft' if left['model'] == 'ours' else 'ArrowRight'
        )

    tab.fill('#name', 'Ann B.')
    tab.keyboard.press('Enter')
    wait()
    # Both play, together, and from the start again after their end.
    tab.wait_for_function(
      '[...document.querySelectorAll("video")].every(v => v.currentTime > .3)'
    )
    a, b = players('v => v.currentTime')
    assert abs(a - b) < 0.25
    tab.wait_for_function(
      '[...document.querySelectorAll("video")].every(v => v.currentTime < .3)'
    )
    for _ in range(4):
      vote()
    wait()
    tab.keyboard.press('x')  # A mistake, which is taken back.
    wait()
    tab.keyboard.press('Backspace')
    wait()
    before = tab.inner_text('#count'), players('v => v.currentSrc')
    assert before[0] == 'Question 5 of 9'
    tab.reload()
    wait()
    assert (tab.inner_text('#count'), players('v => v.currentSrc')) == before
    for _ in range(5):
      vote()
    tab.wait_for_selector('#end:not([hidden])')
    with tab.expect_download() as download:
      tab.click('#end .export')
    assert download.value.suggested_filename == 'votes_Ann_B_.json'
    download.value.save_as(tmp_path / 'votes.json')
    tab.set_viewport_size(dict(width=browser.NARROW, height=800))
    assert visit.overflow() <= 0
    assert not visit.problems
    # The numbers of two of the videos, on a phone.
    tab.goto((tmp_path / 'numbers.html').as_uri())
    assert visit.overflow() <= 0
    svg = tab.locator('svg').first
    svg.hover()
    assert 's ' in tab.locator('.chart .values').first.inner_text()
    assert not visit.problems
    # The helper notices what it must.
    (tmp_path / 'bad.html').write_text(
      '<img src="missing.png"><script>missing()</script>'
      '<div style="width: 900px">x</div>'
    )
    tab.goto((tmp_path / 'bad.html').as_uri())
    assert len(visit.problems) >= 2 and visit.overflow() > 400

  questions = {q for q, _ in votes_lib.AXES.values()}
  assert {q for q, _ in asked} == questions
  done = commands.run(
    'ttt_jax.evaluate',
    '--ratings',
    tmp_path / 'votes.json',
    f'--key={tmp_path / "study.key.json"}',
    f'--out={tmp_path / "ratings.json"}',
  )
  assert not done.returncode, done.stderr
  assert 'ours won every vote against the others' in done.stdout
  found = json.loads((tmp_path / 'ratings.json').read_text())
  assert found['models'] == ['ours', 'theirs']
  assert [found['axes'][axis]['votes'] for axis in votes_lib.AXES] == [2] * 4
  (voter,) = found['voters']
  assert voter == dict(
    name='Ann B.', votes=8, skipped=0, checks=1, failed=0, excluded=False
  )


def test_copies_have_no_metadata_and_the_same_pictures(copy, tmp_path):
  made = dict(checkpoint='ours', texts=['Story one.'])
  frames = video_file.read_every(
    copy / 'ours' / 'one.mp4', stride=1, height=32, width=64
  )
  for story in STORIES:
    path = copy / 'ours' / f'{story}.mp4'
    video_file.write_video(path, frames, 16, settings=made)
  # Browsers do not play MPEG-4 of the year 1999.
  (copy / 'theirs' / 'one.mp4').unlink()
  videos.write(copy / 'theirs' / 'one.avi', 16, codec='mpeg4')
  clips = vote_page.find_clips([copy / 'ours', copy / 'theirs'])
  assert vote_page.find_texts(clips) == dict(
    one=['Story one.'], two=['Story one.']
  )
  study = write(copy, tmp_path / 'study')
  assert 'text' not in study.axes and 'left out' in study.notes[0]
  assert 'videos of theirs were not H.264' in study.notes[1]
  key = json.loads((tmp_path / 'study.key.json').read_text())
  for name, clip in key['clips'].items():
    path = tmp_path / 'study' / 'videos' / f'{name}.mp4'
    encoding = decode.encoding(path)
    assert (encoding.codec, encoding.pixel_format) == ('h264', 'yuv420p')
    assert not video_file.read_settings(path)
    assert b'Story one' not in path.read_bytes()
    shown, original = (
      videos.numbers(video_file.read_every(p, stride=1, height=32, width=64))
      for p in (path, clip['file'])
    )
    assert shown == original


def test_stories_must_match(copy, tmp_path):
  (copy / 'theirs' / 'one.mp4').rename(copy / 'theirs' / 'three.mp4')
  with pytest.raises(
    ValueError, match='2 folders .*ours has no three; .*theirs has no one;'
  ):
    write(copy, tmp_path / 'study')
  (copy / 'theirs' / 'three.mp4').rename(copy / 'theirs' / 'one.mp4')
  for call, message in (
    (lambda: vote_page.find_clips([copy / 'ours']), '1 folder of videos; '),
    (lambda: vote_page.find_clips([copy / 'ours'] * 2), 'name every model o'),
    (lambda: write(copy / 'x', tmp_path / 's'), 'is not a folder of videos'),
    (
      lambda: vote_page.find_texts(
        vote_page.find_clips([copy / 'ours', copy / 'theirs']),
        copy / 'other.json',
      ),
      "no storyboard 'one'.* it has x, y",
    ),
  ):
    (copy / 'other.json').write_text(
      json.dumps([dict(name=n, segments=['a']) for n in 'xy'])
    )
    with pytest.raises((ValueError, FileNotFoundError), match=message):
      call()


def test_nothing_is_half_written(copy, tmp_path):
  out = tmp_path / 'study'
  data = bytearray((copy / 'ours' / 'two.mp4').read_bytes())
  (copy / 'ours' / 'two.mp4').write_bytes(b'not a video')
  with pytest.raises(ValueError, match=r'two.mp4 cannot be read as a video'):
    write(copy, out)
  (copy / 'ours' / 'two.mp4').write_bytes(data)
  (out).mkdir()
  (out / 'mine.txt').touch()
  with pytest.raises(FileExistsError, match='is not replaced'):
    write(copy, out)
  assert [p.name for p in tmp_path.iterdir()] == ['models', 'study']
  shutil.rmtree(out)
  (tmp_path / 'study.key.json').write_text('{}')
  with pytest.raises(FileExistsError, match='choose another --key'):
    write(copy, out)
  clips = vote_page.find_clips([copy / 'ours', copy / 'theirs'])
  with pytest.raises(ValueError, match='voters could read it there'):
    vote_page.write(clips, out, out / 'key.json')
  assert not out.exists()

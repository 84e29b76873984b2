"""The command that measures and compares videos: its files and its errors."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.helpers import commands
from ttt_jax.evaluation import results
from ttt_jax.evaluation import video_report
from ttt_jax.video import video_file


def evaluate(*arguments, cwd):
  return commands.run('ttt_jax.evaluate', *arguments, cwd=cwd)


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  """Two stories of two models, 6 s each; B flickers. And results of both."""
  root = tmp_path_factory.mktemp('videos')
  rng = np.random.default_rng(0)
  for story in ('s1', 's2'):
    noise = rng.integers(60, 190, (4, 6, 3)).repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(noise, i, 1) for i in range(49)])
    for model, step in (('a', 0), ('b', 20)):
      (root / model).mkdir(exist_ok=True)
      frames = frames + step * (np.arange(49) % 2)[:, None, None, None]
      video_file.write_video(
        root / model / f'{story}.mp4',
        frames.astype(np.uint8),
        8,
        settings=dict(seed=7, steps=20 + step),
      )
  boards = [
    dict(name=s, segments=['<b> & a dog.', 'A cat.']) for s in ('s1', 's2')
  ]
  (root / 'stories.json').write_text(json.dumps(boards))
  for model in 'ab':
    done = evaluate(
      f'{model}/s1.mp4',
      f'{model}/s2.mp4',
      '--storyboard=stories.json',
      f'--out={model}',
      cwd=root,
    )
    assert not done.returncode, done.stderr
  return root


@pytest.fixture(name='copy')
def _copy(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / 'videos')


def test_a_result_and_its_page(folder):
  found = json.loads((folder / 'a.json').read_text())
  assert found['format'] == video_report.FORMAT
  first = found['videos'][0]
  assert first['video'] == 'a/s1.mp4'
  assert first['settings']['sampling'] == dict(seed=7, steps=20)
  assert first['segments'][0]['text'] == '<b> & a dog.'
  flicker = found['summary']['scores']['flicker']
  assert flicker['videos'] == 2
  assert flicker['low'] <= flicker['mean'] <= flicker['high']
  page = (folder / 'a.html').read_text()
  assert '&lt;b&gt; &amp; a dog.' in page and '<b> & a dog' not in page
  # One file: nothing is loaded.
  assert not re.search(r'(src|href)="(?!data:)', page)
  assert 'colour, edges and structure' in page
  # Every number that is shown is explained.
  for name in found['summary']['scores']:
    assert video_report.SCORES[name][0] in page


def test_two_results_side_by_side(folder):
  done = evaluate('--compare', 'a.json', 'b.json', '--out=ab.html', cwd=folder)
  assert done.stdout == 'wrote ab.json\nwrote ab.html: open it in a browser\n'
  found = json.loads((folder / 'ab.json').read_text())
  rows = {row['score']: row for row in found['differences']}
  # The same stories: pairs have an interval.
  row = rows['flicker']
  assert 5 < row['low'] <= row['difference'] <= row['high'] < 30
  assert row['difference'] == pytest.approx(row['b'] - row['a'])
  assert (found['a'], found['b'], found['notes']) == ('a', 'b', [])
  page = (folder / 'ab.html').read_text()
  assert 'B minus A' in page and '+' in page


def test_videos_and_results_can_be_mixed(folder):
  found = results.compare(
    [str(folder / 'a' / 's1.mp4'), str(folder / 'b.json')]
  )
  assert [len(r['videos']) for r in found.value['results']] == [1, 2]
  assert list(found.pictures) == [str(folder / 'a' / 's1.mp4')]
  assert 'low' not in found.value['differences'][0]
  done = evaluate('--compare', 'a/s1.mp4', 'b/s1.mp4', '--out=one', cwd=folder)
  assert not done.returncode, done.stderr
  page = (folder / 'one.html').read_text()
  assert 'A: a/s1.mp4' in page and 'jump, B' in page
  # Settings that differ are first.
  settings = page.partition('Settings')[2]
  assert settings.index('steps') < settings.index('seed')


def test_what_cannot_be_compared_is_said(copy):
  value = json.loads((copy / 'b.json').read_text())
  value['features'] = 'others'
  value['clip'] = 'vit'
  for video in value['videos']:
    video['settings']['fps'] = 24
  (copy / 'c.json').write_text(json.dumps(value))
  found = results.compare([str(copy / 'a.json'), str(copy / 'c.json')])
  notes = '\n'.join(found.value['notes'])
  assert 'features differ' in notes and 'None and vit' in notes
  assert 'a has 8 frames per second, c has 24' in notes


@pytest.mark.parametrize(
  'arguments, message',
  [
    ((), 'there is nothing to evaluate; name a video, or give --compare'),
    (('--vote', '--compare', 'a', 'b'), '--compare and --vote exclude each'),
    (('missing.mp4',), 'there is no video missing.mp4'),
    (('a/s1.mp4', 'text.mp4'), 'text.mp4 cannot be read as a video'),
    (('a',), 'a is a folder; name a video file'),
    (('a/s1.mp4', 'a/s1.mp4'), 'a/s1.mp4 is named twice'),
    (('a/s1.mp4', '--clip=a'), 'a has no clip: no config.json in it'),
    (('a/s1.mp4', '--storyboard=other.json'), "no storyboard 's1'"),
    (('a/s1.mp4', '--storyboard=long.json'), 'lasts 6.1 s, but its storyboard'),
    (('a/s1.mp4', '--out=no/x'), 'no/x.json cannot be written'),
    (('--compare', 'a.json'), 'two videos or JSON files, not 1'),
    (('--compare', 'a.json', 'stories.json'), 'has the format None, expected'),
    (('--compare', 'a.json', 'old.json'), 'has the version 0, expected 1'),
    (('--compare', 'a.json', 'part.json'), 'has no "scores"'),
    (('--vote', 'a', 'b'), '--vote needs --out=FOLDER'),
    (('--vote', 'a', 'b', '--out=a'), 'a exists and is not replaced'),
    (('--vote', 'a', 'b', '--out=s', '--questions=0'), 'questions'),
    (('--ratings',), '--ratings needs files of votes'),
    (('--ratings', 'a.json'), "expected 'ttt_jax votes'"),
    (('--workdir=a',), '--storyboards is missing'),
    (('--storyboards=stories.json',), '--workdir is missing'),
    (('--workdir=a', '--storyboards=b', 'x'), "unexpected argument 'x'"),
  ],
)
def test_errors_of_one_line(copy, arguments, message):
  (copy / 'text.mp4').write_text('text')
  boards = [dict(name=n, segments=['a']) for n in 'xy']
  (copy / 'other.json').write_text(json.dumps(boards))
  (copy / 'long.json').write_text(json.dumps(['a'] * 21))
  value = json.loads((copy / 'a.json').read_text())
  (copy / 'old.json').write_text(json.dumps(value | dict(version=0)))
  del value['videos'][1]['scores']
  (copy / 'part.json').write_text(json.dumps(value))
  before = sorted(copy.rglob('*'))
  done = evaluate(*arguments, cwd=copy)
  assert done.returncode == 2
  assert done.stderr.count('\n') == 1 and message in done.stderr, done.stderr
  assert sorted(copy.rglob('*')) == before

"""The page of storyboards: a strip of segments with scenes and tokens."""

import json

from tests.helpers import browser
from tests.helpers import commands

BOARD = dict(
  name='a <day>',
  segments=[
    dict(text='A cat sleeps.', scene='yard', negative='dogs'),
    dict(text='It </script> wakes up.'),
    dict(text='word ' * 40, scene='kitchen'),
    dict(text='Back.', scene='yard'),
  ],
)


def _inspect(path, value, *flags):
  path.write_text(json.dumps(value))
  done = commands.run('ttt_jax.inspect', path, *flags)
  assert done.returncode == 0, done.stderr
  return path.with_suffix('.html')


def test_a_strip_of_segments(tmp_path):
  out = _inspect(
    tmp_path / 'day.json', BOARD, '--config=configs/quickstart.py:9s'
  )
  with browser.opened(out, width=browser.NARROW) as visit:
    page = visit.page
    assert page.locator('h2').inner_text() == 'a <day>'
    bar = page.locator('.bar-of-scenes a')
    assert bar.all_inner_texts() == ['yard', 'kitchen', 'yard']
    widths = [box['width'] for box in map(_box, bar.all())]
    assert widths[0] > 1.5 * widths[1]
    colours = bar.evaluate_all(
      'found => found.map(e => getComputedStyle(e).backgroundColor)'
    )
    assert colours[0] == colours[2] != colours[1]
    texts = page.locator('.segment').all_inner_texts()
    assert '</script> wakes up.<end_scene>' in texts[1]
    assert 'not: dogs' in texts[0]
    # 40 words, one scene token at each end, start and end of the text.
    assert '44 of 24 tokens, too many' in texts[2]
    assert visit.overflow() <= 0
    assert not visit.problems


def _box(locator):
  return locator.bounding_box()


def test_episodes_are_strips_too(tmp_path):
  scenes = [
    dict(start=1, end=7, texts=['one', 'two']),
    dict(start=7, end=10, texts=['three']),
  ]
  value = [dict(video='ep.mp4', scenes=scenes)]
  text = _inspect(tmp_path / 'captions.json', value).read_text()
  assert text.count('class="segment"') == 3
  assert 'ep.mp4 from 4 s' in text
  value = [dict(video='a.mp4', text='one'), dict(video='b.mp4', text='two')]
  text = _inspect(tmp_path / 'pairs.json', value).read_text()
  assert text.count('class="segment"') == 2


def test_a_file_of_something_else(tmp_path):
  path = tmp_path / 'x.json'
  path.write_text('{"segments": [{"txt": "a"}]}')
  done = commands.run('ttt_jax.inspect', path)
  assert done.returncode == 2
  assert 'x.json: ' in done.stderr and 'txt' in done.stderr
  assert done.stderr.count('\n') == 1
  assert not path.with_suffix('.html').exists()


def test_a_shipped_storyboard_by_its_name(tmp_path):
  """The page is written here, not next to the file."""
  done = commands.run('ttt_jax.inspect', 'one_minute', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  page = (tmp_path / 'one_minute.html').read_text()
  assert page.count('class="segment"') == 21


def test_a_path_that_is_not_for_inspect(tmp_path):
  (tmp_path / 'ep01.mp4').touch()
  kinds = 'a training run, a data set or a file of storyboards'
  for source, message in {
    'one_minut': 'one_minut does not exist; did you mean one_minute?',
    'nothing': f'nothing does not exist; name {kinds}',
    'ep01.mp4': f'ep01.mp4 is a video; name {kinds}, or measure it with ttt-jax'
    ' evaluate ep01.mp4',
  }.items():
    done = commands.run('ttt_jax.inspect', source, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f'error: {message}\n'

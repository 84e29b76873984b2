"""The three forms of annotation files, and the errors of invalid ones."""

import json

import pytest

from ttt_jax.data import annotations
from ttt_jax.data.annotations import Episode
from ttt_jax.data.annotations import VideoSpan

OURS = {
  'name': 'ep',
  'video': 'ep.mp4',
  'scenes': [
    {'start': 1, 'end': 7.5, 'texts': ['a', 'b']},
    {'video': 'other.mp4', 'texts': ['c']},
  ],
}
DOCS = {
  'mp4': 'ep/000.mp4',
  'text_1': 'b',
  'text_0': 'a',
  'text_2': 'c',
  'scene_start': [True, False, True],
  'scene_end': [False, True, True],
}


def test_episodes_with_scenes():
  (episode,) = annotations.parse([OURS])
  assert episode == Episode(
    'ep',
    (
      VideoSpan('ep.mp4', 1.0, 7.5, ('a', 'b'), (0, 0)),
      VideoSpan('other.mp4', 0.0, None, ('c',), (1,)),
    ),
  )
  assert annotations.parse(OURS) == [episode]
  nameless = {k: v for k, v in OURS.items() if k != 'name'}
  nameless['video'] = 's1/ep.mp4'
  assert annotations.parse([nameless])[0].name == 's1/ep'


def test_the_form_of_the_papers_docs():
  (episode,) = annotations.parse([DOCS])
  assert episode == Episode(
    'ep/000',
    (VideoSpan('ep/000.mp4', 0.0, None, ('a', 'b', 'c'), (0, 0, 1)),),
  )
  bare = {'video': 'x.mp4', **{f'text_{i}': str(i) for i in range(12)}}
  (span,) = annotations.parse([bare])[0].spans
  assert span.texts == tuple(map(str, range(12)))
  assert set(span.scenes) == {0}


def test_the_form_of_the_papers_script():
  def entry(number, start, end, folder='ep1'):
    return {
      'mp4': f'{folder}/video_sample_{number}.mp4',
      'text': f't{number}',
      'scene_start': start,
      'scene_end': end,
    }

  one, two = annotations.parse(
    {
      'x': entry(10, False, False),
      'y': entry(2, True, True),
      'z': entry(9, True, False),
      'w': entry(1, True, True, 'ep2'),
      'v': entry(11, True, False),
    }
  )
  assert (one.name, two.name) == ('ep1', 'ep2')
  assert [s.texts for s in one.spans] == [
    ('t2',),
    ('t9',),
    ('t10',),
    ('t11',),
  ]
  assert [s.scenes[0] for s in one.spans] == [0, 1, 1, 2]
  # The same, one per line, and without a folder.
  (flat,) = annotations.parse(
    [{'mp4': 'v²2.mp4', 'text': 'b'}, {'mp4': 'v²1.mp4', 'text': 'a'}]
  )
  assert flat.name == 'episode'
  assert [s.texts for s in flat.spans] == [('a',), ('b',)]


def test_scene_tokens_are_spelled_as_in_storyboards():
  (episode,) = annotations.parse([{'mp4': 'v', 'text_0': '<scene_start> a '}])
  assert episode.spans[0].texts == ('<start_scene> a',)


@pytest.mark.parametrize(
  'value, expected',
  [
    (OURS, True),
    ([OURS], True),
    ([DOCS], True),
    ({'1': {'mp4': 'a.mp4', 'text': 'a'}}, True),
    ([{'text': 'a', 'video': 'v.mp4'}], False),
    (['a'], False),
    ({'segments': ['a'], 'shots': {'mp4': {'text': 'a'}}}, False),
    ({'shots': {'text_0': {'text': 'a'}}, 'storyboards': [['text_0']]}, False),
    ([], False),
    (7, False),
  ],
)
def test_annotations_are_distinguished_from_storyboards(value, expected):
  assert annotations.is_annotation(json.loads(json.dumps(value))) == expected


def scenes(**scene):
  return [{'video': 'v.mp4', 'scenes': [{'texts': ['a'], **scene}]}]


@pytest.mark.parametrize(
  'value, message',
  [
    ([OURS, DOCS], 'entry 2 is not of the form of the others .episode.'),
    ([OURS, 'x'], 'entry 2 is not of the form'),
    (
      [{'scenes': []}],
      '"scenes" of entry 1 is .*; expected a list of length >= 1',
    ),
    ([{'scenes': [7]}], 'scene 1 of entry 1 is 7; expected an object'),
    ([{'scenes': [{'texts': ['a']}]}], 'scene 1 of entry 1 has no "video"'),
    (
      scenes(texts=[]),
      '"texts" of scene 1 of entry 1 is .*; expected a list of length >= 1',
    ),
    (
      scenes(texts=['a', ' ']),
      'text 2 of scene 1 of entry 1 is empty; describe what is shown, or press'
      ' Export on annotate.html, which leaves out segments without a text',
    ),
    (
      scenes(texts=[None]),
      'item 1 of "texts" of scene 1 of entry 1 is null; expected a text',
    ),
    (scenes(start=-1), '"start" of scene 1 of entry 1 is -1'),
    (scenes(start=4, end=3), 'ends at 3 s, but starts at 4 s'),
    (
      scenes(strat=4),
      "unknown key 'strat'; did you mean 'start'. expected one of texts",
    ),
    ([{'mp4': 'a', 'text_0': 'a', 'text_2': 'b'}], "unknown key 'text_2'"),
    ([{'text_0': 'a'}], 'entry 1 has no "video"'),
    ([{'mp4': 'a', 'video': 'a', 'text_0': 'a'}], 'has both "mp4" and'),
    (
      [{'mp4': 'a', 'text_0': 'a', 'scene_end': [True, True]}],
      '1 text, but 2 values of "scene_end"',
    ),
    (
      [{'mp4': 'a', 'text_0': 'a', 'scene_end': [1]}],
      'is 1; expected true or false',
    ),
    (
      {'k': {'mp4': 'a', 'text': 'a', 'scene_end': 1}},
      '"scene_end" of entry \'k\' is 1; expected true or false',
    ),
    ([{'mp4': 'a'}], 'entry 1 has no "text"'),
    ([OURS, OURS], "2 episodes have the name 'ep'"),
    ([{'mp4': 'a'}] * 2, '2 entries .*: entry 1 has .*; entry 2 has no'),
    ([{'vid_emb': 'a.pt', 'text_chunk_emb': []}], 'pickles and never read'),
  ],
)
def test_invalid_annotations(value, message):
  with pytest.raises(ValueError, match=message) as e:
    assert annotations.is_annotation(value)
    annotations.parse(value)
  assert '\n' not in str(e.value)

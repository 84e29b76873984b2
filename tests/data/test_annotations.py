"""Annotation files: three forms, one meaning; what is refused."""

import json

import pytest

from ttt_jax.data import annotations
from ttt_jax.data.annotations import Episode
from ttt_jax.data.annotations import Stretch

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
      Stretch('ep.mp4', 1.0, 7.5, ('a', 'b'), (0, 0)),
      Stretch('other.mp4', 0.0, None, ('c',), (1,)),
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
    (Stretch('ep/000.mp4', 0.0, None, ('a', 'b', 'c'), (0, 0, 1)),),
  )
  bare = {'video': 'x.mp4', **{f'text_{i}': str(i) for i in range(12)}}
  (stretch,) = annotations.parse([bare])[0].stretches
  assert stretch.texts == tuple(map(str, range(12)))
  assert set(stretch.scenes) == {0}


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
  assert [s.texts for s in one.stretches] == [
    ('t2',),
    ('t9',),
    ('t10',),
    ('t11',),
  ]
  assert [s.scenes[0] for s in one.stretches] == [0, 1, 1, 2]
  # The same, one a line, and without a folder.
  (flat,) = annotations.parse(
    [{'mp4': 'v2.mp4', 'text': 'b'}, {'mp4': 'v1.mp4', 'text': 'a'}]
  )
  assert flat.name == 'episode'
  assert [s.texts for s in flat.stretches] == [('a',), ('b',)]


def test_tokens_in_texts_are_spelled_as_in_storyboards():
  (episode,) = annotations.parse([{'mp4': 'v', 'text_0': '<scene_start> a '}])
  assert episode.stretches[0].texts == ('<start_scene> a',)


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
def test_annotations_are_told_from_storyboards(value, expected):
  assert annotations.is_annotation(json.loads(json.dumps(value))) == expected


def scenes(**scene):
  return [{'video': 'v.mp4', 'scenes': [{'texts': ['a'], **scene}]}]


@pytest.mark.parametrize(
  'value, message',
  [
    ([OURS, DOCS], 'entry 2 is no episode as the others are'),
    ([OURS, 'x'], 'entry 2 is no episode'),
    ([{'scenes': []}], 'entry 1 has no scenes'),
    ([{'scenes': [7]}], 'scene 1 of entry 1 is a number'),
    ([{'scenes': [{'texts': ['a']}]}], 'scene 1 of entry 1 has no "video"'),
    (scenes(texts=[]), 'scene 1 of entry 1 has no texts'),
    (scenes(texts=['a', ' ']), 'text 2 of scene 1 of entry 1 is empty'),
    (scenes(texts=[None]), 'text 1 of scene 1 of entry 1 is null'),
    (scenes(start=-1), 'start of text 1 of scene 1 of entry 1 is -1'),
    (scenes(start=4, end=3), 'ends at 3 s, but starts at 4 s'),
    (scenes(strat=4), "unknown key 'strat'; legal are video, start"),
    ([{'mp4': 'a', 'text_0': 'a', 'text_2': 'b'}], "unknown key 'text_2'"),
    ([{'text_0': 'a'}], 'must name its video once'),
    ([{'mp4': 'a', 'video': 'a', 'text_0': 'a'}], 'must name its video once'),
    (
      [{'mp4': 'a', 'text_0': 'a', 'scene_end': [True, True]}],
      '1 texts, but 2 values of "scene_end"',
    ),
    ([{'mp4': 'a', 'text_0': 'a', 'scene_end': [1]}], 'true and false'),
    (
      {'k': {'mp4': 'a', 'text': 'a', 'scene_end': 1}},
      'entry \'k\' has "scene_end": 1; it must be true or false',
    ),
    ([{'mp4': 'a'}], 'text 1 of entry 1 is null'),
    ([OURS, OURS], "two episodes have the name 'ep'"),
    ([{'vid_emb': 'a.pt', 'text_chunk_emb': []}], 'pickles and never read'),
  ],
)
def test_what_is_refused(value, message):
  with pytest.raises(ValueError, match=message) as e:
    assert annotations.is_annotation(value)
    annotations.parse(value)
  assert '\n' not in str(e.value)

"""Stories of the cartoon world, without pictures."""

import math

import pytest

from examples.cartoon import captions
from examples.cartoon import motion
from examples.cartoon import story as story_lib
from examples.cartoon import words
from examples.cartoon import world

CASES = [
  (name, segments, split)
  for name, segments in (
    ('full', 21),
    ('simple', 21),
    ('full', 1),
    ('full', 3),
    ('simple', 6),
  )
  for split in story_lib.SPLITS
]


def stories(count, name, segments, split):
  for seed in range(count):
    yield world.draw_story(seed, segments, world.SETTINGS[name], split)


def test_same_seed_same_story_and_no_other():
  drawn = [
    world.draw_story(seed, 6, split=split)
    for split in story_lib.SPLITS
    for seed in range(20)
  ]
  assert drawn[3] == world.draw_story(3, 6)
  assert len({story.segments for story in drawn}) == len(drawn)


@pytest.mark.parametrize('name, segments, split', CASES)
def test_everything_is_described_once_and_named_always(name, segments, split):
  for story in stories(25, name, segments, split):
    texts = captions.captions(story)
    assert len(texts) == len(story.segments) == segments
    for i, character in enumerate(story.cast):
      text = captions.look_text(character.look)
      introduced = [j for j, t in enumerate(texts) if text in t]
      new = [j for j, s in enumerate(story.segments) if s.new_character == i]
      assert introduced == new and len(new) == 1
      first = min(
        j
        for j, s in enumerate(story.segments)
        if any(a.character == i for a in s.acts)
      )
      assert first == new[0]
    for i, place in enumerate(story.places):
      text = captions.place_text(place)
      assert [j for j, t in enumerate(texts) if text in t] == [
        j for j, s in enumerate(story.segments) if s.place == i
      ][:1]
    for text, segment in zip(texts, story.segments, strict=True):
      found = words.tokens(text)
      assert len(found) <= words.LENGTH
      assert story.places[segment.place].kind in found
      seen = {story.cast[act.character].name for act in segment.acts}
      assert seen == seen & set(found)


def test_splits_share_no_look():
  used = {split: set() for split in story_lib.SPLITS}
  for split in story_lib.SPLITS:
    for story in stories(300, 'full', 3, split):
      used[split] |= {character.look for character in story.cast}
  train, validation, test = used.values()
  assert len(train) > 300 and len(validation) > 40 and len(test) > 40
  assert not train & validation and not train & test and not validation & test


@pytest.mark.parametrize('split', story_lib.SPLITS)
def test_motion_is_continuous_within_a_scene(split):
  for story in stories(4, 'full', 21, split):
    changes = {}
    previous = motion.state(story, 0)
    for frame in range(1, story.num_frames):
      state = motion.state(story, frame)
      index, _ = motion.locate(frame)
      segment = story.segments[index]
      place = segment.place
      assert state.prop_change >= changes.get(place, 0.0)
      changes[place] = state.prop_change
      old, _ = motion.locate(frame - 1)
      if segment.scene == story.segments[old].scene:
        assert abs(state.camera - previous.camera) < motion.MAX_PAN
        before = {c.name: c for c in previous.characters}
        for character in state.characters:
          last = before.pop(character.name, None)
          if last is None:
            assert character.action == 'enter'
            continue
          step = math.hypot(character.x - last.x, character.lift - last.lift)
          assert step < motion.MAX_SPEED
        assert all(c.action == 'leave' for c in before.values())
      previous = state


def test_characters_return_after_all_distances():
  distances = set()
  for story in stories(150, 'full', 21, 'train'):
    last = {}
    for i, segment in enumerate(story.segments):
      for act in segment.acts:
        j = last.get(act.character)
        if j is not None and story.segments[j].scene != segment.scene:
          distances.add(i - j)
        last[act.character] = i
  assert distances >= set(range(1, 19))


@pytest.mark.parametrize(
  'text, message',
  [
    ('Pip walsk.', "the word 'walsk' of segment 2 is unknown; .* walks"),
    ('Pip eats 3 cakes.', "the word 'eats' of segment 2 is unknown"),
    ('Pip! jumps.', "the word '!' of segment 2"),
  ],
)
def test_unknown_words(text, message):
  with pytest.raises(ValueError, match=message):
    words.tokens(text, segment=2)


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(species=6), 'species is 6; expected 1 to 5'),
    (dict(pans=1.5), 'pans is 1.5; expected 0 to 1'),
    (dict(cast=(3, 2)), 'cast is 2; expected 3 to 6'),
    (dict(actions=('swim',)), 'actions are swim; expected some of walk'),
  ],
)
def test_bad_settings(change, message):
  with pytest.raises(ValueError, match=message):
    world.Settings(**change)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(seed=-1), 'seed is -1'),
    (dict(seed=0, segments=500), 'segments is 500; expected 1 to 200'),
    (dict(seed=0, split='dev'), "split is 'dev'; expected one of train"),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    world.draw_story(**arguments)

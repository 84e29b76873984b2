import pytest

from examples.cartoon import captions
from examples.cartoon import script
from examples.cartoon import story as story_lib
from examples.cartoon import world


@pytest.mark.parametrize('name', world.SETTINGS)
def test_captions_say_exactly_what_is_shown(name):
  for seed in range(60):
    story = world.draw_story(seed, 12, world.SETTINGS[name], 'test')
    said = script.story_from_text(captions.captions(story))
    assert said == script.of_story(story)


def test_own_text():
  read = script.story_from_text(
    [
      'Mo runs to the tree at the barn and jumps.',
      'Pip and Mo, a red bear, wave'.replace('wave', 'waits'),
      '<start_scene>The mill is red. Pip hides.<end_scene>',
    ]
  )
  assert read.names == ['mo', 'pip']
  assert read.looks == {'mo': story_lib.Look('bear', 'red', '', '')}
  assert read.places == {'mill': story_lib.Place('mill', 'red', '', None)}
  first, second, third = read.segments
  assert first == script.ScriptSegment(
    'barn',
    (
      script.ScriptAct('mo', 'run', 'tree'),
      script.ScriptAct('mo', 'jump'),
    ),
  )
  assert second.place == 'barn'
  assert [(a.name, a.action) for a in second.acts] == [
    ('pip', 'wait'),
    ('mo', 'wait'),
  ]
  assert third == script.ScriptSegment(
    'mill', (script.ScriptAct('pip', 'hide'),)
  )


@pytest.mark.parametrize(
  'texts, message',
  [
    ([], 'the story has 0 segments; expected 1 to 200'),
    (['Pip jumps.'] * 500, 'the story has 500 segments'),
    (['Pip jumps.', 'Pip jmups.'], "'jmups' of segment 2 .* jumps"),
    (['The fox jumps.'], 'no character; name one of pip'),
    (['Pip jumps. ' * 11], 'segment 1 has 33 words and marks; at most 30'),
    (
      ['Pip, a red fox, waits.', 'Pip, a blue fox, waits.'],
      "segment 2 describes 'pip' again, and differently",
    ),
    (
      ['Pip walks.', 'パンダ jumps.'],
      "'パンダ' of segment 2 is unknown; known",
    ),
  ],
)
def test_bad_text(texts, message):
  with pytest.raises(ValueError, match=message):
    script.story_from_text(texts)

"""English of a story: one caption per segment.

    Pip, a blue fox with a red scarf, walks to the tree. The barn is yellow,
    left of the tree, with a jug.
    Pip jumps at the barn. Mo, a white duck with a green hat, comes in from the
    left.

The look of a character follows its name, once; so does a place's. Later
captions have the names alone. Every caption names its place and everybody who
is seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from examples.cartoon import story as story_lib
from examples.cartoon import words

_TRIES = 12


def captions(story: story_lib.Story) -> list[str]:
  """Returns the caption of every segment; at most `words.LENGTH` tokens."""
  return [_caption(story, segment) for segment in story.segments]


def storyboard(story: story_lib.Story) -> dict[str, Any]:
  """Returns the JSON value of a storyboard, see `ttt_jax.storyboard`."""
  return dict(
    name=story.name,
    segments=[
      dict(text=text, scene=segment.scene)
      for text, segment in zip(captions(story), story.segments)
    ],
  )


def look_text(look: story_lib.Look) -> str:
  """Returns for example 'a blue fox with a red scarf'."""
  return (
    f'a {look.colour} {look.species} with a'
    f' {look.accessory_colour} {look.accessory}'
  )


def place_text(place: story_lib.Place, with_prop: bool = True) -> str:
  """Returns the sentence that describes a place."""
  stove = 'its stove ' if place.kind == 'kitchen' else ''
  prop = f', with a {place.prop}' if place.prop and with_prop else ''
  return (
    f'The {place.kind} is {place.colour}, {stove}{place.side} of the'
    f' {place.landmark}{prop}.'
  )


def _caption(story: story_lib.Story, segment: story_lib.Segment) -> str:
  rng = np.random.default_rng(segment.wording)
  text = ''
  for wordings in [story.wordings] * _TRIES + [1]:
    text = _Sentences(story, segment, rng, wordings).text()
    if len(words.tokens(text)) <= words.LENGTH:
      return text
  raise AssertionError(f'{text!r} is too long')


class _Sentences:
  """Writes one version of a caption."""

  def __init__(
    self,
    story: story_lib.Story,
    segment: story_lib.Segment,
    rng: np.random.Generator,
    wordings: int,
  ):
    self._story = story
    self._segment = segment
    self._rng = rng
    self._wordings = wordings
    self._place = story.places[segment.place]

  def _choose(self, *forms: str) -> str:
    """Returns one of the allowed forms; the first is the plainest."""
    return forms[int(self._rng.integers(min(len(forms), self._wordings)))]

  def text(self) -> str:
    segment, kind = self._segment, self._place.kind
    near = 'in' if kind == 'kitchen' else 'at'
    if near == 'at' and self._rng.random() < 0.4:
      near = self._choose('at', 'by', 'near')
    where = f'{near} the {kind}'
    clauses = [self._clause(act) for act in segment.acts]
    named = segment.new_place or any(f'the {kind}' in c for c in clauses)
    prefix = ''
    if not named:
      # The plainest form is most frequent.
      match self._choose('suffix', 'prefix', 'suffix'):
        case 'suffix':
          clauses[0] += f' {where}'
        case 'prefix':
          prefix = f'{where}, '
    is_long = segment.new_character is not None
    if self._wordings == 3 and not prefix and self._rng.random() < 0.15:
      prefix = self._choose('then ', 'now ')
    joint = '. '
    if len(clauses) == 2 and not is_long:
      joint = self._choose('. ', ' and ', ', and ')
    sentences = joint.join(clauses).split('. ')
    sentences[0] = prefix + sentences[0]
    if segment.new_place:
      sentences.append(place_text(self._place).removesuffix('.'))
    if segment.camera[0] != segment.camera[1]:
      side = 'left' if segment.camera[1] < segment.camera[0] else 'right'
      sentences.append(f'the camera pans {side}')
    text = '. '.join(s[0].upper() + s[1:] for s in sentences) + '.'
    for character in self._story.cast:
      text = _capitalize(text, character.name)
    return text

  def _subject(self, act: story_lib.Act) -> str:
    character = self._story.cast[act.character]
    if act.character == self._segment.new_character:
      return f'{character.name}, {look_text(character.look)},'
    return character.name

  def _clause(self, act: story_lib.Act) -> str:
    who = self._subject(act)
    verbs = words.VERBS.get(act.action, ())
    verb = self._choose(*verbs) if verbs else ''
    match act.action:
      case 'walk':
        how = self._choose('', 'slowly ', '')
        return f'{who} {how}{verb} to the {act.target}'
      case 'run':
        how = self._choose('', 'quickly ', '')
        return f'{who} {how}{verb} to the {act.target}'
      case 'carry':
        return f'{who} {verb} a {act.item} to the {act.target}'
      case 'hold':
        return f'{who} {verb} a {act.item}'
      case 'jump':
        how = self._choose('', ' up and down', ' high')
        return f'{who} {verb}{how}'
      case 'wave':
        how = (
          f' to {act.target}' if act.target else self._choose('', ' happily')
        )
        return f'{who} {verb}{how}'
      case 'fall':
        verb = self._choose('falls down', 'trips', 'stumbles')
        return f'{who} {verb}'
      case 'hide':
        return f'{who} {verb} behind the {act.target}'
      case 'wait':
        still = ' still' if verb == 'stands' else ''
        return f'{who} {verb}{still}'
      case 'enter':
        verb = 'runs' if act.fast else self._choose('walks', 'comes')
        return f'{who} {verb} in from the {act.target}'
      case 'leave':
        verb = 'runs away' if act.fast else self._choose('walks away', 'leaves')
        return f'{who} {verb} to the {act.target}'
      case 'change':
        return f'{who} {words.CHANGES[act.target]} the {act.target}'
    raise ValueError(f'the action {act.action!r} is unknown')


def _capitalize(text: str, name: str) -> str:
  """Writes a name with a capital letter."""
  out = []
  for token in text.split(' '):
    core = token.strip('.,')
    out.append(
      token.replace(core, core.capitalize()) if core == name else token
    )
  return ' '.join(out)

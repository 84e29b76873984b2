"""The script of a story: the contents of its captions.

`of_story` is the script of a drawn story. `story_from_text` reads the script of
any text in the words of this world, also of a user's. A video is judged by the
attributes that the text describes.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools

from examples.cartoon import story as story_lib
from examples.cartoon import words

_ACTIONS = {
  verb: action
  for action, verbs in reversed(words.VERBS.items())
  for verb in verbs
} | dict.fromkeys(words.CHANGES.values(), 'change')
_NEAR = ('at', 'by', 'near', 'in')
_OBJECTS = frozenset(
  (
    'stove',
    *words.PLACES,
    *words.LANDMARKS,
    *words.COVERS,
    *words.PROPS,
  )
)


@dataclasses.dataclass(frozen=True)
class ScriptAct:
  """The act of a character in a text.

  Attributes:
    name: Name of the character.
    action: Action of `story.Act`, or '' if the text has no verb for it.
    target: Target of `story.Act`, or ''.
    item: Item that it carries, or ''.
  """

  name: str
  action: str = ''
  target: str = ''
  item: str = ''


@dataclasses.dataclass(frozen=True)
class ScriptSegment:
  """The contents of the text of a segment.

  Attributes:
    place: Kind of the place, or '' if no text until here names one.
    acts: Acts in the order of the text.
    pan: Side to which the camera pans, or ''.
  """

  place: str
  acts: tuple[ScriptAct, ...]
  pan: str = ''


@dataclasses.dataclass(frozen=True)
class Script:
  """The contents of the texts of a story.

  Attributes:
    looks: Looks by the name; an attribute left open is ''. A character
      that is never described is absent.
    places: Places by their kind; the same holds for them, and a place without
      a prop has None.
    segments: Segments.
  """

  looks: dict[str, story_lib.Look]
  places: dict[str, story_lib.Place]
  segments: tuple[ScriptSegment, ...]

  @property
  def names(self) -> list[str]:
    """All names, in the order of their first appearance."""
    return list(
      dict.fromkeys(act.name for each in self.segments for act in each.acts)
    )


def of_story(story: story_lib.Story) -> Script:
  """Returns the script of a drawn story."""
  segments = []
  for segment in story.segments:
    begin, end = segment.camera
    pan = '' if begin == end else 'left' if end < begin else 'right'
    acts = tuple(
      ScriptAct(
        story.cast[act.character].name, act.action, act.target, act.item
      )
      for act in segment.acts
    )
    segments.append(ScriptSegment(story.places[segment.place].kind, acts, pan))
  return Script(
    looks={character.name: character.look for character in story.cast},
    places={place.kind: place for place in story.places},
    segments=tuple(segments),
  )


def story_from_text(texts: Sequence[str]) -> Script:
  """Reads the script of a story.

  A character may act before, or without, a description of its look. A segment
  that names no place continues in the previous one's.

  Args:
    texts: Text of every segment; may begin and end with scene tokens.

  Raises:
    ValueError: there are not 1 to 200 segments, a word is unknown (with the
      nearest known ones), a text is too long, no character is named, or a
      character or a place is described twice and differently.
  """
  if not 1 <= len(texts) <= 200:
    raise ValueError(f'the story has {len(texts)} segments; expected 1 to 200')
  all_tokens = []
  for number, text in enumerate(texts, 1):
    found = [
      token
      for token in words.tokens(text, number)
      if token not in words.SCENE_TOKENS
    ]
    if len(found) > words.LENGTH:
      raise ValueError(
        f'the text of segment {number} has {len(found)} words and marks; at'
        f' most {words.LENGTH} fit'
      )
    all_tokens.append(found)
  looks: dict[str, story_lib.Look] = {}
  places: dict[str, story_lib.Place] = {}
  segments = []
  place = ''
  for number, found in enumerate(all_tokens, 1):
    reader = _Reader(found)
    for described, new in ((looks, reader.looks), (places, reader.places)):
      for name, value in new.items():
        if described.setdefault(name, value) != value:
          raise ValueError(
            f'segment {number} describes {name!r} again, and differently;'
            ' describe a character and a place once'
          )
    place = reader.place or place
    segments.append(ScriptSegment(place, tuple(reader.acts), reader.pan))
  script = Script(looks, places, tuple(segments))
  if not script.names:
    raise ValueError(
      f'the story has no character; name one of {", ".join(words.NAMES)}, for'
      " example 'Pip, a blue fox with a red scarf, waves at the barn.'"
    )
  return script


class _Reader:
  """Reads the text of one segment.

  Attributes:
    looks: Looks that the text describes, by the name.
    places: Places that it describes, by the kind.
    acts: Acts.
    place: Kind of the place, or ''.
    pan: Side to which the camera pans, or ''.
  """

  def __init__(self, tokens: Sequence[str]):
    self.looks: dict[str, story_lib.Look] = {}
    self.places: dict[str, story_lib.Place] = {}
    self.acts: list[ScriptAct] = []
    self.pan = ''
    for is_end, sentence in itertools.groupby(tokens, '.'.__eq__):
      if not is_end:
        self._sentence(list(sentence))
    self.place = self._find_place(tokens)

  def _find_place(self, tokens: Sequence[str]) -> str:
    if self.places:
      return next(iter(self.places))
    named = [i for i, token in enumerate(tokens) if token in words.PLACES]
    for i in named:
      if set(tokens[max(0, i - 2) : i]) & set(_NEAR):
        return tokens[i]
    return tokens[named[0]] if named else ''

  def _sentence(self, tokens: list[str]) -> None:
    if 'camera' in tokens:
      self.pan = _first(tokens, story_lib.SIDES)
      return
    subjects = [
      i
      for i, token in enumerate(tokens)
      if token in words.NAMES and tokens[max(0, i - 1)] != 'to'
    ]
    kind = _first(tokens, words.PLACES)
    if not subjects and kind and 'is' in tokens:
      self._describe(kind, tokens[tokens.index('is') :])
    waiting: list[str] = []  # subjects that share the next one's verb
    for begin, end in itertools.pairwise([*subjects, len(tokens)]):
      name, span = tokens[begin], tokens[begin + 1 : end]
      if span == ['and']:
        waiting.append(name)
        continue
      self._look(name, span)
      acts = _acts(name, span)
      for other in waiting:
        self.acts += [dataclasses.replace(act, name=other) for act in acts]
      waiting = []
      self.acts += acts
    self.acts += [ScriptAct(name) for name in waiting]

  def _describe(self, kind: str, tokens: list[str]) -> None:
    sides = [a for a, b in itertools.pairwise(tokens) if (a, b) in _SIDES_OF]
    self.places[kind] = story_lib.Place(
      kind,
      _first(tokens, words.COLOURS),
      sides[0] if sides else '',
      _first(tokens, words.PROPS) or None,
    )

  def _look(self, name: str, span: list[str]) -> None:
    species, accessory = (
      _first(span, known) for known in (words.SPECIES, words.ACCESSORIES)
    )
    if not species and not accessory:
      return
    colours = []
    for word in (species, accessory):
      before = span[max(0, span.index(word) - 1)] if word else ''
      colours.append(before if before in words.COLOURS else '')
    self.looks[name] = story_lib.Look(
      species, colours[0], accessory, colours[1]
    )


_SIDES_OF = frozenset((side, 'of') for side in story_lib.SIDES)


def _first(tokens: Sequence[str], known: Sequence[str]) -> str:
  """Returns the first token that is one of the known ones, or ''."""
  return next((token for token in tokens if token in known), '')


def _acts(name: str, span: list[str]) -> list[ScriptAct]:
  """Returns one act per verb; one without action if there is no verb."""
  verbs = [i for i, token in enumerate(span) if token in _ACTIONS]
  acts = [
    _act(name, _ACTIONS[span[begin]], span[begin + 1 : end])
    for begin, end in itertools.pairwise([*verbs, len(span)])
  ]
  return acts or [ScriptAct(name)]


def _act(name: str, action: str, rest: list[str]) -> ScriptAct:
  if action in ('walk', 'run', 'enter', 'leave'):
    if rest[:2] == ['in', 'from'] or rest == ['in'] or rest[:2] == ['in', ',']:
      action = 'enter'
    elif 'away' in rest:
      action = 'leave'
    elif action == 'enter':  # Comes to a place.
      action = 'walk'
  match action:
    case 'enter' | 'leave':
      return ScriptAct(name, action, _first(rest, story_lib.SIDES))
    case 'walk' | 'run' | 'carry':
      item = _first(rest, words.ITEMS) if action == 'carry' else ''
      target = rest[rest.index('to') + 1 :] if 'to' in rest else []
      return ScriptAct(
        name, action, _first(target, (*_OBJECTS, *words.NAMES)), item
      )
    case 'hold':
      return ScriptAct(name, action, item=_first(rest, words.ITEMS))
    case 'hide':
      return ScriptAct(name, action, _first(rest, words.COVERS))
    case 'change':
      return ScriptAct(name, action, _first(rest, words.PROPS))
    case 'wave':
      return ScriptAct(name, action, _first(rest, words.NAMES))
  return ScriptAct(name, action)

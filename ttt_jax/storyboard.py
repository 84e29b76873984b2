"""The user's file: what a video shows, one text for every three seconds.

    {"name": "a day",
     "shots": {"cat": {"text": "A cat sleeps.", "video": "cat.mp4"}},
     "segments": ["cat", {"shot": "cat", "repeat": 3},
                  {"text": "The cat wakes up.", "scene": "kitchen"}]}

A segment is an object, or the name of one of the shots; without shots a
string is a text. A file holds one storyboard, {"shots", "storyboards": [...]},
or a list; a .jsonl file holds one a line. The files of the paper's code are
read, too: lists of {"text", "neg_text", "requires_scene_transition"}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import os
from typing import Any

from ttt_jax.runtime import json_file
from ttt_jax.runtime import paths

START_SCENE = '<start_scene>'
END_SCENE = '<end_scene>'

# The paper's documents spell the tokens one way, its code the other.
_SPELLINGS = {'<scene_start>': START_SCENE, '<scene_end>': END_SCENE}
# Keys of the paper's files and what they are here.
_SEGMENT_KEYS = ('text', 'negative', 'scene', 'video', 'start', 'end')
_PAPER_KEYS = ('neg_text', 'requires_scene_transition')
_USE_KEYS = ('shot', 'repeat')


@dataclasses.dataclass(frozen=True)
class Segment:
  """Three seconds.

  Attributes:
    text: what is shown; a scene token may stand at either end.
    negative: what must not be shown.
    scene: label of the scene; None goes on with the scene before.
    video: path of the video that shows it, for training.
    start: seconds into that video.
    end: seconds into that video at which the shot ends. A segment that would
      reach further shows the shot's last frame until it is full.
  """

  text: str
  negative: str = ''
  scene: int | str | None = None
  video: str | None = None
  start: float | None = None
  end: float | None = None


def read_shots(obj: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """The "shots" of a file or a storyboard: name -> fields of a segment."""
  shots = obj.get('shots', {})
  if not isinstance(shots, Mapping):
    raise ValueError(f'"shots" is {kind_of(shots)}; it must be an object')
  for name, shot in shots.items():
    where = f'shot {name!r}'
    if not isinstance(shot, Mapping):
      raise ValueError(
        f'{where} is {kind_of(shot)}; it must be an object with "text"'
      )
    check_keys(shot, _SEGMENT_KEYS, where)
    make_segment(shot, where)
  return dict(shots)


def read_fields(
  item: Any, shots: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], int, bool | None]:
  """Reads a segment as it is written.

  Args:
    item: an object, or a text or the name of a shot.
    shots: name -> fields.
    where: which segment, for messages.

  Returns:
    Its fields, how often it comes, and the paper's mark of a new scene.

  Raises:
    ValueError: a key or shot that is not known, or a bad value.
  """
  if isinstance(item, str):
    item = {'shot': item} if shots else {'text': item}
  if not isinstance(item, Mapping):
    raise ValueError(
      f'{where} is {kind_of(item)}; it must be an object with "text"'
    )
  check_keys(item, _SEGMENT_KEYS + _USE_KEYS + _PAPER_KEYS, where)
  fields = {k: v for k, v in item.items() if k in _SEGMENT_KEYS}
  for ours, paper in (
    ('negative', 'neg_text'),
    ('scene', 'requires_scene_transition'),
  ):
    if ours in item and paper in item:
      raise ValueError(f'{where} has both {ours!r} and {paper!r}; keep one')
  if item.get('neg_text') is not None:
    fields['negative'] = item['neg_text']
  transition = item.get('requires_scene_transition')
  if transition is not None and type(transition) is not bool:
    raise ValueError(
      f'{where} has "requires_scene_transition": {transition!r}; it must be'
      ' true or false'
    )
  if 'shot' in item:
    name = item['shot']
    if not isinstance(name, str) or name not in shots:
      raise ValueError(
        f'{where} names the shot {name!r}, which is not defined; defined are'
        f' {", ".join(shots) or "none"}'
      )
    fields = {**shots[name], **fields}
  repeat = item.get('repeat', 1)
  if type(repeat) is not int or repeat < 1:
    raise ValueError(f'{where} has "repeat": {repeat!r}; it must be 1 or more')
  return fields, repeat, transition


def make_segment(fields: Mapping[str, Any], where: str) -> Segment:
  """A `Segment` of checked fields; raises ValueError for a bad value."""
  values = {}
  for key in ('text', 'negative'):
    value = fields.get(key, '')
    if not isinstance(value, str):
      raise ValueError(f'the {key} of {where} is {kind_of(value)}, not a text')
    for theirs, ours in _SPELLINGS.items():
      value = value.replace(theirs, ours)
    values[key] = value.strip()
  text = values['text'].removeprefix(START_SCENE).removesuffix(END_SCENE)
  if not text.strip():
    raise ValueError(f'the text of {where} is empty; say what is shown')
  if START_SCENE in text or END_SCENE in text:
    raise ValueError(
      f'the text of {where} has a scene token in its middle; they may only'
      f' stand at its ends: {START_SCENE}...{END_SCENE}'
    )
  scene, video = fields.get('scene'), fields.get('video')
  if not (scene is None or isinstance(scene, str) or type(scene) is int):
    raise ValueError(
      f'the scene of {where} is {scene!r}; it must be a whole number or a text'
    )
  if not (video is None or isinstance(video, str) and video):
    raise ValueError(
      f'the video of {where} is {video!r}; it must be a path, for example'
      ' "bikes.mp4"'
    )
  for key in ('start', 'end'):
    values[key] = _seconds(fields.get(key), key, video, where)
  start, end = values['start'] or 0.0, values['end']
  if end is not None and end <= start:
    raise ValueError(
      f'{where} ends at {end:g} s, but starts at {start:g} s; the end must be'
      ' behind the start'
    )
  return Segment(**values, scene=scene, video=video)


def _seconds(
  value: Any, key: str, video: str | None, where: str
) -> float | None:
  """A checked time in a video."""
  if value is None:
    return None
  if type(value) not in (int, float) or not 0 <= value < math.inf:
    raise ValueError(
      f'the {key} of {where} is {value!r}; it must be 0 or more seconds'
    )
  if video is None:
    raise ValueError(f'{where} has "{key}", but no "video"')
  return float(value)


def check_keys(
  obj: Mapping[str, Any], legal: Sequence[str], where: str
) -> None:
  """Raises ValueError that names the keys that are not legal."""
  unknown = [k for k in obj if k not in legal]
  if unknown:
    raise ValueError(
      f'{where} has the unknown key {", ".join(map(repr, unknown))}; legal'
      f' are {", ".join(legal)}'
    )


def kind_of(value: Any) -> str:
  """How JSON calls a value."""
  for kind, name in (
    (type(None), 'null'),
    (bool, 'true or false'),
    (str, 'a text'),
    (int | float, 'a number'),
    (Mapping, 'an object'),
  ):
    if isinstance(value, kind):
      return name
  return 'a list'


MAX_SEGMENTS = 200
SEGMENT_SECONDS = 3

_STORYBOARD_KEYS = ('name', 'shots', 'segments')
_FILE_KEYS = ('shots', 'storyboards')


@dataclasses.dataclass(frozen=True)
class Storyboard:
  """A validated storyboard: a name and 1 to 200 segments."""

  name: str
  segments: tuple[Segment, ...]

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Storyboard:
    """Reads a file with one storyboard; 'FILE#NAME' picks one of several.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, not a storyboard (see `parse`), or several.
    """
    path, wanted = os.fspath(path), None
    if '#' in path and not os.path.exists(path):
      path, _, wanted = path.rpartition('#')
    boards = load_storyboards(path)
    names = ', '.join(b.name for b in boards[:5])
    names += ', ...' if len(boards) > 5 else ''
    if wanted is not None:
      boards = [b for b in boards if b.name == wanted]
      if not boards:
        raise ValueError(f'{path} has no storyboard {wanted!r}; it has {names}')
    if len(boards) > 1:
      raise ValueError(
        f'{path} holds {len(boards)} storyboards ({names}); pick one, for'
        f' example {path}#{boards[0].name}'
      )
    return boards[0]

  @classmethod
  def parse(
    cls,
    obj: Mapping[str, Any] | Sequence[Any],
    *,
    name: str = 'storyboard',
    shots: Mapping[str, Any] | None = None,
  ) -> Storyboard:
    """Validates what `json.load` gives for one storyboard.

    Args:
      obj: an object with "segments", or the list of segments alone.
      name: where `obj` has none.
      shots: of the file around it; the storyboard's own go before them.

    Raises:
      ValueError: empty, more than 200 segments, a key that is not legal, a
        shot that is not defined, or a value of the wrong kind; with the
        number of the segment.
    """
    if isinstance(obj, Mapping):
      name = obj.get('name', name)
      check_keys(obj, _STORYBOARD_KEYS, f'storyboard {name!r}')
      if not isinstance(name, str) or not name.strip():
        raise ValueError(
          f'the name of a storyboard is {name!r}; it must be a text that is'
          ' not empty'
        )
      shots = {**(shots or {}), **read_shots(obj)}
      obj = obj.get('segments', [])
    if not isinstance(obj, list | tuple):
      raise ValueError(
        f'storyboard {name!r} is {kind_of(obj)}; it must be a'
        ' list of segments, or an object with "segments"'
      )
    if not obj:
      raise ValueError(
        f'storyboard {name!r} is empty; give 1 to {MAX_SEGMENTS} segments,'
        ' for example [{"text": "A cat sleeps."}]'
      )
    parsed = []
    scene = 0
    for i, item in enumerate(obj):
      where = f'segment {i + 1} of storyboard {name!r}'
      fields, repeat, new = read_fields(item, shots or {}, where)
      if new is not None:
        # The paper's files mark the first segment of a scene; the mark of
        # the video's own first means nothing.
        scene += new and i > 0
        fields['scene'] = scene
      parsed.append((make_segment(fields, where), repeat))
    total = sum(repeat for _, repeat in parsed)
    if total > MAX_SEGMENTS:
      raise ValueError(
        f'storyboard {name!r} has {total} segments; at most {MAX_SEGMENTS}'
        f' ({MAX_SEGMENTS * SEGMENT_SECONDS} s) are possible'
      )
    segments = [s for s, repeat in parsed for _ in range(repeat)]
    return cls(name, tuple(segments))

  @property
  def seconds(self) -> int:
    """Length of the video, without its one extra first frame."""
    return SEGMENT_SECONDS * len(self.segments)

  def prompts(self) -> list[str]:
    """The text of every segment with the scene tokens.

    Where the scene changes, '<end_scene>' ends the text before and
    '<start_scene>' begins the one after. As in the paper's code the video's
    own beginning and end carry no token.
    """
    texts = [segment.text for segment in self.segments]
    scene = self.segments[0].scene
    for i, segment in enumerate(self.segments[1:], 1):
      if segment.scene is None or segment.scene == scene:
        continue
      scene = segment.scene
      if not texts[i - 1].endswith(END_SCENE):
        texts[i - 1] += END_SCENE
      if not texts[i].startswith(START_SCENE):
        texts[i] = START_SCENE + texts[i]
    return texts

  def negatives(self) -> list[str]:
    """The negative text of every segment, '' where there is none."""
    return [segment.negative for segment in self.segments]

  def lint(self, text_length: int, count_tokens: Callable[[str], int]) -> None:
    """Raises ValueError where a text does not fit into `text_length` tokens.

    Args:
      text_length: tokens a segment.
      count_tokens: of the text encoder, special tokens included.
    """
    for kind, texts in (
      ('text', self.prompts()),
      ('negative text', self.negatives()),
    ):
      for i, text in enumerate(texts):
        count = count_tokens(text)
        if count > text_length:
          raise ValueError(
            f'the {kind} of segment {i + 1} of storyboard {self.name!r} has'
            f' {count} tokens; at most {text_length} fit, shorten it'
          )


def lint_all(
  storyboards: Sequence[Storyboard],
  text_length: int,
  count_tokens: Callable[[str], int],
) -> None:
  """`Storyboard.lint` of many: ONE ValueError with their number."""
  problems = []
  for storyboard in storyboards:
    try:
      storyboard.lint(text_length, count_tokens)
    except ValueError as e:
      problems.append(str(e))
  if problems:
    more = f' (and {len(problems) - 1} more like it)' if problems[1:] else ''
    raise ValueError(problems[0] + more)


def load_storyboards(path: str | os.PathLike[str]) -> list[Storyboard]:
  """Reads all storyboards of a JSON or JSONL file.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not JSON (with line and column), no storyboard, or one that
      is not valid (see `Storyboard.parse`).
  """
  value = json_file.read(path)
  try:
    return parse_storyboards(value, paths.resolve(path).stem)
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e


def parse_storyboards(obj: Any, stem: str) -> list[Storyboard]:
  """All storyboards of a file's value; `stem` names the nameless.

  Raises:
    ValueError: as `load_storyboards`, without the file's name.
  """
  shots: Mapping[str, Any] = {}
  if isinstance(obj, Mapping):
    if 'storyboards' not in obj:
      return [Storyboard.parse(obj, name=stem)]
    check_keys(obj, _FILE_KEYS, 'the file')
    shots, obj = read_shots(obj), obj['storyboards']
    if not isinstance(obj, list):
      raise ValueError(f'"storyboards" is {kind_of(obj)}; it must be a list')
  elif isinstance(obj, list) and not any(map(_is_board, obj)):
    return [Storyboard.parse(obj, name=stem)]
  elif not isinstance(obj, list):
    raise ValueError(
      f'the file holds {kind_of(obj)}; it must hold a'
      ' storyboard, for example {"segments": [{"text": "A cat sleeps."}]}'
    )
  if not obj:
    raise ValueError('there is no storyboard in it; give 1 or more')
  return [
    Storyboard.parse(o, name=f'{stem}_{i}', shots=shots)
    for i, o in enumerate(obj)
  ]


def _is_board(obj: Any) -> bool:
  """Whether an item of a list is a storyboard rather than a segment."""
  return isinstance(obj, list) or (
    isinstance(obj, Mapping) and 'segments' in obj
  )

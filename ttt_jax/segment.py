"""One segment of a storyboard: its fields, and what may be written for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

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

"""Motion of the cartoon world: the state of every frame of a story.

Every act begins and ends with the character standing still, so segments of a
scene continue each other. All functions are of the time t within a segment, 0
to 1; frame 0 of a story is t = 0 of its first segment, and segment s has the
frames 48 s + 1 to 48 s + 48.
"""

from __future__ import annotations

import dataclasses
import math

from examples.cartoon import story as story_lib

MAX_SPEED = 0.085  # of a character, heights of the picture per frame
MAX_PAN = 0.021  # of the camera, per frame

_WALK, _RUN = 0.42, 0.85  # mean speed, per second
_STRIDE = 0.32  # distance of two steps that are walked
_GROUND = (0.885, 0.935, 0.91)  # of the feet, by the index in the cast
_CHANGE = (0.62, 0.72)  # time in which a prop changes


@dataclasses.dataclass(frozen=True)
class Pose:
  """Positions of the parts of a character; the defaults stand.

  Attributes:
    swing: Angle of the legs, opposite to each other, radians.
    near_arm: Angle of the arm on the viewer's side: 0 hangs, positive turns it
      to the front and up, negative to the back and up.
    far_arm: Angle of the other arm.
    lean: Angle of the body to the front around the feet.
    height: Vertical scale; below 1 is crouched, and wider.
    blink: Whether the eyes are closed.
  """

  swing: float = 0.0
  near_arm: float = 0.15
  far_arm: float = 0.15
  lean: float = 0.0
  height: float = 1.0
  blink: bool = False


@dataclasses.dataclass(frozen=True)
class CharacterState:
  """A character in one frame.

  Attributes:
    name: Name.
    look: Look.
    x: Position in the place.
    ground: y of the ground under it.
    lift: Height of the feet above the ground; negative is below.
    facing: -1 left, 1 right.
    pose: Pose.
    item: Item in its hands, or ''.
    action: Action of its act.
  """

  name: str
  look: story_lib.Look
  x: float
  ground: float
  lift: float
  facing: int
  pose: Pose
  item: str = ''
  action: str = 'wait'


@dataclasses.dataclass(frozen=True)
class FrameState:
  """Everything that a frame shows.

  Attributes:
    place: Place.
    prop_change: Share of the change of the place's prop, 0 to 1.
    characters: Characters; nearer ones have a greater `ground`.
    camera: Left edge of the picture in the place.
  """

  place: story_lib.Place
  prop_change: float
  characters: tuple[CharacterState, ...]
  camera: float


def smooth(t: float) -> float:
  """Rises from 0 to 1, with slope 0 at both ends and beyond."""
  t = min(max(t, 0.0), 1.0)
  return t * t * (3 - 2 * t)


def _pulse(t: float, up: float, high: float, down: float, low: float) -> float:
  """Rises from `up` to `high`, and falls from `down` to `low`."""
  return smooth((t - up) / (high - up)) - smooth((t - down) / (low - down))


def locate(frame: int) -> tuple[int, float]:
  """Returns the segment of a frame, and the time in it."""
  segment = max(frame - 1, 0) // story_lib.SEGMENT_FRAMES
  return segment, frame / story_lib.SEGMENT_FRAMES - segment


def state(story: story_lib.Story, frame: int) -> FrameState:
  """Returns the contents of a frame.

  Raises:
    ValueError: the story has no such frame.
  """
  if not 0 <= frame < story.num_frames:
    raise ValueError(
      f'{story.name} has no frame {frame}; expected 0 to {story.num_frames - 1}'
    )
  index, t = locate(frame)
  segment = story.segments[index]
  change = story.change_segment(segment.place)
  if change is None or index < change:
    prop_change = 0.0
  elif index > change:
    prop_change = 1.0
  else:
    begin, end = _CHANGE
    prop_change = smooth((t - begin) / (end - begin))
  begin, end = segment.camera
  return FrameState(
    place=story.places[segment.place],
    prop_change=prop_change,
    characters=tuple(
      character_state(
        story.cast[act.character], act, t, _GROUND[act.character % 3]
      )
      for act in segment.acts
    ),
    camera=begin + (end - begin) * smooth((t - 0.05) / 0.9),
  )


def travel(act: story_lib.Act) -> float:
  """Returns the time t at which a moving act arrives."""
  distance = abs(act.end - act.start)
  is_fast = act.action == 'run' or act.fast
  seconds = story_lib.SEGMENT_FRAMES / story_lib.FPS
  time = distance / (_RUN if is_fast else _WALK) / seconds
  latest = {'hide': 0.5, 'change': 0.55}.get(act.action, 0.95)
  return min(max(time, 0.1), latest)


def position(act: story_lib.Act, t: float) -> float:
  """Returns x at the time t."""
  if act.start == act.end:
    return act.start
  return act.start + (act.end - act.start) * smooth(t / travel(act))


def character_state(
  character: story_lib.Character, act: story_lib.Act, t: float, ground: float
) -> CharacterState:
  """Returns a character at the time t of an act."""
  pose, lift = _pose(act, t)
  facing = act.facing
  if act.start != act.end and t < travel(act):
    facing = story_lib.direction(act.start, act.end)
  return CharacterState(
    name=character.name,
    look=character.look,
    x=position(act, t),
    ground=ground,
    lift=lift,
    facing=facing,
    pose=pose,
    item=act.item,
    action=act.action,
  )


def _pose(act: story_lib.Act, t: float) -> tuple[Pose, float]:
  """Returns the pose and the height of the feet above the ground."""
  fields: dict = {}
  lift = 0.0
  arrival = travel(act) if act.start != act.end else 0.0
  if t < arrival:
    is_fast = act.action == 'run' or act.fast
    distance = abs(act.end - act.start) * smooth(t / arrival)
    phase = 2 * math.pi * distance / (_STRIDE * (1.7 if is_fast else 1.0))
    # No step is half done at either end.
    amount = _pulse(t / arrival, 0.0, 0.15, 0.85, 1.0)
    swing = amount * math.sin(phase)
    fields['swing'] = swing * (0.95 if is_fast else 0.6)
    fields['near_arm'] = 0.15 - swing * (1.1 if is_fast else 0.6)
    fields['far_arm'] = 0.15 + swing * (1.1 if is_fast else 0.6)
    fields['lean'] = amount * (0.2 if is_fast else 0.04)
    lift = amount * (0.022 if is_fast else 0.01) * abs(math.cos(phase))
  else:
    # Breath.
    fields['height'] = 1 + 0.02 * math.sin(
      4 * math.pi * (t - arrival) / (1 - arrival)
    )
  match act.action:
    case 'jump':
      part = 3 * t % 1.0
      air = min(max((part - 0.2) / 0.6, 0.0), 1.0)
      lift = 0.19 * 4 * air * (1 - air)
      crouch = _pulse(part, 0.0, 0.18, 0.18, 0.3)
      crouch += _pulse(part, 0.75, 0.85, 0.85, 1.0)
      fields['height'] = 1 - 0.2 * crouch
      arm = _pulse(part, 0.12, 0.35, 0.6, 0.95)
      fields['near_arm'] = 0.15 - 2.2 * arm
      fields['far_arm'] = 0.15 + 1.9 * arm
      fields['swing'] = 0.35 * _pulse(part, 0.2, 0.4, 0.6, 0.8)
    case 'wave':
      up = _pulse(t, 0.02, 0.15, 0.85, 0.98)
      swing = 0.45 * math.sin(8 * math.pi * (t - 0.15) / 0.7)
      fields['near_arm'] = 0.15 + up * (swing - 2.2)
    case 'fall':
      down = min(max((t - 0.12) / 0.2, 0.0), 1.0) ** 2
      up = smooth((t - 0.68) / 0.26)
      fields['lean'] = 1.42 * (down - up)
      arm = _pulse(t, 0.08, 0.2, 0.7, 0.9)
      fields['near_arm'] = 0.15 + 2.2 * arm
      fields['far_arm'] = 0.15 + 1.8 * arm
      fields['height'] = 1.0
      lift = 0.05 * _pulse(t, 0.12, 0.3, 0.7, 0.9)
    case 'hide':
      down = _pulse(t, 0.5, 0.62, 0.86, 0.98)
      fields['height'] = fields.get('height', 1.0) - 0.38 * down
      lift -= 0.05 * down
    case 'change':
      reach = _pulse(t, 0.55, 0.63, 0.74, 0.9)
      fields['near_arm'] = fields.get('near_arm', 0.15) + 1.5 * reach
      fields['lean'] = fields.get('lean', 0.0) + 0.15 * reach
  if act.item:
    fields['near_arm'] = fields['far_arm'] = 1.25
  frame = round(t * story_lib.SEGMENT_FRAMES)
  fields['blink'] = frame in (23, 24)
  return Pose(**fields), lift

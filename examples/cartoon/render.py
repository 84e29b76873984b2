"""Draws the cartoon world: outlines, flat colours, anti-aliased by reduction.

Everything is drawn in relative units, so the picture is the same at any size.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import math

import numpy as np
from PIL import Image
from PIL import ImageDraw

from examples.cartoon import motion
from examples.cartoon import objects
from examples.cartoon import scenery
from examples.cartoon import story as story_lib
from examples.cartoon.pen import Colour
from examples.cartoon.pen import INK
from examples.cartoon.pen import mix
from examples.cartoon.pen import PALETTE
from examples.cartoon.pen import Pen
from examples.cartoon.pen import WHITE

_SCALE = 4  # pixels drawn per pixel and side
_HEIGHT = 0.36  # of a character whose `height` is 1
LIGHTER = 0.55  # white in the light parts of a body
DARKER = 0.22  # ink in the dark ones
_ORANGE = (240, 150, 40)
_PINK = (245, 165, 170)


def frames(
  story: story_lib.Story,
  height: int = 64,
  width: int = 96,
  first: int = 0,
  count: int | None = None,
  step: int = 1,
) -> np.ndarray:
  """Draws frames of a story.

  Args:
    story: Story.
    height: Pixel rows.
    width: Pixel columns, 1.5 times the rows.
    first: Number of the first frame.
    count: Number of frames; None draws to the end.
    step: Frames from one that is drawn to the next.

  Returns:
    uint8 [count, height, width, 3].

  Raises:
    ValueError: the size has another aspect, or the story has no such frames.
  """
  if count is None:
    count = -(-(story.num_frames - first) // step)
  out = np.empty((count, height, width, 3), np.uint8)
  for i in range(count):
    out[i] = frame(motion.state(story, first + i * step), height, width)
  return out


def frame(
  state: motion.FrameState,
  height: int = 64,
  width: int = 96,
  paints: Mapping[str, Paint] | None = None,
) -> np.ndarray:
  """Draws a state.

  Args:
    state: State.
    height: Pixel rows.
    width: Pixel columns, 1.5 times the rows.
    paints: Colours of characters by their name, instead of their looks'.

  Returns:
    uint8 [height, width, 3].

  Raises:
    ValueError: as `frames`.
  """
  check_size(height, width)
  unit = height * _SCALE
  left = round(state.camera * unit)
  wide = _background(state.place, unit)
  image = wide.crop((left, 0, left + width * _SCALE, unit))
  pen = Pen(ImageDraw.Draw(image), unit).moved(-left / unit, 0)
  place = state.place
  if place.prop:
    objects.draw_prop(pen, place.prop, place.x(place.prop), state.prop_change)
  for character in sorted(state.characters, key=lambda c: c.ground):
    draw_character(pen, character, (paints or {}).get(character.name))
  objects.draw_cover(pen, place.cover, place.x(place.cover))
  return np.asarray(image.reduce(_SCALE))


def check_fps(fps: int) -> None:
  """Raises ValueError unless videos can have so many frames per second."""
  if fps < 1 or story_lib.FPS % fps:
    raise ValueError(
      f'fps is {fps}; it must divide {story_lib.FPS}, for example 4'
    )


def check_size(height: int, width: int) -> None:
  """Raises ValueError unless a picture can have this size."""
  if height < 16 or width != round(height * story_lib.ASPECT):
    raise ValueError(
      f'the size is {height}x{width}; expected a width of 1.5 times the height,'
      ' for example 64x96'
    )


@functools.lru_cache(maxsize=16)
def _background(place: story_lib.Place, unit: int) -> Image.Image:
  """Returns the place without its prop, its cover and characters."""
  image = Image.new('RGB', (math.ceil(story_lib.PLACE_WIDTH * unit) + 1, unit))
  scenery.draw_place(Pen(ImageDraw.Draw(image), unit), place)
  return image


@dataclasses.dataclass(frozen=True)
class Paint:
  """Colours of a character.

  Attributes:
    body: Colour of the body.
    light: Colour of the belly, the snout and the inside of the ears.
    dark: Colour of the limbs on the far side.
    accessory: Colour of the accessory.
  """

  body: Colour
  light: Colour
  dark: Colour
  accessory: Colour

  @classmethod
  def of(cls, look: story_lib.Look) -> Paint:
    body = PALETTE[look.colour]
    light = mix(body, WHITE, LIGHTER)
    if look.colour == 'white':
      light = (255, 236, 214)
    accessory = PALETTE[look.accessory_colour]
    return cls(body, light, mix(body, INK, DARKER), accessory)


def draw_character(
  pen: Pen, state: motion.CharacterState, paint: Paint | None = None
) -> None:
  """Draws a character.

  In the coordinates of a character the ground between the feet is (0, 0), its
  front is +x, up is +y, and a usual head ends at 1.

  Args:
    pen: Pen of the place.
    state: State of the character.
    paint: Other colours than its look has.
  """
  pose = state.pose
  root = pen.moved(state.x, state.ground - state.lift)
  root = root.scaled(state.facing * _HEIGHT, -_HEIGHT)
  shadow = pen.moved(state.x, state.ground + 0.008)
  if state.lift >= 0:
    size = 0.075 * (1 - 1.5 * min(state.lift, 0.3))
    shadow.ellipse(0, 0, size, 0.016, scenery.shadow_colour(), ink=None)
  # A fall turns around the feet, a run around the hips.
  body = root.turned(-pose.lean)
  body = body.scaled(1 + 0.6 * (1 - pose.height), pose.height)
  _Figure(body, state, paint or Paint.of(state.look)).draw()


class _Figure:
  """The parts of one character, from back to front."""

  def __init__(self, pen: Pen, state: motion.CharacterState, paint: Paint):
    self.pen = pen
    self.state = state
    self.look = state.look
    self.species = state.look.species
    self.colour = paint.body
    self.light = paint.light
    self.dark = paint.dark
    self.accessory = paint.accessory
    self.stout = {'bear': 1.22, 'frog': 1.12, 'duck': 1.1}.get(
      self.species, 1.0
    )

  def draw(self) -> None:
    pose = self.state.pose
    self._tail()
    if self.look.accessory == 'cape':
      self._cape()
    self._arm(pose.far_arm, 0.05, self.dark)
    self._leg(-pose.swing, 0.06, self.dark)
    self._leg(pose.swing, -0.06, self.colour)
    self._body()
    self._arm(pose.near_arm, -0.08, self.colour)
    # The head is in front of raised arms: faces stay visible.
    self._head()
    if self.state.item:
      self._item()

  def _leg(self, angle: float, x: float, colour) -> None:
    length = 0.22
    foot_x, foot_y = (
      x + length * math.sin(angle),
      0.25 - length * math.cos(angle),
    )
    leg = _ORANGE if self.species == 'duck' else colour
    width = {'bear': 0.085, 'duck': 0.035}.get(self.species, 0.06)
    long = {'frog': 0.15, 'duck': 0.12, 'rabbit': 0.13}.get(self.species, 0.1)
    self.pen.limb([(x, 0.27), (foot_x, foot_y + 0.05)], width, leg)
    self.pen.ellipse(foot_x + 0.04, foot_y + 0.025, long, 0.05, leg)

  def _body(self) -> None:
    pen, w = self.pen, self.stout
    pen.ellipse(0, 0.38, 0.17 * w, 0.2, self.colour)
    match self.look.accessory:
      case 'coat':
        pen.polygon(
          (
            (-0.13 * w, 0.53),
            (0.13 * w, 0.53),
            (0.2 * w, 0.2),
            (-0.2 * w, 0.2),
          ),
          self.accessory,
        )
        for y in (0.26, 0.34, 0.42):
          pen.ellipse(0.1 * w, y, 0.022, 0.022, WHITE, ink=None)
      case _:
        pen.ellipse(0.05, 0.36, 0.1 * w, 0.14, self.light, ink=None)

  def _arm(self, angle: float, x: float, colour) -> None:
    x *= self.stout
    shoulder, length = (x, 0.49), 0.21 + 0.08 * min(abs(angle) / 2, 1)
    hand = (
      x + length * math.sin(angle),
      0.49 - length * math.cos(angle),
    )
    width = 0.075 if self.species == 'duck' else 0.055  # A wing.
    self.pen.limb([shoulder, hand], width, colour)
    if self.look.accessory == 'coat':
      wrist = (x + (hand[0] - x) * 0.7, 0.49 + (hand[1] - 0.49) * 0.7)
      self.pen.limb([shoulder, wrist], width, self.accessory)

  def _tail(self) -> None:
    pen = self.pen
    match self.species:
      case 'fox':
        pen.limb([(-0.1, 0.3), (-0.27, 0.33), (-0.37, 0.5)], 0.095, self.colour)
        pen.ellipse(-0.375, 0.535, 0.075, 0.075, WHITE, ink=None)
      case 'rabbit':
        pen.ellipse(-0.19, 0.29, 0.085, 0.085, WHITE)
      case 'bear':
        pen.ellipse(-0.21, 0.28, 0.055, 0.055, self.colour)
      case 'duck':
        pen.polygon(
          [(-0.08, 0.42), (-0.36, 0.5), (-0.3, 0.36), (-0.1, 0.24)],
          self.colour,
        )

  def _cape(self) -> None:
    sway = 0.12 * abs(self.state.pose.swing)
    self.pen.polygon(
      [
        (0.08, 0.56),
        (-0.13, 0.57),
        (-0.36 * self.stout - sway, 0.16 + sway / 2),
        (-0.38 * self.stout - sway, 0.08 + sway / 2),
        (0.06, 0.1),
      ],
      self.accessory,
    )

  def _head(self) -> None:
    pen = self.pen
    getattr(self, f'_{self.species}_head')()
    match self.look.accessory:
      case 'scarf':
        pen.limb([(-0.1, 0.52), (-0.2, 0.36)], 0.055, self.accessory)
        pen.limb([(-0.15, 0.545), (0.14, 0.535)], 0.065, self.accessory)
      case 'cape':
        pen.limb([(-0.12, 0.545), (0.11, 0.54)], 0.035, self.accessory)
      case 'hat':
        top = {'frog': 0.9, 'duck': 0.95}.get(self.species, 0.92)
        pen.polygon(
          [
            (-0.13, top),
            (0.11, top),
            (0.09, top + 0.2),
            (-0.11, top + 0.2),
          ],
          self.accessory,
        )
        pen.limb([(-0.2, top), (0.18, top)], 0.035, self.accessory)

  def _eyes(self, x: float, y: float, gap: float = 0.125, size: float = 1.0):
    for at in (x, x + gap):
      if self.state.pose.blink:
        self.pen.limb([(at - 0.045, y), (at + 0.045, y)], 0.014, INK, ink=None)
        continue
      self.pen.ellipse(at, y, 0.06 * size, 0.078 * size, WHITE, ink=0.5)
      self.pen.ellipse(at + 0.022, y - 0.008, 0.034, 0.046, INK, ink=None)

  def _ear(self, points, inner=None, colour=None) -> None:
    self.pen.polygon(points, colour or self.colour)
    if inner:
      self.pen.polygon(inner, self.light, ink=None)

  def _fox_head(self) -> None:
    pen = self.pen
    for x in (-0.15, 0.1):
      self._ear(
        [(x - 0.09, 0.8), (x - 0.07, 1.12), (x + 0.12, 0.9)],
        [(x - 0.045, 0.88), (x - 0.045, 1.02), (x + 0.04, 0.92)],
      )
    pen.polygon(
      [
        (-0.28, 0.66),
        (-0.22, 0.83),
        (-0.05, 0.93),
        (0.14, 0.9),
        (0.24, 0.75),
        (0.4, 0.64),
        (0.26, 0.56),
        (0.0, 0.53),
        (-0.18, 0.57),
      ],
      self.colour,
    )
    pen.polygon(
      [(0.16, 0.69), (0.39, 0.64), (0.26, 0.575), (0.02, 0.55), (0.06, 0.64)],
      self.light,
      ink=None,
    )
    pen.ellipse(0.39, 0.645, 0.045, 0.04, INK, ink=None)
    self._eyes(0.02, 0.755)

  def _rabbit_head(self) -> None:
    pen = self.pen
    for x, lean in ((-0.13, 0.12), (0.08, -0.08)):
      pen.limb([(x, 0.85), (x - lean, 1.2)], 0.075, self.colour)
      pen.limb([(x, 0.9), (x - lean, 1.18)], 0.035, _PINK, ink=None)
    pen.ellipse(0.0, 0.72, 0.235, 0.2, self.colour)
    pen.ellipse(0.13, 0.645, 0.11, 0.085, self.light, ink=None)
    pen.polygon(
      [(0.1, 0.6), (0.17, 0.6), (0.165, 0.53), (0.11, 0.53)], WHITE, ink=0.4
    )
    pen.ellipse(0.18, 0.69, 0.04, 0.03, _PINK, ink=0.4)
    self._eyes(0.0, 0.765)

  def _bear_head(self) -> None:
    pen = self.pen
    for x in (-0.2, 0.16):
      pen.ellipse(x, 0.89, 0.105, 0.105, self.colour)
      pen.ellipse(x, 0.89, 0.055, 0.055, self.light, ink=None)
    pen.ellipse(0.0, 0.73, 0.28, 0.215, self.colour)
    pen.ellipse(0.15, 0.66, 0.135, 0.1, self.light)
    pen.ellipse(0.2, 0.71, 0.055, 0.042, INK, ink=None)
    self._eyes(0.0, 0.8)

  def _duck_head(self) -> None:
    pen = self.pen
    pen.limb([(0.02, 0.5), (0.03, 0.7)], 0.1, self.colour)
    pen.ellipse(0.03, 0.77, 0.19, 0.18, self.colour)
    pen.polygon(
      [(0.15, 0.77), (0.3, 0.75), (0.45, 0.68), (0.4, 0.63), (0.15, 0.65)],
      _ORANGE,
    )
    self._eyes(0.03, 0.82, 0.11)

  def _frog_head(self) -> None:
    pen = self.pen
    pen.ellipse(0.02, 0.67, 0.3, 0.165, self.colour)
    pen.ellipse(0.08, 0.62, 0.2, 0.09, self.light, ink=None)
    pen.limb([(-0.1, 0.645), (0.1, 0.61), (0.27, 0.66)], 0.015, INK, ink=None)
    for x in (-0.09, 0.16):
      pen.ellipse(x, 0.83, 0.105, 0.105, self.colour)
    self._eyes(-0.075, 0.84, 0.25, 1.05)

  def _item(self) -> None:
    pen, x, y = self.pen, 0.3, 0.43
    match self.state.item:
      case 'ball':
        pen.ellipse(x, y + 0.06, 0.14, 0.14, PALETTE['red'])
        pen.limb(
          [(x - 0.12, y + 0.06), (x + 0.12, y + 0.06)], 0.03, WHITE, None
        )
      case 'box':
        pen.box(x - 0.15, y - 0.07, x + 0.15, y + 0.2, (188, 138, 84))
        pen.box(x - 0.03, y - 0.07, x + 0.03, y + 0.2, (240, 220, 150), None)
      case 'cake':
        pen.box(x - 0.15, y - 0.07, x + 0.15, y + 0.07, (150, 95, 60))
        pen.box(x - 0.15, y + 0.07, x + 0.15, y + 0.14, (255, 225, 230))
        pen.ellipse(x, y + 0.19, 0.05, 0.05, PALETTE['red'])

"""Sprites: every character in every pose, as a linear function of its colours.

A picture is made of flat colours and reduced by averaging, so a sprite over a
background B, with body colour c and accessory colour a, is exactly

    (1 - cover) B + fixed + body c + accessory a

with four masks that do not depend on the colours. A fit to a frame therefore
tries shapes and positions, and reads the colours from sums.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import itertools
import math

import numpy as np
from PIL import Image
from PIL import ImageDraw
from scipy import ndimage

from examples.cartoon import motion
from examples.cartoon import pen as pen_lib
from examples.cartoon import render
from examples.cartoon import story as story_lib
from examples.cartoon import words

_SCALE = 4  # pixels drawn per pixel and side
SHAPES = tuple(itertools.product(words.SPECIES, words.ACCESSORIES))
FACINGS = (-1, 1)


@dataclasses.dataclass(frozen=True)
class Stance:
  """A pose that is drawn.

  Attributes:
    name: Name.
    pose: Pose.
    item: Item in the hands, or ''.
    is_upright: Whether the body is not lying.
  """

  name: str
  pose: motion.Pose
  item: str = ''
  is_upright: bool = True


def _step(raw: float, is_fast: bool) -> motion.Pose:
  arm = 1.1 if is_fast else 0.6
  return motion.Pose(
    swing=raw * (0.95 if is_fast else 0.6),
    near_arm=0.15 - raw * arm,
    far_arm=0.15 + raw * arm,
    lean=0.2 if is_fast else 0.0,
  )


STANCES = (
  Stance('stand', motion.Pose()),
  Stance('walk', _step(0.85, False)),
  Stance('walk', _step(-0.85, False)),
  Stance('run', _step(0.9, True)),
  Stance('run', _step(-0.9, True)),
  Stance('run', _step(0.0, True)),
  Stance('air', motion.Pose(swing=0.35, near_arm=-2.05, far_arm=2.05)),
  Stance('wave', motion.Pose(near_arm=-2.65)),
  Stance('wave', motion.Pose(near_arm=-2.2)),
  Stance('wave', motion.Pose(near_arm=-1.75)),
  Stance('reach', motion.Pose(near_arm=1.6, lean=0.15)),
  Stance('crouch', motion.Pose(height=0.8)),
  *(
    Stance('hold', motion.Pose(near_arm=1.25, far_arm=1.25), item)
    for item in words.ITEMS
  ),
  Stance(
    'tilt', motion.Pose(lean=0.6, near_arm=2.0, far_arm=1.7), is_upright=False
  ),
  Stance(
    'tilt', motion.Pose(lean=1.1, near_arm=1.9, far_arm=1.6), is_upright=False
  ),
  Stance(
    'lie', motion.Pose(lean=1.42, near_arm=2.35, far_arm=1.95), is_upright=False
  ),
)
# Half the width and the height above and below the middle, in heights of the
# picture; x and y of the middle from the feet, y up.
_UPRIGHT = (0.235, 0.265, 0.0, 0.23)
_LYING = (0.28, 0.22, 0.17, 0.1)


@dataclasses.dataclass(frozen=True)
class Bank:
  """Sprites on a canvas of one size, n = [shapes, stances] flattened.

  Attributes:
    stances: Index in `STANCES` of each of the bank's poses.
    facing: -1 left, 1 right.
    feet: Row and column of the feet on the canvas.
    cover: float32 [shapes, poses, h, w].
    fixed: float32 [shapes, poses, h, w, 3], colours from 0 to 1.
    body: float32 [shapes, poses, h, w].
    accessory: float32 [shapes, poses, h, w].
  """

  stances: tuple[int, ...]
  facing: int
  feet: tuple[int, int]
  cover: np.ndarray
  fixed: np.ndarray
  body: np.ndarray
  accessory: np.ndarray

  @property
  def size(self) -> tuple[int, int]:
    return self.cover.shape[2:4]

  def blurred(self, sigma: float) -> Bank:
    """Returns the sprites seen through a Gaussian blur of `sigma` pixels."""
    if not sigma:
      return self

    def blur(x: np.ndarray) -> np.ndarray:
      sigmas = (0, 0, sigma, sigma, 0)[: x.ndim]
      return ndimage.gaussian_filter(x, sigmas, mode='constant', truncate=3)

    return self._changed(blur, self.feet)

  def halved(self) -> Bank:
    """Returns the sprites at half the size."""

    def half(x: np.ndarray) -> np.ndarray:
      shape = (*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2)
      return x.reshape(*shape, *x.shape[4:]).mean((3, 5))

    return self._changed(half, (self.feet[0] // 2, self.feet[1] // 2))

  def _changed(
    self, change: Callable[[np.ndarray], np.ndarray], feet: tuple[int, int]
  ) -> Bank:
    masks = (self.cover, self.fixed, self.body, self.accessory)
    return Bank(self.stances, self.facing, feet, *map(change, masks))


# Colours that occur nowhere else, in the roles of a character's.
_MARKS = render.Paint((1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0))
_NOTHING = (5, 0, 0)


def draw(
  state: motion.CharacterState, size: tuple[int, int], unit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Draws a character's masks.

  Args:
    state: State, with x and ground in heights of the picture.
    size: Rows and columns.
    unit: Pixel rows of the picture.

  Returns:
    cover [h, w], fixed [h, w, 3], body [h, w], accessory [h, w].
  """
  height, width = size
  image = Image.new('RGB', (width * _SCALE, height * _SCALE), _NOTHING)
  pen = pen_lib.Pen(ImageDraw.Draw(image), unit * _SCALE)
  render.draw_character(pen, state, _MARKS)
  pixels = np.asarray(image)
  is_mark = (pixels[..., 0] <= _NOTHING[0]) & ~pixels[..., 1:].any(-1)
  mark = np.where(is_mark, pixels[..., 0], 0)
  fixed = np.where(is_mark[..., None], 0, pixels).astype(np.float32) / 255
  share = [(mark == i).astype(np.float32) for i in range(6)]
  white, ink = (
    np.array(c, np.float32) / 255 for c in (pen_lib.WHITE, pen_lib.INK)
  )
  fixed += share[2][..., None] * render.LIGHTER * white
  fixed += share[3][..., None] * render.DARKER * ink
  body = share[1] + (1 - render.LIGHTER) * share[2]
  body += (1 - render.DARKER) * share[3]

  def reduce(x: np.ndarray) -> np.ndarray:
    shape = (height, _SCALE, width, _SCALE, *x.shape[2:])
    return x.reshape(shape).mean((1, 3))

  return reduce(1 - share[5]), reduce(fixed), reduce(body), reduce(share[4])


def _even(x: float) -> int:
  return 2 * math.ceil(x / 2)


@functools.lru_cache(maxsize=4)
def banks(height: int) -> tuple[Bank, ...]:
  """Returns the sprites of a picture of `height` pixel rows."""
  found = []
  for is_upright in (True, False):
    half_x, half_y, x, y = _UPRIGHT if is_upright else _LYING
    size = _even(2 * half_y * height), _even(2 * half_x * height)
    feet = _even(size[0] / 2 + y * height), _even(size[1] / 2 - x * height)
    chosen = [i for i, s in enumerate(STANCES) if s.is_upright == is_upright]
    parts = []
    for species, accessory in SHAPES:
      # The colours have no meaning here, but must differ from each other.
      look = story_lib.Look(species, 'red', accessory, 'blue')
      for i in chosen:
        stance = STANCES[i]
        state = motion.CharacterState(
          name='',
          look=look,
          x=feet[1] / height,
          ground=feet[0] / height,
          # In the air there is no shadow at the feet.
          lift=-1e-6 if stance.name == 'air' else 0.0,
          facing=1,
          pose=stance.pose,
          item=stance.item,
        )
        parts.append(draw(state, size, height))
    masks = [
      np.stack(each).reshape(len(SHAPES), len(chosen), *each[0].shape)
      for each in zip(*parts)
    ]
    mirrored = [np.ascontiguousarray(x[:, :, :, ::-1]) for x in masks]
    found += [
      Bank(tuple(chosen), -1, (feet[0], size[1] - feet[1]), *mirrored),
      Bank(tuple(chosen), 1, feet, *masks),
    ]
  return tuple(found)

"""Pictures and clips of one coloured shape over a coloured background.

Everything about a picture is known: what it shows (`Look`), and where
(`Scene`). Shapes of one radius have the area of the circle of that radius.
Textures are two tones of a colour, always in the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import itertools

import numpy as np

SIZE = 64  # pixels a side

COLOURS = {
  'red': (220, 40, 40),
  'green': (40, 170, 60),
  'blue': (45, 80, 220),
  'yellow': (240, 215, 50),
  'purple': (150, 50, 190),
  'white': (240, 240, 240),
}
TEXTURES = ('field', 'stripes', 'checks')
RADII = (9.0, 11.0)  # pixels

_DARK = 0.6  # the other tone of a texture
_TILE = 8  # pixels of a stripe or a square


def _regular(radii: Sequence[float], count: int) -> np.ndarray:
  """Corners (x, y) at these distances in turn, the first one on top."""
  angles = 2 * np.pi * np.arange(count) / count
  radii = np.resize(radii, count)
  return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _cross() -> np.ndarray:
  a, b = 1.0, 0.36
  return np.array(
    [
      (-b, -a),
      (b, -a),
      (b, -b),
      (a, -b),
      (a, b),
      (b, b),
      (b, a),
      (-b, a),
      (-b, b),
      (-a, b),
      (-a, -b),
      (-b, -b),
    ]
  )


def _unit(corners: np.ndarray) -> np.ndarray:
  """Moved and scaled: centre of mass 0, the area of a circle of radius 1."""
  x, y = corners.T
  x1, y1 = np.roll(corners, -1, axis=0).T
  cross = x * y1 - x1 * y
  area = cross.sum() / 2
  middle = np.stack([(x + x1) @ cross, (y + y1) @ cross]) / (6 * area)
  return (corners - middle) * np.sqrt(np.pi / abs(area))


# Corners of each shape of radius 1; None is the circle.
_CORNERS = {
  'circle': None,
  'square': _unit(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)),
  'triangle': _unit(_regular([1], 3)),
  'star': _unit(_regular([1, 0.42], 10)),
  'cross': _unit(_cross()),
}
SHAPES = tuple(_CORNERS)
# How far the widest shape of radius 1 reaches.
REACH = max(np.abs(c).max() for c in _CORNERS.values() if c is not None)


@dataclasses.dataclass(frozen=True)
class Look:
  """What a caption says.

  Attributes:
    shape: of the object, one of `SHAPES`.
    colour: of the object, one of `COLOURS`.
    background: its colour, another one of `COLOURS`.
    texture: of the background, one of `TEXTURES`.
  """

  shape: str
  colour: str
  background: str
  texture: str

  def __post_init__(self):
    for name, legal in (
      ('shape', SHAPES),
      ('colour', COLOURS),
      ('background', COLOURS),
      ('texture', TEXTURES),
    ):
      if getattr(self, name) not in legal:
        raise ValueError(
          f'{name} is {getattr(self, name)!r}; legal are {", ".join(legal)}'
        )
    if self.colour == self.background:
      raise ValueError(
        f'a {self.colour} {self.shape} over {self.background} cannot be seen:'
        ' the two colours must differ'
      )


@dataclasses.dataclass(frozen=True)
class Scene:
  """A picture.

  Attributes:
    look: what it shows.
    x: pixels from the left edge to the middle of the object.
    y: pixels from the top.
    radius: pixels, see the module.
  """

  look: Look
  x: float
  y: float
  radius: float = 10.0


def looks() -> list[Look]:
  """Every look that there is."""
  return [
    Look(shape, colour, background, texture)
    for shape, colour, background, texture in itertools.product(
      SHAPES, COLOURS, COLOURS, TEXTURES
    )
    if colour != background
  ]


def coverage(
  shape: str, x: float, y: float, radius: float, size: int = SIZE
) -> np.ndarray:
  """The share of each pixel that a shape covers, float64 [size, size].

  The edge is a ramp as wide as a pixel along the distance to the outline.
  """
  centres = np.arange(size) + 0.5
  at = np.stack(
    np.broadcast_arrays(
      (centres[None] - x) / radius, (centres[:, None] - y) / radius
    ),
    axis=-1,
  )
  corners = _CORNERS[shape]
  if corners is None:
    distance = np.hypot(at[..., 0], at[..., 1]) - 1
  else:
    distance = _distance(at, corners)
  return np.clip(0.5 - distance * radius, 0, 1)


def _distance(at: np.ndarray, corners: np.ndarray) -> np.ndarray:
  """Signed distance of points [..., 2] to a polygon, negative inside."""
  nearest = np.full(at.shape[:-1], np.inf)
  inside = np.zeros(at.shape[:-1], bool)
  for a, b in zip(corners, np.roll(corners, -1, axis=0)):
    edge, to = b - a, at - a
    along = np.clip(to @ edge / (edge @ edge), 0, 1)[..., None]
    nearest = np.minimum(nearest, np.square(to - along * edge).sum(-1))
    # Edges that a ray to the right crosses.
    between = (a[1] > at[..., 1]) != (b[1] > at[..., 1])
    if a[1] != b[1]:
      crossing = a[0] + (at[..., 1] - a[1]) * edge[0] / edge[1]
      inside ^= between & (at[..., 0] < crossing)
  return np.where(inside, -1, 1) * np.sqrt(nearest)


@functools.cache
def background(
  colour: str, texture: str, flipped: bool = False, size: int = SIZE
) -> np.ndarray:
  """A picture without an object.

  Args:
    colour: of `COLOURS`.
    texture: of `TEXTURES`.
    flipped: its two tones exchanged, which scenes never are; a field has one.
    size: pixels a side.

  Returns:
    float64 [size, size, 3], read only.
  """
  tile = (np.arange(size) // _TILE + flipped) % 2
  rows, columns = tile[:, None], tile[None]
  dark = {
    'field': np.zeros((size, size), int),
    'stripes': np.broadcast_to(rows, (size, size)),
    'checks': rows ^ columns ^ flipped,
  }[texture]
  out = np.where(dark[..., None], _DARK, 1.0) * np.array(COLOURS[colour])
  out.setflags(write=False)
  return out


def render(scene: Scene, *more: Scene, size: int = SIZE) -> np.ndarray:
  """Draws a scene, and over it the objects of others.

  Returns:
    uint8 [size, size, 3]; edges are antialiased.
  """
  out = background(scene.look.background, scene.look.texture, size=size)
  for each in (scene, *more):
    share = coverage(each.look.shape, each.x, each.y, each.radius, size)
    out = out + share[..., None] * (np.array(COLOURS[each.look.colour]) - out)
  return np.round(out).astype(np.uint8)


def random_scene(rng: np.random.Generator, look: Look | None = None) -> Scene:
  """A scene whose object is whole, of a random look unless one is given."""
  if look is None:
    every = looks()
    look = every[rng.integers(len(every))]
  radius = rng.uniform(*RADII)
  x, y = rng.uniform(radius * REACH, SIZE - radius * REACH, 2)
  return Scene(look, float(x), float(y), float(radius))


def bounce(
  frames: int,
  start: tuple[float, float],
  velocity: tuple[float, float],
  radius: float,
) -> np.ndarray:
  """The path of an object that bounces off the edges, float64 [frames, 2].

  Args:
    frames: F.
    start: x and y of the first frame, pixels.
    velocity: pixels a frame in x and y.
    radius: of the object; a shape of any kind stays whole.

  Raises:
    ValueError: the object does not fit, or starts outside.
  """
  low, high = radius * REACH, SIZE - radius * REACH
  if low >= high or not all(low <= s <= high for s in start):
    raise ValueError(
      f'an object of radius {radius} that starts at {start} is not within'
      f' {SIZE} x {SIZE} pixels; start at ({SIZE / 2}, {SIZE / 2}) with'
      f' radius {RADII[0]}'
    )
  way = np.array(start) - low + np.arange(frames)[:, None] * np.array(velocity)
  # A mirror at each edge: there and back is one period.
  span = high - low
  return low + span - np.abs(way % (2 * span) - span)


def render_clip(look: Look, path: np.ndarray, radius: float) -> np.ndarray:
  """uint8 [F, 64, 64, 3] of an object on a path [F, 2]."""
  return np.stack([render(Scene(look, x, y, radius)) for x, y in path])

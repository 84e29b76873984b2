"""Pictures and clips of one coloured shape over a coloured background.

A picture is defined by what it shows (`Attributes`) and where (`Scene`). All
shapes of one radius have the area of the circle of that radius. A texture has
two tones of a colour, at fixed positions.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import itertools

import numpy as np

SIZE = 64  # pixels per side

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
_TILE = 8  # pixels per stripe or square


def _regular(radii: Sequence[float], count: int) -> np.ndarray:
  """Returns corners (x, y) at these distances in turn, the first on top."""
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
  """Scales corners to the area of the unit circle and centres them at 0."""
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
# Half the width of the widest shape of radius 1.
REACH = max(np.abs(c).max() for c in _CORNERS.values() if c is not None)


@dataclasses.dataclass(frozen=True)
class Attributes:
  """The contents of a caption.

  Attributes:
    shape: Shape of the object, one of `SHAPES`.
    colour: Colour of the object, one of `COLOURS`.
    background: Colour of the background, another one of `COLOURS`.
    texture: Texture of the background, one of `TEXTURES`.
  """

  shape: str
  colour: str
  background: str
  texture: str

  def __post_init__(self):
    for name, known in (
      ('shape', SHAPES),
      ('colour', COLOURS),
      ('background', COLOURS),
      ('texture', TEXTURES),
    ):
      if getattr(self, name) not in known:
        raise ValueError(
          f'{name} is {getattr(self, name)!r}; expected one of'
          f' {", ".join(known)}'
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
    attributes: Contents of the picture.
    x: Distance of the object's centre from the left edge, in pixels.
    y: Distance of the object's centre from the top edge, in pixels.
    radius: Radius of the object in pixels, see the module.
  """

  attributes: Attributes
  x: float
  y: float
  radius: float = 10.0


def all_attributes() -> list[Attributes]:
  """Returns all possible attributes."""
  return [
    Attributes(shape, colour, background, texture)
    for shape, colour, background, texture in itertools.product(
      SHAPES, COLOURS, COLOURS, TEXTURES
    )
    if colour != background
  ]


def coverage(
  shape: str, x: float, y: float, radius: float, size: int = SIZE
) -> np.ndarray:
  """Returns the share of each pixel that a shape covers, float64 [size, size].

  The edge is a linear ramp, one pixel wide, of the distance to the outline.
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
  """Returns the signed distance of points [..., 2], negative inside."""
  nearest = np.full(at.shape[:-1], np.inf)
  inside = np.zeros(at.shape[:-1], bool)
  for a, b in zip(corners, np.roll(corners, -1, axis=0)):
    edge, to = b - a, at - a
    along = np.clip(to @ edge / (edge @ edge), 0, 1)[..., None]
    nearest = np.minimum(nearest, np.square(to - along * edge).sum(-1))
    # Counts the edges that a ray to the right crosses.
    between = (a[1] > at[..., 1]) != (b[1] > at[..., 1])
    if a[1] != b[1]:
      crossing = a[0] + (at[..., 1] - a[1]) * edge[0] / edge[1]
      inside ^= between & (at[..., 0] < crossing)
  return np.where(inside, -1, 1) * np.sqrt(nearest)


@functools.cache
def background(
  colour: str, texture: str, flipped: bool = False, size: int = SIZE
) -> np.ndarray:
  """Returns a picture without an object.

  Args:
    colour: Name in `COLOURS`.
    texture: Name in `TEXTURES`.
    flipped: Whether the two tones are exchanged, which `render` never does.
    size: Pixels per side.

  Returns:
    float64 [size, size, 3], read-only.
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
  """Draws a scene and, on top of it, the objects of other scenes.

  Returns:
    uint8 [size, size, 3]; edges are antialiased.
  """
  out = background(
    scene.attributes.background, scene.attributes.texture, size=size
  )
  for each in (scene, *more):
    share = coverage(each.attributes.shape, each.x, each.y, each.radius, size)
    out = out + share[..., None] * (
      np.array(COLOURS[each.attributes.colour]) - out
    )
  return np.round(out).astype(np.uint8)


def random_scene(
  rng: np.random.Generator, attributes: Attributes | None = None
) -> Scene:
  """Returns a scene with a complete object, by default a random one."""
  if attributes is None:
    choices = all_attributes()
    attributes = choices[rng.integers(len(choices))]
  radius = rng.uniform(*RADII)
  x, y = rng.uniform(radius * REACH, SIZE - radius * REACH, 2)
  return Scene(attributes, float(x), float(y), float(radius))


def bounce(
  frames: int,
  start: tuple[float, float],
  velocity: tuple[float, float],
  radius: float,
) -> np.ndarray:
  """Returns the path of an object that bounces off the edges.

  Args:
    frames: Number of frames F.
    start: x and y in the first frame, in pixels.
    velocity: Pixels per frame in x and y.
    radius: Radius of the object; a shape of any kind stays inside.

  Returns:
    float64 [F, 2].

  Raises:
    ValueError: the object is larger than the picture, or starts outside.
  """
  low, high = radius * REACH, SIZE - radius * REACH
  if low >= high or not all(low <= s <= high for s in start):
    raise ValueError(
      f'an object of radius {radius} that starts at {start} is not within'
      f' {SIZE} x {SIZE} pixels; start at ({SIZE / 2}, {SIZE / 2}) with'
      f' radius {RADII[0]}'
    )
  distance = (
    np.array(start) - low + np.arange(frames)[:, None] * np.array(velocity)
  )
  # Reflects at both edges: there and back is one period.
  span = high - low
  return low + span - np.abs(distance % (2 * span) - span)


def render_clip(
  attributes: Attributes, path: np.ndarray, radius: float
) -> np.ndarray:
  """Draws an object on a path [F, 2], uint8 [F, 64, 64, 3]."""
  return np.stack([render(Scene(attributes, x, y, radius)) for x, y in path])

"""Finds the place, its colour, its prop and the camera in frames.

Every place is drawn in all variants, moved under the frame, and compared by
distances with an upper limit, so objects in front of it count little.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
from PIL import Image
from PIL import ImageDraw
from scipy import ndimage

from examples.cartoon import objects
from examples.cartoon import pen as pen_lib
from examples.cartoon import scenery
from examples.cartoon import story as story_lib
from examples.cartoon import words

_SCALE = 4  # pixels drawn per pixel and side
LAYOUTS = tuple(itertools.product(words.PLACES, story_lib.SIDES))
# No prop, then every prop in both states.
PROP_STATES: tuple[tuple[str | None, int], ...] = (
  (None, 0),
  *itertools.product(words.PROPS, (0, 1)),
)
_LIMIT = 0.3  # greatest distance of a pixel's colours
_MARGIN = 0.1  # drawn beyond both ends of a place
_CAMERAS = (-0.08, story_lib.PLACE_WIDTH - story_lib.ASPECT + 0.08)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns the limited mean distance of colours over the last axis."""
  return np.minimum(np.abs(a - b).mean(-1), _LIMIT)


@dataclasses.dataclass(frozen=True)
class Scene:
  """The place that some frames show.

  Attributes:
    place: Place, with the nearest kind, side, colour and prop.
    cameras: Left edge of the picture in each frame.
    layouts: Error of every one of `LAYOUTS`, mean over the frames.
    colours: Error of every colour, mean over the pixels of the main object.
    colour: Measured colour of the main object, 0 to 1.
    error: Mean distance of all pixels from the drawn place.
  """

  place: story_lib.Place
  cameras: np.ndarray
  layouts: np.ndarray
  colours: np.ndarray
  colour: np.ndarray
  error: float


class Backdrops:
  """All places at one size, seen through a blur.

  Attributes:
    height: Pixel rows of a picture.
    width: Pixel columns.
  """

  def __init__(self, height: int, sigma: float = 0.0):
    """Prepares the search.

    Args:
      height: Pixel rows.
      sigma: Standard deviation of the blur in pixels.
    """
    self.height = height
    self.width = round(height * story_lib.ASPECT)
    self._sigma = sigma
    self._margin = math.ceil(_MARGIN * height)
    self._wide = functools.lru_cache(maxsize=256)(self._wide_of)
    self._cover = functools.lru_cache(maxsize=64)(self._cover_of)
    self._step = max(1, height // 16)  # pixels per side of a coarse one

  def _canvas(self, colour=None) -> tuple[Image.Image, pen_lib.Pen]:
    unit = self.height * _SCALE
    width = math.ceil(story_lib.PLACE_WIDTH * unit)
    width += (2 * self._margin + 4) * _SCALE
    image = Image.new('RGB', (width, unit), colour or (0, 0, 0))
    pen = pen_lib.Pen(ImageDraw.Draw(image), unit)
    return image, pen.moved(self._margin / self.height, 0)

  def _reduce(self, image: Image.Image, phase: int) -> np.ndarray:
    columns = (image.width - phase) // _SCALE
    image = image.crop((phase, 0, phase + columns * _SCALE, image.height))
    pixels = np.asarray(image.reduce(_SCALE), np.float32) / 255
    if self._sigma:
      pixels = ndimage.gaussian_filter(
        pixels,
        (self._sigma, self._sigma, 0)[: pixels.ndim],
        mode='nearest',
        truncate=3,
      )
    return pixels

  def _wide_of(
    self, place: story_lib.Place, state: int | None, phase: int
  ) -> np.ndarray:
    """Returns the place with its cover, and with its prop if it has a state."""
    return self._reduce(self._drawn(place, state), phase)

  @functools.lru_cache(maxsize=64)  # noqa: B019
  def _drawn(self, place: story_lib.Place, state: int | None) -> Image.Image:
    image, pen = self._canvas()
    scenery.draw_place(pen, place)
    if state is not None and place.prop:
      objects.draw_prop(pen, place.prop, place.x(place.prop), state)
    objects.draw_cover(pen, place.cover, place.x(place.cover))
    return image

  def _cover_of(self, kind: str, side: str, phase: int) -> np.ndarray:
    image, pen = self._canvas((1, 2, 3))
    place = story_lib.Place(kind, 'red', side, None)
    objects.draw_cover(pen, place.cover, place.x(place.cover))
    is_drawn = (np.asarray(image) != (1, 2, 3)).any(-1)
    return self._reduce(Image.fromarray(is_drawn.astype(np.uint8) * 255), phase)

  def _left(self, camera: float) -> tuple[int, int]:
    """Returns the left column of a camera in a wide picture, and its phase."""
    unit = self.height * _SCALE
    left = round(min(max(camera, _CAMERAS[0]), _CAMERAS[1]) * unit)
    left += self._margin * _SCALE
    return left // _SCALE, left % _SCALE

  def crop(
    self, place: story_lib.Place, camera: float, state: int | None = None
  ) -> np.ndarray:
    """Draws a place without characters, float32 [H, W, 3].

    Args:
      place: Place.
      camera: Left edge of the picture.
      state: State of its prop; None leaves it out.
    """
    left, phase = self._left(camera)
    return self._wide(place, state, phase)[:, left : left + self.width]

  def cover(self, place: story_lib.Place, camera: float) -> np.ndarray:
    """Returns where the object that characters hide behind is, [H, W]."""
    left, phase = self._left(camera)
    wide = self._cover(place.kind, place.side, phase)
    return wide[:, left : left + self.width]

  def _coarse(self, image: np.ndarray) -> np.ndarray:
    k = self._step
    *lead, h, w, c = image.shape
    image = image[..., : h // k * k, : w // k * k, :]
    return image.reshape(*lead, h // k, k, w // k, k, c).mean((-4, -2))

  @functools.cached_property
  def _templates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns small pictures [L, J, h, w, 3], masks, and cameras [J]."""
    k = self._step
    columns = range(0, 2 * self._margin + math.ceil(0.6 * self.height) + 1, k)
    pictures, masks = [], []
    for kind, side in LAYOUTS:
      red, blue = (
        self._wide(story_lib.Place(kind, colour, side, None), None, 0)
        for colour in ('yellow', 'purple')
      )
      # The main object's colour is not known yet.
      is_main = np.abs(red - blue).max(-1, keepdims=True) > 0.05
      crops = [slice(c, c + self.width) for c in columns]
      pictures.append([self._coarse(red[:, c]) for c in crops])
      masks.append([self._coarse(1 - is_main[:, c])[..., 0] for c in crops])
    cameras = (np.array(columns) - self._margin) / self.height
    return (
      np.array(pictures, np.float32),
      np.array(masks, np.float32),
      cameras,
    )

  def layouts(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compares frames with all layouts.

    Args:
      frames: float32 [n, H, W, 3], 0 to 1.

    Returns:
      Errors and cameras, [n, layouts].
    """
    pictures, masks, cameras = self._templates
    small = self._coarse(frames)
    errors = np.empty((len(frames), *pictures.shape[:2]), np.float32)
    mass = masks.sum((-2, -1))
    for i, frame in enumerate(small):
      found = _distance(frame, pictures) * masks
      errors[i] = found.sum((-2, -1)) / mass
    best = errors.argmin(-1)
    return errors.min(-1), cameras[best]

  def _main(self, place: story_lib.Place, camera: float) -> np.ndarray:
    """Returns the weight of the main colour in each pixel, [H, W]."""
    light, dark = (
      self.crop(dataclasses.replace(place, colour=colour, prop=None), camera)
      for colour in ('white', 'purple')
    )
    white, purple = (np.array(pen_lib.PALETTE[c]) for c in ('white', 'purple'))
    return (light - dark).sum(-1) / ((white - purple).sum() / 255 * 0.82)

  def camera(
    self, frame: np.ndarray, place: story_lib.Place, near: float, reach: float
  ) -> float:
    """Finds the camera to a quarter of a pixel.

    Args:
      frame: float32 [H, W, 3].
      place: Place.
      near: Camera that is near.
      reach: Greatest distance from it.
    """
    rows = slice(None, None, 2)
    target = frame[rows]

    def error(camera: float) -> float:
      drawn = self.crop(place, camera)[rows]
      return float(_distance(target, drawn).mean())

    best, found = near, error(near)
    step = 2 ** math.floor(math.log2(max(reach * self.height, 0.25)))
    while step >= 0.25:
      improved = True
      while improved and abs(best - near) <= reach:
        improved = False
        for sign in (-1, 1):
          at = best + sign * step / self.height
          if not _CAMERAS[0] <= at <= _CAMERAS[1]:
            continue
          if (value := error(at)) < found - 1e-6:
            best, found, improved = at, value, True
      step /= 2
    return best

  def fit(self, frames: np.ndarray) -> Scene:
    """Finds the place of frames of one segment.

    Args:
      frames: float32 [n, H, W, 3], 0 to 1, in their order.
    """
    errors, cameras = self.layouts(frames)
    mean = errors.mean(0)
    best = int(mean.argmin())
    kind, side = LAYOUTS[best]
    place = story_lib.Place(kind, 'white', side, None)
    # The colour first: with it the camera is found exactly.
    near = cameras[:, best]
    colours, _ = self._colours(frames, place, near)
    place = dataclasses.replace(place, colour=words.COLOURS[colours.argmin()])
    exact = np.array(
      [
        self.camera(frame, place, float(at), 1.5 * self._step / self.height)
        for frame, at in zip(frames, near)
      ]
    )
    colours, measured = self._colours(frames, place, exact)
    place = dataclasses.replace(place, colour=words.COLOURS[colours.argmin()])
    error = np.mean(
      [_distance(f, self.crop(place, c)).mean() for f, c in zip(frames, exact)]
    )
    return Scene(place, exact, mean, colours, measured, float(error))

  def _colours(
    self, frames: np.ndarray, place: story_lib.Place, cameras: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the errors of all colours, and the measured colour."""
    errors = np.zeros(len(words.COLOURS))
    total = 0.0
    samples = []
    white = np.array(pen_lib.mix(pen_lib.PALETTE['white'], pen_lib.WHITE, 0.18))
    for frame, camera in zip(frames, cameras):
      weight = self._main(place, camera)
      is_main = weight > 0.5
      if not is_main.any():
        continue
      total += is_main.sum()
      for i, colour in enumerate(words.COLOURS):
        drawn = self.crop(dataclasses.replace(place, colour=colour), camera)
        errors[i] += _distance(frame[is_main], drawn[is_main]).sum()
      is_main = weight > 0.9
      drawn = self.crop(dataclasses.replace(place, colour='white'), camera)
      w = weight[is_main][:, None]
      samples.append(white / 255 + (frame[is_main] - drawn[is_main]) / w)
    if not samples:
      return errors, np.zeros(3)
    measured = np.median(np.concatenate(samples), axis=0)
    return errors / total, measured

  def props(
    self,
    frame: np.ndarray,
    place: story_lib.Place,
    camera: float,
    free: np.ndarray | None = None,
  ) -> tuple[np.ndarray, float]:
    """Compares a frame with all props.

    Args:
      frame: float32 [H, W, 3].
      place: Place.
      camera: Left edge of the picture.
      free: Weights [H, W] of pixels, 0 where a character is; None is 1.

    Returns:
      Errors of `PROP_STATES`, sums over pixels; number of pixels that were
      compared, weighted.
    """
    drawn = np.stack(
      [
        self.crop(dataclasses.replace(place, prop=prop), camera, state)
        for prop, state in PROP_STATES
      ]
    )
    differs = (np.abs(drawn - drawn[0]).max(-1) > 0.1).any(0)
    weight = np.ones(differs.sum()) if free is None else free[differs]
    errors = _distance(frame[differs], drawn[:, differs]) @ weight
    return errors, float(weight.sum())

"""The manifest of a data set: its identity and its table of contents.

`manifest.json` is written last; a folder without it is unfinished and refused.
It names everything that the latents depend on, so that a trainer or a second
precompute can decide whether they fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Annotated, Any, TypedDict

from etils import epath
import msgspec

from ttt_jax import geometry as geometry_lib
from ttt_jax.runtime import files
from ttt_jax.runtime import schema

SCHEMA_VERSION = 1
FINAL = 'manifest.json'
UNFINISHED = 'manifest.unfinished.json'
CONFIG = 'config.json'  # Of the command that made the data set, for readers.


Row = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class Clip(TypedDict):
  """A readable clip: the row of its values, and its storyboard as JSON."""

  name: str
  row: Row
  storyboard: Mapping[str, Any]


class CorruptClip(TypedDict):
  """A clip that could not be encoded."""

  name: str
  row: Row
  reason: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Identity and table of contents of a data set.

  Attributes:
    vae_identity: Kind and content hash of the video encoder
      (`content_identity`).
    text_identity: Kind and content hash of the text encoder.
    scale: Latent scale of the VAE (or one per channel), for the record: the
      stored values are in the diffusion model's units already.
    fps: Frames per second.
    height: Height in pixels.
    width: Width in pixels.
    frames: Pixel frames per clip.
    segments: Segments per clip, S.
    text_length: Text tokens per segment, L.
    mini_batch: Tokens per mini-batch that the data was made for, C.
    scene_token_ids: Ids of the scene tokens in the vocabulary.
    clips: Readable clips.
    corrupt: Clips that could not be encoded.
    conversions: Changes of the frames of a video to those that a player shows,
      by the video's name; unchanged videos are not listed.
    schema_version: Version of this file's layout.
  """

  vae_identity: str
  text_identity: str
  scale: float | Sequence[float]
  fps: schema.PositiveFloat
  height: schema.PositiveInt
  width: schema.PositiveInt
  frames: schema.PositiveInt
  segments: schema.PositiveInt
  text_length: schema.PositiveInt
  mini_batch: schema.PositiveInt
  scene_token_ids: Sequence[int] = ()
  clips: tuple[Clip, ...] = ()
  corrupt: tuple[CorruptClip, ...] = ()
  conversions: Mapping[str, Sequence[str]] = dataclasses.field(
    default_factory=dict
  )
  schema_version: int = SCHEMA_VERSION

  def identity(self) -> dict[str, Any]:
    """Returns all fields but the table of contents, in JSON types."""
    fields = dataclasses.asdict(self)
    for name in ('clips', 'corrupt', 'conversions'):
      del fields[name]
    return files.to_json_types(fields)


def check_manifest(manifest: Manifest, **expected: Any) -> None:
  """Raises ONE error that names every field that differs, with both values.

  Args:
    manifest: Manifest of the data set.
    **expected: Values that this run needs, by field of `Manifest`; None is not
      compared.

  Raises:
    ValueError: at least one value differs.
    TypeError: a field does not exist.
  """
  found = manifest.identity()
  unknown = sorted(set(expected) - set(found))
  if unknown:
    raise TypeError(f'a manifest has no field {", ".join(unknown)}')
  wrong = differences(
    found, {k: v for k, v in expected.items() if v is not None}
  )
  if wrong:
    raise ValueError(
      f'the data set does not fit this run: {wrong}; run precompute with'
      ' this configuration into another folder, or set the configuration to'
      " the data set's values"
    )


def geometry_fields(
  geometry: geometry_lib.Geometry | geometry_lib.FrameGeometry,
) -> dict[str, Any]:
  """Returns the fields of `Manifest` that a geometry determines."""
  names = (
    'fps',
    'height',
    'width',
    'frames',
    'segments',
    'text_length',
    'mini_batch',
  )
  return {name: getattr(geometry, name) for name in names}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
  """Returns a list of the expected values that differ; '' if all agree."""
  expected = files.to_json_types(expected)
  return ', '.join(
    f'{name} is {found.get(name)!r} in the data set but {value!r} in this run'
    for name, value in expected.items()
    if found.get(name) != value
  )


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
  """Returns the manifest of a finished data set.

  Raises:
    FileNotFoundError: there is no data set.
    ValueError: it is unfinished, unreadable or of another schema version.
  """
  folder = epath.Path(folder)
  if not (folder / FINAL).exists():
    if (folder / UNFINISHED).exists():
      raise ValueError(
        f'the data set in {folder} is unfinished (it has no {FINAL}); run'
        ' precompute again to complete it'
      )
    raise FileNotFoundError(
      f'no data set in {folder} (it has no {FINAL}); make one with ttt-jax'
      ' precompute'
    )
  return load(folder / FINAL)


def load(path: epath.Path) -> Manifest:
  """Reads one manifest file."""
  try:
    fields = files.parse_json(path.read_text(), path)
    version = schema.convert(fields, dict[str, Any], 'it').get('schema_version')
  except ValueError as e:
    raise _invalid(path, e) from e
  if version != SCHEMA_VERSION:
    raise ValueError(
      f'{path} has schema version {version!r}; this program reads'
      f' {SCHEMA_VERSION}; run precompute again into another folder'
    )
  try:
    manifest = schema.construct(Manifest, fields, 'it')
    schema.check_fields(manifest, 'manifest')
  except (ValueError, TypeError) as e:
    raise _invalid(path, e) from e
  return manifest


def _invalid(path: epath.Path, error: Exception) -> ValueError:
  return ValueError(
    f'{path} is not a valid manifest ({files.first_line(error)}); delete the'
    ' folder and run precompute again'
  )


def save(manifest: Manifest, path: epath.Path) -> None:
  """Writes a manifest file, completely or not at all."""
  files.write_json(files.to_json_types(dataclasses.asdict(manifest)), path)

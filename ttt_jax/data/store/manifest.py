"""What a folder of precomputed latents says about itself.

`manifest.json` is written last, by a rename: a folder without it is
unfinished and refused. It names everything the latents depend on, so that a
trainer or a second precompute can tell whether they fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
from typing import Any

from etils import epath
import numpy as np

from ttt_jax import geometry as geometry_lib
from ttt_jax.runtime import files

SCHEMA_VERSION = 1
FINAL = 'manifest.json'
UNFINISHED = 'manifest.unfinished.json'


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Identity and table of contents of a data set.

  Attributes:
    vae_identity: kind and content hash of the video encoder
      (`content_identity`).
    text_identity: kind and content hash of the text encoder.
    scale: latent scale of the VAE (or one a channel), for the record only:
      the stored values are in the diffusion model's units already.
    fps: frames a second.
    height: pixels.
    width: pixels.
    frames: pixel frames of a clip, F'.
    segments: S.
    text_length: text tokens of a segment, L.
    mini_batch: tokens of a TTT step that the data was made for, C.
    scene_token_ids: vocabulary rows of the scene tokens.
    clips: readable clips, each {'name', 'row', 'storyboard'}: the row of its
      values in the arrays and its storyboard as JSON.
    corrupt: clips that could not be encoded, each {'name', 'row', 'reason'}.
    schema_version: of this file's layout.
  """

  vae_identity: str
  text_identity: str
  scale: float | Sequence[float]
  fps: int
  height: int
  width: int
  frames: int
  segments: int
  text_length: int
  mini_batch: int
  scene_token_ids: Any = ()
  clips: tuple[Mapping[str, Any], ...] = ()
  corrupt: tuple[Mapping[str, Any], ...] = ()
  schema_version: int = SCHEMA_VERSION

  def identity(self) -> dict[str, Any]:
    """All fields but the table of contents, as JSON gives them back."""
    fields = dataclasses.asdict(self)
    del fields['clips'], fields['corrupt']
    return _plain(fields)


def check_manifest(manifest: Manifest, **expected: Any) -> None:
  """Raises ONE error that names every field that differs, with both values.

  Args:
    manifest: of the data set.
    **expected: fields of `Manifest` and the values this run needs; None is
      not compared.

  Raises:
    ValueError: at least one value differs.
    TypeError: no such field.
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


def geometry_fields(geometry: geometry_lib.Geometry) -> dict[str, int]:
  """The fields of `Manifest` that a geometry decides."""
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
  """Names each expected value that differs; empty where all agree."""
  return ', '.join(
    f'{name} is {found.get(name)!r} in the data set but'
    f' {_plain(value)!r} in this run'
    for name, value in expected.items()
    if found.get(name) != _plain(value)
  )


def _plain(value: Any) -> Any:
  """What JSON makes of a value: numpy numbers plain, tuples lists."""

  def number(x):
    if isinstance(x, (np.generic, np.ndarray)):
      return x.tolist()
    raise TypeError(f'{x!r} cannot be written as JSON')

  return json.loads(json.dumps(value, default=number))


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
  """The manifest of a finished data set.

  Raises:
    FileNotFoundError: no data set there.
    ValueError: it is unfinished, unreadable or of another schema version.
  """
  folder = epath.Path(folder)
  if not (folder / FINAL).exists():
    if (folder / UNFINISHED).exists():
      raise ValueError(
        f'the data set in {folder} is unfinished (it has no {FINAL}); run'
        ' precompute again, it goes on where it stopped'
      )
    raise FileNotFoundError(
      f'no data set in {folder} (it has no {FINAL}); make one with python'
      ' -m ttt_jax.precompute'
    )
  return load(folder / FINAL)


def load(path: epath.Path) -> Manifest:
  """Reads one manifest file."""
  try:
    fields = json.loads(path.read_text())
    version = fields.get('schema_version')
    if version != SCHEMA_VERSION:
      raise ValueError(
        f'{path} has schema version {version!r}; this program reads'
        f' {SCHEMA_VERSION}; run precompute again into another folder'
      )
    fields['clips'] = tuple(fields['clips'])
    fields['corrupt'] = tuple(fields['corrupt'])
    for clip in (*fields['clips'], *fields['corrupt']):
      clip['name'], clip['row']  # pylint: disable=pointless-statement
    return Manifest(**fields)
  except (
    json.JSONDecodeError,
    UnicodeDecodeError,
    KeyError,
    TypeError,
    AttributeError,
  ) as e:
    raise ValueError(
      f'{path} is no manifest of a data set ({files.first_line(e)}); delete the'
      ' folder and run precompute again'
    ) from e


def save(manifest: Manifest, path: epath.Path) -> None:
  """Writes a manifest file, whole or not at all."""
  files.write_json(_plain(dataclasses.asdict(manifest)), path)

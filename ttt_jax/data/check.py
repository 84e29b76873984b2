"""Reads a data set and lists every problem, with its location."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import os
from typing import Any

from etils import epath
import numpy as np
import tensorstore as ts

from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import shots
from ttt_jax.data.store import arrays
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.runtime import progress as progress_lib
from ttt_jax.runtime import wording


@dataclasses.dataclass(frozen=True)
class Expected:
  """Values that a data set is compared with; None is not compared.

  Attributes:
    geometry: Geometry of the clips.
    clips: Clips that precompute would encode now.
    tokenize: Tokenizer of the text encoder, text -> ids.
    scene_token_ids: Ids of '<start_scene>' and '<end_scene>'; required with
      `tokenize`.
    videos_dir: Folder of the videos; clips are compared with those that exist.
    soften: Whether precompute softens the frames.
  """

  geometry: geometry_lib.Geometry | None = None
  clips: Sequence[storyboard_lib.Storyboard] | None = None
  tokenize: Callable[[str], list[int]] | None = None
  scene_token_ids: Sequence[int] | None = None
  videos_dir: str | None = None
  soften: bool = True


@dataclasses.dataclass
class Report:
  """Result of `check`.

  Attributes:
    problems: One line per problem, '<location>: <problem>'.
    clips: Number of clips that were read.
    mean: Mean of all latents.
    std: Standard deviation of all latents; near 1 if the scale is right.
  """

  problems: list[str]
  clips: int = 0
  mean: float = 0.0
  std: float = 0.0


def check(
  folder: str | os.PathLike[str],
  expected: Expected = Expected(),
  progress: bool = False,
) -> Report:
  """Reads a data set once, clip by clip.

  Args:
    folder: Folder of a data set, finished or not.
    expected: Values that it is compared with.
    progress: Whether to show a bar.

  Raises:
    FileNotFoundError: there is no data set.
    ValueError: its manifest cannot be read.
  """
  folder = epath.Path(folder)
  unfinished = folder / manifest_lib.UNFINISHED
  is_finished = (folder / manifest_lib.FINAL).exists()
  if is_finished or not unfinished.exists():
    manifest = manifest_lib.read_manifest(folder)
  else:
    manifest = manifest_lib.load(unfinished)
  report = Report([])
  problems = report.problems
  stores = dict(_open_arrays(folder, problems))
  if not is_finished:
    clips = _completed_clips(folder)
    manifest = dataclasses.replace(manifest, clips=clips)
    total = '?' if expected.clips is None else len(expected.clips)
    if expected.clips is None and 'mean' in stores:
      total = stores['mean'].shape[0]
    problems.append(
      f'manifest.json: is missing, the data set is unfinished: {len(clips)} of'
      f' {total} clips are complete; run precompute again to encode the others'
    )
  problems += _check_sizes(manifest, stores, expected)
  problems += _check_clip_table(folder, manifest, stores)
  if expected.clips is not None and is_finished:
    problems += _check_names(manifest, expected.clips)
  if 'null_text' in stores:
    problems += arrays.read({'null_text': stores['null_text']})[1]
  clips = manifest.clips
  count, first_moment, second_moment = 0, 0.0, 0.0
  for clip in progress_lib.track(clips, 'check clips') if progress else clips:
    views = {
      name: stores[name][clip['row']]
      for name in arrays.ARRAYS
      if name in stores and clip['row'] < stores[name].shape[0]
    }
    values, clip_problems = arrays.read(views)
    if clip['storyboard']:  # Empty in an unfinished data set.
      clip_problems += _check_texts(
        clip, values.get('text'), manifest, expected
      )
      clip_problems += _check_source(folder, clip, expected)
    location = f'clip {clip["name"]!r} (row {clip["row"]})'
    problems += [f'{location}: {problem}' for problem in clip_problems]
    report.clips += 1
    if 'mean' in values:
      mean = values['mean'].astype(np.float64)
      count += mean.size
      first_moment += mean.sum()
      second_moment += np.square(mean).sum()
  if count:
    report.mean = first_moment / count
    report.std = max(0.0, second_moment / count - report.mean**2) ** 0.5
  return report


def _open_arrays(
  folder: epath.Path, problems: list[str]
) -> Iterator[tuple[str, ts.TensorStore]]:
  """Yields the arrays that can be opened."""
  # Nothing is read twice; a cache would only hide the contents of the disk.
  context = ts.Context({'cache_pool': {'total_bytes_limit': 0}})
  for name in arrays.RANKS:
    try:
      yield name, arrays.open_array(folder / name, read=True, context=context)
    except ValueError as e:
      problems.append(f'{name}: {e}')


def _completed_clips(folder: epath.Path) -> tuple[manifest_lib.Clip, ...]:
  """Returns the clips of an unfinished data set, by their markers."""
  markers = {
    row: arrays.read_marker(folder, row) for row in arrays.marked_rows(folder)
  }
  return tuple(
    {'name': marker.get('name', ''), 'row': row, 'storyboard': {}}
    for row, marker in markers.items()
    if marker and 'left_out' not in marker
  )


def _check_sizes(
  manifest: manifest_lib.Manifest,
  stores: Mapping[str, ts.TensorStore],
  expected: Expected,
) -> Iterator[str]:
  """Yields fields and shapes that are not as expected, or do not fit."""
  fields: dict[str, Any] = {}
  if expected.geometry:
    fields |= manifest_lib.geometry_fields(expected.geometry)
  if expected.scene_token_ids is not None:
    fields['scene_token_ids'] = expected.scene_token_ids
  if wrong := manifest_lib.differences(manifest.identity(), fields):
    yield f'manifest.json: {wrong}'
  shapes = {name: list(store.shape[1:]) for name, store in stores.items()}
  comparisons = [
    ('logvar', shapes.get('logvar'), 'mean', shapes.get('mean')),
    (
      'text',
      shapes.get('text', [])[:2],
      'the manifest',
      [manifest.segments, manifest.text_length],
    ),
  ]
  if 'null_text' in stores:
    shape = list(stores['null_text'].shape)
    comparisons.append(('null_text', shape, 'text', shapes.get('text', [])[1:]))
  if g := expected.geometry:
    latent = [g.latent_frames, g.latent_height, g.latent_width]
    comparisons += [
      (name, shapes.get(name, [])[:3], 'the configuration', latent)
      for name in ('mean', 'logvar')
    ]
  for name, shape, source, expected_shape in comparisons:
    if shape and expected_shape and shape != expected_shape:
      yield f'{name}: has shape {shape}, but {source} has {expected_shape}'


def _check_clip_table(
  folder: epath.Path,
  manifest: manifest_lib.Manifest,
  stores: Mapping[str, ts.TensorStore],
) -> Iterator[str]:
  """Yields clips that are listed twice, lost, or have another marker."""
  entries = [*manifest.clips, *manifest.corrupt]
  for key, values in (
    ('name', [entry['name'] for entry in entries]),
    ('row', [entry['row'] for entry in entries]),
  ):
    for value, count in collections.Counter(values).items():
      if count > 1:
        yield f'manifest.json: {key} {value!r} is listed {count} times'
  rows = 1 + max((c['row'] for c in manifest.clips), default=-1)
  for name in arrays.ARRAYS:
    if name in stores and stores[name].shape[0] < rows:
      yield (
        f'{name}: has {stores[name].shape[0]} rows; the manifest lists clips'
        f' up to row {rows - 1}'
      )
  for clip in manifest.clips:
    marker = arrays.read_marker(folder, clip['row'])
    path = arrays.completion_marker(folder, clip['row']).relative_to(folder)
    if not marker:
      yield f'{path}: is missing; clip {clip["name"]!r} may not be complete'
    elif marker.get('name') != clip['name']:
      yield (
        f'{path}: is of clip {marker.get("name")!r}, the manifest has'
        f' {clip["name"]!r} in this row'
      )


def _check_names(
  manifest: manifest_lib.Manifest, clips: Sequence[storyboard_lib.Storyboard]
) -> Iterator[str]:
  """Yields clips that are missing in the data set or in the captions."""
  found = {entry['name'] for entry in (*manifest.clips, *manifest.corrupt)}
  names = [clip.name for clip in clips]
  for name in names:
    if name not in found:
      yield f'clip {name!r}: is in the captions, but not in the data set'
  for name in sorted(found.difference(names)):
    yield f'clip {name!r}: is in the data set, but not in the captions'


def _check_texts(
  clip: manifest_lib.Clip,
  embeddings: np.ndarray | None,
  manifest: manifest_lib.Manifest,
  expected: Expected,
) -> Iterator[str]:
  """Yields captions that do not fit their tokens or embeddings."""
  try:
    prompts = storyboard_lib.Storyboard.parse(clip['storyboard']).prompts()
  except ValueError as e:
    yield f'its storyboard cannot be read: {e}'
    return
  if len(prompts) != manifest.segments:
    texts = wording.count(len(prompts), 'text')
    yield f'has {texts} for {wording.count(manifest.segments, "segment")}'
  # Without a tokenizer, different texts may still have the same tokens.
  keys: list[Any] = list(prompts)
  if expected.tokenize:
    keys = [expected.tokenize(prompt) for prompt in prompts]
    for i, (prompt, ids) in enumerate(zip(prompts, keys), 1):
      if len(ids) > manifest.text_length:
        yield f'text {i} has {len(ids)} tokens; {manifest.text_length} fit'
      for token, token_id in zip(
        (storyboard_lib.START_SCENE, storyboard_lib.END_SCENE),
        expected.scene_token_ids or (),
      ):
        if ids.count(token_id) != prompt.count(token):
          yield (
            f'text {i} has {prompt.count(token)} {token}, but its tokens have'
            f' row {token_id} {ids.count(token_id)} times'
          )
  if embeddings is None or len(embeddings) != len(prompts):
    return
  # Only neighbours: equal captions may differ by a scene token.
  for i in range(1, len(prompts)):
    is_equal = np.array_equal(embeddings[i], embeddings[i - 1])
    if keys[i] == keys[i - 1] and not is_equal:
      yield (
        f'texts {i} and {i + 1} are equal, but their embeddings are different'
      )
    elif expected.tokenize and keys[i] != keys[i - 1] and is_equal:
      yield (
        f'texts {i} and {i + 1} are different, but their embeddings are equal'
      )


def _check_source(
  folder: epath.Path, clip: manifest_lib.Clip, expected: Expected
) -> Iterator[str]:
  """Yields a problem if the clip was made of other frames or texts."""
  marker = arrays.read_marker(folder, clip['row'])
  if expected.geometry is None or expected.videos_dir is None or not marker:
    return
  try:
    board = storyboard_lib.Storyboard.parse(clip['storyboard'])
    ranges = shots.frame_ranges(board, expected.videos_dir, expected.geometry)
  except (FileNotFoundError, ValueError):
    return  # Videos are optional here, and other errors are reported already.
  fingerprint = shots.fingerprint(ranges, board.prompts(), expected.soften)
  if marker.get('fingerprint') != fingerprint:
    yield (
      'was made of other frames or texts than those of its entry and its videos'
    )

"""Finds everything that is wrong with a data set, and says where."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import json
import os
from typing import Any

from etils import epath
import numpy as np
import tensorstore as ts

from ttt_jax import geometry as geometry_lib
from ttt_jax import storyboard as segment_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import shots
from ttt_jax.data.store import arrays
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.runtime import files
from ttt_jax.runtime import progress as progress_lib


@dataclasses.dataclass(frozen=True)
class Run:
  """What a data set is compared with; None is not compared.

  Attributes:
    geometry: of the clips.
    clips: that precompute would make now.
    tokenize: text -> ids, as the text encoder does.
    scene_token_ids: of '<start_scene>' and '<end_scene>'; with `tokenize`.
    videos_dir: folder of the videos: the sources of the clips are compared
      where it has them.
    soften: as in `precompute`.
  """

  geometry: geometry_lib.Geometry | None = None
  clips: Sequence[storyboard_lib.Storyboard] | None = None
  tokenize: Callable[[str], list[int]] | None = None
  scene_token_ids: tuple[int, int] | None = None
  videos_dir: str | None = None
  soften: bool = True


def read_marker(folder: epath.Path, row: int) -> dict[str, Any] | None:
  """What the mark of a row says; None if there is none."""
  try:
    found = json.loads(arrays.marker(folder, row).read_text())
  except (OSError, ValueError):
    return None
  return found if isinstance(found, dict) else None


def read(view: ts.TensorStore) -> tuple[np.ndarray | None, list[str]]:
  """An array, None if it cannot be used, and why."""
  try:
    value = view.read().result()
  except (ValueError, OSError, IndexError) as e:
    return None, [f'cannot be read: {files.first_line(e)}']
  bad = np.argwhere(~np.isfinite(value))
  if len(bad) == value.size:
    # The fill value is NaN.
    return None, ['was never written, or is lost']
  if len(bad):
    return None, [
      f'{len(bad)} of {value.size} values are not finite, the first at'
      f' {bad[0].tolist()}'
    ]
  return value, []


def check_values(
  stores: Mapping[str, ts.TensorStore], row: int
) -> tuple[dict[str, np.ndarray], list[str]]:
  """The arrays of a row that can be used, and what is wrong with the others."""
  found, wrong = {}, []
  for name in arrays.ARRAYS:
    if name not in stores or row >= stores[name].shape[0]:
      continue  # Said once, of the array.
    value, lines = read(stores[name][row])
    wrong += [f'{name} {line}' for line in lines]
    if value is not None:
      found[name] = value
  return found, wrong


def texts(
  clip: Mapping[str, Any],
  text: np.ndarray | None,
  manifest: manifest_lib.Manifest,
  run: Run,
) -> list[str]:
  """Captions against their tokens and their embeddings."""
  if 'storyboard' not in clip:
    return []  # The clip of a set without its table of contents.
  try:
    prompts = storyboard_lib.Storyboard.parse(clip['storyboard']).prompts()
  except ValueError as e:
    return [f'its storyboard cannot be read: {e}']
  wrong = []
  if len(prompts) != manifest.segments:
    wrong.append(f'has {len(prompts)} texts for {manifest.segments} segments')
  if run.tokenize:
    for i, prompt in enumerate(prompts, 1):
      lines = _tokens(prompt, manifest.text_length, run)
      wrong += [f'text {i} {line}' for line in lines]
  if text is None or len(text) != len(prompts):
    return wrong
  # Against the one before: a scene token tells equal captions apart. Without
  # the tokenizer different texts may still be the same tokens.
  keys = [run.tokenize(p) for p in prompts] if run.tokenize else prompts
  for i in range(1, len(prompts)):
    equal = np.array_equal(text[i], text[i - 1])
    if keys[i] == keys[i - 1] and not equal:
      wrong.append(
        f'texts {i} and {i + 1} are equal, but their embeddings are different'
      )
    elif run.tokenize and keys[i] != keys[i - 1] and equal:
      wrong.append(
        f'texts {i} and {i + 1} are different, but their embeddings are equal'
      )
  return wrong


def _tokens(prompt: str, text_length: int, run: Run) -> Iterator[str]:
  ids = run.tokenize(prompt)
  if len(ids) > text_length:
    yield f'has {len(ids)} tokens; {text_length} fit'
  for token, row in zip(
    (segment_lib.START_SCENE, segment_lib.END_SCENE),
    run.scene_token_ids,
  ):
    if ids.count(row) != prompt.count(token):
      yield (
        f'has {prompt.count(token)} {token}, but its tokens have row {row}'
        f' {ids.count(row)} times'
      )


def source(folder: epath.Path, clip: Mapping[str, Any], run: Run) -> list[str]:
  """Whether the clip was made of the frames and texts that its entry names."""
  if run.geometry is None or run.videos_dir is None:
    return []
  found = read_marker(folder, clip['row'])
  if found is None or 'storyboard' not in clip:
    return []  # Said already.
  try:
    board = storyboard_lib.Storyboard.parse(clip['storyboard'])
    parts = shots.spans(board, run.videos_dir, run.geometry)
  except (FileNotFoundError, ValueError):
    return []  # The videos need not be there; other errors are said already.
  print_now = shots.fingerprint(parts, board.prompts(), run.soften)
  if found.get('fingerprint') != print_now:
    return [
      'was made of other frames or texts than its entry and the videos say'
    ]
  return []


@dataclasses.dataclass
class Report:
  """What was found.

  Attributes:
    problems: one line each, '<where>: <what>'.
    clips: that were read.
    mean: of all latents.
    std: of all latents. Near 1 where the scale is right.
  """

  problems: list[str]
  clips: int = 0
  mean: float = 0.0
  std: float = 0.0


def check(
  folder: str | os.PathLike[str], run: Run = Run(), progress: bool = False
) -> Report:
  """Reads a data set once, clip by clip.

  Args:
    folder: of a data set, finished or not.
    run: what it is compared with.
    progress: show a bar.

  Raises:
    FileNotFoundError: no data set there.
    ValueError: its manifest cannot be read.
  """
  folder = epath.Path(folder)
  final, unfinished = (
    folder / name for name in (manifest_lib.FINAL, manifest_lib.UNFINISHED)
  )
  if final.exists() or not unfinished.exists():
    manifest = manifest_lib.read_manifest(folder)
  else:
    manifest = manifest_lib.load(unfinished)
  report = Report([])
  found = report.problems
  stores = dict(_open(folder, found))
  if not final.exists():
    found.append(_unfinished(folder, stores, run))
    manifest = dataclasses.replace(manifest, clips=_marked(folder))
  found += _sizes(manifest, stores, run)
  found += _counts(folder, manifest, stores, run)
  if 'null_text' in stores:
    _, wrong = read(stores['null_text'])
    found += [f'null_text: {line}' for line in wrong]
  clips = manifest.clips
  count, total, squares = 0, 0.0, 0.0
  for clip in progress_lib.track(clips, 'check clips') if progress else clips:
    values, lines = check_values(stores, clip['row'])
    lines += texts(clip, values.get('text'), manifest, run)
    lines += source(folder, clip, run)
    where = f'clip {clip["name"]!r} (row {clip["row"]})'
    found += [f'{where}: {line}' for line in lines]
    report.clips += 1
    if 'mean' in values:
      mean = values['mean'].astype(np.float64)
      count, total = count + mean.size, total + mean.sum()
      squares += np.square(mean).sum()
  if count:
    report.mean = total / count
    report.std = max(0.0, squares / count - report.mean**2) ** 0.5
  return report


def _open(
  folder: epath.Path, found: list[str]
) -> Iterator[tuple[str, ts.TensorStore]]:
  """The arrays that can be opened."""
  # Nothing is read twice; a cache would only hide what is on the disk.
  context = ts.Context({'cache_pool': {'total_bytes_limit': 0}})
  for name in (*arrays.ARRAYS, 'null_text'):
    try:
      store = ts.open(
        arrays.spec(folder / name), open=True, read=True, context=context
      ).result()
    except (ValueError, OSError) as e:
      found.append(f'{name}: cannot be opened: {files.first_line(e)}')
      continue
    rank = {'null_text': 2, 'text': 4}.get(name, 5)
    if store.dtype.name != 'float32' or store.rank != rank:
      found.append(
        f'{name}: holds {store.dtype.name} {list(store.shape)}; it must be'
        f' float32 with {rank} axes'
      )
    else:
      yield name, store


def _unfinished(
  folder: epath.Path, stores: Mapping[str, ts.TensorStore], run: Run
) -> str:
  rows = len(run.clips) if run.clips is not None else None
  if rows is None and 'mean' in stores:
    rows = stores['mean'].shape[0]
  whole = len(_marked(folder))
  return (
    f'manifest.json: is missing, the data set is unfinished: {whole} of'
    f' {"?" if rows is None else rows} clips are whole; run precompute again,'
    ' it goes on where it stopped'
  )


def _marked(folder: epath.Path) -> tuple[dict[str, Any], ...]:
  """Clips by their marks, for a data set without its table of contents."""
  clips = []
  for path in sorted((folder / 'clips').glob('*.json')):
    marker = read_marker(folder, int(path.stem))
    if marker and 'left_out' not in marker:
      clips.append({'name': marker.get('name', ''), 'row': int(path.stem)})
  return tuple(clips)


def _sizes(
  manifest: manifest_lib.Manifest,
  stores: Mapping[str, ts.TensorStore],
  run: Run,
) -> Iterator[str]:
  """Fields and shapes that contradict the run or each other."""
  if run.geometry:
    expected = manifest_lib.geometry_fields(run.geometry)
    for name, value in expected.items():
      wrong = manifest_lib.differences(manifest.identity(), {name: value})
      if wrong:
        yield f'manifest.json: {wrong}'
  if run.scene_token_ids is not None:
    ids = {'scene_token_ids': run.scene_token_ids}
    wrong = manifest_lib.differences(manifest.identity(), ids)
    if wrong:
      yield f'manifest.json: {wrong}; the tokenizer is another one'
  clip = {name: store.shape[1:] for name, store in stores.items()}
  if run.geometry:
    g = run.geometry
    sizes = (g.latent_frames, g.latent_height, g.latent_width)
    for name in ('mean', 'logvar'):
      if name in clip and clip[name][:3] != sizes:
        yield (
          f'{name}: clips of {list(clip[name][:3])} frames, rows and'
          f' columns; the configuration makes {list(sizes)}'
        )
  if {'mean', 'logvar'} <= set(clip) and clip['mean'] != clip['logvar']:
    yield (
      f'logvar: clips of shape {list(clip["logvar"])}, but mean has'
      f' {list(clip["mean"])}'
    )
  text = (manifest.segments, manifest.text_length)
  if 'text' in clip and clip['text'][:2] != text:
    yield (
      f'text: clips of {list(clip["text"][:2])} segments and tokens; the'
      f' manifest says {list(text)}'
    )
  if 'null_text' in stores and 'text' in clip:
    if stores['null_text'].shape != clip['text'][1:]:
      yield (
        f'null_text: shape {list(stores["null_text"].shape)}; a text has'
        f' {list(clip["text"][1:])}'
      )


def _counts(
  folder: epath.Path,
  manifest: manifest_lib.Manifest,
  stores: Mapping[str, ts.TensorStore],
  run: Run,
) -> Iterator[str]:
  """Clips that are missing, listed twice or not expected."""
  entries = [*manifest.clips, *manifest.corrupt]
  for key in ('name', 'row'):
    seen = collections.Counter(entry[key] for entry in entries)
    for value, times in seen.items():
      if times > 1:
        yield f'manifest.json: {key} {value!r} is listed {times} times'
  rows = 1 + max((c['row'] for c in manifest.clips), default=-1)
  for name in arrays.ARRAYS:
    if name in stores and stores[name].shape[0] < rows:
      yield (
        f'{name}: has {stores[name].shape[0]} rows; the manifest lists clips'
        f' up to row {rows - 1}'
      )
  for clip in manifest.clips:
    marker = read_marker(folder, clip['row'])
    path = arrays.marker(folder, clip['row']).relative_to(folder)
    if marker is None:
      yield f'{path}: is missing; clip {clip["name"]!r} may not be whole'
    elif marker.get('name') != clip['name']:
      yield (
        f'{path}: is of clip {marker.get("name")!r}, the manifest has'
        f' {clip["name"]!r} in this row'
      )
  if run.clips is not None and (folder / manifest_lib.FINAL).exists():
    there = {entry['name'] for entry in entries}
    wanted = [clip.name for clip in run.clips]
    for name in wanted:
      if name not in there:
        yield f'clip {name!r}: is in the captions, but not in the data set'
    for name in sorted(there.difference(wanted)):
      yield f'clip {name!r}: is in the data set, but not in the captions'

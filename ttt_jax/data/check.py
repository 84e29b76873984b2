"""Finds everything that is wrong with a data set, and says where."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
import dataclasses
import os
from typing import Any

from etils import epath
import numpy as np
import tensorstore as ts

from ttt_jax import progress as progress_lib
from ttt_jax.data import arrays
from ttt_jax.data import check_clip
from ttt_jax.data import manifest as manifest_lib
from ttt_jax.data.check_clip import Run


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
    _, wrong = check_clip.read(stores['null_text'])
    found += [f'null_text: {line}' for line in wrong]
  clips = manifest.clips
  count, total, squares = 0, 0.0, 0.0
  for clip in progress_lib.track(clips, 'check clips') if progress else clips:
    values, lines = check_clip.check_values(stores, clip['row'])
    lines += check_clip.texts(clip, values.get('text'), manifest, run)
    lines += check_clip.source(folder, clip, run)
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
      found.append(f'{name}: cannot be opened: {manifest_lib.first_line(e)}')
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
    marker = check_clip.read_marker(folder, int(path.stem))
    if marker and 'left_out' not in mark:
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
    marker = check_clip.read_marker(folder, clip['row'])
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

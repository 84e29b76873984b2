"""What is wrong with one clip of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import json
from typing import Any

from etils import epath
import numpy as np
import tensorstore as ts

from ttt_jax import geometry as geometry_lib
from ttt_jax import segment as segment_lib
from ttt_jax import storyboard as storyboard_lib
from ttt_jax.data import arrays
from ttt_jax.data import manifest as manifest_lib
from ttt_jax.data import shots


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
    return None, [f'cannot be read: {manifest_lib.first_line(e)}']
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

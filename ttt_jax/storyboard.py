"""The user's file: what a video shows, one text for every three seconds.

    {"name": "a day",
     "shots": {"cat": {"text": "A cat sleeps.", "video": "cat.mp4"}},
     "segments": ["cat", {"shot": "cat", "repeat": 3},
                  {"text": "The cat wakes up.", "scene": "kitchen"}]}

A segment is an object, or the name of one of the shots; without shots a
string is a text. A file holds one storyboard, {"shots", "storyboards": [...]},
or a list; a .jsonl file holds one a line. The files of the paper's code are
read, too: lists of {"text", "neg_text", "requires_scene_transition"}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any

from ttt_jax import json_file
from ttt_jax import paths
from ttt_jax import segment as segment_lib
from ttt_jax.segment import END_SCENE, START_SCENE, Segment

MAX_SEGMENTS = 200
SEGMENT_SECONDS = 3

_STORYBOARD_KEYS = ('name', 'shots', 'segments')
_FILE_KEYS = ('shots', 'storyboards')


@dataclasses.dataclass(frozen=True)
class Storyboard:
  """A validated storyboard: a name and 1 to 200 segments."""

  name: str
  segments: tuple[Segment, ...]

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Storyboard:
    """Reads a file with one storyboard; 'FILE#NAME' picks one of several.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, not a storyboard (see `parse`), or several.
    """
    path, wanted = os.fspath(path), None
    if '#' in path and not os.path.exists(path):
      path, _, wanted = path.rpartition('#')
    boards = load_storyboards(path)
    names = ', '.join(b.name for b in boards[:5])
    names += ', ...' if len(boards) > 5 else ''
    if wanted is not None:
      boards = [b for b in boards if b.name == wanted]
      if not boards:
        raise ValueError(f'{path} has no storyboard {wanted!r}; it has {names}')
    if len(boards) > 1:
      raise ValueError(
        f'{path} holds {len(boards)} storyboards ({names}); pick one, for'
        f' example {path}#{boards[0].name}'
      )
    return boards[0]

  @classmethod
  def parse(
    cls,
    obj: Mapping[str, Any] | Sequence[Any],
    *,
    name: str = 'storyboard',
    shots: Mapping[str, Any] | None = None,
  ) -> Storyboard:
    """Validates what `json.load` gives for one storyboard.

    Args:
      obj: an object with "segments", or the list of segments alone.
      name: where `obj` has none.
      shots: of the file around it; the storyboard's own go before them.

    Raises:
      ValueError: empty, more than 200 segments, a key that is not legal, a
        shot that is not defined, or a value of the wrong kind; with the
        number of the segment.
    """
    if isinstance(obj, Mapping):
      name = obj.get('name', name)
      segment_lib.check_keys(obj, _STORYBOARD_KEYS, f'storyboard {name!r}')
      if not isinstance(name, str) or not name.strip():
        raise ValueError(
          f'the name of a storyboard is {name!r}; it must be a text that is'
          ' not empty'
        )
      shots = {**(shots or {}), **segment_lib.read_shots(obj)}
      obj = obj.get('segments', [])
    if not isinstance(obj, list | tuple):
      raise ValueError(
        f'storyboard {name!r} is {segment_lib.kind_of(obj)}; it must be a'
        ' list of segments, or an object with "segments"'
      )
    if not obj:
      raise ValueError(
        f'storyboard {name!r} is empty; give 1 to {MAX_SEGMENTS} segments,'
        ' for example [{"text": "A cat sleeps."}]'
      )
    parsed = []
    scene = 0
    for i, item in enumerate(obj):
      where = f'segment {i + 1} of storyboard {name!r}'
      fields, repeat, new = segment_lib.read_fields(item, shots or {}, where)
      if new is not None:
        # The paper's files mark the first segment of a scene; the mark of
        # the video's own first means nothing.
        scene += new and i > 0
        fields['scene'] = scene
      parsed.append((segment_lib.make_segment(fields, where), repeat))
    total = sum(repeat for _, repeat in parsed)
    if total > MAX_SEGMENTS:
      raise ValueError(
        f'storyboard {name!r} has {total} segments; at most {MAX_SEGMENTS}'
        f' ({MAX_SEGMENTS * SEGMENT_SECONDS} s) are possible'
      )
    segments = [s for s, repeat in parsed for _ in range(repeat)]
    return cls(name, tuple(segments))

  @property
  def seconds(self) -> int:
    """Length of the video, without its one extra first frame."""
    return SEGMENT_SECONDS * len(self.segments)

  def prompts(self) -> list[str]:
    """The text of every segment with the scene tokens.

    Where the scene changes, '<end_scene>' ends the text before and
    '<start_scene>' begins the one after. As in the paper's code the video's
    own beginning and end carry no token.
    """
    texts = [segment.text for segment in self.segments]
    scene = self.segments[0].scene
    for i, segment in enumerate(self.segments[1:], 1):
      if segment.scene is None or segment.scene == scene:
        continue
      scene = segment.scene
      if not texts[i - 1].endswith(END_SCENE):
        texts[i - 1] += END_SCENE
      if not texts[i].startswith(START_SCENE):
        texts[i] = START_SCENE + texts[i]
    return texts

  def negatives(self) -> list[str]:
    """The negative text of every segment, '' where there is none."""
    return [segment.negative for segment in self.segments]

  def lint(self, text_length: int, count_tokens: Callable[[str], int]) -> None:
    """Raises ValueError where a text does not fit into `text_length` tokens.

    Args:
      text_length: tokens a segment.
      count_tokens: of the text encoder, special tokens included.
    """
    for kind, texts in (
      ('text', self.prompts()),
      ('negative text', self.negatives()),
    ):
      for i, text in enumerate(texts):
        count = count_tokens(text)
        if count > text_length:
          raise ValueError(
            f'the {kind} of segment {i + 1} of storyboard {self.name!r} has'
            f' {count} tokens; at most {text_length} fit, shorten it'
          )


def lint_all(
  storyboards: Sequence[Storyboard],
  text_length: int,
  count_tokens: Callable[[str], int],
) -> None:
  """`Storyboard.lint` of many: ONE ValueError with their number."""
  problems = []
  for storyboard in storyboards:
    try:
      storyboard.lint(text_length, count_tokens)
    except ValueError as e:
      problems.append(str(e))
  if problems:
    more = f' (and {len(problems) - 1} more like it)' if problems[1:] else ''
    raise ValueError(problems[0] + more)


def load_storyboards(path: str | os.PathLike[str]) -> list[Storyboard]:
  """Reads all storyboards of a JSON or JSONL file.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not JSON (with line and column), no storyboard, or one that
      is not valid (see `Storyboard.parse`).
  """
  value = json_file.read(path)
  try:
    return parse_storyboards(value, paths.resolve(path).stem)
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e


def parse_storyboards(obj: Any, stem: str) -> list[Storyboard]:
  """All storyboards of a file's value; `stem` names the nameless.

  Raises:
    ValueError: as `load_storyboards`, without the file's name.
  """
  shots: Mapping[str, Any] = {}
  if isinstance(obj, Mapping):
    if 'storyboards' not in obj:
      return [Storyboard.parse(obj, name=stem)]
    segment_lib.check_keys(obj, _FILE_KEYS, 'the file')
    shots, obj = segment_lib.read_shots(obj), obj['storyboards']
    if not isinstance(obj, list):
      raise ValueError(
        f'"storyboards" is {segment_lib.kind_of(obj)}; it must be a list'
      )
  elif isinstance(obj, list) and not any(map(_is_board, obj)):
    return [Storyboard.parse(obj, name=stem)]
  elif not isinstance(obj, list):
    raise ValueError(
      f'the file holds {segment_lib.kind_of(obj)}; it must hold a'
      ' storyboard, for example {"segments": [{"text": "A cat sleeps."}]}'
    )
  if not obj:
    raise ValueError('there is no storyboard in it; give 1 or more')
  return [
    Storyboard.parse(o, name=f'{stem}_{i}', shots=shots)
    for i, o in enumerate(obj)
  ]


def _is_board(obj: Any) -> bool:
  """Whether an item of a list is a storyboard rather than a segment."""
  return isinstance(obj, list) or (
    isinstance(obj, Mapping) and 'segments' in obj
  )

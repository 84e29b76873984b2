"""Storyboards: the user's files, with one text for every three seconds.

    {"name": "a day",
     "shots": {"cat": {"text": "A cat sleeps.", "video": "cat.mp4"}},
     "segments": ["cat", {"shot": "cat", "repeat": 3},
                  {"text": "The cat wakes up.", "scene": "kitchen"}]}

A segment is an object, or the name of one of the shots; without shots a
string is a text. A file contains one storyboard, {"shots", "storyboards":
[...]}, or a list; a .jsonl file contains one per line. The files of the paper's
code are accepted, too: lists of {"text", "neg_text",
"requires_scene_transition"}. A {"video", "text"} on a line, or in a list of
nothing else, is a storyboard of its own: the caption of a separate video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any

import msgspec

from ttt_jax import storyboard_entries as entries
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import problems as problems_lib
from ttt_jax.runtime import schema
from ttt_jax.runtime import shipped

MAX_SEGMENTS = 200
SEGMENT_SECONDS = 3
are_captions = entries.are_captions

DESCRIBE = 'describe what is shown'  # Advice for an empty text.
START_SCENE = '<start_scene>'
END_SCENE = '<end_scene>'
# The paper's documents spell the tokens one way, its code the other.
_SPELLINGS = {'<scene_start>': START_SCENE, '<scene_end>': END_SCENE}


@dataclasses.dataclass(frozen=True)
class Segment:
  """Three seconds of a storyboard.

  Attributes:
    text: Description; may begin or end with a scene token.
    negative: Description of contents to avoid.
    scene: Label of the scene; None continues the previous segment's.
    video: Path of the video that shows the segment, for training.
    start: Seconds into that video.
    end: Seconds into that video at which the shot ends. A segment that is
      longer repeats the last frame of the shot.
  """

  text: str
  negative: str = ''
  scene: int | str | None = None
  video: str | None = None
  start: float | None = None
  end: float | None = None


@dataclasses.dataclass(frozen=True)
class Storyboard:
  """A validated storyboard: a name and 1 to 200 segments."""

  name: str
  segments: tuple[Segment, ...]

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Storyboard:
    """Reads a file with one storyboard; 'FILE#NAME' selects one of several.

    The name of a shipped storyboard, such as 'one_minute', stands for its file.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is not JSON, contains several storyboards or one
        that is not valid (see `parse`).
    """
    path, selected = os.fspath(path), None
    if '#' in path and not os.path.exists(path):
      path, _, selected = path.rpartition('#')
    boards = load_storyboards(path)
    names = ', '.join(b.name for b in boards[:5])
    names += ', ...' if len(boards) > 5 else ''
    if selected is not None:
      boards = [b for b in boards if b.name == selected]
      if not boards:
        raise ValueError(
          f'{path} has no storyboard {selected!r}; it has {names}'
        )
    if len(boards) > 1:
      raise ValueError(
        f'{path} contains {len(boards)} storyboards ({names}); select one, for'
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
    """Validates the JSON value of one storyboard.

    Args:
      obj: Object with "segments", or the list of segments itself.
      name: Name if `obj` has none.
      shots: Shots of the file that contains it, by name; the storyboard's own
        override them.

    Raises:
      ValueError: the storyboard is empty or has more than 200 segments, an
        unknown key, a shot that is not defined, or a value that is not valid;
        with the number of the segment.

    Example:
      >>> story = Storyboard.parse(
      ...   [{'text': 'A cat sleeps.', 'repeat': 2}, {'text': 'It wakes up.'}]
      ... )
      >>> story.seconds, [segment.text for segment in story.segments]
      (9, ['A cat sleeps.', 'A cat sleeps.', 'It wakes up.'])
    """
    location = f'storyboard {name!r}'
    shots = _check_shots(dict(shots or {}))
    if isinstance(obj, Mapping) and isinstance(obj.get('name'), str):
      location = f'storyboard {obj["name"]!r}'
    entry = schema.convert(obj, entries.Board | list[Any], location)
    if isinstance(entry, entries.Board):
      name = name if entry.name is msgspec.UNSET else entry.name
      shots |= _check_shots(entry.shots)
      entry = entry.segments
    if not entry:
      raise ValueError(
        f'{location} is empty; give 1 to {MAX_SEGMENTS} segments, for example'
        ' [{"text": "A cat sleeps."}]'
      )
    parsed = []
    scene = 0
    for i, item in enumerate(entry):
      segment_location = f'segment {i + 1} of {location}'
      fields, repeat, is_new_scene = entries.read_segment(
        item, shots, segment_location
      )
      if is_new_scene is not None:
        # The paper's files mark the first segment of every scene; the mark of
        # the first segment has no effect.
        scene += is_new_scene and i > 0
        fields['scene'] = scene
      parsed.append((make_segment(fields, segment_location), repeat))
    total = sum(repeat for _, repeat in parsed)
    if total > MAX_SEGMENTS:
      raise ValueError(
        f'{location} has {total} segments; at most {MAX_SEGMENTS}'
        f' ({MAX_SEGMENTS * SEGMENT_SECONDS} s) are possible'
      )
    segments = [segment for segment, n in parsed for _ in range(n)]
    return cls(name, tuple(segments))

  @property
  def seconds(self) -> int:
    """Duration of the video, without its one additional first frame."""
    return SEGMENT_SECONDS * len(self.segments)

  def prompts(self) -> list[str]:
    """Returns the text of every segment with the scene tokens.

    Where the scene changes, '<end_scene>' ends the previous text and
    '<start_scene>' begins the next one. As in the paper's code, the beginning
    and the end of the video have no token.

    Example:
      >>> story = Storyboard.parse([
      ...   {'text': 'A cat.', 'scene': 'sofa'},
      ...   {'text': 'It eats.', 'scene': 'kitchen'},
      ... ])
      >>> story.prompts()
      ['A cat.<end_scene>', '<start_scene>It eats.']
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
    """Returns the negative text of every segment, '' if it has none."""
    return [segment.negative for segment in self.segments]

  def lint(self, text_length: int, count_tokens: Callable[[str], int]) -> None:
    """Raises ValueError if a text has more than `text_length` tokens.

    Args:
      text_length: Tokens per segment.
      count_tokens: Tokenizer's count for a text, with special tokens.
    """
    lint_all([self], text_length, count_tokens)


# A storyboard as a caller may write it: one text, a text per segment, the JSON
# value of a file, or the object.
StoryLike = Storyboard | str | Mapping[str, Any] | Sequence[Any]


def as_storyboard(story: StoryLike) -> Storyboard:
  """Returns the storyboard of a text, of a list of texts or of a JSON value.

  Raises:
    ValueError: the value is none of them, a text is empty, or it is the name of
      a file; see `Storyboard.parse`.
  """
  if isinstance(story, Storyboard):
    return story
  if isinstance(story, str):
    if story.endswith(('.json', '.jsonl')):
      raise ValueError(
        f'{story!r} is the name of a file, not a text; write'
        f' Storyboard.load({story!r})'
      )
    story = [story]
  if not isinstance(story, Mapping | Sequence) or isinstance(story, bytes):
    raise ValueError(
      f'the storyboard is {schema.show(story)}; expected a text, a list with'
      ' one text per segment, a dict or a Storyboard'
    )
  return Storyboard.parse(story)


def select(
  path: str | os.PathLike[str], videos: Sequence[str]
) -> dict[str, Storyboard]:
  """Returns the storyboard of every video.

  Args:
    path: File of one storyboard, which is that of all videos ('FILE#NAME'
      selects one of several), or of several, whose names are those of the
      videos' files without their suffix.
    videos: Paths of videos.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not valid, or has no storyboard for a video.
  """
  path = os.fspath(path)
  if '#' in path and not os.path.exists(path):
    return dict.fromkeys(videos, Storyboard.load(path))
  boards = load_storyboards(path)
  if len(boards) == 1:
    return dict.fromkeys(videos, boards[0])
  by_name = {board.name: board for board in boards}
  stems = {v: os.path.splitext(os.path.basename(v))[0] for v in videos}
  missing = [stem for stem in stems.values() if stem not in by_name]
  if missing:
    raise ValueError(
      f'{path} has no storyboard {missing[0]!r}, as the name of a video; it has'
      f' {files.first_ten(list(by_name))}'
    )
  return {video: by_name[stem] for video, stem in stems.items()}


def without_tokens(text: str) -> str:
  """Returns a segment's text without the scene tokens at its ends."""
  return text.removeprefix(START_SCENE).removesuffix(END_SCENE).strip()


def lint_all(
  storyboards: Sequence[Storyboard],
  text_length: int,
  count_tokens: Callable[[str], int],
  remedy: str = '',
) -> None:
  """Lints many storyboards; raises ONE ValueError, which ends in `remedy`."""
  problems = problems_lib.Problems('texts are too long')
  for board in storyboards:
    for kind, texts in (
      ('text', board.prompts()),
      ('negative text', board.negatives()),
    ):
      problems.found += [
        f'the {kind} of segment {i} of storyboard {board.name!r} has'
        f' {count} tokens'
        for i, count in enumerate(map(count_tokens, texts), 1)
        if count > text_length
      ]
  problems.check(f'; at most {text_length} fit, shorten it{remedy}')


def load_storyboards(path: str | os.PathLike[str]) -> list[Storyboard]:
  """Reads all storyboards of a JSON or JSONL file.

  The name of a shipped storyboard, such as 'one_minute', stands for its file.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not JSON (with line and column), or it contains no
      storyboard or one that is not valid (see `Storyboard.parse`).
  """
  path = paths.resolve(
    shipped.storyboard(path),
    'a storyboard, for example configs/storyboards/one_minute.json',
    shipped.storyboards(),
  )
  value = files.read_json(path)
  is_lines = path.suffix.lower() in files.LINE_SUFFIXES
  try:
    return parse_storyboards(value, path.stem, is_lines)
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e


def parse_storyboards(
  value: Any, stem: str, is_lines: bool = False
) -> list[Storyboard]:
  """Returns all storyboards of a file's value.

  Args:
    value: Value of a JSON file, or the list of a JSONL file's lines.
    stem: Beginning of the names of storyboards without one.
    is_lines: Whether the items of the list are lines.

  Raises:
    ValueError: as `load_storyboards`, without the path.
  """
  shots: dict[str, Any] = {}
  if isinstance(value, Mapping) and 'storyboards' in value:
    entry = schema.convert(value, entries.File, 'the file')
    shots, value = entry.shots, entry.storyboards
    if not value:
      raise ValueError('the file contains no storyboard; give 1 or more')
  elif isinstance(value, list) and entries.are_captions(value, is_lines):
    value = [[item] for item in value]
  elif not isinstance(value, list) or not any(
    map(entries.is_storyboard, value)
  ):
    return [Storyboard.parse(value, name=stem)]
  problems = problems_lib.Problems('storyboards are not valid')
  boards = []
  for i, item in enumerate(value):
    with problems:
      boards.append(Storyboard.parse(item, name=f'{stem}_{i}', shots=shots))
  problems.check()
  return boards


def _check_shots(shots: dict[str, Any]) -> dict[str, Any]:
  for name, shot in shots.items():
    location = f'shot {name!r}'
    schema.convert(shot, entries.Shot, location)
    make_segment(shot, location)
  return shots


def make_segment(fields: Mapping[str, Any], location: str) -> Segment:
  """Returns a `Segment` of fields that have valid types.

  Scene tokens are spelled as the tokenizer expects them, paths with '/'.

  Raises:
    ValueError: the text is empty or has a scene token in its middle, or the
      times do not fit each other or have no video.
  """
  fields = dict(fields)
  for key in ('text', 'negative'):
    text = fields.get(key, '')
    for paper, ours in _SPELLINGS.items():
      text = text.replace(paper, ours)
    fields[key] = text.strip()
  text = fields['text'].removeprefix(START_SCENE).removesuffix(END_SCENE)
  if not text.strip():
    raise ValueError(f'the text of {location} is empty; {DESCRIBE}')
  if START_SCENE in text or END_SCENE in text:
    raise ValueError(
      f'the text of {location} has a scene token in its middle; only its ends'
      f' may have one: {START_SCENE}...{END_SCENE}'
    )
  video = fields.get('video')
  if video is not None:  # Written on Windows.
    fields['video'] = video.replace('\\', '/')
  for key in ('start', 'end'):
    if fields.get(key) is not None:
      fields[key] = float(fields[key])
      if video is None:
        raise ValueError(f'{location} has "{key}", but no "video"')
  segment = Segment(**fields)
  start, end = segment.start or 0.0, segment.end
  if end is not None and end <= start:
    raise ValueError(
      f'{location} ends at {end:g} s, but starts at {start:g} s; the end must'
      ' be after the start'
    )
  return segment

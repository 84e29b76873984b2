"""A page on which people compare videos of several models, without a server.

The folder contains 'index.html' and the videos under random names, and nothing
else: neither the names of the models nor the metadata of the files. The key, a
file outside of the folder, maps the random names to the models.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
import contextlib
import dataclasses
import fractions
import itertools
import json
import os
import pathlib
import random
import secrets
from typing import Any

import av

from ttt_jax import storyboard as storyboard_lib
from ttt_jax.evaluation import votes as votes_lib
from ttt_jax.runtime import files
from ttt_jax.runtime import problems as problems_lib
from ttt_jax.runtime import progress
from ttt_jax.video import decode
from ttt_jax.video import picture
from ttt_jax.video import video_file

SUFFIXES = ('.mp4', '.m4v', '.mov', '.mkv', '.webm', '.avi', '.gif')
# Of a voter's questions: those that all voters answer, and checks in addition.
_SHARED = 1 / 5
_CHECKED = 1 / 8
_MOST_CHECKS = 8  # Clips that are there twice.
_TEMPLATE = pathlib.Path(__file__).with_name('vote_page.html')
_TICKS = 90_000  # Units of time of a video that is encoded again, per second.


@dataclasses.dataclass(frozen=True)
class Study:
  """A study that was written.

  Attributes:
    id: Random id, in the page, the key and all votes.
    models: Names of the models.
    stories: Names of the stories.
    axes: Axes of the questions.
    questions: Number of questions of a voter, without checks.
    notes: Sentences about differences that could make the comparison unfair.
  """

  id: str
  models: tuple[str, ...]
  stories: tuple[str, ...]
  axes: tuple[str, ...]
  questions: int
  notes: tuple[str, ...]


def find_clips(
  folders: Sequence[str | os.PathLike[str]],
) -> dict[str, dict[str, pathlib.Path]]:
  """Finds the videos of every model.

  Args:
    folders: A folder per model, with a video per story; videos of a story have
      the same name in all folders, apart from the suffix.

  Returns:
    Model -> story -> path. A model has the name of its folder, or the path
    where two folders have the same name.

  Raises:
    FileNotFoundError: a path is not a folder.
    ValueError: there are fewer than two folders, one has no video, or a story
      is missing in one of them.
  """
  if len(folders) < 2:
    raise ValueError(
      f'{len(folders)} folder of videos; --vote compares two or more, for'
      ' example --vote ours/ theirs/ --out=study'
    )
  paths = [pathlib.Path(folder) for folder in folders]
  names = [path.resolve().name for path in paths]
  if len(set(names)) < len(names):
    names = [os.path.normpath(folder) for folder in folders]
  if len(set(names)) < len(names):
    raise ValueError(
      f'the folders are {", ".join(names)}; name every model once'
    )
  clips = {}
  for name, path in zip(names, paths):
    if not path.is_dir():
      raise FileNotFoundError(f'{path} is not a folder of videos')
    found: dict[str, pathlib.Path] = {}
    for file in sorted(path.iterdir()):
      if file.suffix.lower() not in SUFFIXES or file.name.startswith('.'):
        continue
      if file.stem in found:
        raise ValueError(
          f'{path} has {found[file.stem].name} and {file.name}; keep one of'
          ' them'
        )
      found[file.stem] = file
    if not found:
      raise ValueError(f'{path} has no videos, for example {path}/story.mp4')
    clips[name] = found
  problems = problems_lib.Problems('folders do not have the same stories')
  every = sorted(set().union(*clips.values()))
  for name, path in zip(names, paths):
    missing = [story for story in every if story not in clips[name]]
    if missing:
      problems.found.append(f'{path} has no {files.first_ten(missing)}')
  problems.check('; a video of a story has the same name in every folder')
  return clips


def find_texts(
  clips: Mapping[str, Mapping[str, pathlib.Path]],
  storyboards: str | os.PathLike[str] | None = None,
) -> dict[str, list[str]]:
  """Finds the texts of the stories.

  Args:
    clips: Model -> story -> path.
    storyboards: File of storyboards, see `storyboard.select`. None looks into
      the videos, where `ttt_jax.sample` stores the texts.

  Returns:
    Story -> texts of its segments, without scene tokens; {} if the videos have
    none.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not valid, or a story has no storyboard.
  """
  if storyboards is None:
    found: dict[str, list[str]] = {}
    for videos in clips.values():
      for story, path in videos.items():
        if story not in found:
          texts = video_file.read_settings(path).get('texts')
          if isinstance(texts, list) and all(isinstance(t, str) for t in texts):
            found[story] = texts
    return {s: _plain(texts) for s, texts in found.items()}
  paths = next(iter(clips.values()))
  boards = storyboard_lib.select(storyboards, list(map(str, paths.values())))
  return {
    story: _plain([s.text for s in boards[str(path)].segments])
    for story, path in paths.items()
  }


def _plain(texts: Sequence[str]) -> list[str]:
  return [storyboard_lib.without_tokens(text) for text in texts]


def write(
  clips: Mapping[str, Mapping[str, pathlib.Path]],
  out: str | os.PathLike[str],
  key: str | os.PathLike[str],
  texts: Mapping[str, Sequence[str]] | None = None,
  questions: int = votes_lib.QUESTIONS,
) -> Study:
  """Writes the page and the key, completely or not at all.

  Every pair of models is compared on every story and axis. A voter answers a
  random part of these questions, in random order and with random sides; a fifth
  of them are the same for all voters. For eight questions there is an attention
  check in addition, a pair of equal videos.

  Args:
    clips: Model -> story -> path of a video, see `find_clips`.
    out: Folder to write; it must not exist, or be empty.
    key: JSON file to write; it must not exist.
    texts: Texts of the segments of every story. Without them, the question
      about the text is not asked.
    questions: Number of questions of a voter.

  Raises:
    FileExistsError: the folder or the key exists.
    ValueError: a video cannot be read, or a file cannot be written.
  """
  out, key = pathlib.Path(out), pathlib.Path(key)
  if key.exists():
    raise FileExistsError(
      f'{key} exists and is not replaced; choose another --key'
    )
  if out.resolve() in key.resolve().parents:
    raise ValueError(
      f'--key is {key}, inside of the page {out}; voters could read it there'
    )
  models = list(clips)
  stories = list(clips[models[0]])
  texts = texts or {}
  axes = dict(votes_lib.AXES)
  if any(not texts.get(story) for story in stories):
    del axes['text']
  rng = random.SystemRandom()
  study = secrets.token_hex(6)
  checked = rng.sample(stories, min(len(stories), _MOST_CHECKS))
  # (model, story, number of the copy)
  copies = [(m, s, 0) for m in models for s in stories]
  copies += [(rng.choice(models), s, 1) for s in checked]
  rng.shuffle(copies)
  ids = {
    copy: f'{i:05x}{secrets.token_hex(3)}' for i, copy in enumerate(copies)
  }
  pairs, checks = [], []
  for i, story in enumerate(stories):
    for a, b in itertools.combinations(models, 2):
      pairs.append(dict(story=i, clips=[ids[a, story, 0], ids[b, story, 0]]))
  for model, story, copy in copies:
    if copy:
      checks.append(
        dict(
          story=stories.index(story),
          clips=[ids[model, story, 0], ids[model, story, 1]],
        )
      )
  for pair in pairs + checks:
    rng.shuffle(pair['clips'])
  rng.shuffle(pairs)
  page = dict(
    id=study,
    axes=axes,
    questions=questions,
    shared=_SHARED,
    checked=_CHECKED,
    segment_seconds=storyboard_lib.SEGMENT_SECONDS,
    stories=[dict(text=list(texts.get(s, ()))) for s in stories],
    pairs=pairs,
    checks=checks,
  )
  facts: dict[tuple[str, str], video_file.VideoInfo] = {}
  # Nothing is written before all videos are known to be readable.
  with progress.Bar('checking videos', None):
    for model, story, copy in copies:
      if not copy:
        facts[model, story] = video_file.probe(clips[model][story])
  encoded = set()
  with (
    _removed_on_error(key),
    files.atomic_folder(out) as folder,
    progress.Bar('copying videos', len(copies)) as bar,
  ):
    (folder / 'videos').mkdir()
    for copy in copies:
      model, story, _ = copy
      target = folder / 'videos' / f'{ids[copy]}.mp4'
      if not copy_video(clips[model][story], target):
        encoded.add(model)
      bar.advance()
    text = json.dumps(page, ensure_ascii=False).replace('<', '\\u003c')
    template = _TEMPLATE.read_text('utf-8')
    (folder / 'index.html').write_text(
      template.replace('__STUDY__', text), 'utf-8'
    )
    files.write_json(
      dict(
        format=votes_lib.KEY_FORMAT,
        version=votes_lib.VERSION,
        study=study,
        models=models,
        clips={
          ids[model, story, copy]: dict(
            model=model, story=story, file=str(clips[model][story])
          )
          for model, story, copy in sorted(copies)
        },
      ),
      key,
    )
  total = len(pairs) * len(axes)
  return Study(
    study,
    tuple(models),
    tuple(stories),
    tuple(axes),
    min(questions, total),
    tuple(_notes(models, stories, axes, facts, encoded)),
  )


@contextlib.contextmanager
def _removed_on_error(path: pathlib.Path) -> Generator[None]:
  try:
    yield
  except BaseException:
    path.unlink(missing_ok=True)
    raise


def _notes(models, stories, axes, facts, encoded) -> list[str]:
  """Returns notes on missing questions and on differences that are visible."""
  notes = []
  if 'text' not in axes:
    notes.append(
      'the question about the text is left out, because the texts are not'
      ' known; give --storyboard=FILE'
    )
  if encoded and encoded != set(models):
    notes.append(
      f'videos of {", ".join(sorted(encoded))} were not H.264 as browsers play'
      ' it and are encoded again, with a little loss'
    )
  for name, value in (
    ('size', lambda f: f'{f.width}x{f.height}'),
    ('frame rate', lambda f: f'{f.fps:g} fps'),
    ('duration', lambda f: f'{f.seconds:.1f} s'),
  ):
    for story in stories:
      values = [value(facts[model, story]) for model in models]
      if len(set(values)) > 1:
        found = ', '.join(f'{m} {v}' for m, v in zip(models, values))
        notes.append(f'the videos of {story!r} differ in {name}: {found}')
        break
  return notes


def copy_video(source: pathlib.Path, target: pathlib.Path) -> bool:
  """Writes a video as H.264 without metadata and sound.

  Returns:
    Whether the pictures are unchanged, as those of an H.264 file; others are
    encoded again.

  Raises:
    ValueError: the video is damaged.
  """
  for _ in decode.frames(source):
    pass  # Raises where a frame is damaged.
  try:
    with av.open(f'file:{source}', metadata_errors='ignore') as container:
      stream: Any = container.streams.best('video')
      is_copied = (
        stream is not None
        and len(container.streams.video) == 1
        and stream.codec_context.name == 'h264'
        and stream.codec_context.pix_fmt == 'yuv420p'
        and not video_file.conversions(source)
        and container.format.name.startswith(('mov', 'matroska'))
      )
      if is_copied:
        _remux(container, stream, target)
        return True
    _encode(source, target)
    return False
  except av.FFmpegError as e:
    raise ValueError(
      f'{source} cannot be converted to H.264: {files.first_line(e)}'
    ) from e


def _remux(container: Any, stream: Any, target: pathlib.Path) -> None:
  with av.open(
    str(target), 'w', format='mp4', options=dict(movflags='faststart')
  ) as out:
    copied = out.add_stream_from_template(stream)
    copied.metadata.clear()
    for packet in container.demux(stream):
      if packet.dts is not None:
        packet.stream = copied
        out.mux(packet)


def _encode(source: pathlib.Path, target: pathlib.Path) -> None:
  height, width = (
    n + n % 2 for n in picture.displayed_size(next(decode.frames(source)))
  )
  convert = picture.Converter(source, height, width, soften=False)
  with av.open(
    str(target), 'w', format='mp4', options=dict(movflags='faststart')
  ) as out:
    rate = fractions.Fraction(video_file.probe(source).fps)
    stream: Any = out.add_stream(
      'libx264', rate.limit_denominator(1001), options=dict(crf='16')
    )
    stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
    stream.codec_context.time_base = fractions.Fraction(1, _TICKS)
    for timed in picture.progressive(decode.frames(source)):
      frame = av.VideoFrame.from_ndarray(convert(timed), format='rgb24')
      frame.pts = round(timed.time * _TICKS)
      frame.time_base = fractions.Fraction(1, _TICKS)
      out.mux(stream.encode(frame))
    out.mux(stream.encode())

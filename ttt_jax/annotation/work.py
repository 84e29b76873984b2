"""The steps of an annotation, each of which resumes after it was stopped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import os
import pathlib
from typing import Any

from ttt_jax import geometry as geometry_lib
from ttt_jax.annotation import annotation_page
from ttt_jax.annotation import caption_command
from ttt_jax.annotation import frames
from ttt_jax.annotation import project as project_lib
from ttt_jax.annotation import scenes
from ttt_jax.data import annotations as annotations_lib
from ttt_jax.data import captions
from ttt_jax.runtime import files
from ttt_jax.runtime import paths
from ttt_jax.runtime import progress
from ttt_jax.runtime import wording
from ttt_jax.video import video_file


@dataclasses.dataclass(frozen=True)
class Options:
  """Values of an annotation.

  Attributes:
    geometry: Geometry with the length of a segment and the frames per second.
    threshold: Ratio from which a difference is a cut, see `scenes.find`.
    shortest: Seconds after a cut in which no other is found.
    command: Command that writes texts; '' for none.
    frames: Number of frames that the command gets.
  """

  geometry: geometry_lib.Geometry
  threshold: float = scenes.DEFAULT_THRESHOLD
  shortest: float = scenes.DEFAULT_SHORTEST
  command: str = ''
  frames: int = 8


def geometry(config: Any | None) -> geometry_lib.Geometry:
  """Returns the geometry of a config; of 3 s at 16 fps without one."""
  if config is None:
    return geometry_lib.Geometry.from_seconds(3, 16, 16)
  return geometry_lib.Geometry.from_config(config)


def run(
  sources: Sequence[pathlib.Path], out: pathlib.Path, options: Options
) -> None:
  """Annotates videos; prints the files written and the videos left out.

  Args:
    sources: Videos, or folders of videos.
    out: Folder, new or of an earlier call.
    options: Values.

  Raises:
    FileNotFoundError: a video does not exist.
    ValueError: no video can be read, or PySceneDetect is missing.
  """
  found = find_videos(sources)
  if options.command:
    caption_command.check(options.command)
  root = pathlib.Path(os.path.commonpath([p.parent.resolve() for p in found]))
  project = project_lib.Project(out, options.geometry, root)
  left_out = _find_scenes(project, found, options)
  segments = project.segments()
  left_out |= _write_strips(project, segments)
  # Texts of a video that is not there today are kept.
  written = {s.video for s in segments if s.text}
  everything = [
    s for s in segments if s.video not in left_out or s.video in written
  ]
  segments = [s for s in segments if s.video not in left_out]
  for name, reason in left_out.items():
    print(f'left out {name}: {reason}')
  if not segments:
    raise ValueError(
      wording.count(len(found), 'video', 'has')
      + f' no segment of {project.seconds:g} s: {len(left_out)} cannot be read,'
      f' and {wording.count(len(project.too_short), "scene", "is")} too short;'
      ' name videos that play and have longer scenes, or give a larger'
      ' --threshold, which finds fewer cuts'
    )
  unplaced = project.save(everything)
  if unplaced:
    print(
      wording.count(unplaced, 'text', 'belongs')
      + f' to no segment any more, see {out / project_lib.UNPLACED}'
    )
  page = out / annotation_page.NAME
  try:
    if options.command:
      _fill(project, everything, segments, options)
  finally:
    with files.atomic_write(page) as temporary:
      text = annotation_page.build(project, segments)
      temporary.write_text(text, encoding='utf-8')
  _summarize(project, segments)


def find_videos(sources: Iterable[pathlib.Path]) -> list[pathlib.Path]:
  """Returns the videos that paths name, those of folders in natural order.

  Raises:
    FileNotFoundError: a path does not exist.
    ValueError: a folder has no videos.
  """
  out: dict[pathlib.Path, None] = {}
  for source in sources:
    path = paths.resolve(source, 'a video or a folder of videos')
    if not path.is_dir():
      out[path] = None
      continue
    names = [
      p for p in path.rglob('*') if p.suffix.lower() in captions.VIDEO_SUFFIXES
    ]
    if not names:
      raise ValueError(f'{path} has no videos; expected files such as ep01.mp4')
    names.sort(key=lambda p: annotations_lib.natural_key(str(p)))
    out |= dict.fromkeys(names)
  return list(out)


def _find_scenes(
  project: project_lib.Project, found: Sequence[pathlib.Path], options: Options
) -> dict[str, str]:
  """Finds the cuts that are not known; returns name -> reason of failures."""
  values = options.threshold, options.shortest
  todo = [p for p in found if not project.is_cut(project.name(p), *values)]
  if not todo:
    return {}
  scenes.require()
  left_out, seconds = {}, {}
  for path in todo:  # Reads no frame but the first of each.
    try:
      seconds[path] = video_file.probe(path).seconds
    except (ValueError, OSError) as e:
      left_out[project.name(path)] = files.first_line(e)
  total = round(sum(seconds.values()))
  with progress.Bar('find scenes', max(1, total)) as bar:
    done = 0
    for path in seconds:
      name, before = project.name(path), done

      def advance(time: float, before=before, name=name) -> None:
        nonlocal done
        while done < min(total, before + int(time)):
          done += 1
          bar.advance(note=name)

      try:
        cuts = scenes.find(
          path,
          threshold=options.threshold,
          shortest=options.shortest,
          on_time=advance,
        )
      except (ValueError, OSError) as e:
        left_out[name] = files.first_line(e)
        continue
      project.set_cuts(name, cuts, *values)
  return left_out


def _write_strips(
  project: project_lib.Project, segments: Sequence[project_lib.Segment]
) -> dict[str, str]:
  """Writes the missing strips; returns name -> reason of failures."""
  todo = [
    s
    for s in segments
    if not (project.folder / frames.strip_path(project, s)).exists()
  ]
  left_out = {}
  if not todo:
    return left_out
  with progress.Bar('frames of segments', len(todo)) as bar:
    for video, group in itertools.groupby(todo, lambda s: s.video):
      try:
        advance = lambda video=video: bar.advance(note=video)
        frames.write_strips(project, list(group), advance)
      except FileNotFoundError as e:
        left_out[video] = str(e)
      except ValueError as e:
        left_out[video] = files.first_line(e)
  return left_out


def _fill(
  project: project_lib.Project,
  everything: Sequence[project_lib.Segment],
  segments: Sequence[project_lib.Segment],
  options: Options,
) -> None:
  """Writes the texts of `segments`, which are a part of `everything`."""
  empty = sum(not s.text for s in segments)
  if not empty:
    return
  with progress.Bar('texts', empty) as bar:
    caption_command.fill(
      project,
      segments,
      options.command,
      options.frames,
      on_text=lambda: (project.save(everything), bar.advance()),
    )


def _summarize(
  project: project_lib.Project, segments: Sequence[project_lib.Segment]
) -> None:
  scenes_found = {(s.video, s.scene) for s in segments}
  written = sum(bool(s.text) for s in segments)
  print(
    wording.count(len({s.video for s in segments}), 'video'),
    wording.count(len(scenes_found), 'scene'),
    wording.count(len(segments), 'segment', f'of {project.seconds:g} s'),
    sep=', ',
  )
  if project.too_short:
    names = [f'{v} from {a:g} s' for v, a, _ in project.too_short]
    print(
      f'{wording.count(len(names), "scene", "is")} too short for a segment:'
      f' {files.first_ten(names)}'
    )
  left = len(segments) - written
  print(
    f'{wording.count(written, "text", "is")} written,'
    f' {left} {"is" if left == 1 else "are"} left'
  )
  print(f'wrote {project.folder / project_lib.CAPTIONS}')
  if written < len(segments):
    print(f'next: open {project.folder / annotation_page.NAME} in a browser')
    return
  print(
    'next: ttt-jax precompute --config=NAME --workdir=DIR'
    f' --config.data.storyboards={project.folder / project_lib.CAPTIONS}'
    f' --config.data.videos={project.videos}'
  )

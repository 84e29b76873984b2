"""Texts from a program of the user's own, for example a captioning model.

The command is called once per segment without a text:

    COMMAND FOLDER

FOLDER has frames of the segment as 01.png, 02.png, ... in their order. The
command prints the text; line breaks become spaces. The variables
TTT_JAX_VIDEO, TTT_JAX_START, TTT_JAX_END (seconds) and TTT_JAX_PREVIOUS_TEXT,
the text of the previous segment of the scene, identify the segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile

from ttt_jax.annotation import frames as frames_lib
from ttt_jax.annotation import project as project_lib


def check(command: str) -> None:
  """Raises ValueError unless a command can be started."""
  try:
    words = shlex.split(command)
  except ValueError as e:
    raise ValueError(f'--caption_command is {command!r}: {e}') from e
  if not words or shutil.which(words[0]) is None:
    raise ValueError(
      f'--caption_command is {command!r}; {words[0] if words else "it"!r} is'
      ' not a program that can be started, write for example'
      " 'python caption.py'"
    )


def fill(
  project: project_lib.Project,
  segments: Sequence[project_lib.Segment],
  command: str,
  frames: int,
  on_text: Callable[[], object],
) -> None:
  """Sets the texts of all segments without one.

  Args:
    project: Folder.
    segments: All segments, in order.
    command: Command.
    frames: Number of frames per segment.
    on_text: Called after each text; saves it.

  Raises:
    ValueError: the command failed or printed nothing; names the segment.
  """
  previous = None
  for segment in segments:
    if not segment.text:
      is_next = previous is not None and (previous.video, previous.scene) == (
        segment.video,
        segment.scene,
      )
      text = previous.text if is_next and previous else ''
      segment.text = _ask(project, segment, command, frames, text)
      on_text()
    previous = segment


def _ask(project, segment, command, frames, previous) -> str:
  """Returns the text that the command prints."""
  where = f'{segment.video} from {segment.start:g} s'
  with tempfile.TemporaryDirectory() as folder:
    frames_lib.write_pictures(project, segment, frames, pathlib.Path(folder))
    done = subprocess.run(
      [*shlex.split(command), folder],
      stdin=subprocess.DEVNULL,
      capture_output=True,
      encoding='utf-8',
      errors='replace',
      env=os.environ
      | dict(
        TTT_JAX_VIDEO=str(project.path(segment.video)),
        TTT_JAX_START=f'{segment.start:g}',
        TTT_JAX_END=f'{project.end(segment):g}',
        TTT_JAX_PREVIOUS_TEXT=previous,
      ),
    )
  text = ' '.join(done.stdout.split())
  if done.returncode or not text:
    reason = (
      f'ended with status {done.returncode}'
      if done.returncode
      else 'printed no text'
    )
    lines = done.stderr.strip().splitlines()
    last = f' ({lines[-1].strip()[:200]})' if lines else ''
    raise ValueError(
      f'the caption command {reason} for {where}{last}; the earlier texts are'
      ' saved, run the same command again to continue'
    )
  return text

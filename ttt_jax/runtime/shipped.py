"""Recipes and storyboards that come with the package, found by their names.

In a clone they are the folder `configs` next to the package; a wheel has a copy
of it inside the package. A path that exists always wins over a name.
"""

from __future__ import annotations

from collections.abc import Iterable
import difflib
import os
import pathlib
import re

_FOLDER = 'configs'
# In the docstring of a recipe; that of a demonstration has another command.
_TRAINS = re.compile(r'^    (python -m ttt_jax\.|ttt-jax )train ', re.MULTILINE)
# The command of a demonstration with which the docstring of a recipe begins; a
# backslash continues it.
_DEMONSTRATION = re.compile(
  r'\A[^\n]*\n\n    (python -m examples\.(?:[^\n]*\\\\\n)*[^\n]*)'
)
_PACKAGE = pathlib.Path(__file__).parents[1]


def folder() -> pathlib.Path:
  """Returns the folder of the recipes."""
  inside = _PACKAGE / _FOLDER
  return inside if inside.is_dir() else _PACKAGE.parent / _FOLDER


def find(path: str | os.PathLike[str]) -> pathlib.Path | None:
  """Returns the shipped file of a path such as 'configs/storyboards/x.json'."""
  parts = pathlib.PurePath(path).parts
  if len(parts) < 2 or parts[0] != _FOLDER or '..' in parts:
    return None
  found = folder().joinpath(*parts[1:])
  return found if found.exists() else None


def storyboard(path: str | os.PathLike[str]) -> str:
  """Returns the file of a shipped storyboard's name such as 'one_minute'.

  Anything else is returned as it is, also the name of a file that exists.
  """
  path = os.fspath(path)
  if os.path.exists(path) or not re.fullmatch(r'[\w-]+', path):
    return path
  found = find(f'{_FOLDER}/storyboards/{path.replace("-", "_")}.json')
  return os.fspath(found or path)


def storyboards() -> list[str]:
  """Returns the names of the shipped storyboards."""
  return sorted(p.stem for p in (folder() / 'storyboards').glob('*.json'))


def recipes() -> dict[str, str]:
  """Returns the first line of each recipe that `train` accepts, by its name."""
  found = {}
  for path in sorted(folder().glob('*.py')):
    text = path.read_text(encoding='utf-8')
    if _TRAINS.search(text):
      found[path.stem] = summary(path)
  return found


def summary(path: pathlib.Path) -> str:
  """Returns the first line of a module's docstring, without importing it."""
  first = path.read_text(encoding='utf-8').partition('\n')[0]
  return first.strip('"\\ ')


def demonstration(recipe: str) -> str:
  """Returns the command of the demonstration for which a recipe was written.

  It makes the data of the recipe, and runs in a clone of the repository.

  Args:
    recipe: Name of a recipe.

  Returns:
    For example 'python -m examples.cartoon.train --workdir=cartoon'; '' if the
    recipe belongs to no demonstration, or is not ours.
  """
  path = folder() / f'{recipe}.py'
  if not recipe.isidentifier() or not path.is_file():
    return ''
  found = _DEMONSTRATION.search(path.read_text(encoding='utf-8'))
  return re.sub(r'\s*\\\\\n\s*', ' ', found[1]) if found else ''


def check_program(path: str | os.PathLike[str], module: str) -> None:
  """Raises ValueError if a recipe is only for another program than `module`.

  Args:
    path: File of a config.
    module: Name of the module that runs, as after `python -m`.
  """
  path = pathlib.Path(path).resolve()
  if path.parent != folder().resolve():
    return
  command = demonstration(path.stem)
  if not command or re.search(rf'-m {re.escape(module)}\b', command):
    return
  text = path.read_text(encoding='utf-8')
  if not re.search(r'ttt_jax\.train|ttt-jax train', text):
    raise ValueError(
      f'--config {path.stem} is a recipe of another program; in a clone of the'
      f' repository, call {command}'
    )


def resolve_config(value: str) -> str:
  """Returns FILE or FILE:ARGUMENT of a config.

  Args:
    value: Path of a config file, or name of a recipe ('quickstart', or
      'configs/quickstart.py'), each with ':ARGUMENT' or without.

  Raises:
    ValueError: there is neither such a file nor such a recipe; with the nearest
      names.
  """
  path, colon, argument = value.partition(':')
  if os.path.isfile(path):
    return value
  name = path.replace('-', '_')  # As ttt-video.
  named = f'{_FOLDER}/{name}.py' if name.isidentifier() else path
  if not path:
    raise ValueError(
      f'--config is empty; name a file, or one of {", ".join(recipes())}'
    )
  found = find(named)
  if found is None or not found.is_file():
    raise ValueError(
      f'--config {path} is neither a file nor a recipe;'
      f' {suggest(path, recipes())}'
    )
  return f'{found}{colon}{argument}'


def short_config(value: str) -> str:
  """Inverts `resolve_config`: returns the name of a recipe, or a path."""
  path, colon, argument = value.partition(':')
  parent, name = os.path.split(path)
  is_recipe = pathlib.Path(parent) == folder()
  return f'{pathlib.Path(name).stem}{colon}{argument}' if is_recipe else value


def suggest(name: str, known: Iterable[str]) -> str:
  """Returns 'did you mean ...?' with the names nearest to one, or all names."""
  known = list(known)
  stem = pathlib.PurePath(name).stem
  if near := difflib.get_close_matches(stem, known, n=3):
    return f'did you mean {" or ".join(near)}?'
  return f'expected one of {", ".join(known)}'

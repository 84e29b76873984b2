"""What is fuzzed: a way to write an input, and the public reader of it."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
import pathlib
import random
from typing import Any

from tests.fuzz import guard
from tests.fuzz import mutations

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / 'fixtures'


@dataclasses.dataclass(frozen=True)
class Target:
  """A reader of users' files or flags.

  Attributes:
    name: Name in the command and in findings.
    room: Part of the project that mends what it finds.
    write: (random numbers, new folder) -> argument of `read`. The folder is
      what the user named.
    read: (folder, argument); raises what the command would.
    weight: Share of a campaign's inputs.
    writes: Whether a path may appear if the input works, relative to the folder
      that contains the named one.
    reads: Whether such a path may be read.
  """

  name: str
  room: str
  write: Callable[[random.Random, pathlib.Path], Any]
  read: Callable[[pathlib.Path, Any], Any]
  weight: float = 1.0
  writes: Callable[[str], bool] = lambda path: False
  reads: Callable[[str], bool] = lambda path: path.startswith('named')


ALL: dict[str, Target] = {}


def add(target: Target) -> None:
  assert target.name not in ALL, target.name
  ALL[target.name] = target


def add_folder(
  name: str,
  room: str,
  files: Callable[[], mutations.Files],
  read: Callable[[pathlib.Path], Any],
  changeable: Callable[[str], bool] = lambda name: True,
  **options: Any,
) -> None:
  """Adds a reader of a folder of which one or two files are changed."""

  def write(rng, folder):
    mutations.write_changed(rng, folder, files(), changeable)

  add(Target(name, room, write, lambda folder, _: read(folder), **options))


def run(
  target: Target, seed: int, index: int, root: pathlib.Path, **limits: float
) -> guard.Outcome:
  """Writes an input into `root`/named and returns its outcome."""
  rng = random.Random(f'{target.name} {seed} {index}')
  named = root / 'named'
  named.mkdir(parents=True)
  decoys = root / 'other'
  mutations.write(decoys, {'secret': b'secret', 'model.safetensors': b'\0' * 9})
  argument = target.write(rng, named)
  return guard.judge(
    lambda: target.read(named, argument),
    root,
    target.writes,
    target.reads,
    **limits,
  )


def check_sane(found: Any, place: str) -> None:
  """Raises Nonsense for numbers and texts that no value of a file can have."""
  if dataclasses.is_dataclass(found) and not isinstance(found, type):
    for field in dataclasses.fields(found):
      check_sane(getattr(found, field.name), f'{place}.{field.name}')
  elif isinstance(found, dict):
    for key, item in found.items():
      check_sane(key, f'{place} key')
      check_sane(item, place)
  elif isinstance(found, (list, tuple)):
    for item in found:
      check_sane(item, place)
  elif isinstance(found, float) and not math.isfinite(found):
    raise guard.Nonsense(f'{place}: {found}')
  elif isinstance(found, str):
    try:
      found.encode()
    except UnicodeEncodeError:
      raise guard.Nonsense(f'{place}: a lone surrogate') from None
    if '\0' in found:
      raise guard.Nonsense(f'{place}: NUL')


def check_sizes(config: Any, *unsigned: str) -> None:
  """Raises Nonsense for a config with sizes that are not positive."""
  name = type(config).__name__
  check_sane(config, name)
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    for item in value if isinstance(value, tuple) else (value,):
      is_number = isinstance(item, (int, float)) and not isinstance(item, bool)
      if is_number and field.name not in unsigned and item <= 0:
        raise guard.Nonsense(f'{name}.{field.name}: {item}')
    default = field.default
    kinds = (int, float) if isinstance(default, float) else type(default)
    if (
      isinstance(default, (bool, int, float, str))
      and not isinstance(value, tuple)
      and value is not None
      and (
        not isinstance(value, kinds)
        or isinstance(value, bool) != isinstance(default, bool)
      )
    ):
      raise guard.Nonsense(f'{name}.{field.name}: {value!r}, {default!r}')

"""Draws the pictures of the explanations, docs/drawings/*.svg.

    python docs/drawings/draw.py [FOLDER]

A drawing is a module with a function `draw`. Where it has numbers, it gets them
from the library.
"""

from __future__ import annotations

import importlib
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
DRAWINGS = sorted(
  path.stem for path in HERE.glob('*.py') if path.stem not in ('canvas', 'draw')
)


def main(folder: pathlib.Path = HERE) -> None:
  """Writes all drawings to a folder."""
  for path in (HERE, HERE.parents[1]):
    if str(path) not in sys.path:
      sys.path.insert(0, str(path))
  for name in DRAWINGS:
    importlib.import_module(name).draw().save(folder / f'{name}.svg')


if __name__ == '__main__':
  main(*map(pathlib.Path, sys.argv[1:]))

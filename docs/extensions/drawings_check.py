"""Warns if a drawing on the site differs from the one that its code draws."""

from __future__ import annotations

import importlib
import pathlib
import sys
import tempfile

from sphinx.util import logging

_logger = logging.getLogger(__name__)


def _check(app):
  folder = pathlib.Path(app.srcdir) / 'drawings'
  sys.path.insert(0, str(folder))
  draw = importlib.import_module('draw')
  with tempfile.TemporaryDirectory() as temporary:
    draw.main(pathlib.Path(temporary))
    for name in draw.DRAWINGS:
      path = folder / f'{name}.svg'
      new = pathlib.Path(temporary, path.name).read_bytes()
      if not path.is_file() or path.read_bytes() != new:
        _logger.warning(f'{path} is outdated: make drawings')


def setup(app):
  app.connect('builder-inited', _check)
  return {'parallel_read_safe': True}

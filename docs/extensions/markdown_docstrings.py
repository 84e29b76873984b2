"""Docstrings of this project, which are Markdown, as reStructuredText.

Two things differ: identifiers are in single backticks, and an indented block
is code. `sphinx.ext.napoleon` reads the sections after this extension.
"""

from __future__ import annotations

import re

# What napoleon reads. Their entries are indented, and are no code.
_SECTIONS = ('Args:', 'Attributes:', 'Raises:', 'Returns:', 'Yields:')


def to_rst(lines: list[str]) -> list[str]:
  """Returns the lines of a docstring with its code blocks and backticks marked.

  Args:
    lines: Lines of the docstring, without the common indentation.
  """
  parts: list[tuple[bool, list[str]]] = []
  in_section = in_code = False
  previous = ''
  for line in lines:
    if line.strip():
      indent = len(line) - len(line.lstrip())
      if not indent:
        in_section = line.strip() in _SECTIONS
        in_code = False
      elif not in_section and not in_code and not previous:
        in_code = indent >= 4 and not line.lstrip().startswith('>>> ')
        if in_code:
          parts.append((True, ['::', '']))
    if not parts or parts[-1][0] != in_code:
      parts.append((in_code, []))
    parts[-1][1].append(line)
    previous = line.strip()
  text = '\n'.join(
    '\n'.join(part) if is_code else _prose('\n'.join(part))
    for is_code, part in parts
  )
  return text.split('\n')


def _prose(text: str) -> str:
  """Returns Markdown text without code blocks as reStructuredText."""
  pieces = re.split(r'(`[^`]+`|^ *>>> .*(?:\n *\S.*)*)', text, flags=re.M)
  for i, piece in enumerate(pieces):
    if i % 2:
      pieces[i] = f'`{piece}`' if piece.startswith('`') else piece
    else:
      pieces[i] = re.sub(r'([*|])', r'\\\1', piece)
      if i:  # A plural such as `array`s.
        pieces[i] = re.sub(r'\A(?=\w)', r'\\ ', pieces[i])
  return ''.join(pieces)


def _process(app, what, name, obj, options, lines):
  del app, what, name, obj, options
  lines[:] = to_rst(lines)


def setup(app):
  # Before napoleon, whose priority is the default, 500.
  app.connect('autodoc-process-docstring', _process, priority=100)
  return {'parallel_read_safe': True}

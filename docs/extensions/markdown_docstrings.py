"""Docstrings of this project, which are Markdown, as reStructuredText.

Two things differ: identifiers are in single backticks, and an indented block
is code. Shapes such as [B, T, D] become code as well. `sphinx.ext.napoleon`
reads the sections after this extension.
"""

from __future__ import annotations

import re

from docutils import nodes

# Headings that napoleon reads. Their indented entries are not code.
_SECTIONS = (
  'Args:',
  'Attributes:',
  'Raises:',
  'Returns:',
  'Yields:',
  'Example:',
)

# Parts of a signature that do not parse or are too long.
_UNREADABLE = (
  (r'~?typing\.Annotated\[(\w+), [^\]]*\]', r'\1'),
  (r', parent: .*?, name: str \| None = None', ''),
  (r'<class \'(?:\w+\.)*(\w+)\'>', r'\1'),
  (r'<factory>|<[\w.]+ object>', '...'),
)
_SHAPE = r"\[(?:(?:[\w'*+/ -]|\.\.\.)+, ?)*(?:[\w'*+/ -]|\.\.\.)+\](?!\()"
_LITERAL = re.compile(rf'(`[^`]+`|{_SHAPE}|^ *>>> .*(?:\n *\S.*)*)', flags=re.M)


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
  pieces = _LITERAL.split(text)
  for i, piece in enumerate(pieces):
    if i % 2:
      is_doctest = piece.lstrip().startswith('>>> ')
      pieces[i] = piece if is_doctest else f'``{piece.strip("`")}``'
    else:
      pieces[i] = re.sub(r'([*|])', r'\\\1', piece)
      if i:  # A plural such as `array`s.
        pieces[i] = re.sub(r'\A(?=\w)', r'\\ ', pieces[i])
  return ''.join(pieces)


def _process(app, what, name, obj, options, lines):
  del app, what, name, obj, options
  lines[:] = to_rst(lines)


def _signature(app, what, name, obj, options, signature, returns):
  """Shortens a signature to the arguments of a caller.

  Ranges of numbers are in the description of the configs, and every Flax module
  takes a parent and a name.
  """
  del app, what, name, obj, options
  for pattern, text in _UNREADABLE:
    if signature:
      signature = re.sub(pattern, text, signature)
  return signature, returns


def _dashes(app, doctree):
  """Writes a dash between a parameter and its description, not two hyphens."""
  del app
  for fields in doctree.findall(nodes.field_list):
    for text in list(fields.findall(nodes.Text)):
      if text.startswith(' -- '):
        text.parent.replace(text, nodes.Text(text.replace('--', '–', 1)))


def setup(app):
  # Before napoleon, whose priority is the default, 500.
  app.connect('autodoc-process-docstring', _process, priority=100)
  app.connect('autodoc-process-signature', _signature)
  app.connect('doctree-read', _dashes)
  return {'parallel_read_safe': True}

"""The frame of all pages: one file, in the colours of the reader's system."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
import time
from typing import Any

import ttt_jax
from ttt_jax.pages import html

tag, join = html.tag, html.join

# Nothing is loaded from elsewhere.
SELF_CONTAINED = (
  "default-src 'none'; img-src data:; media-src data: blob:;"
  " style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def asset(name: str) -> html.Markup:
  """Returns the text of a style sheet or script of this package."""
  return html.Markup(
    resources.files('ttt_jax.pages').joinpath(name).read_text('utf-8')
  )


def page(
  title: str,
  *body: Any,
  styles: Sequence[str] = (),
  scripts: Sequence[str] = (),
  policy: str | None = SELF_CONTAINED,
) -> str:
  """Returns a complete page.

  Args:
    title: Title of the window.
    *body: Children of `html.tag`.
    styles: Names of further style sheets, see `asset`.
    scripts: Names of scripts.
    policy: Content security policy; None for a page with files of its own.
  """
  head = tag(
    'head',
    tag('meta', charset='utf-8'),
    policy
    and tag('meta', http_equiv='Content-Security-Policy', content=policy),
    tag('meta', name='viewport', content='width=device-width,initial-scale=1'),
    tag('link', rel='icon', href='data:,'),
    tag('title', title),
    tag('style', asset('page.css'), map(asset, styles)),
  )
  scripts = [tag('script', asset(name)) for name in scripts]
  document = tag('html', head, tag('body', body, scripts), lang='en')
  return f'<!doctype html>\n{document}\n'


def made() -> html.Markup:
  """Returns the last line of a page: the time and the program."""
  now = time.strftime('%Y-%m-%d %H:%M', time.localtime())
  return tag('footer', f'{now}, ttt_jax {ttt_jax.__version__}')


def numbers(rows: Iterable[tuple[str, Any, str]]) -> html.Markup:
  """Returns a row of large numbers: (name, value, note)."""
  return tag(
    'dl',
    (
      tag(
        'div',
        tag('dt', name),
        tag('dd', value, tag('small', note) if note else None),
      )
      for name, value, note in rows
    ),
    class_='numbers',
  )


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> html.Markup:
  """Returns a table that scrolls by itself where it is too wide."""
  head = tag('tr', (tag('th', x) for x in header))
  body = (tag('tr', (tag('td', x) for x in row)) for row in rows)
  return tag(
    'div',
    tag('table', tag('thead', head), tag('tbody', body)),
    class_='scroll',
  )


def folded(
  title: str, *children: Any, is_open: bool = False, **attributes: Any
) -> html.Markup:
  """Returns a part that opens with a click."""
  return tag(
    'details', tag('summary', title), children, open=is_open, **attributes
  )


def note(*children: Any) -> html.Markup:
  """Returns a paragraph that the reader must not miss."""
  return tag('p', children, class_='note')

"""Texts cannot become markup."""

import html
import json

from ttt_jax.pages import html as html_lib
from ttt_jax.pages import page

HOSTILE = '</script><img src=x onerror=alert(1)>"\'&<!--'


def test_texts_are_escaped_and_markup_is_kept():
  tag = html_lib.tag
  out = tag('p', HOSTILE, [tag('b', 1 < 2), None], title=HOSTILE, hidden=False)
  assert out.count('<') == 4
  assert html.unescape(out.partition('>')[2]).startswith(HOSTILE)
  assert '<b>True</b></p>' in out
  assert 'hidden' not in out
  assert tag('a', class_='x', data_id=3, open=True) == (
    '<a class="x" data-id="3" open></a>'
  )


def test_json_of_a_script_keeps_its_texts_and_has_no_nan():
  out = html_lib.data({'a': HOSTILE, 'b': [float('nan'), 1.5, float('inf')]})
  inside = out.removeprefix('<script type="application/json">')
  inside = inside.removesuffix('</script>')
  assert '<' not in inside
  assert json.loads(inside) == {'a': HOSTILE, 'b': [None, 1.5, None]}


def test_a_page_loads_nothing():
  text = page.page('A <title>', html_lib.tag('p', 'x'), scripts=['charts.js'])
  assert text.startswith('<!doctype html>\n<html lang="en"><head>')
  assert '<title>A &lt;title&gt;</title>' in text
  assert 'http:' not in text and 'https:' not in text

"""Links of the documentation lead somewhere, and its commands exist."""

import importlib.util
import pathlib
import re
import tomllib
import urllib.parse

import markdown_it
import pytest

from ttt_jax import __main__ as main
from ttt_jax.runtime import shipped

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted(
  p.relative_to(ROOT).as_posix()
  for folder in (
    '',
    'docs/**/',
    'benchmarks/',
    'pallas_kernels/',
    'examples/',
    'notebooks/',
  )
  for p in ROOT.glob(f'{folder}*.md')
)


PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def tokens(page: pathlib.Path):
  """All tokens of a page, those inside of paragraphs too."""
  for token in markdown_it.MarkdownIt().enable('table').parse(page.read_text()):
    yield token
    yield from token.children or ()


def anchors(page: pathlib.Path) -> set[str]:
  """The names that GitHub gives to the headings of a page."""
  found, heading = set(), False
  for token in tokens(page):
    if heading and token.type == 'inline':
      name = re.sub(r'[^\w\- ]', '', token.content.lower())
      found.add(name.replace(' ', '-'))
    heading = token.type == 'heading_open'
  return found


@pytest.mark.parametrize('name', PAGES)
def test_links(name):
  page = ROOT / name
  broken = []
  for token in tokens(page):
    link = token.attrs.get('href') or token.attrs.get('src')
    if not link or urllib.parse.urlsplit(link).scheme:
      continue
    path, _, anchor = link.partition('#')
    target = page.parent / path if path else page
    if not target.exists():
      broken.append(f'{link}: there is no {target}')
    elif anchor and anchor not in anchors(target):
      broken.append(f'{link}: {target} has no heading #{anchor}')
  assert not broken, '\n'.join(broken)


# The changelog names what is gone.
@pytest.mark.parametrize(
  'name', [*(p for p in PAGES if p != 'CHANGELOG.md'), 'Makefile']
)
def test_commands(name):
  """Every `python -m MODULE` of ours is a module."""
  text = (ROOT / name).read_text()
  pattern = r'-m ((?:ttt_jax|launch|pallas_kernels|examples|benchmarks)[\w.]*)'
  missing = [
    module
    for module in set(re.findall(pattern, text))
    if importlib.util.find_spec(module) is None
  ]
  assert not missing


@pytest.mark.parametrize('name', PAGES)
def test_commands_of_ttt_jax(name):
  """Commands, recipes and extras that a page names exist."""
  text = (ROOT / name).read_text()
  used = set(re.findall(r'ttt-jax ([a-z]\w*) ', text))
  assert used <= main.commands().keys()
  extras = set(re.findall(r'ttt_jax\[([\w-]+)\] @', text))
  assert extras <= set(PROJECT['optional-dependencies'])
  recipes = set(re.findall(r'--config=(\w+)(?=[:\s`])', text)) - {
    'NAME',
    'FILE',
  }
  assert recipes <= shipped.recipes().keys()

"""Links of the documentation lead somewhere, and its commands exist."""

import importlib.util
import pathlib
import re
import tomllib
import urllib.parse

import markdown_it
import pytest

import ttt_jax
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
ADDRESS = PROJECT['urls']['Repository']


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
    folder = page.parent
    if link and link.startswith(f'{ADDRESS}/blob/main/'):  # In notebooks.
      folder, link = ROOT, link.removeprefix(f'{ADDRESS}/blob/main/')
    if not link or urllib.parse.urlsplit(link).scheme:
      continue
    path, _, anchor = link.partition('#')
    target = folder / path if path else page
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


def test_one_address_of_the_repository():
  """`make address` sets it; pages, badges and notebooks agree."""
  assert all(url.startswith(ADDRESS) for url in PROJECT['urls'].values())
  place = ADDRESS.removeprefix('https://github.com/')
  pattern = re.compile(
    r'(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/ttt_jax)\b'
  )
  notebooks = [p.relative_to(ROOT) for p in ROOT.glob('notebooks/*.ipynb')]
  found = {
    str(name): set(pattern.findall((ROOT / name).read_text()))
    for name in (*PAGES, *notebooks)
  }
  assert found['README.md'] and found['notebooks/2_test_time_training.ipynb']
  wrong = {name: f for name, f in found.items() if f - {place, 'ME/ttt_jax'}}
  assert not wrong


def test_the_number_of_demonstrations():
  makefile, readme = ((ROOT / n).read_text() for n in ('Makefile', 'README.md'))
  targets = re.findall(r'^(demo[\w-]*):', makefile, re.M)
  assert all(f'make {target} ' in readme for target in targets)
  # These encode texts with a model that is a package.
  commands = re.findall(r'^demo[\w-]*:.*\n\t(.*)', makefile, re.M)
  with_package = sum('examples.one_minute' in c for c in commands)
  words = ['no', 'one', 'two', 'three', 'four', 'five']
  assert (
    'without downloads of weights |'
    f' [{words[len(targets) - with_package]}](#install);'
    f' {words[with_package]} more'
  ) in readme


def test_versions_of_python_are_classified():
  low, high = re.findall(r'3\.(\d+)', PROJECT['requires-python'])
  assert [c for c in PROJECT['classifiers'] if ':: 3.' in c] == [
    f'Programming Language :: Python :: 3.{i}'
    for i in range(int(low), int(high))
  ]


def test_the_reference_lists_every_recipe():
  text = (ROOT / 'docs/reference/configs.md').read_text()
  assert set(re.findall(r'^\| `(\w+)` \|', text, re.M)) == set(
    shipped.recipes()
  )


def test_one_version():
  citation = (ROOT / 'CITATION.cff').read_text()
  found = re.search(r'^version: (.*)$', citation, re.M)[1]
  assert found == ttt_jax.__version__

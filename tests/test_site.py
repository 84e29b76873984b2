"""The documentation site, without building it: `make docs` does that."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pallas_kernels
from ttt_jax import config_schema
from ttt_jax import convert

DOCS = pathlib.Path(__file__).resolve().parents[1] / 'docs'
PAGES = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob('*.md')}


def load(path):
  """Imports a module of the site, which is no package."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def toctree_entries(page):
  """Names the pages in the toctrees of a page, relative to docs/."""
  found = []
  trees = re.findall(
    r'^```\{toctree\}\n(.*?)^```$', (DOCS / page).read_text(), re.M | re.S
  )
  for line in '\n'.join(trees).splitlines():
    if line and not line.startswith(':'):
      entry = re.sub(r'^.* <(.+)>$', r'\1', line)
      names = DOCS.joinpath(page).parent.glob(f'{entry}.*')
      found += [p.relative_to(DOCS).as_posix() for p in names] or [entry]
  return [f for f in found if f.endswith('.md') or '.' not in f]


def test_every_page_is_in_one_toctree():
  entries = [e for page in PAGES for e in toctree_entries(page)]
  assert '\nnotebooks/*\n' in (DOCS / 'index.md').read_text()
  # Notebooks are copied to a folder that the build makes.
  entries = [e for e in entries if not e.startswith('notebooks/')]
  assert sorted(entries) == sorted(PAGES - {'index.md'})


def test_every_drawing_is_drawn_and_shown():
  folder = DOCS / 'drawings'
  shown = '\n'.join((DOCS / page).read_text() for page in PAGES)
  drawings = {
    p.stem for p in folder.glob('*.py') if 'def draw()' in p.read_text()
  }
  pictures = {p.stem for p in folder.glob('*.svg')}
  assert drawings == pictures
  assert {p for p in pictures if f'drawings/{p}.svg)' in shown} == pictures


def test_the_reference_has_every_public_name():
  text = '\n'.join(p.read_text() for p in (DOCS / 'reference').glob('*.md'))
  documented = set(re.findall(r'^\.\. auto\w+:: (\S+)', text, re.M))
  public = {
    f'{module.__name__}.{name}'
    for module in (pallas_kernels, convert)
    for name in module.__all__
  }
  assert public <= documented
  # And what is documented exists.
  for name in documented:
    module, _, attribute = name.rpartition('.')
    found = importlib.import_module(module)
    assert hasattr(found, attribute) or importlib.util.find_spec(name), name


def test_the_reference_has_the_flags_of_every_command():
  """In a process of its own: commands define flags of the same names."""
  code = """
import pathlib, re, sys
sys.path.insert(0, 'docs/extensions')
import command_flags
text = pathlib.Path('docs/reference/commands.md').read_text()
launchers = re.findall('command-flags} (.*)', text)
for module in [m for _, m in command_flags.commands()] + launchers:
  print(module, len(command_flags.command(module)[1]))
"""
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=DOCS.parent,
    capture_output=True,
    text=True,
    check=True,
  )
  counts = dict(line.split() for line in done.stdout.splitlines())
  assert len(counts) > 12 and 'launch.stages' in counts
  assert [m for m, n in counts.items() if n == '0'] == ['ttt_jax.completion']


def test_every_field_of_a_config_is_described():
  fields = load(DOCS / 'extensions' / 'config_fields.py')
  text = (DOCS / 'reference/configs.md').read_text()
  names = re.findall(r'\{config-fields\} (\S+)', text)
  assert len(names) > 10
  missing = [
    f'{name}.{row[0]}'
    for name in names
    for row in fields.rows(fields.find(name))
    if not row[-1]
  ]
  assert not missing


def test_fields_in_words():
  fields = load(DOCS / 'extensions' / 'config_fields.py')
  rows = {row[0]: row for row in fields.rows(config_schema.Training)}
  assert rows['steps'][1:3] == ('whole number ≥ 1', '')
  assert rows['text_dropout'][1] == 'number ≥ 0 and < 1'
  assert rows['scheduler'][1:3] == ('text or none', '`None`')
  assert rows['backbone'][1:3] == ("one of `'dit'`, `'unet3d'`", "`'dit'`")


def test_links_lead_from_a_page_to_the_file_that_they_name(tmp_path):
  pages = load(DOCS / 'extensions' / 'repository_pages.py')
  docs, notebook = tmp_path / 'docs', tmp_path / 'notebooks' / 'a.ipynb'
  for path, text in (
    (docs / 'index.md', ''),
    (docs / 'editing.md', ''),
    (docs / 'reference' / 'ops.md', ''),
    (docs / 'rules.md', '```{include} ../RULES.md\n```\n'),
    (tmp_path / 'RULES.md', ''),
    (tmp_path / 'README.md', ''),
    (tmp_path / 'code' / 'x.py', ''),
    (notebook, '{}'),
  ):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  site = pages.Pages(docs, 'https://host/us')
  site.copy_notebooks()
  copy = docs / 'notebooks' / 'a.ipynb'
  assert copy.read_text() == '{}'
  assert site.source(copy) == notebook
  assert site.source(docs / 'rules.md') == tmp_path / 'RULES.md'

  link = lambda target: site.link(target, notebook, copy)
  assert link('../docs/editing.md#tune') == '../editing.md#tune'
  assert link('../RULES.md') == '../rules.md'
  assert link('../README.md') == '../index.md'
  assert link('../code/x.py') == 'https://host/us/blob/main/code/x.py'
  assert link('https://other/x') == 'https://other/x'
  # Notebooks name the repository, where the site has the page itself.
  for target in ('docs/editing.md#tune', 'RULES.md', 'code/x.py'):
    own = f'https://host/us/blob/main/{target}'
    assert link(own) == link(f'../{target}')
  site = pages.Pages(docs, address='https://host/OWNER')  # None yet.
  own = 'https://host/OWNER/blob/main/docs/editing.md'
  assert link(own) == '../editing.md'
  site = pages.Pages(docs)  # Without an address.
  assert link('../code/x.py') == '../../code/x.py'
  assert link('../code') is None
  text = '[a](../code) ![b](b.png)\n```\n[a](../code)\n```\n'
  assert pages.rewrite(text, link) == text.replace('[a](../code)', 'a', 1)
  # A notebook that is gone leaves no page.
  notebook.unlink()
  pages.Pages(docs).copy_notebooks()
  assert not copy.exists()

"""The notebooks as they are kept; `make notebooks` executes them."""

import ast
import base64
import importlib.util
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
from PIL import Image
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'notebooks'
# Of this machine or of a hosted one. Addresses have a host before the slash.
_ABSOLUTE = re.compile(r'(?<![\w./:])/(?:[a-z]+/)*(?:home|tmp|content|root)/')


def load_tool():
  """Imports notebooks/run.py, which belongs to no package."""
  spec = importlib.util.spec_from_file_location('run', FOLDER / 'run.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


run = load_tool()
NAMES = run.names()


def read(name):
  return nbformat.read(FOLDER / f'{name}.ipynb', as_version=4)


def code_cells(name):
  return [c for c in read(name).cells if c.cell_type == 'code']


def test_every_notebook_has_a_text():
  assert NAMES == sorted(p.stem for p in FOLDER.glob('*.ipynb'))


@pytest.mark.parametrize('name', NAMES)
def test_twins_agree(name):
  text = (FOLDER / f'{name}.md').read_text()
  hint = f'call notebooks/run.py --sync {name}'
  assert run.text_of(read(name)).strip() == text.strip(), hint
  # The address of the repository, and the first cell.
  assert run.fill(text, name) == text, hint


@pytest.mark.parametrize('name', NAMES)
def test_form(name):
  notebook, code = read(name), code_cells(name)
  first = notebook.cells[0].source
  assert first.startswith('# ') and run.badge(name) in first
  assert code[0].source.endswith(')')
  assert code[0].source == run.setup(code[0].source.splitlines()[-1])
  assert 20 <= len(notebook.cells) <= 30
  for cell in code:
    assert len(cell.source.splitlines()) <= 20, cell.source
  # What they were executed with is nobody's business.
  assert set(notebook.metadata) == {'kernelspec', 'language_info'}
  assert all(not cell.metadata for cell in notebook.cells)


@pytest.mark.parametrize('restarted', [False, True])
def test_a_clone_is_used_after_a_restart(tmp_path, restarted):
  """What pip installed is found first then; the clone has more folders."""
  names = 'ttt_jax/__init__.py', 'ttt_jax/runtime/notebook.py'
  for folder in ('site', 'clone') if restarted else ('clone',):
    for name in names:
      (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(ROOT / name, tmp_path / folder / name)
  (tmp_path / 'clone/pyproject.toml').touch()
  cell = run.setup('notebook.start(memory_gib=0, clone=True)')
  code = f'{_without_commands(cell)}\nprint(sys.path[0], notebook.__file__)'
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env=dict(os.environ, PYTHONPATH=str(tmp_path / 'site')),
    capture_output=True,
    text=True,
    check=False,
  )
  clone = tmp_path / 'clone'
  found = f'{clone} {clone / names[1]}'
  assert done.stdout.splitlines()[-1:] == [found], done.stderr


@pytest.mark.parametrize('name', NAMES)
def test_outputs_are_those_of_a_complete_run(name):
  code = code_cells(name)
  counts = [cell.execution_count for cell in code]
  assert counts == list(range(1, len(code) + 1)), 'call make notebooks'
  outputs = [output for cell in code for output in cell.outputs]
  assert len(outputs) > len(code) / 2
  assert not [o for o in outputs if o.output_type == 'error']
  assert any('image/png' in o.get('data', ()) for o in outputs)


@pytest.mark.parametrize('name', NAMES)
def test_size_and_paths(name):
  path = FOLDER / f'{name}.ipynb'
  assert path.stat().st_size < 400_000
  text = re.sub(r'base64,[\w+/=]+|"image/png": "[^"]+"', '', path.read_text())
  assert not _ABSOLUTE.findall(text)
  assert str(ROOT) not in text


def test_the_check_of_paths_finds_them():
  for text in ('in /home/me/x', "'/tmp/w/a'", '"/content/run"'):
    assert _ABSOLUTE.search(text)
  for text in ('https://a.example/tmp/', 'workdir/tmp/x', 'a / b'):
    assert not _ABSOLUTE.search(text)


@pytest.mark.parametrize('name', NAMES)
def test_imports_exist(name):
  """Names that a change of the library would take away."""
  missing = []
  for cell in code_cells(name)[1:]:
    for node in ast.parse(_without_commands(cell.source)).body:
      if not isinstance(node, ast.ImportFrom):
        continue
      for alias in node.names:
        module = f'{node.module}.{alias.name}'
        if _find(module) is None and not _has(node.module, alias.name):
          missing.append(module)
  assert not missing


def _without_commands(source):
  """Python in place of commands of a shell and of IPython, also in an `if`."""
  return re.sub(r'^( *)[!%].*', r'\1pass', source, flags=re.M)


def _find(module):
  try:
    return importlib.util.find_spec(module)
  except ModuleNotFoundError:
    return None


def _has(module, name):
  return hasattr(importlib.import_module(module), name)


@pytest.fixture
def copy(tmp_path, monkeypatch):
  """A tool that works on a folder with one small notebook."""
  tool = load_tool()
  monkeypatch.setattr(tool, 'FOLDER', tmp_path)
  text = (
    '# A title\n\nBADGE\n\n```python\nnotebook.start(1)\n```\n\n'
    'Text.\n\n```python\nx = 1\nprint(x)\n```\n'
  )
  (tmp_path / 'small.md').write_text(text)
  tool.sync('small')
  return tool


@pytest.mark.parametrize('name', NAMES)
def test_links_lead_to_the_repository(name):
  """A notebook that is opened in Colab has no files next to it."""
  texts = [c.source for c in read(name).cells if c.cell_type == 'markdown']
  links = re.findall(r'\]\(([^()\s]+)\)', '\n'.join(texts))
  assert f'{run.repository()}/blob/main/docs/' in '\n'.join(links)
  assert not [link for link in links if '://' not in link]


def test_links_of_a_text_become_absolute():
  code = '```python\nf[0](../docs/layer.md)\n```'
  links = '[a](../docs/x.md#y), [b](z.ipynb), [c](https://host/x), [d](#e)'
  blob = f'{run.repository()}/blob/main'
  text = run.absolute_links(f'{links}\n\n{code}\n')
  assert text == (
    f'[a]({blob}/docs/x.md#y), [b]({blob}/notebooks/z.ipynb),'
    f' [c](https://host/x), [d](#e)\n\n{code}\n'
  )
  assert run.absolute_links(text) == text


def test_pictures_are_made_smaller_once():
  content = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  Image.fromarray(noise).save(content, 'PNG')
  picture = base64.b64encode(content.getvalue()).decode()
  smaller = run._smaller(picture)
  assert len(smaller) < len(picture)
  assert run._smaller(smaller) == smaller


def test_sync_keeps_the_outputs_of_cells_that_did_not_change(copy):
  path = copy.FOLDER / 'small.ipynb'
  notebook = nbformat.read(path, as_version=4)
  assert 'importlib' in notebook.cells[1].source
  notebook.cells[3].outputs = [
    nbformat.v4.new_output('stream', name='stdout', text='1\n')
  ]
  notebook.cells[3].execution_count = 2
  copy.write('small', notebook)
  text = copy.FOLDER / 'small.md'
  text.write_text(text.read_text().replace('Text.', 'Other text.'))
  copy.sync('small')
  cells = nbformat.read(path, as_version=4).cells
  assert cells[2].source == 'Other text.'
  assert cells[3].outputs[0].text == '1\n'
  text.write_text(text.read_text().replace('x = 1', 'x = 2'))
  copy.sync('small')
  assert not nbformat.read(path, as_version=4).cells[3].outputs


def test_only_small_runs_compile_cheaply():
  names = 'JAX_DISABLE_MOST_OPTIMIZATIONS', 'XLA_FLAGS'
  code = f"""import run
for fast in (False, True):
  found = run.environment(fast)
  print(found['FAST'], *(name in found for name in {names}))"""
  clean = {k: v for k, v in os.environ.items() if k not in names}
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=FOLDER,
    env=clean,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == '0 False False\n1 True True\n'


def test_complete_runs_find_the_compiler(tmp_path, monkeypatch):
  tool = load_tool()
  monkeypatch.setattr(tool, 'ROOT', tmp_path)
  links = tmp_path / 'links'
  links.mkdir()
  assert tool.link_compiler(links) is None
  packages = tmp_path / '.venv-tpu/lib/python3.11/site-packages'
  for name in ('jax', 'libtpu', 'libtpu-1.dist-info'):
    (packages / name).mkdir(parents=True)
  assert tool.link_compiler(links) == links
  assert sorted(os.listdir(links)) == ['libtpu', 'libtpu-1.dist-info']
  found = tool.environment(False, links)
  assert str(links) in found['PYTHONPATH'].split(os.pathsep)
  assert found['JAX_PLATFORMS'] == 'cpu'


def test_unknown_names_are_one_line(copy, capsys):
  with pytest.raises(SystemExit) as failed:
    copy.main(['big'])
  assert failed.value.code == 2
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.endswith("no notebook 'big'; expected one of small")


@pytest.mark.slow  # A minute of processor time each: they compile models.
@pytest.mark.parametrize('name', NAMES)
def test_small_run(name):
  run.execute(name, fast=True)

"""Executes the notebooks, and keeps the text of each in a .md next to it.

    python notebooks/run.py --sync          # after an edit of a .md
    python notebooks/run.py [NAME ...]      # complete; keeps what cells print
    python notebooks/run.py --fast [NAME ...]   # small; keeps nothing

NAME is the beginning of a file's name. Every notebook is executed in a folder
of its own, which is deleted. A change is written in the .md, where it can be
read line by line; it has the cells, and the .ipynb also what they printed.

Complete runs use the compiler for TPUs of `make plan-check`, if it is there.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Sequence
import hashlib
import io
import os
import pathlib
import re
import sys
import tempfile
import time
import tomllib

import jupytext
import nbclient
import nbformat
from PIL import Image

# Before `tests` is imported: that sets cheap compilation, whose programs are
# slow, and complete runs are long.
_ENVIRONMENT = dict(os.environ)

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parent
sys.path.insert(0, str(ROOT))

from tests.helpers import compiler  # noqa: E402
from ttt_jax.runtime import progress  # noqa: E402

_TIMEOUT = 1200  # seconds per cell
_COLOURS = 64  # of a plot
_BRANCH = 'main'
# [text](target) without a scheme.
_LINK = re.compile(r'\]\((?![a-z+]+:|#)([^()\s#]+)')
_FENCE = re.compile(r'(^```.*?^```$)', re.M | re.S)
_BADGE = re.compile(r'^\[!\[Open in Colab\].*$|^BADGE$', re.M)
_SETUP = re.compile(
  r'(^```python\n)(?:(?!^```).)*?(^notebook\.start\(.*?\)$)(\n```$)',
  re.M | re.S,
)
_METADATA = {
  'kernelspec': {
    'display_name': 'Python 3',
    'language': 'python',
    'name': 'python3',
  },
  'language_info': {'name': 'python', 'pygments_lexer': 'ipython3'},
}


def names() -> list[str]:
  """Returns the names of all notebooks, in the order in which to read them."""
  return sorted(path.stem for path in FOLDER.glob('*.md'))


def repository() -> str:
  """Returns the address that is cloned, from pyproject.toml."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  return project.get('urls', {}).get(
    'Repository', 'https://github.com/OWNER/ttt_jax'
  )


def absolute_links(text: str) -> str:
  """Returns a .md whose links to files lead to the repository.

  Where a notebook is opened, for example in Colab, are no files next to it.
  """
  address = repository().removesuffix('.git')

  def absolute(match: re.Match[str]) -> str:
    path = os.path.normpath(f'{FOLDER.name}/{match[1]}').replace(os.sep, '/')
    return f']({address}/blob/{_BRANCH}/{path}'

  parts = _FENCE.split(text)
  parts[::2] = [_LINK.sub(absolute, part) for part in parts[::2]]
  return ''.join(parts)


def badge(name: str) -> str:
  """Returns the Markdown of the link that opens a notebook in Colab."""
  colab = 'https://colab.research.google.com'
  place = repository().removeprefix('https://github.com/').removesuffix('.git')
  return (
    f'[![Open in Colab]({colab}/assets/colab-badge.svg)]'
    f'({colab}/github/{place}/blob/{_BRANCH}/notebooks/{name}.ipynb)'
  )


def setup(call: str) -> str:
  """Returns the first code cell; `call` is its call of `notebook.start`."""
  return f"""\
# Installs ttt_jax where it is missing: Colab, Kaggle, a new environment.
import glob
import importlib.util
import os
import shutil
import sys

if importlib.util.find_spec('ttt_jax') is None:
  is_tpu = glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*')
  is_gpu = shutil.which('nvidia-smi')
  extra = '[tpu]' if is_tpu else '[cuda12]' if is_gpu else ''
  !git clone --quiet --depth=1 {repository()} clone
  %pip install --quiet "./clone{{extra}}"
if os.path.isdir('clone'):  # Now, or before the session was restarted.
  sys.path.insert(0, os.path.abspath('clone'))

from ttt_jax.runtime import notebook

FAST = os.environ.get('FAST') == '1'  # True makes everything small.
{call}"""


def fill(text: str, name: str) -> str:
  """Returns a .md with badge, first cell and links as they are now."""
  text = absolute_links(text)
  text = _BADGE.sub(lambda _: badge(name), text, count=1)
  return _SETUP.sub(lambda m: m[1] + setup(m[2]) + m[3], text, count=1)


def read_text(name: str) -> nbformat.NotebookNode:
  """Returns the cells of a .md."""
  return jupytext.read(FOLDER / f'{name}.md', fmt='md')


def text_of(notebook: nbformat.NotebookNode) -> str:
  """Returns the .md of a notebook."""
  plain = nbformat.v4.new_notebook(
    cells=notebook.cells,
    metadata={'jupytext': {'notebook_metadata_filter': '-all'}},
  )
  return jupytext.writes(plain, 'md')


def sync(name: str) -> None:
  """Writes the cells of a .md to the .ipynb; unchanged ones keep outputs."""
  text, path = FOLDER / f'{name}.md', FOLDER / f'{name}.ipynb'
  text.write_text(fill(text.read_text(), name))
  notebook = read_text(name)
  if path.exists():
    outputs = {
      cell.source: (cell.outputs, cell.execution_count)
      for cell in nbformat.read(path, as_version=4).cells
      if cell.cell_type == 'code'
    }
    for cell in notebook.cells:
      if cell.source in outputs and cell.cell_type == 'code':
        cell.outputs, cell.execution_count = outputs[cell.source]
  write(name, notebook)


def write(name: str, notebook: nbformat.NotebookNode) -> None:
  """Writes a .ipynb without anything that differs from run to run."""
  notebook.metadata = nbformat.from_dict(_METADATA)
  notebook.nbformat, notebook.nbformat_minor = 4, 5
  for i, cell in enumerate(notebook.cells):
    content = f'{i} {cell.source}'.encode()
    cell.id = hashlib.sha256(content).hexdigest()[:12]
    cell.metadata = nbformat.from_dict({})
    if cell.cell_type == 'code':
      cell.outputs = _joined(cell.outputs)
    for output in cell.get('outputs', ()):
      if output.output_type == 'stream':
        output.text = output.text.replace(f'{ROOT}/', '')
      if picture := output.get('data', {}).get('image/png'):
        output.data['image/png'] = _smaller(picture)
  nbformat.validate(notebook)
  nbformat.write(notebook, FOLDER / f'{name}.ipynb')


def _joined(
  outputs: list[nbformat.NotebookNode],
) -> list[nbformat.NotebookNode]:
  """Returns outputs with one text where several follow each other."""
  found: list[nbformat.NotebookNode] = []
  for output in outputs:
    if (
      found
      and output.output_type == found[-1].output_type == 'stream'
      and output.name == found[-1].name
    ):
      found[-1].text += output.text
    else:
      found.append(output)
  return found


def _smaller(picture: str) -> str:
  """Returns a PNG in Base64 with few colours, if that makes it smaller.

  One that has few already is returned as it is.
  """
  content = io.BytesIO(base64.b64decode(picture))
  out = io.BytesIO()
  image = Image.open(content)
  if image.mode == 'P':
    return picture
  image.convert('RGB').quantize(_COLOURS, dither=Image.Dither.NONE).save(
    out, 'PNG', optimize=True
  )
  return min(picture, base64.b64encode(out.getvalue()).decode(), key=len)


def environment(fast: bool, tpu: pathlib.Path | None = None) -> dict[str, str]:
  """Returns the environment of a run; small ones compile cheaply.

  Args:
    fast: Whether the run is a small one.
    tpu: Folder in which the compiler for TPUs is, if there is one.
  """
  if fast:
    compiler.set_environment()
  paths = ROOT, tpu, os.environ.get('PYTHONPATH')
  return (
    (dict(os.environ) if fast else _ENVIRONMENT)
    | {
      'FAST': str(int(fast)),
      'PYTHONPATH': os.pathsep.join(str(path) for path in paths if path),
    }
    # The compiler needs no TPU, but JAX would look for one.
    | ({'JAX_PLATFORMS': 'cpu'} if tpu else {})
  )


def link_compiler(folder: pathlib.Path) -> pathlib.Path | None:
  """Links the compiler for TPUs, and nothing else, from the planner's .venv."""
  found = list(ROOT.glob('.venv-tpu/lib/python*/site-packages/libtpu*'))
  for path in found:  # The package and its metadata, which it reads.
    (folder / path.name).symlink_to(path)
  return folder if found else None


def execute(name: str, fast: bool) -> nbformat.NotebookNode:
  """Returns the cells of a .md with their outputs.

  Args:
    name: Name of the notebook.
    fast: Whether the notebook makes everything small.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell failed.
  """
  notebook = read_text(name)
  notebook.metadata = nbformat.from_dict(_METADATA)
  with (
    tempfile.TemporaryDirectory() as folder,
    tempfile.TemporaryDirectory() as links,
  ):
    tpu = None if fast else link_compiler(pathlib.Path(links))
    client = nbclient.NotebookClient(
      notebook,
      extra_arguments=['--log-level=ERROR'],
      kernel_name='python3',
      timeout=_TIMEOUT,
      record_timing=False,
      resources={'metadata': {'path': folder}},
    )
    cells = sum(cell.cell_type == 'code' for cell in notebook.cells)
    with progress.Bar(name, cells) as bar:
      client.on_cell_complete = lambda cell, cell_index: bar.advance()
      client.execute(env=environment(fast, tpu))
  return notebook


def main(arguments: Sequence[str] | None = None) -> int:
  """Executes or synchronizes the notebooks; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('name', nargs='*', help='Beginnings of names.')
  parser.add_argument('--fast', action='store_true', help='Small runs.')
  parser.add_argument('--sync', action='store_true', help='No execution.')
  options = parser.parse_args(arguments)
  known = names()
  chosen = [
    n for n in known if n.startswith(tuple(options.name)) or not options.name
  ]
  for given in options.name:
    if not any(n.startswith(given) for n in known):
      parser.error(f'no notebook {given!r}; expected one of {", ".join(known)}')
  for name in chosen:
    if options.sync:
      sync(name)
      continue
    start = time.monotonic()
    try:
      notebook = execute(name, options.fast)
    except nbclient.exceptions.CellExecutionError as e:
      print(f'{name}: {e}', file=sys.stderr)
      return 1
    print(f'{name}: {time.monotonic() - start:.0f} s', flush=True)
    if not options.fast:
      write(name, notebook)
  return 0


if __name__ == '__main__':
  sys.exit(main())

"""Notebook 5 and the plans that it reads, which change with the compiler."""

import pathlib
import re

from matplotlib import pyplot as plt
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HINT = 'call make notebooks NAMES=5'


@pytest.fixture(scope='module')
def cells():
  path = ROOT / 'notebooks/5_before_you_rent_a_pod.ipynb'
  found = nbformat.read(path, as_version=4).cells
  return [cell for cell in found if cell.cell_type == 'code']


def printed(cell):
  return ''.join(o.text for o in cell.outputs if o.output_type == 'stream')


def test_what_is_read_is_what_was_printed(cells, monkeypatch, capsys):
  """Every cell that needs neither a compiler nor eight devices."""
  monkeypatch.setattr(plt, 'show', plt.close)
  names = {}
  for cell in cells[1:]:
    if 'make_mesh' in cell.source:
      break
    if 'subprocess.run' in cell.source:
      names['ROOT'] = ROOT
      continue
    exec(cell.source, names)
    assert capsys.readouterr().out == printed(cell), HINT
  assert names['plans'] and names['total']


def test_a_plan_was_made(cells):
  """Which needs the compiler of `make plan-check`."""
  (made,) = (c for c in cells if 'subprocess.run' in c.source)
  assert re.search(r'^recommended: --mesh=data:\d,sp:\d', printed(made), re.M)

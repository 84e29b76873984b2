"""The guard finds what an input must not do."""

import os
import pathlib
import sys
import time

import numpy as np
import pytest

from tests.fuzz import campaign
from tests.fuzz import guard
from tests.fuzz import target as target_lib

pytestmark = pytest.mark.skipif(
  sys.platform != 'linux', reason='memory is read from /proc'
)


def refuse(*_):
  raise ValueError('x is 1; it must be 2')


def leave_a_file(folder):
  (folder / 'rest.tmp').write_text('')
  refuse()


def burn(_):
  end = time.process_time() + 5
  while time.process_time() < end:
    pass


def read_next_to_it(folder):
  (folder / '..' / 'other' / 'secret').read_text()


FOUND = {
  'works': lambda folder: (folder / 'x').exists(),
  'error': refuse,
  'KeyError': lambda _: {}['x'],
  'AssertionError': lambda _: _raise(AssertionError()),
  'several lines': lambda _: _raise(ValueError('a\nb')),
  'long message': lambda _: _raise(ValueError('a b' * 2000)),
  'ValueError': lambda _: _raise(ValueError()),
  'UnicodeDecodeError': lambda _: b'\xff'.decode(),
  'memory': lambda _: np.ones(5 << 30, np.uint8),
  'hang': burn,
  'half-written': leave_a_file,
  'written': lambda folder: (folder / 'x').write_text('y'),
  'outside': read_next_to_it,
  'nonsense': lambda _: target_lib.check_sane([float('nan')], 'x'),
}


def _raise(error):
  raise error


@pytest.mark.parametrize('kind', FOUND)
def test_kinds(tmp_path, kind):
  target = target_lib.Target(
    'x', 'x', lambda rng, folder: None, lambda folder, _: FOUND[kind](folder)
  )
  outcome = target_lib.run(target, 0, 0, tmp_path / 'input', seconds=0.3)
  assert outcome.kind == kind
  assert outcome.is_finding == (kind not in ('works', 'error'))


def test_somebody_elses_folder(tmp_path):
  """What is written, removed or started outside is found."""
  mine = tmp_path / 'mine'
  mine.mkdir()
  for call in (
    lambda: (tmp_path / 'a').write_text(''),
    lambda: mine.rmdir(),
    lambda: os.system('true'),
  ):
    root = tmp_path / 'input'
    root.mkdir(exist_ok=True)
    assert guard.judge(call, root).kind == 'outside'


def test_inputs_are_made_again():
  targets = list(campaign.load_targets().values())
  found = campaign.inputs(targets, 0, 300)
  assert len(found) == 300 and len({f.target for f in found}) == len(targets)
  assert found == campaign.inputs(targets, 0, 300)


def test_the_same_input_is_written_again(tmp_path):
  import random

  def write(name):
    folder = pathlib.Path(tmp_path, name)
    folder.mkdir()
    target = campaign.load_targets()['storyboards']
    found = target.write(random.Random('1'), folder)
    return found, {p.name: p.read_bytes() for p in folder.iterdir()}

  assert write('a') == write('b')

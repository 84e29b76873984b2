"""A part of the campaign for the suite; `make fuzz` runs thousands."""

import sys

import pytest

from tests.fuzz import campaign

pytestmark = pytest.mark.skipif(
  sys.platform != 'linux', reason='memory is read from /proc'
)

_INPUTS = campaign.inputs(list(campaign.load_targets().values()), 1, 300)


@pytest.mark.parametrize('name', campaign.load_targets())
def test_damaged_inputs_work_or_end_in_one_line(tmp_path, name):
  found = [item for item in _INPUTS if item.target == name]
  findings = [
    f'{item}: {outcome.kind} at {outcome.place}: {outcome.message}'
    for item, outcome in campaign.run_here(found, tmp_path / 'input')
    if outcome.is_finding
  ]
  assert not findings, '\n'.join(findings)

"""The list of faults follows the code; `make faults` runs their tests."""

import pytest

from tests.faults import __main__ as command
from tests.faults import faults


@pytest.mark.parametrize('fault', faults.FAULTS, ids=lambda f: f.name)
def test_its_text_is_there_once(fault):
  assert (command.ROOT / fault.file).read_text().count(fault.old) == 1
  assert fault.old != fault.new
  for test in fault.tests:
    assert (command.ROOT / test.partition('::')[0]).exists()

"""A fault: one replaced piece of text, and the tests that notice."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fault:
  """One fault.

  Attributes:
    name: What is wrong then.
    file: Path from the root of the project.
    old: Text that is in the file exactly once.
    new: Text that replaces it.
    tests: Arguments of pytest, at least one of whose tests must fail.
  """

  name: str
  file: str
  old: str
  new: str
  tests: tuple[str, ...]

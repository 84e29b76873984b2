"""Pages in a headless Chromium that the machine has.

    with browser.opened(tmp_path / 'index.html', width=400) as visit:
      visit.page.keyboard.press('ArrowLeft')
      assert not visit.problems

`page` is Playwright's: https://playwright.dev/python/docs/api/class-page. A
test is skipped where Chromium or Playwright is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import shutil
from typing import Any

import pytest

_PROGRAMS = 'chromium', 'chromium-browser', 'google-chrome', 'chrome'
_ARGUMENTS = (
  '--no-sandbox',  # In a container there is no user for it.
  '--autoplay-policy=no-user-gesture-required',
  '--disable-gpu',
  '--disable-dev-shm-usage',
)
NARROW = 400  # Pixels of a phone.


@dataclasses.dataclass
class Visit:
  """A page that is open.

  Attributes:
    page: Playwright's page.
    problems: Errors of the console and of scripts, and loads that failed or
      went to another machine, in their order.
  """

  page: Any
  problems: list[str] = dataclasses.field(default_factory=list)

  def overflow(self) -> float:
    """Returns the pixels by which the page is wider than its window."""
    return self.page.evaluate(
      'document.documentElement.scrollWidth'
      ' - document.documentElement.clientWidth'
    )


def require() -> str:
  """Returns the path of Chromium, or skips the test with the reason."""
  pytest.importorskip(
    'playwright.sync_api', reason='playwright is not installed'
  )
  for program in _PROGRAMS:
    if found := shutil.which(program):
      return found
  pytest.skip(f'there is no {" or ".join(_PROGRAMS)}; Debian has `chromium`')


@contextlib.contextmanager
def opened(
  target: str | os.PathLike[str], *, width: int = 1200, height: int = 800
) -> Iterator[Visit]:
  """Opens a page in a new browser without history.

  Until the block ends, this thread has a running event loop: a command that
  starts one of its own, such as one that reads a checkpoint, must run before.

  Args:
    target: Path of a local file, or a URL.
    width: Width of the window in pixels; `NARROW` is a phone's.
    height: Height of the window in pixels.
  """
  program = require()
  from playwright import sync_api

  url = os.fspath(target)
  if '://' not in url:
    url = pathlib.Path(url).resolve(strict=True).as_uri()
  with sync_api.sync_playwright() as playwright:
    process = playwright.chromium.launch(
      executable_path=program, args=list(_ARGUMENTS)
    )
    try:
      page = process.new_page(viewport=dict(width=width, height=height))
      page.set_default_timeout(10_000)
      visit = Visit(page)
      _watch(visit, url)
      page.goto(url)
      yield visit
    finally:
      process.close()


def _watch(visit: Visit, url: str) -> None:
  """Collects the problems of a page."""
  page, found = visit.page, visit.problems
  local = url.startswith('file:')

  def requested(request):
    if local and request.url.startswith(('http:', 'https:', 'ws:', 'wss:')):
      found.append(f'asked another machine: {request.url}')

  def failed(request):
    # A player ends its own loads when it has enough.
    if request.failure != 'net::ERR_ABORTED':
      found.append(f'{request.url}: {request.failure}')

  def answered(response):
    if response.status >= 400:
      found.append(f'{response.url}: status {response.status}')

  def said(message):
    if message.type == 'error':
      found.append(f'console: {message.text}')

  page.on('request', requested)
  page.on('requestfailed', failed)
  page.on('response', answered)
  page.on('pageerror', lambda error: found.append(f'script: {error}'))
  page.on('console', said)

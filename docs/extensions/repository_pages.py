"""Makes pages of files outside of docs/, and leads links to the right place.

Links in Markdown are relative to the file that contains them, so that they work
where the repository is read. Those of notebooks, which are read elsewhere, have
the address of the repository. On the site

- a page that consists of an `include` directive shows the included file;
- notebooks are copied from notebooks/ to docs/notebooks/, which Git ignores;
- a link to a file that is a page here leads to the page, and a link to any
  other file to the repository.
"""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib
import re
import shutil

_INCLUDE = re.compile(r'\A\s*```\{include\} (\S+)\n```\s*\Z')
# [text](target) and ![text](target), in Markdown and in the JSON of notebooks.
_LINK = re.compile(r'(!?)(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)')
# These are copied to the site from wherever they are.
_MEDIA = ('.gif', '.jpg', '.mp4', '.png', '.svg')
_FENCE = re.compile(r'^(```|~~~).*?^\1', re.M | re.S)


class Pages:
  """The files of the repository that are pages of the site.

  Attributes:
    docs: Folder of the site's sources.
    root: Folder of the repository.
    url: Address of the repository; '' if it is not known.
    branch: Branch to which links lead.
    address: Address of the repository in links, which may be one that it does
      not have yet.
  """

  def __init__(
    self,
    docs: pathlib.Path,
    url: str = '',
    branch: str = 'main',
    address: str = '',
  ):
    self.docs, self.root = docs, docs.parent
    self.url, self.branch, self.address = url, branch, address or url
    self._sources = {}
    for page in docs.rglob('*.md'):
      if match := _INCLUDE.match(page.read_text()):
        self._sources[(page.parent / match[1]).resolve()] = page
    for notebook in (self.root / 'notebooks').glob('*.ipynb'):
      self._sources[notebook] = docs / 'notebooks' / notebook.name

  def copy_notebooks(self) -> None:
    """Copies the notebooks that have changed."""
    target = self.docs / 'notebooks'
    if target.is_dir():
      for path in target.glob('*.ipynb'):
        if not (self.root / 'notebooks' / path.name).exists():
          path.unlink()
    for source, page in self._sources.items():
      if source.suffix == '.ipynb' and (
        not page.exists() or page.read_bytes() != source.read_bytes()
      ):
        page.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, page)

  def source(self, page: pathlib.Path) -> pathlib.Path:
    """Returns the file whose content a page shows, often the page itself."""
    for source, other in self._sources.items():
      if other == page:
        return source
    return page

  def link(
    self, target: str, source: pathlib.Path, page: pathlib.Path
  ) -> str | None:
    """Returns a link of `source` as a link of the page that shows it.

    None stands for a folder of a repository whose address is not known.

    Args:
      target: Link as it is written, relative to `source` or with the address
        of the repository.
      source: File that contains the link.
      page: File in docs/ that shows `source`.
    """
    prefix = f'{self.address}/blob/{self.branch}/'
    if self.address and target.startswith(prefix):
      folder, target = self.root, target.removeprefix(prefix)
    elif re.match(r'[a-z+]+:|#|<', target):
      return target
    else:
      folder = source.parent
    path, _, anchor = target.partition('#')
    full = (folder / path).resolve()
    if not full.exists():
      return target  # Sphinx reports it.
    if full == self.root / 'README.md':
      full, anchor = self.docs / 'index.md', ''
    # A folder stands for its README.
    if full.is_dir() and full / 'README.md' in self._sources:
      full /= 'README.md'
    full = self._sources.get(full, full)
    is_here = full.suffix in _MEDIA or full.is_relative_to(self.docs)
    if self.url and not (is_here and full.is_file()):
      kind = 'tree' if full.is_dir() else 'blob'
      inside = full.relative_to(self.root).as_posix()
      return f'{self.url}/{kind}/{self.branch}/{inside}'
    if full.is_dir():
      return None
    relative = os.path.relpath(full, page.parent).replace(os.sep, '/')
    return f'{relative}#{anchor}' if anchor else relative


def rewrite(text: str, change: Callable[[str], str | None]) -> str:
  """Returns Markdown with other links, except inside of code blocks.

  Args:
    text: Markdown, or a notebook as JSON.
    change: Maps the target of a link to another; None removes the link.
  """
  parts, end = [], 0

  def replace(part: str) -> str:
    return _LINK.sub(changed, part)

  def changed(match: re.Match[str]) -> str:
    target = change(match[3])
    if target is None:
      return match[2][1:-1]
    return f'{match[1]}{match[2]}({target})'

  for fence in _FENCE.finditer(text):
    parts += [replace(text[end : fence.start()]), fence[0]]
    end = fence.end()
  return ''.join([*parts, replace(text[end:])])


def _prepare(app):
  app.repository_pages = Pages(
    pathlib.Path(app.srcdir),
    app.config.repository_url,
    app.config.repository_branch,
    app.config.repository_address,
  )
  app.repository_pages.copy_notebooks()


def _read(app, docname, content):
  pages = app.repository_pages
  page = pathlib.Path(app.env.doc2path(docname))
  source = pages.source(page)
  text = content[0]
  if source != page and source.suffix == '.md':
    app.env.note_dependency(str(source))
    text = source.read_text()
  if not any((pages.docs / 'notebooks').glob('*.ipynb')):
    text = text.replace('\nnotebooks/*\n', '\n')  # Else Sphinx warns.
  content[0] = rewrite(text, lambda t: pages.link(t, source, page))


def setup(app):
  app.add_config_value('repository_url', '', 'env')
  app.add_config_value('repository_address', '', 'env')
  app.add_config_value('repository_branch', 'main', 'env')
  app.connect('builder-inited', _prepare, priority=100)
  app.connect('source-read', _read)
  return {'parallel_read_safe': True}

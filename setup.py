"""The packages of the wheel and its readme; the rest is in pyproject.toml.

The recipes in configs/ become a folder inside of `ttt_jax`, where
`ttt_jax.runtime.shipped` finds them: nothing called `configs` may lie in the
environments of users.

Links and pictures of README.md are relative. An index of packages has no files
next to the readme, so there they lead to the repository.
"""

import pathlib
import re
import tomllib

import setuptools

ROOT = pathlib.Path(__file__).parent
# [text](target) and ![text](target) without a scheme.
_LINK = re.compile(r'\]\((?![a-z]+:)([^()\s]+)\)')
_PICTURES = ('.gif', '.png', '.svg', '.webp')


def readme(text: str, repository: str, revision: str) -> str:
  """Returns a readme whose links lead to a revision of the repository."""

  def absolute(match: re.Match[str]) -> str:
    path = match[1]
    path = f'README.md{path}' if path[0] == '#' else path
    view = 'raw' if path.endswith(_PICTURES) else 'blob'
    return f']({repository}/{view}/{revision}/{path})'

  return _LINK.sub(absolute, text)


def main() -> None:
  """Describes the package to setuptools."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  text = (ROOT / 'ttt_jax' / '__init__.py').read_text()
  version = re.search(r"^__version__ = '(.*)'$", text, re.M)[1]
  setuptools.setup(
    packages=[
      *setuptools.find_namespace_packages(
        include=['ttt_jax', 'ttt_jax.*', 'pallas_kernels', 'pallas_kernels.*']
      ),
      'ttt_jax.configs',
      'ttt_jax.configs.storyboards',
    ],
    package_dir={'ttt_jax.configs': 'configs'},
    # A release is the tag of its version.
    long_description=readme(
      (ROOT / 'README.md').read_text(encoding='utf-8'),
      project['urls']['Repository'],
      f'v{version}',
    ),
    long_description_content_type='text/markdown',
  )


if __name__ == '__main__':
  main()

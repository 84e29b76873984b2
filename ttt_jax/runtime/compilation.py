"""The cache of compiled programs, so that a restart does not compile again."""

from __future__ import annotations

import os

from absl import flags
from etils import epath
import jax

from ttt_jax.runtime import files

_FOLDER = flags.DEFINE_string(
  'compilation_cache',
  None,
  'Folder of compiled programs; by default JAX_COMPILATION_CACHE_DIR, else'
  " WORKDIR/compilation_cache. '' disables the cache.",
)


def enable_compilation_cache(
  workdir: str | os.PathLike[str] | None, optional: bool = False
) -> None:
  """Caches programs that take a second or more to compile.

  A program that was compiled before, for the same devices by the same version
  of JAX, is then read from the folder of the flag --compilation_cache. Must be
  called before the first compilation.

  Args:
    workdir: Folder of a run, which has the cache by default; None has none.
    optional: Whether a run in which nothing can be written has no cache.

  Raises:
    ValueError: the folder cannot be written.
  """
  folder = _FOLDER.value
  if folder is None and not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    if workdir is None:
      return
    folder = os.fspath(epath.Path(workdir) / 'compilation_cache')
    if optional:
      try:
        files.check_writable(folder, folder=True)
      except ValueError:
        return
  if folder is not None:
    if folder:
      files.check_writable(folder, folder=True)
    jax.config.update('jax_compilation_cache_dir', folder or None)

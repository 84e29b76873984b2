"""One-minute video generation with test-time training, and Tune-A-Video.

Public names live in the submodules (`ttt_jax.pipeline`, `ttt_jax.geometry`,
`ttt_jax.storyboard`, ...). The main ones are also here and are imported when
they are used; importing this package imports nothing heavy.

    from ttt_jax import VideoPipeline
"""

from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
  from ttt_jax.pipeline import EditPipeline as EditPipeline
  from ttt_jax.pipeline import Video as Video
  from ttt_jax.pipeline import VideoPipeline as VideoPipeline
  from ttt_jax.storyboard import Storyboard as Storyboard

__version__ = '0.1.0'

_MODULES = {
  'EditPipeline': 'pipeline',
  'Storyboard': 'storyboard',
  'Video': 'pipeline',
  'VideoPipeline': 'pipeline',
}


def __getattr__(name: str) -> Any:
  """Imports the module of a public name."""
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  import importlib

  module = importlib.import_module(f'{__name__}.{_MODULES[name]}')
  return getattr(module, name)


def __dir__() -> list[str]:
  """Returns the names of the package, also those not imported yet."""
  return sorted({*globals(), *_MODULES})

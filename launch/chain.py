"""The stages that lead to one, and what of them is there already."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import importlib.util
import sys
from typing import Any

from etils import epath

from ttt_jax.checkpoints import checkpoint_format

# The first stage starts from it; the others from the stage before, over which
# it would win.
_FIRST_ONLY = 'init_from'


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of a chain.

  Attributes:
    name: its folder in the workdir.
    config: as `--config` takes it, FILE:ARGUMENT.
    steps: after which it is finished.
    data: folder of its data set.
    overrides: values of the config set by hand.
  """

  name: str
  config: str
  steps: int
  data: str
  overrides: Mapping[str, Any]

  def command(self, module: str, *words: str) -> list[str]:
    """`python -m MODULE` for this stage."""
    values = [f'--config.{k}={v}' for k, v in self.overrides.items()]
    return [
      sys.executable,
      '-m',
      module,
      f'--config={self.config}',
      *values,
      *words,
    ]


def stages_to(
  config: str, overrides: Mapping[str, Any], workdir: str
) -> list[Stage]:
  """The stages that lead to the one of `config`, in order.

  Args:
    config: FILE:ARGUMENT of the last stage.
    overrides: values of the config set by hand.
    workdir: of all stages.

  Raises:
    ValueError: a stage before cannot be named.
  """
  path, _, argument = config.partition(':')
  spec = importlib.util.spec_from_file_location('stages_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  found = []
  while True:
    values = module.get_config(argument)
    first = not values.previous_stage
    kept = {k: v for k, v in overrides.items() if first or k != _FIRST_ONLY}
    values.update_from_flattened_dict(kept)
    found.append(
      Stage(
        name=values.stage,
        config=f'{path}:{argument}' if argument else path,
        steps=values.steps,
        data=values.data.folder.replace('{workdir}', workdir),
        overrides=kept,
      )
    )
    if first:
      return found[::-1]
    argument = _before(path, argument, values)


def _before(path: str, argument: str, config: Any) -> str:
  """The argument of a config file for the stage before that of `argument`.

  A part of the argument names the stage; the stage's folder may add to it.
  """
  parts = argument.split(',')
  for i, part in enumerate(parts):
    prefix = config.stage.removesuffix(part)
    if (
      part
      and prefix != config.stage
      and (config.previous_stage.startswith(prefix))
    ):
      before = config.previous_stage.removeprefix(prefix)
      return ','.join([*parts[:i], before, *parts[i + 1 :]])
  raise ValueError(
    f'{config.stage} starts from {config.previous_stage}, but nothing in'
    f' --config={path}{argument and ":"}{argument} names the stage; write it'
    ' behind the file, as in configs/ttt_video.py:63s'
  )


def step_of(stage: Stage, workdir: str) -> int:
  """The newest whole step of a stage; 0 where nothing is saved."""
  return max(
    checkpoint_format.steps(epath.Path(workdir) / stage.name), default=0
  )


def has_data(stage: Stage) -> bool:
  """Whether the data set is whole: its manifest is written last."""
  return (epath.Path(stage.data) / 'manifest.json').exists()

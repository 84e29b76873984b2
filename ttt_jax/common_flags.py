"""Flags that several commands have in common: one type and one help each.

A function defines the flag of its name for the command that calls it. Only
defaults differ between commands.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from ttt_jax import config_schema
from ttt_jax.diffusion import guidance as guidance_lib
from ttt_jax.diffusion import schedulers
from ttt_jax.runtime import cli
from ttt_jax.runtime import schema

flags.disclaim_key_flags()  # The flags belong to the command.


def _help(text: str, default: Any) -> str:
  """Returns the help of a setting that a model may have itself."""
  return f'{text}.' if default is not None else f"{text}; default: the model's."


def steps(default: int | None) -> flags.FlagHolder[Any]:
  """Defines --steps, 1 to 1000; None is the model's own."""
  return cli.define(
    'steps',
    default,
    _help('Sampling steps, 1 to 1000', default),
    config_schema.Steps,
  )


def guidance(default: float | None) -> flags.FlagHolder[Any]:
  """Defines --guidance; None is the model's own."""
  return cli.define(
    'guidance',
    default,
    _help('Strength of the guidance', default),
    schema.FiniteFloat,
  )


def guidance_schedule() -> flags.FlagHolder[str | None]:
  """Defines --guidance_schedule; None is the model's own."""
  return flags.DEFINE_enum(
    'guidance_schedule',
    None,
    list(guidance_lib.SCHEDULES),
    _help('Schedule of the guidance', None),
  )


def scheduler() -> flags.FlagHolder[str | None]:
  """Defines --scheduler."""
  return flags.DEFINE_enum(
    'scheduler',
    None,
    list(schedulers.SCHEDULERS),
    'Scheduler; default: from the config.',
  )


def reuse() -> flags.FlagHolder[Any]:
  """Defines --reuse."""
  return cli.define(
    'reuse',
    1,
    'Number of steps that share what the late blocks add; 1 is exact.',
    schema.PositiveInt,
  )


def seed() -> flags.FlagHolder[Any]:
  """Defines --seed."""
  return cli.define('seed', 0, 'Seed of the initial noise.', schema.Seed)


def mesh() -> flags.FlagHolder[str | None]:
  """Defines --mesh, for `sharding.parse_mesh`."""
  return flags.DEFINE_string(
    'mesh',
    None,
    'Devices per axis of the mesh, for example data:2,sp:4; default: one'
    ' device.',
  )


def ema() -> flags.FlagHolder[bool]:
  """Defines --ema."""
  return flags.DEFINE_bool(
    'ema', True, 'Averaged weights of a training run instead of the last ones.'
  )

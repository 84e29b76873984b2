"""The settings of sampling that belong to a model."""

from __future__ import annotations

from typing import Literal

import msgspec

from ttt_jax import config_schema
from ttt_jax.runtime import schema


class Sampling(
  msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
  """What a model samples with, unless a call says otherwise.

  The defaults are those of CogVideoX.

  Attributes:
    steps: Sampling steps, 1 to 1000.
    guidance: Strength of the text, see `diffusion.guidance`.
    guidance_schedule: Name in `diffusion.guidance.SCHEDULES`.
  """

  steps: config_schema.Steps = 50
  guidance: schema.FiniteFloat = 6.0
  guidance_schedule: Literal['constant', 'cosine', 'reference'] = 'cosine'

  def replace(
    self,
    steps: int | None,
    guidance: float | None,
    guidance_schedule: str | None,
  ) -> Sampling:
    """Returns the settings with those values that are not None."""
    chosen = dict(
      steps=steps, guidance=guidance, guidance_schedule=guidance_schedule
    )
    given = {key: x for key, x in chosen.items() if x is not None}
    return msgspec.structs.replace(self, **given)

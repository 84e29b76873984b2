"""Reuses in one denoising step what the late blocks added in another one.

Between neighbouring steps of a sampler the state changes little, and what the
late blocks of a transformer add changes less (Ma et al., 2024, "DeepCache";
Chen et al., 2024, "Delta-DiT"). The first blocks are computed in every step,
the late ones only in some; in between, their sum is the one of the last time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from ttt_jax import sharding
from ttt_jax.models.dit import config as dit_config
from ttt_jax.models.dit import model

# Of the blocks, those that every step computes.
_EARLY = 0.25


@dataclasses.dataclass(frozen=True)
class LateBlocks:
  """A transformer, split into first and late blocks.

  Attributes:
    config: Sizes of the transformer.
    sharding_plan: Placement on the mesh.
  """

  config: dit_config.DiTConfig
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()

  def __post_init__(self):
    if self.config.num_layers < 2:
      raise ValueError(
        'a transformer of one block has no late blocks to reuse; use reuse=1'
      )

  @property
  def early(self) -> int:
    """Blocks that every step computes."""
    return max(1, round(_EARLY * self.config.num_layers))

  def compute(
    self, params: Any, latents: jax.Array, text: jax.Array, timesteps: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the prediction, and what the late blocks added to the tokens.

    Args:
      params: Parameters of the transformer.
      latents: Noisy latents [B, F, h, w, c].
      text: Text states of each segment, [B, S, L, Dt].
      timesteps: Timesteps [B].

    Returns:
      The prediction [B, F, h, w, c] of `DiffusionTransformer`, and [B, T', M].
    """
    inputs = latents, text, timesteps
    early, late = slice(None, self.early), slice(self.early, None)
    first = self._apply(params, early, *inputs, has_head=False)
    last = self._apply(params, late, *inputs, first, has_head=False)
    prediction = self._apply(params, late, *inputs, last, has_blocks=False)
    return prediction, last - first

  def reuse(
    self,
    params: Any,
    latents: jax.Array,
    text: jax.Array,
    timesteps: jax.Array,
    added: jax.Array,
  ) -> jax.Array:
    """Returns the prediction with what the late blocks added before.

    Args:
      params: Parameters of the transformer.
      latents: Noisy latents [B, F, h, w, c].
      text: Text states of each segment, [B, S, L, Dt].
      timesteps: Timesteps [B].
      added: Result of `compute`, [B, T', M].
    """
    inputs = latents, text, timesteps
    early = slice(None, self.early)
    tokens = self._apply(params, early, *inputs, has_head=False) + added
    return self._apply(params, early, *inputs, tokens, has_blocks=False)

  def _apply(self, params, blocks, *inputs, **parts):
    """Calls `part` of the transformer that has only some of the blocks."""
    count = len(range(self.config.num_layers)[blocks])
    module: Any = model.DiffusionTransformer(
      dataclasses.replace(self.config, num_layers=count), self.sharding_plan
    )
    layers = jax.tree.map(lambda x: x[blocks], params['layers'])
    return module.apply(
      {'params': dict(params, layers=layers)}, *inputs, **parts, method='part'
    )

"""The interface of a mixer: what the rest of the project needs of one.

A mixer is one file with a `Mixer` and its layer, and one line in
`mixers.MIXERS`. Models, trainer, planner and converters use this interface and
never compare names.

A layer is a module that scans a sequence in one direction,

    y, aux = layer(x, rotary, permutation, length, diagnose=...)

with x and y [B, T', M], the rotary table of the tokens in scan order, the
`Permutation` that puts them in scan order (None if they already are), and the
number of tokens before the padding (None: all). Token i of the result depends
on the tokens scanned up to i. Padding does not change the state. With
`diagnose`, `aux` contains scalars, among them `state_norm`. Heads are split
over the mesh axis `sp` by `ShardingPlan.by_heads`.

Names of parameters have a meaning elsewhere. One-letter submodules with a
`kernel` [I, O] are the large projections: Muon trains them. All kernels count
as products of every token. Norms, biases, `a_log` and `skip` have no weight
decay.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax import sharding
from ttt_jax import token_order
from ttt_jax.models import layers

# `config` is a `DiTConfig`, whose module imports the mixers.


class Mixer(abc.ABC):
  """One kind of mixer.

  Attributes:
    scope: Name of the layer, the scope of its parameters; also the name of the
      files that contain them next to an exported model.
    fields: Fields of `DiTConfig` with which weights were trained and without
      which they compute something else.
    defaults: Values of `DiTConfig` fields in recipes.
    presets: Values of `DiTConfig.mixer_preset`.
    implementations: Values of `DiTConfig.implementation` except None.
  """

  scope: ClassVar[str]
  fields: ClassVar[tuple[str, ...]] = ('mixer_preset',)
  defaults: Mapping[str, Any] = {}
  presets: ClassVar[tuple[str, ...]] = ('matched',)
  implementations: ClassVar[tuple[str, ...]] = ('xla', 'reference')

  @abc.abstractmethod
  def layer(
    self,
    config: Any,
    order: token_order.TokenOrder,
    sharding_plan: sharding.ShardingPlan,
  ) -> nn.Module | None:
    """Returns the layer, with the name `scope`; None mixes nothing.

    Args:
      config: Sizes of the network.
      order: Order of the tokens; scans in both directions visit text and frames
        in the same pattern.
      sharding_plan: Placement of sequences on the mesh.
    """

  @abc.abstractmethod
  def state_size(self, config: Any, length: int) -> int:
    """Returns the numbers that a layer keeps after `length` tokens."""

  @abc.abstractmethod
  def scan_flops(self, config: Any, order: token_order.TokenOrder) -> float:
    """Returns the operations of one scan of one clip, without kernels.

    Args:
      config: Sizes of the network.
      order: Order of the clip's tokens.
    """

  def heads(self, config: Any) -> int:
    """Returns the heads that the mesh axis `sp` must divide."""
    return config.num_heads

  def check(self, config: Any) -> None:
    """Raises ValueError for fields of the config that do not fit the mixer."""
    layers.check_choices(
      f'mixer {config.mixer}: model',
      config,
      mixer_preset=self.presets,
      implementation=(None, *self.implementations),
    )


class NoMixer(Mixer):
  """Attention within segments alone."""

  scope = ''
  fields = ()
  implementations = ('xla', 'reference', 'pallas_tpu', 'pallas_gpu')

  def layer(self, config, order, sharding_plan):
    return None

  def state_size(self, config, length):
    return 0

  def scan_flops(self, config, order):
    return 0.0


def state_norm(*states: jax.Array) -> jax.Array:
  """Returns the norm of the state of each head, [B, H].

  Args:
    *states: Parts of the state, [B, H, ...] each.
  """
  square = lambda x: jnp.sum(
    jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))),
    axis=tuple(range(2, x.ndim)),
  )
  return jnp.sqrt(sum(map(square, states)))

"""BERT's encoder in the sizes of MiniLM.

A post-norm transformer with learned positions (Devlin et al. 2018); MiniLM
(Wang et al. 2020) distils it to 6 layers of width 384.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax.models import layers
from ttt_jax.runtime import schema


@dataclasses.dataclass(frozen=True)
class MiniLMConfig:
  """Sizes of a `MiniLMEncoder`; defaults are all-MiniLM-L6-v2.

  Attributes:
    vocab_size: Rows of the token embedding.
    width: Model dim, M.
    num_layers: Number of blocks.
    num_heads: Number of heads, H.
    mlp_dim: Hidden width of the MLP.
    max_length: Rows of the position embedding.
    type_vocab_size: Rows of the token type embedding; only the first is used.
    norm_eps: Epsilon of every LayerNorm.
  """

  vocab_size: schema.PositiveInt = 30522
  width: schema.PositiveInt = 384
  num_layers: schema.Depth = 6
  num_heads: schema.PositiveInt = 12
  mlp_dim: schema.PositiveInt = 1536
  max_length: schema.PositiveInt = 512
  type_vocab_size: schema.PositiveInt = 2
  norm_eps: schema.Epsilon = 1e-12

  def __post_init__(self):
    schema.check_fields(self, 'MiniLMConfig')
    if self.width % self.num_heads:
      raise ValueError(
        f'the {self.num_heads} heads of MiniLM do not divide its width'
        f' {self.width}'
      )


def _norm(config: MiniLMConfig, name: str) -> nn.LayerNorm:
  return layers.LayerNorm(epsilon=config.norm_eps, name=name)


class Block(nn.Module):
  """Attention and MLP, each followed by its norm."""

  config: MiniLMConfig

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
    """Maps x [N, L, M], with mask bool [N, L], to (x, None)."""
    c = self.config
    heads = lambda name: nn.DenseGeneral(
      (c.num_heads, c.width // c.num_heads), name=name
    )(x)
    q, k, v = heads('query'), heads('key'), heads('value')
    attended = jax.nn.dot_product_attention(
      q, k, v, mask=mask[:, None, None, :]
    )
    attended = nn.DenseGeneral(c.width, axis=(-2, -1), name='out')(attended)
    x = _norm(c, 'attention_norm')(x + attended)
    hidden = jax.nn.gelu(nn.Dense(c.mlp_dim, name='up')(x), approximate=False)
    hidden = nn.Dense(c.width, name='down')(hidden)
    return _norm(c, 'mlp_norm')(x + hidden), None


class MiniLMEncoder(nn.Module):
  """Encoder of token ids to token states."""

  config: MiniLMConfig

  @nn.compact
  def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Encodes token ids.

    Args:
      ids: Token ids int32 [N, L], L at most `max_length`.
      mask: Array [N, L], nonzero at tokens and zero at padding. States of the
        padding are meaningless.

    Returns:
      float32 [N, L, M].
    """
    c = self.config
    tokens = nn.Embed(c.vocab_size, c.width, name='tokens')(ids)
    positions = nn.Embed(c.max_length, c.width, name='positions')(
      jnp.arange(ids.shape[1])
    )
    types = nn.Embed(c.type_vocab_size, c.width, name='types')(
      jnp.zeros_like(ids)
    )
    x = _norm(c, 'norm')(tokens + positions + types)
    blocks = nn.scan(
      Block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=c.num_layers,
    )
    return blocks(c, name='layers')(x, mask.astype(bool))[0]


def init_params(config: MiniLMConfig, key: jax.Array) -> Any:
  """Returns fresh parameters, a nested dict."""
  ids = jnp.zeros((1, 2), jnp.int32)
  return MiniLMEncoder(config).init(key, ids, ids)['params']


abstract_params = functools.partial(layers.abstract_params, init_params)

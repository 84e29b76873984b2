"""BERT's encoder, as MiniLM (6 layers, 384 wide) uses it.

Post-norm transformer with learned positions: Devlin et al. 2018; the distilled
weights: Wang et al. 2020, "MiniLM".
"""

from __future__ import annotations

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class MiniLMConfig:
  """Sizes; the defaults are those of all-MiniLM-L6-v2.

  Attributes:
    vocab_size: rows of the token embedding.
    width: M.
    num_layers: blocks.
    num_heads: H.
    mlp_dim: hidden width of the MLP.
    max_length: positions that have an embedding.
    type_vocab_size: rows of the token type embedding; the first is used.
    norm_eps: of every LayerNorm.
  """

  vocab_size: int = 30522
  width: int = 384
  num_layers: int = 6
  num_heads: int = 12
  mlp_dim: int = 1536
  max_length: int = 512
  type_vocab_size: int = 2
  norm_eps: float = 1e-12


def _norm(config: MiniLMConfig, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(config.norm_eps, use_fast_variance=False, name=name)


class Block(nn.Module):
  """Attention and MLP, each followed by its norm."""

  config: MiniLMConfig

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
    """x [N, L, M], mask bool [N, L] -> x, and nothing for `nn.scan`."""
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
  """Token ids to token states."""

  config: MiniLMConfig

  @nn.compact
  def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Encodes.

    Args:
      ids: int32 [N, L], L at most `max_length`.
      mask: [N, L], nonzero where there is a token. States of the other
        positions mean nothing.

    Returns:
      float32 [N, L, M].
    """
    c = self.config
    tokens = nn.Embed(c.vocab_size, c.width, name='tokens')(ids)
    positions = nn.Embed(c.max_length, c.width, name='positions')(
      jnp.arange(ids.shape[1])
    )
    kinds = nn.Embed(c.type_vocab_size, c.width, name='types')(
      jnp.zeros_like(ids)
    )
    x = _norm(c, 'norm')(tokens + positions + kinds)
    layers = nn.scan(
      Block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=c.num_layers,
    )
    return layers(c, name='layers')(x, mask.astype(bool))[0]

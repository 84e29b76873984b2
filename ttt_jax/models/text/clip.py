"""Text encoder of CLIP (Radford et al. 2021, arXiv:2103.00020).

Stable Diffusion uses the last hidden states after the final norm. Attention is
causal and has no other mask, so that tokens also attend to padding.
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

DTYPES = ('float32', 'bfloat16')
ACTIVATIONS = {
  # Activation of OpenAI's CLIP.
  'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),
  'gelu': functools.partial(nn.gelu, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class TowerConfig:
  """Sizes that CLIP's towers share; defaults are Stable Diffusion 1's.

  Attributes:
    width: Model dim, M.
    num_layers: Number of blocks.
    num_heads: Number of heads, H.
    mlp_dim: Hidden width of the MLP.
    activation: Activation of the MLP, one of `ACTIVATIONS`.
    norm_eps: Epsilon of every norm.
    dtype: Compute type, 'float32' or 'bfloat16'. Norms, softmax and the
      residual stream are float32 in both.
  """

  width: schema.PositiveInt = 768
  num_layers: schema.Depth = 12
  num_heads: schema.PositiveInt = 12
  mlp_dim: schema.PositiveInt = 3072
  activation: str = 'quick_gelu'
  norm_eps: schema.Epsilon = 1e-5
  dtype: str = 'float32'

  def __post_init__(self):
    schema.check_fields(self, type(self).__name__)
    layers.check_choices(
      'CLIPConfig', self, dtype=DTYPES, activation=ACTIVATIONS
    )
    if self.width % self.num_heads:
      raise ValueError(
        f'the {self.num_heads} heads of CLIP do not divide its width'
        f' {self.width}'
      )


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig(TowerConfig):
  """Sizes of a `CLIPTextEncoder`.

  Attributes:
    vocab_size: Rows of the token embedding.
    max_length: Rows of the position embedding.
  """

  vocab_size: schema.PositiveInt = 49408
  max_length: schema.PositiveInt = 77


class Block(nn.Module):
  """Attention and MLP, each with a residual.

  Attributes:
    config: Sizes of the tower.
    is_causal: Whether a token attends only to itself and previous tokens.
  """

  config: TowerConfig
  is_causal: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
    """Maps x float32 [N, L, M] to (x, None)."""
    c = self.config
    n, length, m = x.shape
    dense = functools.partial(layers.Dense, dtype=jnp.dtype(c.dtype))
    norm = lambda name: layers.LayerNorm(epsilon=c.norm_eps, name=name)

    y = norm('attention_norm')(x)
    q, k, v = (
      dense(m, name=name)(y).reshape(n, length, c.num_heads, -1)
      for name in ('query', 'key', 'value')
    )
    y = jax.nn.dot_product_attention(q, k, v, is_causal=self.is_causal)
    y = dense(m, name='out')(y.reshape(n, length, m))
    x = x + y.astype(x.dtype)

    y = dense(c.mlp_dim, name='up')(norm('mlp_norm')(x))
    y = dense(m, name='down')(ACTIVATIONS[c.activation](y))
    return x + y.astype(x.dtype), None


def stack(config: TowerConfig) -> Any:
  """Returns the class of all blocks of a tower, in sequence."""
  return nn.scan(
    Block,
    variable_axes={'params': 0},
    split_rngs={'params': True},
    length=config.num_layers,
  )


class CLIPTextEncoder(nn.Module):
  """Encoder of token ids to token states."""

  config: CLIPTextConfig

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """Encodes token ids.

    Args:
      ids: Token ids int32 [N, L], padded by the tokenizer's padding token.

    Returns:
      Last hidden states float32 [N, L, M], those of the padding included.

    Raises:
      ValueError: there are more tokens than positions.
    """
    c = self.config
    if ids.shape[1] > c.max_length:
      raise ValueError(
        f'{ids.shape[1]} tokens exceed the positions of CLIP; use at most'
        f' {c.max_length}'
      )
    x = nn.Embed(c.vocab_size, c.width, name='tokens')(ids)
    positions = nn.Embed(c.max_length, c.width, name='positions')
    x = x + positions(jnp.arange(ids.shape[1]))
    x, _ = stack(c)(c, name='layers')(x.astype(jnp.float32), None)
    return layers.LayerNorm(epsilon=c.norm_eps, name='final_norm')(x)


def init_params(config: CLIPTextConfig, key: jax.Array) -> Any:
  """Returns fresh parameters, a nested dict."""
  ids = jnp.zeros((1, 2), jnp.int32)
  return CLIPTextEncoder(config).init(key, ids)['params']


abstract_params = functools.partial(layers.abstract_params, init_params)

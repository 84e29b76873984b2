"""The text encoder of CLIP (Radford et al. 2021, arXiv:2103.00020).

Stable Diffusion reads the last hidden states after the final norm. Each token
sees those before it, padding too, and there is no other mask.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax.models import layers

DTYPES = ('float32', 'bfloat16')
ACTIVATIONS = {
  # The one that OpenAI's CLIP was trained with.
  'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),
  'gelu': functools.partial(nn.gelu, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class TowerConfig:
  """Sizes that CLIP's towers share; the defaults are Stable Diffusion 1's.

  Attributes:
    width: M.
    num_layers: blocks.
    num_heads: H.
    mlp_dim: hidden width of the MLP.
    activation: of the MLP, one of `ACTIVATIONS`.
    norm_eps: of every norm.
    dtype: compute type, 'float32' or 'bfloat16'. Norms, softmax and the sum
      of the residuals are float32 in both.
  """

  width: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_dim: int = 3072
  activation: str = 'quick_gelu'
  norm_eps: float = 1e-5
  dtype: str = 'float32'

  def __post_init__(self):
    for name, legal in (('dtype', DTYPES), ('activation', ACTIVATIONS)):
      if getattr(self, name) not in legal:
        raise ValueError(
          f'the {name} of CLIP is {getattr(self, name)!r}; legal are'
          f' {", ".join(legal)}'
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
    vocab_size: rows of the token embedding.
    max_length: rows of the position embedding.
  """

  vocab_size: int = 49408
  max_length: int = 77


class Block(nn.Module):
  """Attention and MLP, each added to what it reads.

  Attributes:
    config: of the tower.
    is_causal: a token sees those before it; else all.
  """

  config: TowerConfig
  is_causal: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
    """x f32 [N, L, M] -> x; nothing more for `nn.scan`."""
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
  """The class of all blocks of a tower, one after the other."""
  return nn.scan(
    Block,
    variable_axes={'params': 0},
    split_rngs={'params': True},
    length=config.num_layers,
  )


class CLIPTextEncoder(nn.Module):
  """Token ids to token states."""

  config: CLIPTextConfig

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """Encodes.

    Args:
      ids: int32 [N, L], padded by the tokenizer's padding token.

    Returns:
      float32 [N, L, M], the last hidden states, padding too.

    Raises:
      ValueError: more tokens than there are positions.
    """
    c = self.config
    if ids.shape[1] > c.max_length:
      raise ValueError(
        f'{ids.shape[1]} tokens are more than CLIP has positions; at most'
        f' {c.max_length} fit'
      )
    x = nn.Embed(c.vocab_size, c.width, name='tokens')(ids)
    positions = nn.Embed(c.max_length, c.width, name='positions')
    x = x + positions(jnp.arange(ids.shape[1]))
    x, _ = stack(c)(c, name='layers')(x.astype(jnp.float32), None)
    return layers.LayerNorm(epsilon=c.norm_eps, name='final_norm')(x)


def abstract_params(config: CLIPTextConfig) -> Any:
  """The parameters as `jax.ShapeDtypeStruct`; nothing is computed."""
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(CLIPTextEncoder(config).init, key, ids)['params']

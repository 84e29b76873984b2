"""Encoder of T5 v1.1 (Raffel et al. 2020, arXiv:1910.10683; Shazeer 2020).

It differs from a standard transformer in RMS norms before each part, no biases
in dense layers, a learned bias by relative position on the attention logits
(one table for all layers), logits without the factor 1 / sqrt(D), and an MLP
whose GELU gates its other half.

CogVideoX encodes padded texts without an attention mask and uses the states of
the padding. The encoder therefore has no mask.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax import sharding
from ttt_jax.models import layers
from ttt_jax.runtime import schema

DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes of a `T5Encoder`; defaults are T5 v1.1 XXL, which CogVideoX uses.

  Attributes:
    vocab_size: Rows of the token embedding, more than the tokenizer's tokens.
    width: Model dim, M.
    num_layers: Number of blocks.
    num_heads: Number of heads, H.
    head_dim: Features per head, D; H D may differ from M.
    mlp_dim: Hidden width of the MLP.
    num_buckets: Buckets of relative positions, half of them per direction.
    max_distance: Distance in tokens from which on all positions share a bucket.
    norm_eps: Epsilon of every RMS norm.
    dtype: Compute type, 'float32' or 'bfloat16'. Norms, softmax and the
      residual stream are float32 in both.
  """

  vocab_size: schema.PositiveInt = 32128
  width: schema.PositiveInt = 4096
  num_layers: schema.Depth = 24
  num_heads: schema.PositiveInt = 64
  head_dim: schema.PositiveInt = 64
  mlp_dim: schema.PositiveInt = 10240
  num_buckets: schema.PositiveInt = 32
  max_distance: schema.PositiveInt = 128
  norm_eps: schema.Epsilon = 1e-6
  dtype: str = 'float32'

  def __post_init__(self):
    schema.check_fields(self, 'T5Config')
    layers.check_choices('T5Config', self, dtype=DTYPES)
    if self.num_buckets % 4:
      raise ValueError(
        f'relative_attention_num_buckets {self.num_buckets} is not a'
        ' multiple of 4 (e.g. 32)'
      )
    if self.max_distance <= self.num_buckets // 4:
      raise ValueError(
        f'relative_attention_max_distance {self.max_distance} is not above a'
        f' quarter of the {self.num_buckets} buckets (e.g. 128)'
      )


def relative_position_buckets(
  length: int, num_buckets: int, max_distance: int
) -> np.ndarray:
  """Returns the bucket of every key's position relative to every query's.

  The second half of the buckets is for keys after the query. In each half, the
  first half has one distance per bucket; the second is logarithmic in the
  distance up to `max_distance`.

  Args:
    length: Tokens of the text, L.
    num_buckets: Number of buckets.
    max_distance: Distance from which on all positions share a bucket.

  Returns:
    int32 [L, L], queries by keys.
  """
  relative = np.arange(length) - np.arange(length)[:, None]
  half = num_buckets // 2
  exact = half // 2
  distance = np.abs(relative)
  # Single precision, as in the code that trained the weights: rounding decides
  # the bucket at the borders.
  far = np.log(np.maximum(distance, exact).astype(np.float32) / exact)
  far = far / np.float32(math.log(max_distance / exact)) * (half - exact)
  far = np.minimum(exact + far.astype(np.int32), half - 1)
  buckets = np.where(distance < exact, distance, far)
  return (buckets + half * (relative > 0)).astype(np.int32)


class Block(nn.Module):
  """Attention and gated MLP, each with a residual."""

  config: T5Config
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()

  @nn.compact
  def __call__(self, x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    """Maps float32 x [N, L, M], with bias [1, H, L, L], to (x, None)."""
    c = self.config
    dtype = jnp.dtype(c.dtype)
    norm = lambda name: nn.RMSNorm(c.norm_eps, dtype=dtype, name=name)
    dense = functools.partial(nn.DenseGeneral, use_bias=False, dtype=dtype)
    heads = (c.num_heads, c.head_dim)

    y = norm('attention_norm')(x)
    q, k, v = (dense(heads, name=n)(y) for n in ('query', 'key', 'value'))
    y = jax.nn.dot_product_attention(q, k, v, bias=bias, scale=1.0)
    y = dense(c.width, axis=(-2, -1), name='out')(y)
    x = self.sharding_plan.by_batch(x + y.astype(x.dtype))

    y = norm('mlp_norm')(x)
    gate = nn.gelu(dense(c.mlp_dim, name='gate')(y), approximate=True)
    y = dense(c.width, name='down')(gate * dense(c.mlp_dim, name='up')(y))
    return self.sharding_plan.by_batch(x + y.astype(x.dtype)), None


class T5Encoder(nn.Module):
  """Encoder of token ids to token states."""

  config: T5Config
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """Encodes token ids.

    Args:
      ids: Token ids int32 [N, L], padded by the tokenizer's padding token.

    Returns:
      float32 [N, L, M], states of the padding included.
    """
    c = self.config
    x = nn.Embed(c.vocab_size, c.width, name='tokens')(ids)
    x = self.sharding_plan.by_batch(x.astype(jnp.float32))
    table = nn.Embed(c.num_buckets, c.num_heads, name='relative_bias')
    buckets = relative_position_buckets(
      ids.shape[1], c.num_buckets, c.max_distance
    )
    bias = table(buckets)
    bias = bias.astype(jnp.float32).transpose(2, 0, 1)[None]
    blocks = nn.scan(
      Block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=c.num_layers,
    )
    x, _ = blocks(c, self.sharding_plan, name='layers')(x, bias)
    return nn.RMSNorm(c.norm_eps, dtype=jnp.float32, name='final_norm')(x)


def init_params(config: T5Config, key: jax.Array) -> Any:
  """Returns fresh parameters, a nested dict."""
  return T5Encoder(config).init(key, jnp.zeros((1, 2), jnp.int32))['params']


abstract_params = functools.partial(layers.abstract_params, init_params)

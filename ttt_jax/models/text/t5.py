"""The encoder of T5 v1.1 (Raffel et al. 2020, arXiv:1910.10683; Shazeer 2020).

RMS norms before each part, no biases, a learned bias by relative position on
the attention logits (one table for all layers), queries that are not divided
by the root of the head's width, and an MLP whose GELU gates its other half.

CogVideoX feeds it padded texts without an attention mask: padding attends and
is attended, and its states are used. So there is no mask here.
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

DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes; the defaults are those of T5 v1.1 XXL, which CogVideoX uses.

  Attributes:
    vocab_size: rows of the token embedding, more than the tokenizer has.
    width: M.
    num_layers: blocks.
    num_heads: H.
    head_dim: D; H D may differ from M.
    mlp_dim: hidden width of the MLP.
    num_buckets: of relative positions, half of them for each direction.
    max_distance: in tokens; all that is further away shares a bucket.
    norm_eps: of every RMS norm.
    dtype: compute type, 'float32' or 'bfloat16'. Norms, softmax and the sum
      of the residuals are float32 in both.
  """

  vocab_size: int = 32128
  width: int = 4096
  num_layers: int = 24
  num_heads: int = 64
  head_dim: int = 64
  mlp_dim: int = 10240
  num_buckets: int = 32
  max_distance: int = 128
  norm_eps: float = 1e-6
  dtype: str = 'float32'

  def __post_init__(self):
    if self.dtype not in DTYPES:
      raise ValueError(
        f'the dtype of T5 is {self.dtype!r}; legal are {", ".join(DTYPES)}'
      )
    if self.num_buckets % 4 or self.num_buckets < 4:
      raise ValueError(
        f'relative_attention_num_buckets {self.num_buckets} is no multiple'
        ' of 4 (e.g. 32)'
      )
    if self.max_distance <= self.num_buckets // 4:
      raise ValueError(
        f'relative_attention_max_distance {self.max_distance} is not above a'
        f' quarter of the {self.num_buckets} buckets (e.g. 128)'
      )


def position_buckets(
  length: int, num_buckets: int, max_distance: int
) -> np.ndarray:
  """The bucket of every key's position relative to every query's.

  Half of the buckets are for keys behind the query. Of each half, the first
  half is one distance a bucket, the second grows with the logarithm of the
  distance up to `max_distance`.

  Returns:
    int32 [length, length], queries by keys.
  """
  relative = np.arange(length) - np.arange(length)[:, None]
  half = num_buckets // 2
  exact = half // 2
  distance = np.abs(relative)
  # Single precision, as where the weights were trained: at the borders it
  # decides between two buckets.
  far = np.log(np.maximum(distance, exact).astype(np.float32) / exact)
  far = far / np.float32(math.log(max_distance / exact)) * (half - exact)
  far = np.minimum(exact + far.astype(np.int32), half - 1)
  bucket = np.where(distance < exact, distance, far)
  return (bucket + half * (relative > 0)).astype(np.int32)


class Block(nn.Module):
  """Attention and gated MLP, each added to what it reads."""

  config: T5Config
  layout: sharding.Layout = sharding.Layout()

  @nn.compact
  def __call__(self, x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    """x f32 [N, L, M], bias f32 [1, H, L, L] -> x; nothing for `nn.scan`."""
    c = self.config
    dtype = jnp.dtype(c.dtype)
    norm = lambda name: nn.RMSNorm(c.norm_eps, dtype=dtype, name=name)
    dense = functools.partial(nn.DenseGeneral, use_bias=False, dtype=dtype)
    heads = (c.num_heads, c.head_dim)

    y = norm('attention_norm')(x)
    q, k, v = (dense(heads, name=n)(y) for n in ('query', 'key', 'value'))
    y = jax.nn.dot_product_attention(q, k, v, bias=bias, scale=1.0)
    y = dense(c.width, axis=(-2, -1), name='out')(y)
    x = self.layout.by_batch(x + y.astype(x.dtype))

    y = norm('mlp_norm')(x)
    gate = nn.gelu(dense(c.mlp_dim, name='gate')(y), approximate=True)
    y = dense(c.width, name='down')(gate * dense(c.mlp_dim, name='up')(y))
    return self.layout.by_batch(x + y.astype(x.dtype)), None


class T5Encoder(nn.Module):
  """Token ids to token states."""

  config: T5Config
  layout: sharding.Layout = sharding.Layout()

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """Encodes.

    Args:
      ids: int32 [N, L], padded by the tokenizer's padding token.

    Returns:
      float32 [N, L, M], padding too.
    """
    c = self.config
    x = nn.Embed(c.vocab_size, c.width, name='tokens')(ids)
    x = self.layout.by_batch(x.astype(jnp.float32))
    table = nn.Embed(c.num_buckets, c.num_heads, name='relative_bias')
    bias = table(position_buckets(ids.shape[1], c.num_buckets, c.max_distance))
    bias = bias.astype(jnp.float32).transpose(2, 0, 1)[None]
    layers = nn.scan(
      Block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=c.num_layers,
    )
    x, _ = layers(c, self.layout, name='layers')(x, bias)
    return nn.RMSNorm(c.norm_eps, dtype=jnp.float32, name='final_norm')(x)


def abstract_params(config: T5Config) -> Any:
  """The parameters as `jax.ShapeDtypeStruct`; nothing is computed."""
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(T5Encoder(config).init, key, ids)['params']

"""The diffusion transformer: CogVideoX with a mixer in every block."""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pallas_kernels.xla import portable_loop
from ttt_jax import sharding
from ttt_jax.models import embeddings
from ttt_jax.models import layers
from ttt_jax.models import softmax
from ttt_jax.models.dit import attention
from ttt_jax.models.dit import block as block_lib
from ttt_jax.models.dit import config as dit_config
from ttt_jax.models.dit import positions

DiTConfig = dit_config.DiTConfig


def _offload(*names):
  return jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[*names],
    offload_src='device',
    offload_dst='pinned_host',
  )


# Policy of `jax.checkpoint`, by `DiTConfig.remat`.
_REMAT_POLICIES = {
  'products': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable,
    jax.checkpoint_policies.save_only_these_names(
      attention.RESULT,
      softmax.RESULT,
      softmax.LOG_SUMS,
      portable_loop.RESULT,
    ),
  ),
  'layer': None,
  'attention': jax.checkpoint_policies.save_only_these_names(
    softmax.RESULT, softmax.LOG_SUMS
  ),
  'offload': _offload(block_lib.INPUT),
  'offload_attention': _offload(
    block_lib.INPUT, softmax.RESULT, softmax.LOG_SUMS
  ),
}


class DiffusionTransformer(nn.Module):
  """Predicts v or x0 from noisy latents, segment texts and timesteps."""

  config: DiTConfig
  sharding_plan: sharding.ShardingPlan = sharding.ShardingPlan()

  def __call__(
    self, latents: jax.Array, text: jax.Array, timesteps: jax.Array
  ) -> jax.Array:
    """Returns the prediction, which `config.prediction` names.

    Args:
      latents: Noisy latents [B, F, h, w, c] with F = n S + 1.
      text: Text states of each segment, [B, S, L, Dt].
      timesteps: Timesteps [B] from 0 (clean) to 999 (noise).

    Returns:
      At least float32, [B, F, h, w, c].

    Raises:
      ValueError: the shapes do not fit each other or the config.
    """
    x, _ = self._forward(latents, text, timesteps)
    return x

  def diagnostics(
    self, latents: jax.Array, text: jax.Array, timesteps: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns gate sizes and inner losses per layer, each [num_layers]."""
    return self._forward(latents, text, timesteps, diagnose=True)[1]

  def part(
    self,
    latents: jax.Array,
    text: jax.Array,
    timesteps: jax.Array,
    tokens: jax.Array | None = None,
    *,
    has_blocks: bool = True,
    has_head: bool = True,
  ) -> jax.Array:
    """Returns the result of a part of the network.

    Args:
      latents: As for `__call__`. Where there are tokens, only their shape
        matters, except to the head of a network with `input_skip`.
      text: As for `__call__`.
      timesteps: As for `__call__`.
      tokens: Tokens [B, T', M] in storage order instead of those of latents and
        text.
      has_blocks: Whether the tokens pass the blocks.
      has_head: Whether to return the prediction instead of the tokens.
    """
    x, _ = self._forward(
      latents,
      text,
      timesteps,
      tokens=tokens,
      has_blocks=has_blocks,
      has_head=has_head,
    )
    return x

  @nn.compact
  def _forward(
    self,
    latents,
    text,
    timesteps,
    *,
    tokens=None,
    has_blocks=True,
    has_head=True,
    diagnose=False,
  ):
    """Returns tokens or prediction, and the diagnostics of the blocks."""
    config = self.config
    order = config.order(latents.shape, text.shape)
    plan = self.sharding_plan
    time = embeddings.timestep_embedding(timesteps, config.model_dim)
    time = self._dense(config.time_embed_dim, 'time_1')(
      time.astype(config.dtype)
    )
    time = self._dense(config.time_embed_dim, 'time_2')(nn.silu(time))
    time = plan.by_batch(time)
    plan.check_heads(config.split_heads)
    x, aux = tokens, {}
    if x is None:
      x = self._embed(latents, text, order)
    if has_blocks:
      x, aux = self._blocks(x, order, time, diagnose)
    if not has_head:
      return x, aux
    out = self._head(x, order, time)
    if config.input_skip:
      out += self._skip_factors(time)[:, None, None, None] * latents
    return out, aux

  def _skip_factors(self, time):
    """Returns the factors of the noisy latents, [B, c]."""
    factors = layers.ZeroDense(
      self.config.out_channels, dtype=time.dtype, name='input_skip'
    )(nn.silu(time))
    return self.sharding_plan.by_batch(factors)

  def _dense(self, size, name):
    return layers.Dense(size, dtype=jnp.dtype(self.config.dtype), name=name)

  def _embed(self, latents, text, order):
    config, plan = self.config, self.sharding_plan
    dtype = jnp.dtype(config.dtype)
    length = plan.padded(order.length, config.mini_batch)
    # In storage order and with few features, each token is on the device that
    # will process it, so no activation has to move.
    patches = embeddings.patchify(latents, config.patch_size).astype(dtype)
    patches = plan.by_tokens(
      embeddings.store_video(plan.by_batch(patches), order, length)
    )
    text = self._dense(config.model_dim, 'text')(text.astype(dtype))
    text = plan.by_batch(text)
    is_text = order.is_text_padded(length)
    x = jnp.where(
      jnp.broadcast_to(is_text[None, :, None], (*patches.shape[:2], 1)),
      plan.by_tokens(embeddings.store_text(text, order, length)),
      self._dense(config.model_dim, 'patch')(patches),
    )
    if config.positions == 'sincos':
      table = positions.table(
        order,
        length,
        dim=config.model_dim,
        spatial_scale=config.spatial_scale,
        temporal_scale=config.temporal_scale,
        dtype=dtype,
      )
      x = x + plan.by_tokens(table[None])
    return x

  def _blocks(self, x, order, time, diagnose):
    config, plan = self.config, self.sharding_plan
    block = block_lib.Block
    if config.remat != 'none':
      block = nn.remat(
        block, prevent_cse=False, policy=_REMAT_POLICIES[config.remat]
      )
    return nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=config.num_layers,
    )(
      config=config,
      order=order,
      sharding_plan=plan,
      diagnose=diagnose,
      name='layers',
    )(plan.by_tokens(x), block_lib.make_context(config, order, time, plan))

  def _head(self, x, order, time):
    config, plan = self.config, self.sharding_plan
    dtype = jnp.dtype(config.dtype)
    x = layers.LayerNorm(epsilon=config.norm_eps, name='norm')(x)
    x = layers.LayerNorm(epsilon=config.norm_eps, name='final_norm')(x)
    modulation = layers.ZeroDense(
      2 * config.model_dim, dtype=dtype, name='final_modulation'
    )(nn.silu(time))
    shift, scale = jnp.split(plan.by_batch(modulation)[:, None], 2, axis=-1)
    x = (x * (1 + scale) + shift).astype(dtype)
    x = layers.ZeroDense(
      config.patch_size**2 * config.out_channels, dtype=dtype, name='final'
    )(x)
    # Few features again: from here on every device has all tokens of a clip.
    x = embeddings.video_tokens(plan.by_batch(x), order)
    x = embeddings.unpatchify(x, order.rows, order.columns, config.patch_size)
    return x.astype(jnp.promote_types(dtype, jnp.float32))


def init_params(config: DiTConfig, key: jax.Array) -> Any:
  """Returns fresh parameters, a nested dict, for videos of any size."""
  frames, size = config.segment_latent_frames + 1, config.patch_size
  return DiffusionTransformer(config).init(
    key,
    jnp.zeros((1, frames, size, size, config.in_channels)),
    jnp.zeros((1, 1, 1, config.text_dim)),
    jnp.zeros(1),
  )['params']


abstract_params = functools.partial(layers.abstract_params, init_params)


def inference_params(config: DiTConfig, params: Any) -> Any:
  """Returns parameters for sampling, with kernels in the compute type.

  Every product rounds its kernel to that type (see `layers.affine`), so results
  are bit-identical. Other parameters stay float32.

  Args:
    config: Sizes of the network.
    params: Nested dict of arrays.
  """
  dtype = jnp.dtype(config.dtype)

  def cast(path, leaf):
    smaller = path[-1].key == 'kernel' and dtype.itemsize < leaf.dtype.itemsize
    return leaf.astype(dtype) if smaller else leaf

  return jax.tree_util.tree_map_with_path(cast, params)

"""The diffusion transformer: CogVideoX with a global mixer in every block."""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ttt_jax import sharding
from ttt_jax.models import embeddings
from ttt_jax.models import layers
from ttt_jax.models.dit import block as block_lib
from ttt_jax.models.dit import config as dit_config
from ttt_jax.models.dit import positions

DiTConfig = dit_config.DiTConfig


# What the backward pass finds, by `DiTConfig.remat`.
_REMAT_POLICIES = {
  'layer': None,
  'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[block_lib.INPUT],
    offload_src='device',
    offload_dst='pinned_host',
  ),
}


class DiffusionTransformer(nn.Module):
  """Predicts v from noisy latents, segment texts and timesteps."""

  config: DiTConfig
  layout: sharding.Layout = sharding.Layout()

  def __call__(
    self, latents: jax.Array, text: jax.Array, timesteps: jax.Array
  ) -> jax.Array:
    """The network's output.

    Args:
      latents: [B, F, h, w, c] with F = n S + 1.
      text: [B, S, L, Dt].
      timesteps: [B], 0 (clean) to 999 (noise).

    Returns:
      float32 [B, F, h, w, c].

    Raises:
      ValueError: shapes that do not fit each other or the config.
    """
    return self._forward(latents, text, timesteps, diagnose=False)[0]

  def diagnostics(
    self, latents: jax.Array, text: jax.Array, timesteps: jax.Array
  ) -> dict[str, jax.Array]:
    """Gate sizes and inner losses per layer, each [num_layers]."""
    return self._forward(latents, text, timesteps, diagnose=True)[1]

  @nn.compact
  def _forward(self, latents, text, timesteps, *, diagnose):
    config = self.config
    order = config.order(latents.shape, text.shape)
    dtype = jnp.dtype(config.dtype)
    dense = lambda size, name: layers.Dense(size, dtype=dtype, name=name)

    time = embeddings.timestep_embedding(timesteps, config.model_dim)
    time = dense(config.time_embed_dim, 'time_1')(time.astype(dtype))
    time = dense(config.time_embed_dim, 'time_2')(nn.silu(time))
    time = self.layout.by_batch(time)

    self.layout.check_heads(config.num_heads)
    length = self.layout.padded(order.length, config.mini_batch)
    place = self.layout.by_tokens
    # In storage order and with few features, each token is where its device
    # will need it: no activation has to move.
    patches = embeddings.patchify(latents, config.patch_size).astype(dtype)
    patches = place(
      embeddings.store_video(self.layout.by_batch(patches), order, length)
    )
    text = dense(config.model_dim, 'text')(text.astype(dtype))
    text = self.layout.by_batch(text)
    is_text = order.is_text_padded(length)
    x = jnp.where(
      jnp.broadcast_to(is_text[None, :, None], (*patches.shape[:2], 1)),
      place(embeddings.store_text(text, order, length)),
      dense(config.model_dim, 'patch')(patches),
    )
    if config.positions == 'sincos':
      table = positions.table(
        order,
        length,
        config.model_dim,
        config.spatial_scale,
        config.temporal_scale,
        dtype,
      )
      x = x + place(table[None])
    block = block_lib.Block
    if config.remat != 'none':
      block = nn.remat(
        block, prevent_cse=False, policy=_REMAT_POLICIES[config.remat]
      )
    x, aux = nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=config.num_layers,
    )(
      config, order, self.layout, diagnose, name='layers'
    )(place(x), block_lib.make_context(config, order, time, self.layout))

    x = layers.LayerNorm(epsilon=config.norm_eps, name='norm')(x)
    x = layers.LayerNorm(epsilon=config.norm_eps, name='final_norm')(x)
    modulation = layers.ZeroDense(
      2 * config.model_dim, dtype=dtype, name='final_modulation'
    )(nn.silu(time))
    shift, scale = jnp.split(
      self.layout.by_batch(modulation)[:, None], 2, axis=-1
    )
    x = (x * (1 + scale) + shift).astype(dtype)
    x = layers.ZeroDense(
      config.patch_size**2 * config.out_channels, dtype=dtype, name='final'
    )(x)
    # Few features again: from here on every device has the whole video.
    x = embeddings.video_tokens(self.layout.by_batch(x), order)
    x = embeddings.unpatchify(x, order.rows, order.columns, config.patch_size)
    return x.astype(jnp.promote_types(dtype, jnp.float32)), aux


def init_params(config: DiTConfig, key: jax.Array) -> Any:
  """Fresh parameters, nested dict; they do not depend on a video's size."""
  frames, size = config.segment_latent_frames + 1, config.patch_size
  return DiffusionTransformer(config).init(
    key,
    jnp.zeros((1, frames, size, size, config.in_channels)),
    jnp.zeros((1, 1, 1, config.text_dim)),
    jnp.zeros(1),
  )['params']


def abstract_params(config: DiTConfig) -> Any:
  """Their shapes as `jax.ShapeDtypeStruct`; nothing is computed."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(functools.partial(init_params, config), key)


def inference_params(config: DiTConfig, params: Any) -> Any:
  """Parameters as sampling keeps them: kernels in the compute type.

  Every product rounds its kernel to that type anyway (`layers.affine`), so
  results stay the same to the bit; the rest stays float32.

  Args:
    config: of the network.
    params: nested dict of arrays.
  """
  dtype = jnp.dtype(config.dtype)

  def one(path, leaf):
    smaller = path[-1].key == 'kernel' and dtype.itemsize < leaf.dtype.itemsize
    return leaf.astype(dtype) if smaller else leaf

  return jax.tree_util.tree_map_with_path(one, params)

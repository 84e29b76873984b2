"""The loss of a network on a mesh, and its diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from ttt_jax import backbones
from ttt_jax import sharding
from ttt_jax.diffusion import noise as noise_lib
from ttt_jax.diffusion import objective
from ttt_jax.train import step as step_lib


class Objective:
  """Computes loss and diagnostics of a config's network."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    null_text: np.ndarray,
    mesh: jax.sharding.Mesh,
  ):
    """Builds the network.

    Args:
      config: Checked config of the stage.
      null_text: Encoding [L, Dt] of the empty text.
      mesh: Mesh over which the network is split.
    """
    self._text_dropout = config.text_dropout
    self._null_text = null_text
    self._x0_weight_limit = config.get('x0_weight_limit') or 0.0
    self._backbone = backbones.from_config(config)
    self._module = self._backbone.module(sharding.ShardingPlan(mesh))

  def loss_fn(
    self, params: Any, batch: step_lib.Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Computes a `step.LossFn` on latents drawn from the VAE's posterior."""
    latents_key, text_key, noise_key = jax.random.split(key, 3)
    latents = objective.sample_posterior(
      latents_key, batch['mean'], batch['logvar']
    )
    text = objective.drop_text(
      text_key,
      batch['text'],
      jnp.asarray(self._null_text),
      self._text_dropout,
    )
    apply: Callable[..., Any] = self._module.apply
    loss, aux = objective.diffusion_loss(
      lambda x, t: apply({'params': params}, x, text, t),
      latents,
      noise_key,
      self._backbone.schedule,
      prediction=self._backbone.prediction,
      x0_weight_limit=self._x0_weight_limit,
    )
    return loss, (aux['per_sample_loss'], aux['timesteps'])

  def diagnose(
    self, params: Any, batch: step_lib.Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    """Returns gate sizes and inner losses of a transformer on a noisy batch."""
    noise_key, time_key = jax.random.split(key)
    latents = batch['mean']
    timesteps = objective.sample_timesteps(
      time_key, len(latents), stratified=True
    )
    noise = noise_lib.normal(noise_key, latents.shape)
    alpha = jnp.asarray(self._backbone.schedule)[timesteps]
    apply: Callable[..., Any] = self._module.apply
    return apply(
      {'params': params},
      objective.add_noise(latents, noise, alpha),
      batch['text'],
      timesteps,
      method='diagnostics',
    )

"""Optimizer, training step and PSNR of autoencoders of pixels."""

from __future__ import annotations

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax


def make_optimizer(config) -> optax.GradientTransformation:
  """Returns Muon for the inner kernels, Adam for the rest; cosine decay.

  Args:
    config: Config with `muon_lr`, `adam_lr`, `warmup` and `steps`.
  """

  def schedule(peak):
    return optax.warmup_cosine_decay_schedule(
      0.0, peak, config.warmup, config.steps
    )

  def dimensions(params):
    def leaf_dimensions(path, value):
      names = {k.key for k in path}
      if value.ndim < 4 or names & {'conv_y', 'conv_b', 'conv_shortcut'}:
        return None
      return optax.contrib.MuonDimensionNumbers(
        tuple(range(value.ndim - 1)), value.ndim - 1
      )

    return jax.tree_util.tree_map_with_path(leaf_dimensions, params)

  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.contrib.muon(
      schedule(config.muon_lr),
      adam_learning_rate=schedule(config.adam_lr),
      adam_b2=0.99,
      muon_weight_dimension_numbers=dimensions,
    ),
  )


def make_step(vae: nn.Module, tx: optax.GradientTransformation, kl: float):
  """Returns the jitted training step.

  The loss is the absolute error of the pixels.

  Args:
    vae: Autoencoder.
    tx: Optimizer.
    kl: Weight of the divergence of the latents from a normal distribution.

  Returns:
    A function of parameters, optimizer state, frames [B, F, H, W, 3] in [-1, 1]
    and a key.
  """

  def loss_fn(params, frames, key):
    mean, logvar = vae.apply({'params': params}, frames, method='encode')
    noise = jax.random.normal(key, mean.shape)
    latents = mean + jnp.exp(0.5 * logvar) * noise
    out = vae.apply({'params': params}, latents, method='decode')
    error = out - frames
    divergence = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar)
    loss = jnp.mean(jnp.abs(error)) + kl * divergence.mean()
    return loss, jnp.mean(error**2)

  def step(params, state, frames, key):
    grads, square = jax.grad(loss_fn, has_aux=True)(params, frames, key)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, square

  return jax.jit(step, donate_argnums=(0, 1))


def make_reconstruct(vae: nn.Module):
  """Returns the jitted round trip through the mean latents."""
  return jax.jit(lambda params, frames: vae.apply({'params': params}, frames))


def psnr(squares: Sequence[float]) -> float:
  """Returns the PSNR in dB of mean square errors of pixels in [0, 1]."""
  return float(-10 * np.log10(np.mean(squares)))

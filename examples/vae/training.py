"""Optimizer, training step and PSNR of autoencoders of pixels."""

from __future__ import annotations

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax


def make_optimizer(
  config, steps: int, part: str = ''
) -> optax.GradientTransformation:
  """Returns Muon for the inner kernels, Adam for the rest; cosine decay.

  Args:
    config: Config with `muon_lr`, `adam_lr` and `warmup`.
    steps: Number of steps.
    part: Part of the parameters that is trained; '' is all.
  """

  def schedule(peak):
    return optax.warmup_cosine_decay_schedule(0.0, peak, config.warmup, steps)

  def dimensions(params):
    def leaf_dimensions(path, value):
      names = {k.key for k in path}
      if value.ndim < 4 or names & {'conv_y', 'conv_b', 'conv_shortcut'}:
        return None
      return optax.contrib.MuonDimensionNumbers(
        tuple(range(value.ndim - 1)), value.ndim - 1
      )

    return jax.tree_util.tree_map_with_path(leaf_dimensions, params)

  def labels(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, _: 'trained' if part in ('', path[0].key) else 'fixed',
      params,
    )

  trained = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.contrib.muon(
      schedule(config.muon_lr),
      adam_learning_rate=schedule(config.adam_lr),
      adam_b2=0.99,
      muon_weight_dimension_numbers=dimensions,
    ),
  )
  return optax.partition(
    dict(trained=trained, fixed=optax.set_to_zero()), labels
  )


def make_step(
  vae: nn.Module,
  tx: optax.GradientTransformation,
  kl: float,
  square: float = 0.0,
  part: str = '',
  noise: float = 0.0,
):
  """Returns the jitted training step.

  Args:
    vae: Autoencoder.
    tx: Optimizer.
    kl: Weight of the divergence of the latents from a normal distribution.
    square: Weight of the squared error; that of the absolute error is 1.
    part: Part of the parameters that is trained; '' is all. The encoder of
      'decoder' has no gradients.
    noise: Greatest standard deviation of the noise that is added to latents, in
      model units; drawn uniformly for every clip. The decoder learns to remove
      it, as it is needed for latents that a diffusion model has sampled.

  Returns:
    A function of parameters, optimizer state, frames [B, F, H, W, 3] in [-1, 1]
    with weights of the errors as an optional fourth channel, and a key.
  """

  def loss_fn(params, frames, key):
    frames, weights = frames[..., :3], frames[..., 3:]
    if not weights.shape[-1]:
      weights = jnp.ones_like(frames[..., :1])
    mean, logvar = vae.apply({'params': params}, frames, method='encode')
    if part == 'decoder':
      mean, logvar = jax.lax.stop_gradient((mean, logvar))
    level_key, key = jax.random.split(key)
    shape = (len(mean), *[1] * (mean.ndim - 1))
    level = noise * jax.random.uniform(level_key, shape)
    deviation = jnp.sqrt(jnp.exp(logvar) + level**2)
    latents = mean + deviation * jax.random.normal(key, mean.shape)
    out = vae.apply({'params': params}, latents, method='decode')
    error = out - frames
    divergence = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar)
    loss = jnp.abs(error) + square * error**2
    loss = jnp.mean(weights * loss) + kl * divergence.mean()
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

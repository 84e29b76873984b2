"""The training objective: v-prediction, which is weighted x_0 prediction.

With x_t = a x_0 + s noise and s^2 = 1 - a^2, the target is
v = a noise - s x_0, and the denoised estimate is D = a x_t - s v_hat. Since
x_0 = a x_t - s v, D - x_0 = -s (v_hat - v): the x_0 error with the weight
1 / (1 - a^2) per sample is the plain v error (Salimans & Ho, 2022, "Progressive
Distillation"). We compute the latter, which divides by nothing. Networks that
predict the noise, as Stable Diffusion 1, have its error as their loss (Ho et
al., 2020).
"""

from __future__ import annotations

from collections.abc import Callable
import enum

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.diffusion import schedule as schedule_lib


class _Purpose(enum.IntEnum):
  """What a key is folded with, so that the draws stay independent."""

  TIMESTEPS = 0
  NOISE = 1


def _per_sample(values: jax.Array, like: jax.Array) -> jax.Array:
  """[B] -> [B, 1, ...] with as many axes as `like`."""
  return values.reshape(values.shape + (1,) * (like.ndim - 1))


def _noise_share(alpha: jax.Array) -> jax.Array:
  """sqrt(1 - alpha^2), without the cancellation of 1 - alpha * alpha."""
  return jnp.sqrt((1 - alpha) * (1 + alpha))


def add_noise(x0: jax.Array, noise: jax.Array, alpha: jax.Array) -> jax.Array:
  """Returns x_t [B, ...] for clean x0 [B, ...] at alpha [B]."""
  alpha = _per_sample(alpha, x0)
  return alpha * x0 + _noise_share(alpha) * noise


def velocity(x0: jax.Array, noise: jax.Array, alpha: jax.Array) -> jax.Array:
  """Returns the target v [B, ...] of clean x0 [B, ...] at alpha [B]."""
  alpha = _per_sample(alpha, x0)
  return alpha * noise - _noise_share(alpha) * x0


def sample_timesteps(
  key: jax.Array,
  batch: int,
  num: int = schedule_lib.TIMESTEPS,
  stratified: bool = False,
) -> jax.Array:
  """Draws timesteps, each uniform over 0..num-1, int32 [batch].

  Args:
    key: random key.
    batch: B, the whole batch over all hosts.
    num: length of the noise schedule.
    stratified: one draw from each of `batch` equal ranges, in random order:
      the same distribution for every sample, less variance in the mean.
  """
  if not stratified:
    return jax.random.randint(key, (batch,), 0, num)
  order_key, place_key = jax.random.split(key)
  stratum = jax.random.permutation(order_key, batch)
  place = (stratum + jax.random.uniform(place_key, (batch,))) / batch
  # Rounding can carry the last stratum to 1.
  return jnp.minimum((place * num).astype(jnp.int32), num - 1)


def sample_posterior(
  key: jax.Array, mean: jax.Array, logvar: jax.Array
) -> jax.Array:
  """Draws latents, float32, from the VAE's Gaussian: mean, log-variance."""
  noise = jax.random.normal(key, mean.shape, jnp.float32)
  return mean.astype(jnp.float32) + noise * jnp.exp(
    0.5 * logvar.astype(jnp.float32)
  )


def drop_text(
  key: jax.Array, text: jax.Array, null_text: jax.Array, rate: float
) -> jax.Array:
  """Replaces the whole text of a sample by the null text, with chance `rate`.

  Teaches the prediction without text that guidance subtracts.

  Args:
    key: random key.
    text: [B,S,L,Dt].
    null_text: [L,Dt], the encoding of the empty text.
    rate: 0 to 1; the paper means 0.1.

  Raises:
    ValueError: the rate is no probability, or the null text does not fit.
  """
  if not 0 <= rate <= 1:
    raise ValueError(f'text dropout rate {rate} must be 0 to 1, e.g. 0.1')
  if null_text.shape != text.shape[-2:]:
    raise ValueError(
      f'null text of shape {null_text.shape} for texts of shape'
      f' {text.shape}: must be {text.shape[-2:]}'
    )
  # A [B, 1, 1, 1] mask would make its broadcast part of the gradient, which
  # all-reduces a full activation on a mesh.
  dropped = jax.random.bernoulli(key, float(rate), text.shape[:1])
  dropped = jnp.broadcast_to(_per_sample(dropped, text), text.shape)
  return jnp.where(dropped, null_text.astype(text.dtype), text)


def diffusion_loss(
  network: Callable[[jax.Array, jax.Array], jax.Array],
  latents: jax.Array,
  key: jax.Array | None = None,
  schedule: np.ndarray | jax.Array | None = None,
  *,
  timesteps: jax.Array | None = None,
  noise: jax.Array | None = None,
  stratified: bool = False,
  prediction: str = 'v_prediction',
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the mean error over the batch and what it is made of.

  Args:
    network: (x_t [B, ...], timesteps [B] float32) -> v_hat [B, ...], or the
      noise where `prediction` is 'epsilon'.
    latents: clean x_0 [B, ...]; noise and loss are in its dtype, but at least
      float32.
    key: draws the timesteps and the noise, where they are not given.
    schedule: sqrt(alpha_bar) [num]; None is `zero_snr_schedule()`.
    timesteps: [B] integers, e.g. of a fixed validation set.
    noise: [B, ...] standard normal.
    stratified: as in `sample_timesteps`.
    prediction: what the network returns, of `schedule_lib.PREDICTIONS`.

  Returns:
    The loss []; and {'per_sample_loss': [B], 'timesteps': int32 [B]}.

  Raises:
    ValueError: there is no key, and timesteps or noise are not given; or an
      unknown prediction.
  """
  schedule_lib.check_prediction(prediction)
  if key is None and (timesteps is None or noise is None):
    raise ValueError(
      'diffusion_loss without a key: give key=, or both timesteps= and noise='
    )
  if schedule is None:
    schedule = schedule_lib.zero_snr_schedule()
  dtype = jnp.promote_types(latents.dtype, jnp.float32)
  schedule = jnp.asarray(schedule, dtype)
  x0 = latents.astype(dtype)
  if timesteps is None:
    timesteps = sample_timesteps(
      jax.random.fold_in(key, _Purpose.TIMESTEPS),
      len(x0),
      len(schedule),
      stratified,
    )
  if noise is None:
    noise = jax.random.normal(
      jax.random.fold_in(key, _Purpose.NOISE), x0.shape, dtype
    )
  timesteps = jnp.asarray(timesteps).astype(jnp.int32)
  noise = jnp.asarray(noise, dtype)
  alpha = schedule[timesteps]
  predicted = network(
    add_noise(x0, noise, alpha), timesteps.astype(jnp.float32)
  )
  target = velocity(x0, noise, alpha) if prediction != 'epsilon' else noise
  error = predicted.astype(dtype) - target
  per_sample = jnp.mean(jnp.square(error), axis=tuple(range(1, x0.ndim)))
  return jnp.mean(per_sample), {
    'per_sample_loss': per_sample,
    'timesteps': timesteps,
  }


def loss_by_timestep(
  losses: jax.Array,
  timesteps: jax.Array,
  buckets: int = 10,
  num: int = schedule_lib.TIMESTEPS,
) -> tuple[jax.Array, jax.Array]:
  """Adds up losses [B] by range of their timesteps [B] in 0..num-1.

  Returns:
    Sums and counts, each float32 [buckets]: they add over steps and hosts,
    where a mean would not. Bucket 0 is the least noisy.
  """
  bucket = timesteps.astype(jnp.int32) * buckets // num
  sums = jax.ops.segment_sum(losses.astype(jnp.float32), bucket, buckets)
  counts = jax.ops.segment_sum(
    jnp.ones(losses.shape, jnp.float32), bucket, buckets
  )
  return sums, counts

"""The training objective: v-prediction, which is weighted x0 prediction.

With x_t = alpha x0 + sigma eps and sigma^2 = 1 - alpha^2, the target is v =
alpha eps - sigma x0, and the denoised estimate is x0_hat = alpha x_t - sigma
v_hat. Since x0 = alpha x_t - sigma v, the difference is x0_hat - x0 = -sigma
(v_hat - v): the error of x0 with weight 1 / (1 - alpha^2) per sample is the
plain error of v (Salimans & Ho, 2022, "Progressive Distillation"). The loss is
the latter, which has no division. Networks that predict eps, such as Stable
Diffusion 1, have the error of eps as their loss (Ho et al., 2020), and networks
that predict x0 that of the v which follows from it (Li & He, 2025, "Back to
Basics: Let Denoising Generative Models Denoise"): they need no width to pass
the noise on.
"""

from __future__ import annotations

from collections.abc import Callable
import enum

import jax
import jax.numpy as jnp
import numpy as np

from ttt_jax.diffusion import noise as noise_lib
from ttt_jax.diffusion import schedule as schedule_lib


class _RngStream(enum.IntEnum):
  """Numbers to fold into a key, so that draws are independent."""

  TIMESTEPS = 0
  NOISE = 1


def _per_sample(values: jax.Array, like: jax.Array) -> jax.Array:
  """Reshapes [B] to [B, 1, ...] with as many axes as `like`."""
  return values.reshape(values.shape + (1,) * (like.ndim - 1))


def _sigma(alpha: jax.Array) -> jax.Array:
  """Returns sqrt(1 - alpha^2) without the cancellation in 1 - alpha * alpha."""
  return jnp.sqrt((1 - alpha) * (1 + alpha))


def add_noise(x0: jax.Array, noise: jax.Array, alpha: jax.Array) -> jax.Array:
  """Returns x_t [B, ...] of clean x0 [B, ...] at alpha [B]."""
  alpha = _per_sample(alpha, x0)
  return alpha * x0 + _sigma(alpha) * noise


def velocity(x0: jax.Array, noise: jax.Array, alpha: jax.Array) -> jax.Array:
  """Returns the target v [B, ...] of clean x0 [B, ...] at alpha [B]."""
  alpha = _per_sample(alpha, x0)
  return alpha * noise - _sigma(alpha) * x0


def sample_timesteps(
  key: jax.Array,
  batch: int,
  num: int = schedule_lib.TIMESTEPS,
  stratified: bool = False,
) -> jax.Array:
  """Draws timesteps, each uniform over 0..num-1, int32 [batch].

  Args:
    key: Random key.
    batch: Clips of the batch over all hosts, B.
    num: Length of the noise schedule.
    stratified: Draws one timestep from each of `batch` equal ranges, in random
      order. Every sample has the same distribution as before; the mean has less
      variance.
  """
  if not stratified:
    return jax.random.randint(key, (batch,), 0, num)
  order_key, offset_key = jax.random.split(key)
  stratum = jax.random.permutation(order_key, batch)
  position = (stratum + jax.random.uniform(offset_key, (batch,))) / batch
  # Rounding can move the last stratum to 1.
  return jnp.minimum((position * num).astype(jnp.int32), num - 1)


def sample_posterior(
  key: jax.Array, mean: jax.Array, logvar: jax.Array
) -> jax.Array:
  """Draws float32 latents from the VAE's Gaussian (mean, log-variance)."""
  noise = noise_lib.normal(key, mean.shape)
  return mean.astype(jnp.float32) + noise * jnp.exp(
    0.5 * logvar.astype(jnp.float32)
  )


def drop_text(
  key: jax.Array, text: jax.Array, null_text: jax.Array, rate: float
) -> jax.Array:
  """Replaces all text of a clip by the null text with probability `rate`.

  This trains the prediction without text, which guidance subtracts.

  Args:
    key: Random key.
    text: Text states [B, S, L, Dt].
    null_text: Text states of the empty text, [L, Dt].
    rate: Probability from 0 to 1; 0.1 in the paper.

  Raises:
    ValueError: the rate is not a probability, or the null text does not fit.
  """
  if not 0 <= rate <= 1:
    raise ValueError(f'text dropout rate {rate} must be 0 to 1, e.g. 0.1')
  if null_text.shape != text.shape[-2:]:
    raise ValueError(
      f'null text of shape {null_text.shape} for texts of shape'
      f' {text.shape}: must be {text.shape[-2:]}'
    )
  # The mask gets the text's shape before `where`: the gradient of a [B, 1, 1,
  # 1] mask would all-reduce a complete activation on a mesh.
  dropped = jax.random.bernoulli(key, float(rate), text.shape[:1])
  dropped = jnp.broadcast_to(_per_sample(dropped, text), text.shape)
  return jnp.where(dropped, null_text.astype(text.dtype), text)


def diffusion_loss(
  denoise_fn: Callable[[jax.Array, jax.Array], jax.Array],
  latents: jax.Array,
  key: jax.Array | None = None,
  schedule: np.ndarray | jax.Array | None = None,
  *,
  timesteps: jax.Array | None = None,
  noise: jax.Array | None = None,
  stratified: bool = False,
  prediction: str = 'v_prediction',
  x0_weight_limit: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the mean squared error over the batch, and the error per sample.

  Args:
    denoise_fn: Maps (x_t [B, ...], timesteps [B] float32) to a prediction
      [B, ...].
    latents: Clean x0 [B, ...]. Noise and loss have its dtype, raised to at
      least float32.
    key: Random key for timesteps and noise that are None.
    schedule: Noise schedule sqrt(alpha_bar) [num]; None is
      `zero_snr_schedule()`.
    timesteps: Integers [B], for example of a fixed validation set.
    noise: Standard normal [B, ...].
    stratified: Option of `sample_timesteps`.
    prediction: Output of `denoise_fn`, one of `schedule_lib.PREDICTIONS`.
    x0_weight_limit: Largest weight of the squared error of x0, which is 1 /
      (1 - alpha^2) for v and 'sample' (after Hang et al., 2023, "Efficient
      Diffusion Training via Min-SNR Weighting Strategy"); 0 does not limit it.
      Without a limit, a network that predicts x0 mainly learns the last digits
      of almost clean latents.

  Returns:
    The loss [], and {'per_sample_loss': [B], 'timesteps': int32 [B]}.

  Raises:
    ValueError: there is no key and timesteps or noise are None, the prediction
      is unknown, or it is 'epsilon' and its weights are limited.
  """
  schedule_lib.check_prediction(prediction)
  if x0_weight_limit and prediction == 'epsilon':
    raise ValueError(
      f"x0_weight_limit is {x0_weight_limit} for the prediction 'epsilon',"
      ' whose weights are not limited; set it to 0'
    )
  if schedule is None:
    schedule = schedule_lib.zero_snr_schedule()
  dtype = jnp.promote_types(latents.dtype, jnp.float32)
  schedule = jnp.asarray(schedule, dtype)
  x0 = latents.astype(dtype)
  if timesteps is None or noise is None:
    if key is None:
      raise ValueError(
        'diffusion_loss without a key: give key=, or both timesteps= and noise='
      )
    if timesteps is None:
      timesteps = sample_timesteps(
        jax.random.fold_in(key, _RngStream.TIMESTEPS),
        len(x0),
        len(schedule),
        stratified,
      )
    if noise is None:
      noise = noise_lib.normal(
        jax.random.fold_in(key, _RngStream.NOISE), x0.shape, dtype
      )
  timesteps = jnp.asarray(timesteps).astype(jnp.int32)
  noise = jnp.asarray(noise, dtype)
  alpha = schedule[timesteps]
  predicted = denoise_fn(
    add_noise(x0, noise, alpha), timesteps.astype(jnp.float32)
  )
  predicted = predicted.astype(dtype)
  sigma = _sigma(alpha)
  # Standard deviation of the noise whose weight is the limit.
  least = x0_weight_limit**-0.5 if x0_weight_limit else 0.0
  if prediction == 'sample':
    error = (predicted - x0) / _per_sample(jnp.maximum(sigma, least), x0)
  else:
    target = noise if prediction == 'epsilon' else velocity(x0, noise, alpha)
    error = predicted - target
    if least:
      error *= _per_sample(jnp.minimum(sigma / least, 1), x0)
  per_sample = jnp.mean(jnp.square(error), axis=tuple(range(1, x0.ndim)))
  return jnp.mean(per_sample), {
    'per_sample_loss': per_sample,
    'timesteps': timesteps,
  }


def loss_by_timestep(
  losses: jax.Array,
  timesteps: jax.Array,
  bins: int = 10,
  num: int = schedule_lib.TIMESTEPS,
) -> tuple[jax.Array, jax.Array]:
  """Sums losses by bins of their timesteps.

  Args:
    losses: Loss per sample, [B].
    timesteps: Timesteps [B] from 0 to num - 1.
    bins: Number of bins of equal length.
    num: Length of the noise schedule.

  Returns:
    Sums and counts, each float32 [bins]. Unlike means, they can be added over
    steps and hosts. Bin 0 is the least noisy.
  """
  index = timesteps.astype(jnp.int32) * bins // num
  total = lambda x: jax.ops.segment_sum(x, index, bins)
  losses = losses.astype(jnp.float32)
  return total(losses), total(jnp.ones_like(losses))

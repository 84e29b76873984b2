"""The noise schedule of CogVideoX: scaled-linear betas, zero terminal SNR.

In this package `alpha` is sqrt(alpha_bar), the share of the clean signal: 1 is
clean and 0 is pure noise. With sigma = sqrt(1 - alpha^2) the noisy state is
x_t = alpha x0 + sigma eps.
"""

from __future__ import annotations

import math

import numpy as np

TIMESTEPS = 1000
# Outputs of a network: the noise eps, v = alpha eps - sigma x0, or x0 (the
# names are diffusers').
PREDICTIONS = ('epsilon', 'v_prediction', 'sample')

_BETA_START = 0.00085
_BETA_END = 0.012


def scaled_linear_alphas(
  num: int = TIMESTEPS, shift: float = 1.0
) -> np.ndarray:
  """Returns sqrt(alpha_bar) before the zero-SNR rescale, float64 [num].

  The square roots of the betas are linear ("scaled linear", latent diffusion).

  Args:
    num: Number of timesteps.
    shift: Divisor of the signal-to-noise ratio: alpha_bar becomes
      alpha_bar / (shift + (1 - shift) alpha_bar). CogVideoX has 1 for 5B and 3
      for 2B.

  Raises:
    ValueError: there are fewer than two timesteps, or the shift is not
      positive.
  """
  if num < 2:
    raise ValueError(
      f'a noise schedule of {num} timesteps: needs at least 2, e.g. 1000'
    )
  if not (math.isfinite(shift) and shift > 0):
    raise ValueError(
      f'shift {shift} of the noise schedule must be finite and positive,'
      ' e.g. 1.0'
    )
  betas = np.linspace(_BETA_START**0.5, _BETA_END**0.5, num) ** 2
  alpha_bar = np.cumprod(1.0 - betas)
  return np.sqrt(alpha_bar / (shift + (1.0 - shift) * alpha_bar))


def rescale_zero_terminal_snr(alpha: np.ndarray) -> np.ndarray:
  """Shifts and scales decreasing `alpha` so that it ends at exactly 0.

  The first entry does not change. Lin et al., "Common Diffusion Noise
  Schedules and Sample Steps are Flawed", 2023, algorithm 1.
  """
  first, last = alpha[0], alpha[-1]
  return (alpha - last) * (first / (first - last))


def zero_snr_schedule(num: int = TIMESTEPS, shift: float = 1.0) -> np.ndarray:
  """Returns sqrt(alpha_bar) by timestep, float32 [num]; the last is exactly 0.

  Args:
    num: Number of timesteps.
    shift: Divisor of the signal-to-noise ratio, see `scaled_linear_alphas`.

  Raises:
    ValueError: as for `scaled_linear_alphas`.

  Example:
    >>> alpha = zero_snr_schedule()
    >>> alpha.shape, float(alpha[-1])  # Pure noise at the end.
    ((1000,), 0.0)
  """
  return rescale_zero_terminal_snr(scaled_linear_alphas(num, shift)).astype(
    np.float32
  )


def check_prediction(
  prediction: str, known: tuple[str, ...] = PREDICTIONS
) -> None:
  """Raises ValueError unless the prediction is a known one."""
  if prediction not in known:
    raise ValueError(
      f'prediction is {prediction!r}; expected one of {", ".join(known)}'
    )

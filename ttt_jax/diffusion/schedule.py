"""The noise schedule of CogVideoX: scaled-linear betas, zero terminal SNR.

Throughout, `alpha` is sqrt(alpha_bar), the share of the clean signal: 1 is
clean, 0 is pure noise, and x_t = alpha x_0 + sqrt(1 - alpha^2) noise.
"""

from __future__ import annotations

import math

import numpy as np

TIMESTEPS = 1000
# What a network returns.
PREDICTIONS = ('epsilon', 'v_prediction')

_BETA_START = 0.00085
_BETA_END = 0.012


def scaled_linear_alphas(
  num: int = TIMESTEPS, shift: float = 1.0
) -> np.ndarray:
  """Returns sqrt(alpha_bar) before the zero-SNR rescale, float64 [num].

  The betas are linear in their square root ("scaled linear", latent
  diffusion). `shift` divides the signal-to-noise ratio: alpha_bar becomes
  alpha_bar / (shift + (1 - shift) alpha_bar) (CogVideoX, 1 for 5B, 3 for 2B).

  Raises:
    ValueError: fewer than two timesteps, or a shift that is not positive.
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
  """Moves and scales falling `alpha` so that it ends at exactly 0.

  The first entry keeps its value. Lin et al., "Common Diffusion Noise
  Schedules and Sample Steps are Flawed", 2023, algorithm 1.
  """
  first, last = alpha[0], alpha[-1]
  return (alpha - last) * (first / (first - last))


def zero_snr_schedule(num: int = TIMESTEPS, shift: float = 1.0) -> np.ndarray:
  """Returns sqrt(alpha_bar) by timestep, float32 [num]; the last is exactly 0.

  Raises:
    ValueError: as `raw_schedule`.
  """
  return rescale_zero_terminal_snr(scaled_linear_alphas(num, shift)).astype(
    np.float32
  )


def check_prediction(prediction: str) -> None:
  """Raises ValueError for a prediction that is none of `PREDICTIONS`."""
  if prediction not in PREDICTIONS:
    raise ValueError(
      f'prediction {prediction!r}; legal are {", ".join(PREDICTIONS)}'
    )

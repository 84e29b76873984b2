"""Samplers by scheduler name: agreement with diffusers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax.diffusion import schedule
from ttt_jax.diffusion import schedulers

SHAPE = (1, 2, 2, 3, 4)


def network(x, t, scale):
  del scale
  return 0.3 * x + t[:, None, None, None, None] / 1000


def trajectory(name, steps, shift, start, noise):
  chosen = schedulers.scheduler(name)
  return chosen.sample(
    network,
    jnp.asarray(start),
    chosen.schedule(steps, shift),
    np.ones(steps),
    step_noise=jnp.asarray(noise),
    trajectory=True,
  ).states


def as_diffusers_steps(name, steps, shift, x, noise):
  """Computes diffusers' two `step` functions from their formulas in float64.

  A step reads its own levels at t, t - 1000 // steps and the previous t,
  independently of the levels of other steps.
  """
  alpha = schedule.rescale_zero_terminal_snr(
    schedule.scaled_linear_alphas(shift=shift)
  )
  share = lambda t: alpha[t] ** 2 if t >= 0 else 1.0
  with np.errstate(divide='ignore'):
    lam = lambda bar: 0.5 * np.log(bar / (1 - bar)) if bar < 1 else np.inf
    times = np.round(np.arange(1000, 0, -1000 / steps)).astype(int) - 1
    out, before, old = [], None, None
    for i, t in enumerate(times):
      end = t - 1000 // steps
      bar, bar_end = share(t), share(end)
      v = 0.3 * x + t / 1000
      x0 = np.sqrt(bar) * x - np.sqrt(1 - bar) * v
      if name == 'cogvideox_ddim':
        a = np.sqrt((1 - bar_end) / (1 - bar))
        x = a * x + (np.sqrt(bar_end) - np.sqrt(bar) * a) * x0
      else:
        h = lam(bar_end) - lam(bar)
        estimate = x0
        if old is not None and end >= 0:
          r = (lam(bar) - lam(share(before))) / h
          estimate = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * old
        x = (
          np.sqrt((1 - bar_end) / (1 - bar)) * np.exp(-h) * x
          - np.expm1(-2 * h) * np.sqrt(bar_end) * estimate
          + np.sqrt((1 - bar_end) * -np.expm1(-2 * h)) * noise[i]
        )
      before, old = t, x0
      out.append(x)
  return np.stack(out)


@pytest.mark.parametrize('steps', [1, 2, 3, 6, 7, 30, 50])
@pytest.mark.parametrize('shift', [1.0, 3.0])
@pytest.mark.parametrize('name', ['cogvideox_ddim', 'cogvideox_dpm'])
def test_every_step_of_diffusers(name, steps, shift):
  rng = np.random.default_rng(steps)
  start = rng.normal(size=SHAPE)
  noise = rng.normal(size=(steps, *SHAPE))
  expected = as_diffusers_steps(name, steps, shift, start, noise)
  with jax.enable_x64(True):
    found = trajectory(name, steps, shift, start, noise)
  # The network receives t, and computes t / 1000, in float32.
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_the_paper_has_other_levels():
  paper, ours = map(schedulers.scheduler, ('reference', 'cogvideox_dpm'))
  assert paper.sample is ours.sample
  assert np.any(paper.schedule(50, 1.0).alpha != ours.schedule(50, 1.0).alpha)


def test_errors_of_unknown_names_list_the_valid_ones():
  with pytest.raises(
    ValueError,
    match="'euler'; expected one of cogvideox_dpm, cogvideox_ddim, reference",
  ) as error:
    schedulers.scheduler('euler')
  assert '\n' not in str(error.value)
  assert schedulers.DEFAULT in schedulers.SCHEDULERS

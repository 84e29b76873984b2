"""Our schedulers against diffusers', live, on random networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax.diffusion import schedulers

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

SHAPE = (2, 3, 2, 3, 4)
CONFIG = dict(
  beta_start=0.00085,
  beta_end=0.012,
  beta_schedule='scaled_linear',
  prediction_type='v_prediction',
  clip_sample=False,
  rescale_betas_zero_snr=True,
  timestep_spacing='trailing',
)
CLASSES = {
  'cogvideox_ddim': diffusers.CogVideoXDDIMScheduler,
  'cogvideox_dpm': diffusers.CogVideoXDPMScheduler,
}


def theirs(name, steps, shift, network, x, noise):
  """Returns every state of a sampling run."""
  scheduler = CLASSES[name](snr_shift_scale=shift, **CONFIG)
  scheduler.set_timesteps(steps)
  out, old, before = [], None, None
  for i, t in enumerate(scheduler.timesteps):
    v = torch.tensor(network(x.numpy(), float(t)))
    if name == 'cogvideox_ddim':
      x = scheduler.step(v, t, x, return_dict=False)[0]
    else:
      with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
          diffusers.schedulers.scheduling_dpm_cogvideox,
          'randn_tensor',
          lambda *_, i=i, **__: torch.tensor(noise[i]),
        )
        x, old = scheduler.step(v, old, t, before, x, return_dict=False)
      before = t
    out.append(x.numpy())
  return scheduler.timesteps.numpy(), np.stack(out)


@pytest.mark.parametrize('shift', [1.0, 3.0])
@pytest.mark.parametrize('steps', [1, 2, 3, 7, 20, 30, 47, 50, 600])
@pytest.mark.parametrize('name', sorted(CLASSES))
def test_every_state_of_a_sampling_run(name, steps, shift):
  rng = np.random.default_rng([steps, int(shift)])
  a, b = rng.normal(size=2) * 0.3
  start = rng.normal(size=SHAPE)
  noise = rng.normal(size=(steps, *SHAPE))
  times, expected = theirs(
    name,
    steps,
    shift,
    lambda x, t: a * x + b * t / 1000,
    torch.tensor(start),
    noise,
  )
  chosen = schedulers.scheduler(name)
  schedule = chosen.schedule(steps, shift)
  np.testing.assert_array_equal(schedule.timesteps, times)
  network = lambda x, t, scale: a * x + b * t[:, None, None, None, None] / 1000
  with jax.enable_x64(True):
    found = chosen.sample(
      network,
      jnp.asarray(start),
      schedule,
      np.ones(steps),
      step_noise=jnp.asarray(noise),
      trajectory=True,
    ).states
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * scale)

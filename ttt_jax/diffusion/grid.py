"""Earlier names of `ttt_jax.diffusion.sampling_schedule`, for one release."""

from ttt_jax.diffusion import sampling_schedule as _new

SamplingGrid = _new.SamplingSchedule
sampling_grid = _new.from_name
leading_grid = _new.leading
check_steps = _new.check_steps
reference_timesteps = _new.reference_timesteps

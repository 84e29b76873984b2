"""Index and scheduler of a CogVideoX folder in diffusers' layout."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
from typing import Any

from ttt_jax.convert import model_folder
from ttt_jax.runtime import files


def complete(
  folder: pathlib.Path,
  *,
  text_encoder: str,
  tokenizer: str,
  schedule_shift: float = 1.0,
  prediction: str = 'v_prediction',
  fps: int | None = None,
  sampling: Mapping[str, Any] | None = None,
) -> None:
  """Writes model_index.json and scheduler/ next to the parts of a model.

  Args:
    folder: Folder of the model.
    text_encoder: Class of transformers for its text encoder.
    tokenizer: Class of transformers for its tokenizer.
    schedule_shift: Shift of the noise schedule.
    prediction: Output of the transformer, 'v_prediction' or 'sample'.
    fps: Frames per second of its videos; None is CogVideoX's.
    sampling: Settings with which it samples, see `ttt_jax.pipeline.sampling`;
      None is CogVideoX's.
  """
  scheduler = {
    '_class_name': 'CogVideoXDPMScheduler',
    'beta_start': 0.00085,
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'clip_sample': False,
    'num_train_timesteps': 1000,
    'prediction_type': prediction,
    'rescale_betas_zero_snr': True,
    'set_alpha_to_one': True,
    'snr_shift_scale': schedule_shift,
    'steps_offset': 0,
    'timestep_spacing': 'trailing',
  }
  index = {
    '_class_name': 'CogVideoXPipeline',
    '_diffusers_version': '0.42.1',
    'scheduler': ['diffusers', 'CogVideoXDPMScheduler'],
    'text_encoder': ['transformers', text_encoder],
    'tokenizer': ['transformers', tokenizer],
    'transformer': ['diffusers', 'CogVideoXTransformer3DModel'],
    'vae': ['diffusers', 'AutoencoderKLCogVideoX'],
  }
  if fps is not None:
    index['_fps'] = fps
  if sampling is not None:
    index['_sampling'] = dict(sampling)
  (folder / 'scheduler').mkdir()
  files.write_json(scheduler, folder / 'scheduler/scheduler_config.json')
  files.write_json(index, folder / model_folder.INDEX)

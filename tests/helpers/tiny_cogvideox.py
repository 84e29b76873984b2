"""Writes a tiny CogVideoX, and videos, in the layouts of the real ones.

    python -m tests.helpers.tiny_cogvideox FOLDER

makes FOLDER/CogVideoX-5b with random weights (32x48 pixels, two layers) and
FOLDER/videos with two short cartoons of a square.
"""

import io
import json
import pathlib
import sys

import jax
import numpy as np
from safetensors import numpy as safetensors
import sentencepiece

from ttt_jax import convert
from ttt_jax.models import dit
from ttt_jax.models.vae import causal3d
from ttt_jax.video import video_file

LATENT_CHANNELS = 4
TEXT_DIM = 32
_WORDS = """A red square moves to the right over a grey floor. The red square
reaches the wall. Night. The square sleeps. A green square waits. It jumps. It
lands. The quick brown fox jumps over the lazy dog and seven wizards."""
_INDEX = {
  '_class_name': 'CogVideoXPipeline',
  '_diffusers_version': '0.42.1',
  'scheduler': ['diffusers', 'CogVideoXDPMScheduler'],
  'text_encoder': ['transformers', 'T5EncoderModel'],
  'tokenizer': ['transformers', 'T5Tokenizer'],
  'transformer': ['diffusers', 'CogVideoXTransformer3DModel'],
  'vae': ['diffusers', 'AutoencoderKLCogVideoX'],
}
_SCHEDULER = {
  '_class_name': 'CogVideoXDPMScheduler',
  'beta_start': 0.00085,
  'beta_end': 0.012,
  'beta_schedule': 'scaled_linear',
  'clip_sample': False,
  'num_train_timesteps': 1000,
  'prediction_type': 'v_prediction',
  'rescale_betas_zero_snr': True,
  'set_alpha_to_one': True,
  'snr_shift_scale': 1.0,
  'steps_offset': 0,
  'timestep_spacing': 'trailing',
}


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes both; returns the model's folder."""
  model = folder / 'CogVideoX-5b'
  write_model(model)
  write_videos(folder / 'videos')
  return model


def write_model(folder: pathlib.Path) -> None:
  config = dit.DiTConfig(
    model_dim=64,
    num_heads=2,
    num_layers=2,
    time_embed_dim=32,
    text_dim=TEXT_DIM,
    in_channels=LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS,
    mixer='none',
    base_rows=2,
    base_columns=3,
  )
  params = _random(dit.abstract_params(config))
  convert.save_dit(config, params, folder / 'transformer')
  vae = causal3d.CausalVAEConfig(
    block_out_channels=(8, 8, 16, 16),
    latent_channels=LATENT_CHANNELS,
    layers_per_block=1,
    norm_num_groups=4,
    scaling_factor=0.7,
  )
  frames = np.zeros((1, 1, 16, 16, 3), np.float32)
  params = jax.eval_shape(
    causal3d.CausalVAE(vae).init, jax.random.key(0), frames
  )
  convert.save_vae(vae, _random(params['params']), folder / 'vae')
  pieces = _write_tokenizer(folder / 'tokenizer')
  _write_t5(folder / 'text_encoder', pieces + 100 + 28)
  for name, content in (
    ('scheduler/scheduler_config.json', _SCHEDULER),
    ('model_index.json', _INDEX),
  ):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def _random(shapes):
  """Parameters for these shapes, none zero: zeros hide what is before them."""
  rng = np.random.default_rng(3)

  def draw(path, leaf):
    value = rng.normal(size=leaf.shape)
    kind = path[-1].key
    if kind == 'kernel':
      value *= 1.5 / np.sqrt(leaf.size / leaf.shape[-1])
    else:
      value = 0.1 * value + (kind == 'scale')
    return value.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def _write_tokenizer(folder: pathlib.Path) -> int:
  """spiece.model with T5's special tokens; returns the number of pieces."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(_WORDS.split('.')),
    model_writer=model,
    vocab_size=80,
    hard_vocab_limit=False,
    model_type='unigram',
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  folder.mkdir(parents=True)
  (folder / 'spiece.model').write_bytes(model.getvalue())
  return sentencepiece.SentencePieceProcessor(
    model_proto=model.getvalue()
  ).get_piece_size()


def _write_t5(folder: pathlib.Path, rows: int) -> None:
  """A T5 v1.1 encoder with transformers' names."""
  rng = np.random.default_rng(2)
  m, heads, d, hidden, buckets = TEXT_DIM, 4, 8, 48, 8
  tensors = {
    'shared.weight': rng.normal(size=(rows, m)),
    'encoder.final_layer_norm.weight': np.ones(m),
  }
  for i in range(2):
    block = f'encoder.block.{i}.layer'
    for name in 'qkv':
      tensors[f'{block}.0.SelfAttention.{name}.weight'] = (
        rng.normal(size=(heads * d, m)) / m
      )
    tensors |= {
      f'{block}.0.SelfAttention.o.weight': rng.normal(size=(m, heads * d)) / m,
      f'{block}.0.layer_norm.weight': np.ones(m),
      f'{block}.1.DenseReluDense.wi_0.weight': rng.normal(size=(hidden, m))
      / m**0.5,
      f'{block}.1.DenseReluDense.wi_1.weight': rng.normal(size=(hidden, m))
      / m**0.5,
      f'{block}.1.DenseReluDense.wo.weight': rng.normal(size=(m, hidden))
      / hidden**0.5,
      f'{block}.1.layer_norm.weight': np.ones(m),
    }
  tensors[
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
  ] = rng.normal(size=(buckets, heads))
  folder.mkdir(parents=True)
  safetensors.save_file(
    {k: v.astype(np.float32) for k, v in tensors.items()},
    folder / 'model.safetensors',
    metadata={'format': 'pt'},
  )
  (folder / 'config.json').write_text(
    json.dumps(
      {
        'architectures': ['T5EncoderModel'],
        'model_type': 't5',
        'd_model': m,
        'd_kv': d,
        'num_heads': heads,
        'd_ff': hidden,
        'num_layers': 2,
        'relative_attention_num_buckets': buckets,
        'relative_attention_max_distance': 32,
        'layer_norm_epsilon': 1e-6,
        'feed_forward_proj': 'gated-gelu',
        'vocab_size': rows,
        'is_encoder_decoder': False,
        'pad_token_id': 0,
        'eos_token_id': 1,
      }
    )
  )


def write_videos(folder: pathlib.Path) -> None:
  """ep01.mp4 of 11 s at 24 fps and ep02.mp4 of 9 s at 16, a moving square."""
  folder.mkdir(parents=True)
  for name, seconds, fps, colour in (
    ('ep01', 11, 24, (200, 30, 30)),
    ('ep02', 9, 16, (30, 180, 60)),
  ):
    frames = np.full((seconds * fps, 48, 64, 3), 120, np.uint8)
    for i, frame in enumerate(frames):
      left = round(48 * i / len(frames))
      frame[16:32, left : left + 16] = colour
    video_file.write_video(folder / f'{name}.mp4', frames, fps=fps)


if __name__ == '__main__':
  write(pathlib.Path(sys.argv[1]))

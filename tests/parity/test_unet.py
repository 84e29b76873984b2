"""Our U-Net against diffusers': random configs, both directions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttt_jax import convert
from ttt_jax.models.unet3d import unet

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

SEEDS = range(4)
DOWN = {True: 'CrossAttnDownBlock2D', False: 'DownBlock2D'}
UP = {True: 'CrossAttnUpBlock2D', False: 'UpBlock2D'}


def draw(seed):
  """Returns the sizes of a model like SD 1 for even seeds, else like SD 2."""
  rng = np.random.default_rng(seed)
  pick = lambda *choices: choices[rng.integers(len(choices))]
  levels = pick(2, 3)
  crossing = [bool(rng.integers(2)) for _ in range(levels - 1)] + [False]
  heads = [pick(1, 2, 4) for _ in range(levels)]
  channels = pick(4, 9)
  return dict(
    sample_size=8,
    # As many: an inpainting model, of 9 and 4, is refused.
    in_channels=channels,
    out_channels=channels,
    block_out_channels=[pick(8, 16) for _ in range(levels)],
    layers_per_block=pick(1, 2),
    norm_num_groups=pick(2, 4),
    norm_eps=pick(1e-5, 1e-3),
    cross_attention_dim=pick(6, 10),
    down_block_types=[DOWN[c] for c in crossing],
    up_block_types=[UP[c] for c in reversed(crossing)],
    attention_head_dim=heads if seed % 2 else heads[0],
    use_linear_projection=bool(seed % 2),
    upcast_attention=bool(seed % 2),
  )


def their_model(config, seed):
  """Returns a model with random weights, including norms."""
  torch.manual_seed(seed)
  model = diffusers.UNet2DConditionModel(**config).eval()
  for weight in model.parameters():
    weight.add_(0.1 * torch.randn_like(weight))
  return model


def compare(config, params, model, seed):
  """Compares both on a still clip; diffusers computes in float64."""
  network = jax.jit(unet.UNet3D(config).apply)
  model = model.double()
  rng = np.random.default_rng(seed)
  for height, width, frames in ((4, 8, 1), (8, 4, 2)):
    picture = rng.normal(size=(2, height, width, config.in_channels))
    text = rng.normal(size=(2, 5, config.text_dim))
    timesteps = rng.integers(0, 1000, size=2)
    want = (
      model(
        torch.tensor(picture.transpose(0, 3, 1, 2)),
        torch.tensor(timesteps),
        torch.tensor(text),
      )
      .sample.numpy()
      .transpose(0, 2, 3, 1)
    )
    clip = np.repeat(picture[:, None], frames, axis=1)
    found = network(
      {'params': params},
      jnp.float32(clip),
      jnp.float32(text),
      jnp.asarray(timesteps),
    )
    error = np.abs(found - want[:, None]).max() / np.abs(want).max()
    print(f'seed {seed}: {error:.1e}')
    assert error < 2e-5


@pytest.mark.parametrize('seed', SEEDS)
def test_their_weights(seed, tmp_path):
  model = their_model(draw(seed), seed)
  model.save_pretrained(tmp_path)
  config, params = convert.load_unet(tmp_path)
  compare(config, params, model, seed)


@pytest.mark.parametrize('seed', SEEDS[:2])
def test_our_weights(seed, tmp_path):
  their_model(draw(seed), seed).save_pretrained(tmp_path / 'theirs')
  config, params = convert.load_unet(tmp_path / 'theirs')
  convert.save_unet(config, params, tmp_path / 'ours')
  # Our config.json equals theirs, except that one number stands for heads
  # that are equal at all levels.
  theirs, ours = (
    json.loads((tmp_path / name / 'config.json').read_text())
    for name in ('theirs', 'ours')
  )
  for found in (theirs, ours):
    heads = found['attention_head_dim']
    if isinstance(heads, int):
      found['attention_head_dim'] = [heads] * config.levels
  for key in ours.keys() & theirs.keys():
    assert ours[key] == theirs[key], key
  model = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / 'ours')
  compare(config, params, model.eval(), seed)

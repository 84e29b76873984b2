"""A tiny CogVideoX in the layout of the real one."""

import numpy as np
import pytest
from safetensors import numpy as safetensors

from examples import tiny_cogvideox
from ttt_jax import convert
from ttt_jax import recipes
from ttt_jax.convert import vae
from ttt_jax.encoders import load_text

WEIGHTS = 'transformer/diffusion_pytorch_model.safetensors'


def test_a_recipe_reads_its_sizes(tmp_path):
  folder = tiny_cogvideox.write_model(
    tmp_path / 'tiny', height=32, width=64, model_dim=96, num_layers=3
  )
  config = recipes.cogvideox(str(folder), '3s')
  assert (config.data.height, config.data.width) == (32, 64)
  assert (config.model.model_dim, config.model.num_layers) == (96, 3)
  assert config.scheduler == 'cogvideox_dpm'
  channels = vae.FORMAT.load_config(folder / 'vae').latent_channels
  assert config.model.in_channels == channels == 16
  _, params = convert.load_t5(folder / 'text_encoder')
  assert params['tokens']['embedding'].shape[1] == config.model.text_dim


def test_the_tokenizer_takes_its_pieces_from_the_texts(tmp_path):
  text = 'A red square jumps.'
  count = {}
  for name, words in (
    ('given', [text, 'It lands on a red floor.']),
    ('default', [tiny_cogvideox.PANGRAM]),
  ):
    folder = tiny_cogvideox.write_model(tmp_path / name, words=words)
    tokenize, scene_tokens = load_text.load_tokenizer(folder)
    count[name] = len(tokenize(text))
    assert len(tokenize('<start_scene>')) == 2  # And the end of the text.
    assert len(set(scene_tokens)) == 2
  assert count['given'] < count['default']


def test_the_weights_are_always_the_same_and_never_zero(tmp_path):
  found = [
    safetensors.load_file(tiny_cogvideox.write_model(tmp_path / name) / WEIGHTS)
    for name in 'ab'
  ]
  for name, value in found[0].items():
    np.testing.assert_array_equal(value, found[1][name])
    assert np.all(value), name


@pytest.mark.parametrize(
  'sizes', [dict(height=60), dict(width=0), dict(model_dim=40)]
)
def test_sizes_that_are_no_multiples_write_nothing(tmp_path, sizes):
  with pytest.raises(ValueError, match=f'{next(iter(sizes))} is .* multiple'):
    tiny_cogvideox.write_model(tmp_path / 'tiny', **sizes)
  assert not list(tmp_path.iterdir())

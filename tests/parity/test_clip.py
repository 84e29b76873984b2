"""Our CLIP and its tokenizer against transformers'."""

import jax
import numpy as np
import pytest

from ttt_jax import convert
from ttt_jax.encoders import clip_tokenizer
from ttt_jax.models.text import clip

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

TEXTS = (
  'a red ball',
  "The CAT's 12 balls; they're \"blue\", we'll see!!",
  '',
  '  two   spaces\nand a\ttab ',
  'caf\u00e9 cafe\u0301 na\u00efve \u4e2d\u6587',
  '\U0001f600 <|endoftext|> ! a<|startoftext|>',
  "rock'n'roll 3.14 a_b #1",
  'IT\u2019S \u00c9COLE \u0130stanbul \u00df',
  '\u00bd \u2163 x\u00b2',
)


def their_model(seed):
  rng = np.random.default_rng(seed)
  pick = lambda *choices: choices[rng.integers(len(choices))]
  torch.manual_seed(seed)
  model = transformers.CLIPTextModel(
    transformers.CLIPTextConfig(
      vocab_size=60,
      hidden_size=pick(16, 32),
      num_hidden_layers=pick(1, 3),
      intermediate_size=pick(24, 40),
      num_attention_heads=pick(2, 4),
      max_position_embeddings=pick(12, 77),
      hidden_act=('quick_gelu', 'gelu')[seed % 2],
      bos_token_id=58,
      eos_token_id=59,
      pad_token_id=0,
    )
  ).eval()
  for weight in model.parameters():
    weight.add_(0.2 * torch.randn_like(weight))
  return model


def compare(config, params, model, seed):
  ids = np.random.default_rng(seed).integers(0, 60, size=(3, 12))
  want = model.double()(torch.tensor(ids)).last_hidden_state.numpy()
  found = jax.jit(clip.CLIPTextEncoder(config).apply)({'params': params}, ids)
  error = np.abs(found - want).max() / np.abs(want).max()
  print(f'seed {seed}: {error:.1e}')
  assert error < 1e-5


@pytest.mark.parametrize('seed', range(4))
def test_both_ways(seed, tmp_path):
  model = their_model(seed)
  model.save_pretrained(tmp_path / 'theirs')
  config, params = convert.load_clip(tmp_path / 'theirs')
  compare(config, params, model, seed)
  convert.save_clip(config, params, tmp_path / 'ours')
  back = transformers.CLIPTextModel.from_pretrained(tmp_path / 'ours').eval()
  compare(config, params, back, seed)


@pytest.mark.parametrize('pad', ['!', '<|endoftext|>'])
def test_ids(pad, fixtures, tmp_path):
  folder = fixtures / 'tiny_sd/tokenizer'
  theirs = transformers.CLIPTokenizer(
    str(folder / 'vocab.json'), str(folder / 'merges.txt'), pad_token=pad
  )
  for name in ('vocab.json', 'merges.txt'):
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  theirs.save_pretrained(tmp_path / 'saved')
  config = tmp_path / 'saved/tokenizer_config.json'
  (tmp_path / config.name).write_bytes(config.read_bytes())
  want = theirs(list(TEXTS), padding='max_length', max_length=77)['input_ids']
  ours = clip_tokenizer.find_tokenizer(tmp_path)
  assert ours(TEXTS).tolist() == want

"""Our T5 and its tokenizer against transformers', live, in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import tiny_cogvideox
from ttt_jax import convert
from ttt_jax.encoders import load_text as encoder_lib
from ttt_jax.models.text import t5

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

TOLERANCE = 1e-5
CASES = {
  'square': dict(d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=3),
  'wide_heads': dict(
    d_model=24,
    d_kv=16,
    num_heads=3,
    d_ff=40,
    num_layers=2,
    relative_attention_num_buckets=16,
    relative_attention_max_distance=50,
  ),
  'one_layer': dict(
    d_model=40,
    d_kv=4,
    num_heads=6,
    d_ff=30,
    num_layers=1,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=20,
  ),
}
WORDS = """The cat sleeps on the mat. The dog runs after the cat. It goes on. A
cat waits, a dog waits, it rains. The end of the day, and a cat goes home."""
TEXTS = [
  'The cat sleeps.',
  '<start_scene>A dog runs, it rains.',
  '',
  'It goes on.<end_scene>',
  'café  naïve <end_scene> day',
]


def make(name, seed, folder, vocab_size=200):
  torch.manual_seed(seed)
  model = transformers.T5EncoderModel(
    transformers.T5Config(
      vocab_size=vocab_size,
      feed_forward_proj='gated-gelu',
      is_encoder_decoder=False,
      **CASES[name],
    )
  ).eval()
  for parameter in model.parameters():
    torch.nn.init.normal_(parameter, parameter.ndim == 1, 0.2)
  model.save_pretrained(folder)
  return model


def error(found, want):
  want = want.float().numpy()
  return np.abs(np.asarray(found, np.float32) - want).max() / np.abs(want).max()


def apply(config, params, ids):
  return t5.T5Encoder(config).apply({'params': params}, ids)


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('shape', [(2, 5), (1, 226), (3, 64)])
def test_states(name, shape, tmp_path):
  seed = sum(shape)
  model = make(name, seed, tmp_path)
  ids = np.random.default_rng(seed).integers(0, 200, shape)
  config, params = convert.load_t5(tmp_path)
  # Their rounding is left out: softmax over random weights magnifies any.
  want = model.double()(torch.from_numpy(ids)).last_hidden_state.numpy()
  difference = np.asarray(apply(config, params, ids), np.float64) - want
  assert np.abs(difference).max() <= 2 * TOLERANCE * np.abs(want).max()
  square = lambda x: np.square(x).mean()
  assert square(difference) <= (TOLERANCE / 3) ** 2 * square(want)


def test_bfloat16_is_no_worse_than_theirs(tmp_path):
  model = make('square', 0, tmp_path)
  ids = np.random.default_rng(0).integers(0, 200, (4, 64))
  exact = model(torch.from_numpy(ids)).last_hidden_state
  theirs = model.bfloat16()(torch.from_numpy(ids)).last_hidden_state
  config, params = convert.load_t5(
    tmp_path, compute_dtype='bfloat16', dtype=jnp.bfloat16
  )
  ours = apply(config, params, ids)
  distance = lambda x: np.sqrt(
    np.square(np.asarray(x, np.float64) - exact.double().numpy()).mean()
  )
  assert 0 < distance(ours) <= 1.1 * distance(theirs.float().numpy())


@pytest.mark.parametrize(
  'kwargs',
  [
    dict(num_buckets=32, max_distance=128),
    dict(num_buckets=8, max_distance=20),
    dict(num_buckets=64, max_distance=1000),
  ],
)
def test_buckets(kwargs):
  positions = torch.arange(1200)
  attention = transformers.models.t5.modeling_t5.T5Attention
  want = attention._relative_position_bucket(
    positions[None] - positions[:, None], bidirectional=True, **kwargs
  )
  np.testing.assert_array_equal(
    t5.relative_position_buckets(1200, **kwargs), want
  )


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_our_folder_read_by_transformers(dtype, tmp_path):
  model = make('wide_heads', 1, tmp_path / 'theirs')
  config, params = convert.load_t5(tmp_path / 'theirs')
  convert.save_t5(
    config,
    params,
    tmp_path / 'ours',
    dtype=jnp.dtype(dtype),
    shard_bytes=10_000,
  )
  assert len(list((tmp_path / 'ours').glob('*.safetensors'))) > 1
  again = transformers.T5EncoderModel.from_pretrained(
    tmp_path / 'ours', dtype=getattr(torch, dtype)
  )
  for (key, a), b in zip(
    model.state_dict().items(), again.state_dict().values(), strict=True
  ):
    assert torch.equal(a.to(getattr(torch, dtype)), b), key


@pytest.mark.parametrize('normalisation', ['nmt_nfkc', 'identity'])
def test_texts(normalisation, tmp_path):
  model = tiny_cogvideox.train_tokenizer(
    WORDS.split('\n'), 60, normalization_rule_name=normalisation
  )
  (tmp_path / 'tokenizer').mkdir()
  (tmp_path / 'tokenizer/spiece.model').write_bytes(model)
  tokenizer = transformers.T5Tokenizer.from_pretrained(tmp_path / 'tokenizer')
  rows = len(tokenizer) + 28
  theirs = make('square', 2, tmp_path / 'text_encoder', rows)
  # In the order in which the paper's code adds them.
  tokenizer.add_special_tokens(
    {'additional_special_tokens': ['<end_scene>', '<start_scene>']}
  )
  ours = encoder_lib.load_text_encoder(tmp_path, 48)
  assert list(ours.scene_token_ids) == tokenizer.convert_tokens_to_ids(
    ['<start_scene>', '<end_scene>']
  )
  ids = tokenizer(
    TEXTS, padding='max_length', max_length=48, return_tensors='pt'
  ).input_ids
  for text, row in zip(TEXTS, ids):
    assert ours.count_tokens(text) == (row > 0).sum(), text
  want = theirs(ids).last_hidden_state  # without a mask, as CogVideoX
  assert error(ours.encode(TEXTS), want) <= TOLERANCE
  # The same texts with the tokenizer.json that transformers writes.
  tokenizer.save_pretrained(tmp_path / 'fast')
  (tmp_path / 'tokenizer/spiece.model').unlink()
  (tmp_path / 'fast/tokenizer.json').rename(
    tmp_path / 'tokenizer/tokenizer.json'
  )
  fast = encoder_lib.load_text_encoder(tmp_path, 48)
  jax.tree.map(
    np.testing.assert_array_equal, fast.encode(TEXTS), ours.encode(TEXTS)
  )

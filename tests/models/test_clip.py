"""CLIP's text encoder and tokenizer against transformers' own."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import compare
from ttt_jax.convert import load_clip
from ttt_jax.encoders import clip_tokenizer
from ttt_jax.models.text import clip


@pytest.fixture(name='tiny')
def _tiny(fixtures):
  return fixtures / 'tiny_sd'


@pytest.fixture(name='copy')
def _copy(tiny, tmp_path):
  return shutil.copytree(tiny / 'tokenizer', tmp_path / 'tokenizer')


def apply(config, params, ids):
  return clip.CLIPTextEncoder(config).apply({'params': params}, ids)


def test_states_of_transformers(tiny):
  config, params = load_clip(tiny, dtype=np.float32)
  want = np.load(tiny / 'numbers.npz')
  assert (
    compare.relative_error(apply(config, params, want['ids']), want['states'])
    < 1e-5
  )
  # Other positions do not change what comes before them.
  ids = want['ids'].copy()
  ids[:, 50:] = 7
  found = apply(config, params, ids)
  assert compare.relative_error(found[:, :50], want['states'][:, :50]) < 1e-5
  assert compare.relative_error(found[:, 50:], want['states'][:, 50:]) > 0.1


def test_bfloat16(tiny):
  config, params = load_clip(tiny, compute_dtype='bfloat16')
  want = np.load(tiny / 'numbers.npz')
  states = apply(config, params, want['ids'])
  assert states.dtype == jnp.float32
  assert 1e-4 < compare.relative_error(states, want['states']) < 0.06


def test_the_defaults_are_stable_diffusion_1():
  params = clip.abstract_params(clip.CLIPTextConfig())
  assert sum(x.size for x in jax.tree.leaves(params)) == 123_060_480


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(dtype='float16'), "'float16'; expected one of float32, bfloat16"),
    (dict(activation='relu'), "'relu'; expected one of quick_gelu, gelu"),
    (dict(num_heads=7), 'the 7 heads of CLIP do not divide its width 768'),
  ],
)
def test_sizes_that_cannot_work(fields, message):
  with pytest.raises(ValueError, match=message):
    clip.CLIPTextConfig(**fields)
  with pytest.raises(ValueError, match='use at most 77'):
    jax.eval_shape(
      clip.CLIPTextEncoder(clip.CLIPTextConfig()).init,
      jax.random.key(0),
      jnp.zeros((1, 78), jnp.int32),
    )


def test_ids_of_transformers(tiny):
  want = np.load(tiny / 'numbers.npz')
  for folder in (tiny, tiny / 'tokenizer', tiny / 'text_encoder'):
    tokenizer = clip_tokenizer.find_tokenizer(folder)
    ids = tokenizer(want['texts'].tolist())
    np.testing.assert_array_equal(ids, want['ids'])
    assert ids.dtype == np.int32


def test_padding_of_stable_diffusion_1_is_the_end(copy):
  (copy / 'special_tokens_map.json').unlink()
  tokenizer = clip_tokenizer.find_tokenizer(copy)
  (ids,) = tokenizer(['a!'])
  assert ids[0] == tokenizer.start_id and (ids[3:] == tokenizer.end_id).all()
  assert ids[2] != tokenizer.pad_id


def test_77_tokens_and_no_more(tiny):
  tokenizer = clip_tokenizer.find_tokenizer(tiny)
  full = ' '.join(['cat'] * 75)
  assert len(tokenizer.tokens(full)) == 77
  assert tokenizer([full])[0, -1] == tokenizer.end_id
  with pytest.raises(ValueError, match='has 78 tokens.*at most 77') as e:
    tokenizer(['cat', full + '\n ball'])
  assert '\n' not in str(e.value) and len(str(e.value)) < 200


def test_missing_and_damaged(copy, tmp_path):
  find = lambda: clip_tokenizer.find_tokenizer(copy)
  merges = (copy / 'merges.txt').read_text()
  (copy / 'merges.txt').write_text(merges + 'no pair of words\n')
  with pytest.raises(ValueError, match='merges.txt in .* invalid at line 16'):
    find()
  (copy / 'merges.txt').unlink()
  with pytest.raises(FileNotFoundError, match='tokenizer has no merges.txt'):
    find()
  (copy / 'merges.txt').write_text(merges)
  vocabulary = json.loads((copy / 'vocab.json').read_text())
  del vocabulary['<|startoftext|>']
  (copy / 'vocab.json').write_text(json.dumps(vocabulary))
  with pytest.raises(ValueError, match="has no token '<.startoftext.>'"):
    find()
  (copy / 'vocab.json').write_text('[]')
  with pytest.raises(ValueError, match='vocab.json and .* Bad vocabulary'):
    find()
  with pytest.raises(FileNotFoundError, match='CLIP needs vocab.json and m'):
    clip_tokenizer.find_tokenizer(tmp_path / 'elsewhere' / 'x')

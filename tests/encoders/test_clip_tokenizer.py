"""CLIP's tokenizer against transformers', and the encoder that uses it."""

import json
import shutil

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from tokenizers import processors

from ttt_jax.encoders import clip_tokenizer
from ttt_jax.encoders import load_text


@pytest.fixture(name='tiny')
def _tiny(fixtures):
  return fixtures / 'tiny_sd'


@pytest.fixture(name='copy')
def _copy(tiny, tmp_path):
  return shutil.copytree(tiny / 'tokenizer', tmp_path / 'tokenizer')


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


def test_a_tokenizer_in_one_file(tiny, copy):
  """As transformers 5 writes it, without vocab.json and merges.txt."""
  want = np.load(tiny / 'numbers.npz')
  pieces = clip_tokenizer.find_tokenizer(tiny).pieces
  pieces.post_processor = processors.TemplateProcessing(
    single=f'{clip_tokenizer.START} $A {clip_tokenizer.END}',
    special_tokens=[
      (name, pieces.token_to_id(name))
      for name in (clip_tokenizer.START, clip_tokenizer.END)
    ],
  )
  pieces.save(str(copy / 'tokenizer.json'))
  for name in ('vocab.json', 'merges.txt'):
    (copy / name).unlink()
  map_file = copy / 'special_tokens_map.json'
  map_file.rename(copy / 'tokenizer_config.json')
  tokenizer = clip_tokenizer.find_tokenizer(copy)
  ids = tokenizer(want['texts'].tolist())
  np.testing.assert_array_equal(ids, want['ids'])


@pytest.mark.parametrize(
  'change, message',
  [
    ({'cat</w>': 0}, "'!' have the id 0|'cat</w>' have the id 0"),
    ({'cat</w>': 10**6}, 'has the id 1000000, but the embedding .* 529 rows'),
    ({'cat</w>': -1}, 'is not a valid tokenizer'),
    ({'cat</w>': 'x'}, 'is not a valid tokenizer'),
  ],
)
def test_ids_that_cannot_be(copy, change, message):
  path = copy / 'vocab.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=message):
    clip_tokenizer.find_tokenizer(copy, 529)


def test_a_pointer_of_lfs_and_another_kind_of_padding(copy):
  (copy / 'special_tokens_map.json').write_text('{"pad_token": 5}')
  with pytest.raises(ValueError, match='"pad_token" of .* is 5; expected'):
    clip_tokenizer.find_tokenizer(copy)
  (copy / 'vocab.json').write_text('version https://git-lfs.github.com/spec')
  with pytest.raises(ValueError, match='vocab.json is a pointer.*git lfs pull'):
    clip_tokenizer.find_tokenizer(copy)


def test_missing_and_damaged(copy, tmp_path):
  find = lambda: clip_tokenizer.find_tokenizer(copy)
  merges = (copy / 'merges.txt').read_text()
  (copy / 'merges.txt').write_text(merges + 'no pair of words\n')
  with pytest.raises(ValueError, match='merges.txt is .* invalid at line 16'):
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
  with pytest.raises(ValueError, match='vocab.json with .* Bad vocabulary'):
    find()
  with pytest.raises(FileNotFoundError, match='CLIP needs vocab.json and m'):
    clip_tokenizer.find_tokenizer(tmp_path / 'elsewhere' / 'x')


def test_numbers_of_positions_in_old_files_are_not_weights(tiny, tmp_path):
  shutil.copytree(tiny, tmp_path / 'sd')
  path = tmp_path / 'sd/text_encoder/model.safetensors'
  tensors = safetensors_numpy.load_file(path)
  tensors['text_model.embeddings.position_ids'] = np.arange(77)[None]
  safetensors_numpy.save_file(tensors, path)
  old = load_text.load_text_encoder(tmp_path / 'sd', 77)
  new = load_text.load_text_encoder(tiny, 77)
  assert old.identity == new.identity and new.identity.startswith('clip:')

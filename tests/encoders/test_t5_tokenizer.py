"""T5's tokenizer against transformers and sentencepiece."""

import json
import shutil

import numpy as np
import pytest

from ttt_jax import storyboard
from ttt_jax.encoders import load_text
from ttt_jax.encoders import t5_tokenizer

ROWS = 166  # The tiny model has 38 pieces, 100 extra ids and 28 spare rows.


@pytest.fixture(name='copy')
def _copy(fixtures, tmp_path):
  """Copies the tiny model's tokenizer next to an empty folder of an encoder."""
  shutil.copytree(fixtures / 'tiny_t5/tokenizer', tmp_path / 'tokenizer')
  (tmp_path / 'text_encoder').mkdir()
  return tmp_path


def find(folder, rows=ROWS):
  return t5_tokenizer.find_tokenizer(folder / 'text_encoder', rows)


@pytest.mark.parametrize('kind', ['tokenizer', 'fast'])
def test_ids_are_those_of_transformers(fixtures, tmp_path, kind):
  shutil.copytree(fixtures / 'tiny_t5' / kind, tmp_path / 'tokenizer')
  tokenizer = find(tmp_path)
  want = np.load(fixtures / 'tiny_t5/states.npz')
  assert tokenizer.scene_token_ids == tuple(want['scene_token_ids'])
  for text, ids in zip(want['texts'], want['ids']):
    assert tokenizer(str(text)) == ids[ids != tokenizer.pad_id].tolist()


def test_ids_of_the_reference(golden):
  folder = golden('t5')
  tokenizer = t5_tokenizer.find_tokenizer(folder, 232)
  with np.load(folder / 'io.npz') as io:
    for line, ids in zip(io['tokenizer_lines'], io['tokenizer_ids']):
      assert tokenizer.pieces(str(line)) == ids[ids >= 0].tolist()
    for text, ids in zip(io['prompts'], io['input_ids']):
      found = tokenizer(str(text))
      truncated = found[:-1][: len(ids) - 1] + [1]
      assert truncated == ids[: len(truncated)].tolist()
    start, end = tokenizer.scene_token_ids
    assert {start, end} == set(io['scene_token_ids'])
    assert end == start - 1
    text = f'{storyboard.START_SCENE}{io["prompts"][0]}{storyboard.END_SCENE}'
    ids = io['scene_input_ids'][0]
    assert tokenizer(text) == ids[ids != 0].tolist()


def test_rows_of_the_released_model():
  rows = t5_tokenizer._scene_rows({}, 32_100)
  assert rows == {storyboard.END_SCENE: 32_100, storyboard.START_SCENE: 32_101}


def test_scene_tokens_of_the_config_keep_their_rows(copy):
  config = {
    'extra_ids': 100,
    'added_tokens_decoder': {
      '138': {'content': '<start_scene>'},
      '0': {'content': '<pad>'},
      '139': {'content': '<end_scene>'},
    },
  }
  path = copy / 'tokenizer/tokenizer_config.json'
  path.write_text(json.dumps(config))
  assert find(copy).scene_token_ids == (138, 139)
  path.write_text(json.dumps({'extra_ids': 10}))
  assert find(copy).scene_token_ids == (49, 48)
  path.write_text('[1]')
  with pytest.raises(
    ValueError, match='tokenizer_config.json.* expected an object'
  ):
    find(copy)


def test_special_tokens_that_a_user_types_are_text(copy):
  tokenizer = find(copy)
  typed = tokenizer('a </s> <pad> <extra_id_0> cat')
  assert typed.count(1) == 1 and 0 not in typed
  assert max(typed) < 38


def test_a_tokenizer_without_spare_rows(copy):
  assert find(copy, 140).scene_token_ids == (139, 138)
  with pytest.raises(ValueError, match=r'\[138, 139\].* has 139 rows.* 140'):
    find(copy, 139)


def test_missing_and_damaged_files(copy, fixtures, tmp_path):
  path = copy / 'tokenizer/spiece.model'
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(ValueError, match='not a complete sentencepiece model'):
    find(copy)
  path.unlink()
  with pytest.raises(FileNotFoundError, match='no spiece.model and no token'):
    find(copy)
  (copy / 'tokenizer/tokenizer.json').write_text('{}')
  with pytest.raises(
    ValueError, match='tokenizer.json is not a valid tokenizer'
  ):
    find(copy)
  bert = fixtures / 'tiny_bert/tokenizer.json'
  shutil.copy(bert, copy / 'tokenizer/tokenizer.json')
  with pytest.raises(ValueError, match='no token </s>, so it is not for T5'):
    find(copy)


def test_the_tokenizer_alone_needs_no_weights(fixtures, copy):
  shutil.copy(
    fixtures / 'tiny_t5/text_encoder/config.json', copy / 'text_encoder'
  )
  tokenize, rows = load_text.load_tokenizer(copy)
  assert rows == (139, 138)
  assert tokenize('a<end_scene>')[-2:] == [138, 1]

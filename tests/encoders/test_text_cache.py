"""Text embeddings in files, shared by runs and processes."""

import numpy as np
import pytest

from tests.helpers.fake_encoders import FakeText
from ttt_jax.encoders import text_cache
from ttt_jax.encoders import text_encoder
from ttt_jax.encoders import video_encoder


def files(folder):
  return sorted(p for p in folder.rglob('*') if p.is_file())


def test_another_run_reads_the_files(tmp_path):
  first = text_cache.TextCache(FakeText(), folder=tmp_path)
  want = first.encode(['a b', 'c', 'a b'])
  assert len(files(tmp_path)) == 2
  text = FakeText()
  again = text_cache.TextCache(text, folder=tmp_path)
  np.testing.assert_array_equal(again.encode(['c', 'a b']), want[[1, 0]])
  assert not text.batches
  again.encode(['c', 'new'])
  assert text.batches == [['new']]


@pytest.mark.parametrize('field', ['identity', 'text_length'])
def test_another_encoder_has_other_files(tmp_path, field):
  text_cache.TextCache(FakeText(), folder=tmp_path).encode(['a'])
  text = FakeText()
  setattr(text, field, 'fake-text:2' if field == 'identity' else 6)
  text_cache.TextCache(text, folder=tmp_path).encode(['a'])
  assert text.batches == [['a']]
  assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
  'damage', [b'', b'no array', b'\x93NUMPY\x01\x00\x03\x00{(\n', None]
)
def test_a_damaged_file_is_replaced(tmp_path, damage):
  want = text_cache.TextCache(FakeText(), folder=tmp_path).encode(['a'])
  (path,) = files(tmp_path)
  intact = path.read_bytes()
  path.write_bytes(intact[:-4] if damage is None else damage)
  text = FakeText()
  found = text_cache.TextCache(text, folder=tmp_path).encode(['a'])
  np.testing.assert_array_equal(found, want)
  assert text.batches == [['a']]
  assert files(tmp_path) == [path] and path.read_bytes() == intact


@pytest.mark.parametrize('shape', [(10**12, 4), (5, 4)])
def test_a_header_that_claims_too_much_is_not_believed(tmp_path, shape):
  text_cache.TextCache(FakeText(), folder=tmp_path).encode(['a'])
  (path,) = files(tmp_path)
  header = {'descr': '<f8', 'fortran_order': False, 'shape': shape}
  with open(path, 'wb') as file:
    np.lib.format.write_array_header_1_0(file, header)
    file.write(bytes(160))
  text = FakeText()
  text_cache.TextCache(text, folder=tmp_path).encode(['a'])
  assert text.batches == [['a']]


def test_files_are_never_unpickled(tmp_path):
  text_cache.TextCache(FakeText(), folder=tmp_path).encode(['a'])
  (path,) = files(tmp_path)
  np.save(path, np.array([{}], object), allow_pickle=True)
  text = FakeText()
  text_cache.TextCache(text, folder=tmp_path).encode(['a'])
  assert text.batches == [['a']]


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  cache = text_cache.TextCache(FakeText(), folder=tmp_path / 'file')
  with pytest.raises(ValueError, match='could not write .*choose another'):
    cache.encode(['a'])


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text_cache.TextCache(FakeText()).encode(['a'])
  assert not files(tmp_path)


def test_options_of_a_config():
  assert video_encoder.vae_options({'folder': 'x'}) == {}
  options = video_encoder.vae_options({'tiling': True, 'dtype': 'bfloat16'})
  assert options == {
    'tiling': video_encoder.tiling_lib.Tiling(),
    'dtype': 'bfloat16',
  }
  assert video_encoder.text_options({'dtype': 'bfloat16'}) == {
    'dtype': 'bfloat16'
  }
  assert video_encoder.text_options({'dtype': '', 'truncate': False}) == {}
  assert video_encoder.text_options({'truncate': True}) == {'truncate': True}


@pytest.mark.parametrize(
  'length, expected',
  [
    (7, [5, 6, 7, 8, 2, 9]),
    (5, [5, 6, 7, 2, 9]),
    (3, [5, 2, 9]),
    (2, [2, 9]),
    (1, [9]),
  ],
)
def test_long_texts_are_cut_before_their_last_special_tokens(length, expected):
  """2 is the end of a scene, 9 the end of a text."""
  cut = text_encoder.truncated(lambda _: [5, 6, 7, 8, 2, 9], length, (1, 2))
  assert cut('') == expected
  cut = text_encoder.truncated(lambda _: [5, 6, 7, 8, 9], 3, (1, 2))
  assert cut('') == [5, 6, 9]


def test_an_encoder_that_cuts_texts():
  text = text_encoder.TextEncoder(
    tokenize=text_encoder.truncated(
      lambda t: [len(w) for w in t.split()], 2, ()
    ),
    states=lambda ids, mask: np.stack([ids, mask], -1),
    identity='x',
    width=2,
    text_length=2,
    scene_token_ids=(),
  )
  assert text.count_tokens('a bb ccc') == 2
  assert text.encode(['a bb ccc'])[0, :, 0].tolist() == [1, 3]

"""Data sets of latents: complete or refused, and damage is found."""

import contextlib
import dataclasses
import json
import pathlib
import re
import resource
import shutil

from etils import epath
import numpy as np
import pytest
import tensorstore as ts

from ttt_jax.data import check
from ttt_jax.data.store import arrays
from ttt_jax.data.store import manifest as manifest_lib
from ttt_jax.data.store import reader as dataset_reader
from ttt_jax.data.store import writer as writer_lib
from ttt_jax.encoders import identity

IDENTITY = manifest_lib.Manifest(
  vae_identity='causal3d:aaaa',
  text_identity='bert:bbbb',
  scale=0.7,
  fps=16,
  height=16,
  width=32,
  frames=9,
  segments=2,
  text_length=3,
  mini_batch=8,
  scene_token_ids=(1, 2),
)


def values(seed: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  shapes = {'mean': (3, 2, 4, 5), 'logvar': (3, 2, 4, 5), 'text': (2, 3, 6)}
  return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def build(folder: pathlib.Path, clips: int = 3, finish: bool = True):
  writer = writer_lib.LatentWriter(folder, IDENTITY, rows=clips)
  writer.write_null_text(np.full((3, 6), 0.5, np.float32))
  for row in range(clips):
    writer.write(row, f'clip{row}', f'print{row}', **values(row))
  if finish:
    writer.finish(table(range(clips)))
  return writer


def table(rows):
  board = {'segments': ['one', 'two']}
  return [{'name': f'clip{r}', 'row': r, 'storyboard': board} for r in rows]


def chunk(folder: pathlib.Path, name: str, row: int) -> pathlib.Path:
  (path,) = [
    p for p in (folder / name / 'c' / str(row)).rglob('*') if p.is_file()
  ]
  return path


def test_clips_are_read_as_they_were_written(tmp_path):
  build(tmp_path)
  dataset = dataset_reader.LatentDataset(tmp_path)
  assert len(dataset) == 3
  assert dataset.latent_shape == (3, 2, 4, 5)
  assert dataset.text_shape == (2, 3, 6)
  assert (dataset.null_text == 0.5).all()
  for i in range(3):
    clip = dataset[i]
    assert clip['clip'] == i and clip['clip'].dtype == np.int32
    for name, value in values(i).items():
      np.testing.assert_array_equal(clip[name], value)
  assert check.check(tmp_path).problems == []
  with pytest.raises(IndexError):
    dataset[3]


def test_clips_that_were_left_out_do_not_shift_the_others(tmp_path):
  writer = writer_lib.LatentWriter(tmp_path, IDENTITY, rows=3)
  writer.write_null_text(np.zeros((3, 6), np.float32))
  for row in (0, 2):
    writer.write(row, f'clip{row}', 'x', **values(row))
  writer.finish(table([0, 2]), [{'name': 'clip1', 'row': 1, 'reason': 'bad'}])
  dataset = dataset_reader.LatentDataset(tmp_path)
  assert len(dataset) == 2 and dataset.name(1) == 'clip2'
  np.testing.assert_array_equal(dataset[1]['mean'], values(2)['mean'])
  assert dataset.manifest.corrupt[0]['reason'] == 'bad'


def test_unfinished_and_missing_data_sets_are_refused(tmp_path):
  build(tmp_path / 'a', finish=False)
  with pytest.raises(ValueError, match='unfinished.*run precompute again'):
    dataset_reader.LatentDataset(tmp_path / 'a')
  with pytest.raises(
    FileNotFoundError, match='make one with ttt-jax precompute'
  ):
    dataset_reader.LatentDataset(tmp_path / 'b')


@pytest.mark.parametrize('text', ['{', '[]', '{"schema_version": 1}'])
def test_unreadable_manifest(tmp_path, text):
  build(tmp_path)
  (tmp_path / 'manifest.json').write_text(text)
  with pytest.raises(ValueError, match='run precompute again') as e:
    dataset_reader.LatentDataset(tmp_path)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('fps', None, 'manifest.fps is null; expected a number'),
    ('height', '16', 'manifest.height is "16"; expected a whole number'),
    ('frames', -1, 'manifest.frames is -1'),
    ('width', 10**400, 'manifest.width is'),
    ('vae_identity', 3, 'manifest.vae_identity is 3; expected a text'),
    ('clips', {}, 'manifest.clips is an object; expected a list'),
    ('clips', [None], 'item 1 of manifest.clips is null'),
    (
      'clips',
      [{'name': 'a', 'row': None, 'storyboard': {}}],
      'row" of .* null',
    ),
    ('clips', [{'name': 'a', 'row': -1, 'storyboard': {}}], 'row" of .* is -1'),
    ('clips', [{'name': 'a', 'row': 10**30, 'storyboard': {}}], 'row" of'),
    ('clips', [{'name': 'a', 'row': 1}], 'has no "storyboard"'),
    ('corrupt', [{'name': 'a', 'row': 1}], 'has no "reason"'),
    ('colour', 1, "unknown key 'colour'"),
  ],
)
def test_wrong_values_in_a_manifest(tmp_path, field, value, message):
  build(tmp_path, clips=1)
  path = tmp_path / 'manifest.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
  for open_it in (dataset_reader.LatentDataset, check.check):
    with pytest.raises(ValueError, match='not a valid manifest') as e:
      open_it(tmp_path)
    assert '\n' not in str(e.value)
    assert re.search(message, str(e.value)), e.value


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(shape=[1, 3, 2, 4, 10**12]), 'shape'),
    (dict(shape=[1, 3, 2, 4, 10**8]), 'at most'),
    (dict(shape=[1, 3, 2]), 'expected 5 axes'),
    (dict(shape=[1, 3, 2, 4, 0]), 'has the shape'),
    (dict(shape=None), 'shape is null'),
    (dict(data_type='int32'), 'expected one of float32'),
    (dict(fill_value=0), 'fill_value'),
    (
      dict(chunk_grid={'configuration': {'chunk_shape': [1, 3, 2, 4, 10**12]}}),
      'has chunks of .*; expected .1, 3, 2, 4, 5.',
    ),
    (dict(chunk_grid={'configuration': {'chunk_shape': [10**12] * 5}}), 'chu'),
    (dict(chunk_grid=7), 'chunk_grid'),
    (dict(codecs=[{'name': 'sharding_indexed'}]), 'one of bytes, zstd, gzip'),
    (dict(codecs=[{'name': 'bytes', 'configuration': 7}]), 'cannot be opened'),
  ],
)
def test_an_array_is_checked_before_anything_is_allocated(
  tmp_path, change, message
):
  build(tmp_path, clips=1)
  path = tmp_path / 'mean' / 'zarr.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=message) as e:
    dataset_reader.LatentDataset(tmp_path)
  assert '\n' not in str(e.value) and 'run precompute again' in str(e.value)
  assert any(re.search(message, p) for p in check.check(tmp_path).problems)


def test_nothing_is_locked(tmp_path):
  """Lustre and FUSE may have no locks, and TensorStore waits for none."""
  for name in ('mean', 'null_text'):
    kvstore = arrays.spec(epath.Path(tmp_path / name))['kvstore']
    assert kvstore['context'] == {'file_io_locking': {'mode': 'none'}}


@pytest.mark.parametrize('text', ['{', '[' * 5000, '[]', '{"name": 3}'])
def test_damaged_markers_are_not_complete(tmp_path, text):
  writer = build(tmp_path, clips=1)
  (tmp_path / 'clips' / '000000.json').write_text(text)
  (tmp_path / 'clips' / 'notes.json').write_text('{}')
  assert writer.settled(0, 'print0') is None
  (problem,) = check.check(tmp_path).problems
  assert problem.startswith('clips/000000.json: is missing')


def test_other_schema_version_names_both(tmp_path):
  build(tmp_path)
  file = tmp_path / 'manifest.json'
  file.write_text(
    file.read_text().replace('"schema_version": 1', '"schema_version": 7')
  )
  with pytest.raises(ValueError, match='version 7; this program reads 1'):
    dataset_reader.LatentDataset(tmp_path)


def test_check_manifest_names_every_difference_with_both_values():
  manifest_lib.check_manifest(
    IDENTITY, fps=16, scene_token_ids=[1, 2], vae_identity=None
  )
  with pytest.raises(ValueError) as e:
    manifest_lib.check_manifest(
      IDENTITY, vae_identity='causal3d:cccc', fps=12, height=16
    )
  message = str(e.value)
  for part in ('causal3d:aaaa', 'causal3d:cccc', 'fps is 16', '12 in this'):
    assert part in message
  assert 'height' not in message and '\n' not in message
  with pytest.raises(TypeError, match='no field size'):
    manifest_lib.check_manifest(IDENTITY, size=3)


def test_a_writer_resumes(tmp_path):
  first = writer_lib.LatentWriter(tmp_path, IDENTITY, rows=2)
  first.write_null_text(np.zeros((3, 6), np.float32))
  first.write(0, 'clip0', 'print0', **values(0))
  second = writer_lib.LatentWriter(tmp_path, IDENTITY, rows=2)
  assert second.is_done(0, 'print0')
  assert not second.is_done(0, 'other source')
  assert not second.is_done(1, 'print1')
  with pytest.raises(RuntimeError, match='before'):
    second.finish(table([0, 1]))
  assert not second.finished


def test_adding_rows_keeps_the_clips_and_is_unfinished_meanwhile(tmp_path):
  build(tmp_path, clips=2)
  writer = writer_lib.LatentWriter(tmp_path, IDENTITY, rows=3)
  assert writer.finished and writer.is_done(1, 'print1')
  writer.write(2, 'clip2', 'print2', **values(2))
  with pytest.raises(ValueError, match='unfinished'):
    dataset_reader.LatentDataset(tmp_path)
  writer.finish(table(range(3)))
  dataset = dataset_reader.LatentDataset(tmp_path)
  for i in range(3):
    np.testing.assert_array_equal(dataset[i]['text'], values(i)['text'])


def test_dropped_rows_are_not_done(tmp_path):
  build(tmp_path, clips=3)
  writer_lib.LatentWriter(tmp_path, IDENTITY, rows=2).finish(table(range(2)))
  again = writer_lib.LatentWriter(tmp_path, IDENTITY, rows=3)
  assert again.is_done(1, 'print1') and not again.is_done(2, 'print2')


def test_other_identities_and_other_folders_are_refused(tmp_path):
  build(tmp_path / 'a')
  other = dataclasses.replace(IDENTITY, vae_identity='causal3d:cccc')
  with pytest.raises(ValueError, match='causal3d:aaaa.*causal3d:cccc'):
    writer_lib.LatentWriter(tmp_path / 'a', other, rows=3)
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'thesis.txt').write_text('mine')
  with pytest.raises(FileExistsError, match='not empty'):
    writer_lib.LatentWriter(tmp_path / 'b', IDENTITY, rows=3)


def test_check_finds_nan(tmp_path):
  build(tmp_path)
  store = ts.open(arrays.spec(tmp_path / 'logvar'), open=True).result()
  store[1, 0, 0, 0, 0].write(np.float32('nan')).result()
  (problem,) = check.check(tmp_path).problems
  assert 'clip1' in problem and 'logvar' in problem and 'finite' in problem


def test_the_writer_refuses_nan(tmp_path):
  writer = writer_lib.LatentWriter(tmp_path, IDENTITY, rows=1)
  bad = values(0)
  bad['mean'][0, 0, 0, 0] = np.inf
  with pytest.raises(arrays.CorruptClipError, match='mean is not finite'):
    writer.write(0, 'clip0', 'x', **bad)
  assert not writer.is_done(0, 'x')


def _truncate(path):
  path.write_bytes(path.read_bytes()[:-5])


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))


@pytest.mark.parametrize(
  'damage',
  [_truncate, _flip, lambda path: path.unlink()],
  ids=['truncated', 'flipped bit', 'lost'],
)
@pytest.mark.parametrize('name', ['mean', 'text'])
def test_check_finds_damaged_chunks_and_a_deleted_marker_repairs_them(
  tmp_path, name, damage
):
  build(tmp_path)
  damage(chunk(tmp_path, name, 2))
  dataset = dataset_reader.LatentDataset(tmp_path)
  (problem,) = check.check(tmp_path).problems
  assert 'clip2' in problem and name in problem and '\n' not in problem
  np.testing.assert_array_equal(dataset[0]['mean'], values(0)['mean'])
  with pytest.raises(arrays.CorruptClipError):
    dataset[2]
  arrays.completion_marker(tmp_path, 2).unlink()
  writer = writer_lib.LatentWriter(tmp_path, IDENTITY, rows=3)
  assert not writer.is_done(2, 'print2')
  writer.write(2, 'clip2', 'print2', **values(2))
  writer.finish(table(range(3)))
  assert check.check(tmp_path).problems == []


def test_arrays_that_do_not_fit_the_manifest(tmp_path):
  build(tmp_path)
  file = tmp_path / 'manifest.json'
  file.write_text(
    file.read_text().replace('"text_length": 3', '"text_length": 4')
  )
  with pytest.raises(ValueError, match='do not fit.*text_length'):
    dataset_reader.LatentDataset(tmp_path)
  build(tmp_path / 'b')
  shutil.rmtree(tmp_path / 'b' / 'logvar')
  with pytest.raises(ValueError, match="array 'logvar'") as e:
    dataset_reader.LatentDataset(tmp_path / 'b')
  assert '\n' not in str(e.value)


@contextlib.contextmanager
def full_disk():
  """Makes every write beyond 16 bytes of a file fail."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_row_that_was_overwritten_partly_is_not_done(tmp_path):
  writer = build(tmp_path, finish=False)
  with full_disk(), pytest.raises(ValueError, match='could not write'):
    writer.write(1, 'clip1', 'other', **values(7))
  assert not writer.is_done(1, 'other') and not writer.is_done(1, 'print1')
  assert writer.is_done(0, 'print0')


def test_full_disk_is_one_line_and_leaves_no_row_marked_complete(tmp_path):
  writer = build(tmp_path, clips=2, finish=False)
  grown = writer_lib.LatentWriter(tmp_path, IDENTITY, rows=3)
  with full_disk():
    with pytest.raises(ValueError, match='could not write') as failed:
      grown.write(2, 'clip2', 'print2', **values(2))
    with pytest.raises(ValueError, match='could not write'):
      writer.finish(table(range(2)))
  assert '\n' not in str(failed.value) and 'space' in str(failed.value)
  again = writer_lib.LatentWriter(tmp_path, IDENTITY, rows=3)
  assert not again.finished
  assert again.is_done(1, 'print1') and not again.is_done(2, 'print2')
  again.write(2, 'clip2', 'print2', **values(2))
  again.finish(table(range(3)))
  assert check.check(tmp_path).problems == []


def test_clips_are_cached_up_to_the_limit(tmp_path):
  build(tmp_path)
  kept = dataset_reader.LatentDataset(tmp_path)
  bare = dataset_reader.LatentDataset(tmp_path, cache_bytes=0)
  for dataset in (kept, bare):
    dataset[0]
  for name in arrays.ARRAYS:
    chunk(tmp_path, name, 0).unlink()
  np.testing.assert_array_equal(kept[0]['mean'], values(0)['mean'])
  with pytest.raises(arrays.CorruptClipError):
    bare[0]


def test_content_identity_depends_on_the_content_only():
  @dataclasses.dataclass(frozen=True)
  class Config:
    width: int = 3

  params = {'a': {'w': np.ones((2, 3))}, 'b': np.zeros(4)}
  same = {'b': np.zeros(4), 'a': {'w': np.ones((2, 3))}}
  other = {'a': {'w': np.ones((2, 3))}, 'b': np.array([0, 0, 0, 1e-9])}
  first = identity.content_identity('vae', Config(), params)
  assert first.startswith('vae:')
  assert first == identity.content_identity('vae', Config(), same)
  assert first != identity.content_identity('vae', Config(), other)
  assert first != identity.content_identity('vae', Config(4), params)


def test_the_tensorstore_spec_of_a_data_set_in_a_bucket():
  folder = epath.Path('gs://bucket/run/data')
  where = arrays.spec(folder / 'mean')['kvstore']
  assert where == 'gs://bucket/run/data/mean'
  assert ts.KvStore.Spec(where).to_json()['bucket'] == 'bucket'
  assert str(arrays.completion_marker(folder, 7)).endswith(
    'data/clips/000007.json'
  )

"""Files are written completely or not at all; one line for an error."""

import errno
import json
import pathlib
import resource
import signal

import ml_collections
import numpy as np
import pytest

from ttt_jax.runtime import files


def test_the_file_appears_only_when_the_block_has_ended(tmp_path):
  path = tmp_path / 'a.bin'
  path.write_bytes(b'old')
  with files.atomic_write(path) as temporary:
    temporary.write_bytes(b'new')
    assert path.read_bytes() == b'old'
    assert pathlib.Path(temporary).parent == tmp_path
    assert temporary.suffix == '.tmp'
  assert path.read_bytes() == b'new' and list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_have_names_of_their_own(tmp_path):
  with (
    files.atomic_write(tmp_path / 'a') as one,
    files.atomic_write(tmp_path / 'a') as two,
  ):
    assert one != two
    one.write_text('1')
    two.write_text('2')
  assert (tmp_path / 'a').read_text() == '1'


@pytest.mark.parametrize('error', [RuntimeError('x'), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
  path = tmp_path / 'a'
  path.write_text('old')
  with pytest.raises(type(error)), files.atomic_write(path) as temporary:
    temporary.write_text('half')
    raise error
  assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_with_a_remedy(tmp_path):
  path = tmp_path / 'a'
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
  try:
    with pytest.raises(ValueError, match=f'could not write {path}: ') as e:
      files.write_json(['x' * 1000], path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)
  assert 'choose another folder' in str(e.value) and '\n' not in str(e.value)
  assert not list(tmp_path.iterdir())


def test_json_is_read_back_as_it_was(tmp_path):
  value = {'a': [1, 2.5, None, 'ü']}
  files.write_json(value, tmp_path / 'a.json')
  assert json.loads((tmp_path / 'a.json').read_text()) == value


@pytest.mark.parametrize('name', ['a.json', 'a.jsonl', 'A.JSONL', 'a.ndjson'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
@pytest.mark.parametrize('newline', ['\n', '\r\n'])
def test_encodings_of_json(tmp_path, name, encoding, newline):
  text = newline.join(['{"a": "ü"}', ''])
  is_lines = not name.endswith('.json')
  if is_lines:
    text += newline + text
  (tmp_path / name).write_bytes(text.encode(encoding))
  found = files.read_json(tmp_path / name)
  assert found == ([{'a': 'ü'}] * 2 if is_lines else {'a': 'ü'})


@pytest.mark.parametrize(
  'text, message',
  [
    ('{"a": 1, "b": {"c": 1, "c": 1}}', "has the key 'c' twice"),
    ('[NaN]', 'NaN is not a number in JSON'),
    ('{"a": -Infinity}', '-Infinity is not a number'),
    ('[' * 100_000, 'nested too deeply'),
    ('9' * 5000, 'integer string conversion'),
    ('{}\n{}', 'line 2, column 1: Extra data; .* must end in .jsonl'),
    ('version https://git-lfs.github.com/spec/v1\noid', 'git lfs pull'),
    ('\0', 'not JSON, line 1'),
    (r'{"a": "\ud83d"}', r"'\\ud83d' is half of a surrogate pair"),
    (r'{"\udc00": 1}', 'half of a surrogate pair'),
  ],
)
def test_json_that_is_refused(tmp_path, text, message):
  (tmp_path / 'a.json').write_text(text)
  with pytest.raises(ValueError, match=message) as e:
    files.read_json(tmp_path / 'a.json')
  assert '\n' not in str(e.value) and 'a.json' in str(e.value)
  (tmp_path / 'a.jsonl').write_text('1\n{"a": 1, "a": 2}')
  with pytest.raises(ValueError, match="a.jsonl, line 2: .* 'a' twice"):
    files.read_json(tmp_path / 'a.jsonl')


def test_writable_before_long_work(tmp_path):
  files.check_writable(tmp_path / 'b.mp4')
  files.check_writable(tmp_path / 'a' / 'b', folder=True)
  files.check_writable('gs://bucket/a')
  (tmp_path / 'file').write_text('x')
  files.check_writable(tmp_path / 'file')
  assert [p.name for p in tmp_path.iterdir()] == ['file']
  for path, folder, reason in (
    (tmp_path, False, 'Is a directory'),
    (tmp_path / 'file', True, 'Not a directory'),
    (tmp_path / 'file' / 'b.mp4', False, 'Not a directory'),
    (tmp_path / ('x' * 300), False, 'File name too long'),
    (tmp_path / 'a\0b', False, 'null'),
    ('/proc/a.mp4', False, 'No such file'),
    (tmp_path / 'a' / 'b.mp4', False, 'there is no folder .*/a;'),
  ):
    with pytest.raises(ValueError, match=f'cannot be written: .*{reason}'):
      files.check_writable(path, folder=folder)


def test_names_of_255_bytes_can_be_written(tmp_path):
  files.write_json(1, tmp_path / ('x' * 255))
  assert [len(p.name) for p in tmp_path.iterdir()] == [255]


def test_pointers_of_git_lfs(tmp_path):
  pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n'
  for data, expected in ((pointer, True), (pointer * 50, False), (b'', False)):
    (tmp_path / 'a').write_bytes(data)
    assert files.is_lfs_pointer(tmp_path / 'a') == expected
  assert not files.is_lfs_pointer(tmp_path)
  assert not files.is_lfs_pointer(tmp_path / 'gone')


def test_the_first_ten():
  assert files.first_ten(['a', 'b']) == 'a, b'
  assert files.first_ten(list('abcdefghijkl'), '; ').endswith('j; and 2 more')


@pytest.mark.parametrize(
  'error, line',
  [
    (ValueError('one\ntwo'), 'one'),
    (ValueError('lost [os_error_code=5] [source=x]'), 'lost'),
    (OSError(errno.ENOSPC, 'No space', '/a/b'), 'No space'),
    (OSError('in words'), 'in words'),
    (KeyError(), 'KeyError'),
  ],
)
def test_the_first_line_of_an_error(error, line):
  assert files.first_line(error) == line


def test_json_types():
  value = {
    'a': (1, np.float32(0.5)),
    'b': np.arange(2),
    'c': ml_collections.ConfigDict({'d': (3,)}),
  }
  expected = {'a': [1, 0.5], 'b': [0, 1], 'c': {'d': [3]}}
  assert files.to_json_types(value) == expected
  with pytest.raises(TypeError, match='cannot be written as JSON'):
    files.to_json_types(object())


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=f'there is no folder {tmp_path}'):
    files.write_json(1, tmp_path / 'no' / 'a.json')


def test_a_folder_that_fails_leaves_no_new_folders(tmp_path):
  (tmp_path / 'mine').mkdir()
  with pytest.raises(KeyError):
    with files.atomic_folder(tmp_path / 'mine' / 'a' / 'b' / 'out'):
      raise KeyError
  assert [p.name for p in tmp_path.rglob('*')] == ['mine']


def test_a_folder_appears_once_it_is_complete(tmp_path):
  (tmp_path / 'out.tmp').mkdir()  # Not ours: it has to stay.
  with pytest.raises(KeyError), files.atomic_folder(tmp_path / 'out') as folder:
    (folder / 'a').write_text('x')
    raise KeyError
  assert [path.name for path in tmp_path.iterdir()] == ['out.tmp']
  with files.atomic_folder(tmp_path / 'out') as folder:
    (folder / 'a').write_text('x')
    assert not (tmp_path / 'out').exists()
  assert (tmp_path / 'out/a').read_text() == 'x'
  (tmp_path / 'plain').mkdir()
  modes = {(tmp_path / name).stat().st_mode for name in ('out', 'plain')}
  assert len(modes) == 1
  with (
    pytest.raises(FileExistsError, match='is not replaced'),
    files.atomic_folder(tmp_path / 'out'),
  ):
    pass
